"""Batches: padding, rollouts, their programs' verdicts, and the mini-batches of an update."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

import torch

from common.distributed import device, my_share, unshard
from common.models import eos_ids, line_table
from common.programs import extract_program
from common.seeds import draw, seed_of
from common.texts import cut_at, decode, encode_prompt, opening_of, prompt_format_of
from kernels import masking, sampling


def pad(rows: list[list], value=0, dtype=torch.long) -> torch.Tensor:
    """Ragged rows as one right-padded tensor (B, L) on this process's device."""
    width = max((len(row) for row in rows), default=0)
    padded = [row + [value] * (width - len(row)) for row in rows]
    return torch.tensor(padded, dtype=dtype, device=device())


def pad_pairs(
    prompts: list[list[int]], texts: list[list[int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts, each followed by its text, as input_ids (B, L), right-padded; and the mask of the
    texts' tokens (B, L) bool."""
    input_ids = pad([p + t for p, t in zip(prompts, texts, strict=True)])
    mask = pad([[0] * len(p) + [1] * len(t) for p, t in zip(prompts, texts, strict=True)]).bool()
    return input_ids, mask


def batches_by_length(lengths: list[int], size: int) -> list[list[int]]:
    """Indices of rows in micro-batches of `size`; rows of like length share one, for less padding.
    lengths: of the rows, in tokens."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    return [order[start : start + size] for start in range(0, len(order), size)]


class Rollout(NamedTuple):
    """N completions; the samples of a prompt stand next to each other. Tensors are right-padded to
    the T tokens of the longest completion."""

    prompts: list[list[int]]  # N rows of token ids
    completions: list[list[int]]  # N rows of token ids, EOS included
    texts: list[str]  # N, the completions as text
    ids: torch.Tensor  # (N, T) long: the completions' tokens
    mask: torch.Tensor  # (N, T) bool: on for the completions' tokens
    logprobs: torch.Tensor  # (N, T) of the tokens when they were sampled
    terminated: torch.Tensor | None = None  # (N,) bool: ends with EOS, not at the length limit
    tasks: tuple[dict, ...] = ()  # N, the task of each completion
    openings: tuple[str, ...] = ()  # N, what each prompt opens and its completion closes: "<think>"

    def judged_texts(self) -> list[str]:
        """N, each completion after its opening: the text whose form and program are judged."""
        openings = self.openings or [""] * len(self.texts)
        return [opening + text for opening, text in zip(openings, self.texts, strict=True)]

    def programs(self) -> list[str]:
        """N, the program in each judged text: the sandbox runs it, and its lines have scores."""
        return list(map(extract_program, self.tasks, self.judged_texts()))


def roll_out(
    policy,
    tokenizer,
    prompts: list[list[int]],
    num_generations: int,
    max_length: int,
    temperature: float,
    seeds: list[int],
    top_p: float = 1.0,
    stops: tuple[str, ...] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Rollout:
    """Samples num_generations completions of each prompt; one seed a sample.

    A completion also ends with the first of the strings `stops`, which is no part of its text.
    progress: see kernels/sampling.py.
    """
    unshard(policy)
    ends = eos_ids(policy, tokenizer)
    stop = masking.stop_table(line_table(tokenizer), list(stops)) if stops else None
    ids, mask, logprobs = sampling.sample(
        policy,
        prompts,
        num_generations,
        max_length,
        temperature,
        ends,
        seeds,
        stop=stop,
        top_p=top_p,
        progress=progress,
    )
    lengths = mask.sum(1).tolist()
    completions = [row[:length] for row, length in zip(ids.tolist(), lengths, strict=True)]
    decoded = decode(tokenizer, completions)
    texts = [cut_at(text, stops) for text in decoded]
    terminated = [
        row[-1] in ends or text != whole
        for row, text, whole in zip(completions, texts, decoded, strict=True)
    ]
    terminated = torch.tensor(terminated, device=ids.device)
    openings = [opening_of(tokenizer, prompt) for prompt in prompts]
    repeated = [prompt for prompt in prompts for _ in range(num_generations)]
    openings = tuple(opening for opening in openings for _ in range(num_generations))
    return Rollout(repeated, completions, texts, ids, mask, logprobs, terminated, openings=openings)


def sample(policy, tokenizer, tasks: list[dict], config, step: int, stage: str) -> Rollout:
    """The step's rollout on this rank: config.num_generations completions of each of its share of
    config.num_prompts tasks. Neither the tasks nor the seeds depend on the number of ranks."""
    drawn = draw(len(tasks), config.num_prompts, step, config.seed, f"{stage} prompts")
    mine = my_share(list(enumerate(drawn)))  # (place in the batch, index of the task)
    prompt_format = prompt_format_of(config)
    prompts = [encode_prompt(tokenizer, tasks[i], prompt_format) for _, i in mine]
    seeds = [
        seed_of(config.seed, f"{stage} rollout", step, place, number)
        for place, _ in mine
        for number in range(config.num_generations)
    ]
    rollout = roll_out(
        policy,
        tokenizer,
        prompts,
        config.num_generations,
        config.max_completion_length,
        config.temperature,
        seeds,
    )
    repeated = (tasks[i] for _, i in mine for _ in range(config.num_generations))
    return rollout._replace(tasks=tuple(repeated))


def execute(runner, rollout: Rollout) -> list[Future]:
    """Starts the program of each completion in the sandbox; `verdicts_of` waits for the results."""
    return [
        runner.submit(task, program)
        for task, program in zip(rollout.tasks, rollout.programs(), strict=True)
    ]


class Verdicts(NamedTuple):
    """What the sandbox found of N programs."""

    rows: list[dict]  # N, with `status`, `passed`, `total`, ...
    judged: torch.Tensor  # (N,) bool: the sandbox came to a verdict
    passed: torch.Tensor  # (N,) bool: every test passes
    pass_rate: torch.Tensor  # (N,) share of the tests that pass, 1 where `passed`


def verdicts_of(executions: list[Future]) -> Verdicts:
    """Waits for the programs that `execute` has started."""
    rows = [execution.result() for execution in executions]
    judged = torch.tensor([row["status"] != "harness_error" for row in rows], device=device())
    passed = torch.tensor([row["status"] == "passed" for row in rows], device=device())
    rates = [row.get("passed", 0) / max(row.get("total", 0), 1) for row in rows]
    pass_rate = torch.tensor(rates, device=device()).maximum(passed.float())
    return Verdicts(rows, judged, passed, pass_rate)


def mini_batches(rollout: Rollout, config) -> list[list[list[int]]]:
    """Rows of the rollout, one list a micro-batch, one list of micro-batches an optimiser step.

    Prompt i goes to mini-batch i modulo config.num_mini_batches, with all of its completions. Rows
    of like length share a micro-batch. A micro-batch is read whole in scoring and in the update,
    since low-precision results depend on the batch that a row is in.
    """
    batches = []
    for number in range(config.num_mini_batches):
        rows = [
            i
            for i in range(len(rollout.ids))
            if i // config.num_generations % config.num_mini_batches == number
        ]
        batches.append(micro_batches(rollout, rows, config.per_device_train_batch_size))
    return batches


def micro_batches(rollout: Rollout, rows: list[int], size: int) -> list[list[int]]:
    """The given rows in micro-batches of `size`, sorted by length."""
    lengths = [len(rollout.prompts[i]) + len(rollout.completions[i]) for i in rows]
    return [[rows[i] for i in batch] for batch in batches_by_length(lengths, size)]


def pad_rollout(
    rollout: Rollout, rows: list[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Some rows of a rollout as the input of a forward pass, right-padded.

    Returns input_ids (B, L); the mask of the completions' tokens (B, L) bool; and positions (B, T),
    where completion token t stands in the row: x.gather(1, positions) brings a result (B, L) to the
    rollout's shape (B, T).
    """
    prompts = [rollout.prompts[i] for i in rows]
    input_ids, mask = pad_pairs(prompts, [rollout.completions[i] for i in rows])
    starts = torch.tensor([[len(prompt)] for prompt in prompts], device=input_ids.device)
    positions = starts + torch.arange(rollout.ids.shape[1], device=input_ids.device)
    return input_ids, mask, positions.clamp(max=input_ids.shape[1] - 1)
