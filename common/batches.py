"""Batches: padding, rollouts, their programs' verdicts, and the mini-batches of an update."""

import itertools
import math
import statistics
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple
from weakref import WeakSet

import torch
import torch.nn.functional as F

from common.distributed import all_max, all_sum, device, my_share
from common.flags import InputError
from common.models import eos_ids, line_table, shares_prompts
from common.programs import extract_program
from common.seeds import draw, seed_of
from common.sharding import reshard, unshard
from common.texts import cut_at, decode, encode_prompt, opening_of, prompt_format_of
from kernels import masking, sampling

CAN_BE_SAMPLED = WeakSet()  # models that `check_sampling` has checked
MAX_SHARED = 2048  # tokens of a row that holds several samples: its attention mask has the square


def pad(rows: list[list], value=0, dtype=torch.long) -> torch.Tensor:
    """Ragged rows as one right-padded tensor (B, L) on this process's device."""
    width = max((len(row) for row in rows), default=0)
    padded = [row + [value] * (width - len(row)) for row in rows]
    return torch.tensor(padded, dtype=dtype, device=device()).view(len(rows), width)


def pad_pairs(
    prompts: list[list[int]], texts: list[list[int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts, each followed by its text, as input_ids (B, L), right-padded; and the mask of the
    texts' tokens (B, L) bool. An empty micro-batch is one row whose mask is off."""
    if not prompts:
        prompts, texts = [[0, 0]], [[]]
    input_ids = pad([p + t for p, t in zip(prompts, texts, strict=True)])
    mask = pad([[0] * len(p) + [1] * len(t) for p, t in zip(prompts, texts, strict=True)]).bool()
    return input_ids, mask


def batches_by_length(
    lengths: list[int],
    batch_size: int,
    max_tokens: float = math.inf,
    padded: list[int] | None = None,
) -> list[list[int]]:
    """Indices of rows in micro-batches; rows of like length share one, for less padding.

    A micro-batch has at most batch_size rows and max_tokens tokens, padding included. A row above
    max_tokens is a micro-batch of its own. lengths: of the rows, in tokens. padded: where a unit is
    several rows (a pair of texts), the tokens of each unit with its padding; without: lengths.

    All ranks call this function together. A rank with fewer micro-batches than another has empty
    ones at its end: ranks that share a model step together.
    """
    padded = padded or lengths
    batches, most = [], 0  # most: padded tokens of the last batch's largest unit
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        most = max(most, padded[i])
        rows = len(batches[-1]) + 1 if batches else math.inf
        if rows > batch_size or rows * most > max_tokens:
            batches.append([])
            most = padded[i]
        batches[-1].append(i)
    return batches + [[]] * (all_max(len(batches)) - len(batches))


def limits_of(config) -> dict[str, int]:
    """What a stage's flags allow a forward pass: arguments of `batches_by_length`."""
    return {
        "batch_size": config.per_device_train_batch_size,
        "max_tokens": config.max_tokens_per_forward,
    }


def micro_batches(lengths: list[int], config, padded: list[int] | None = None) -> list[list[int]]:
    """`batches_by_length` within the limits of a stage's flags."""
    return batches_by_length(lengths, padded=padded, **limits_of(config))


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
    samples_a_row: int = 1  # samples of a prompt that one row of a forward pass holds (pad_rollout)

    def judged_texts(self) -> list[str]:
        """N, each completion after its opening: the text whose form and program are judged."""
        openings = self.openings or [""] * len(self.texts)
        return [opening + text for opening, text in zip(openings, self.texts, strict=True)]

    def programs(self) -> list[str]:
        """N, the program in each judged text: the sandbox runs it, and its lines have scores."""
        return list(map(extract_program, self.tasks, self.judged_texts()))


def check_sampling(policy) -> None:
    """Raises InputError for a model that cannot be sampled from; a model is checked once."""
    if policy in CAN_BE_SAMPLED:
        return
    unshard(policy)
    try:
        sampling.check_sampling(policy)
    except ValueError as error:
        raise InputError(str(error)) from None
    reshard(policy)
    CAN_BE_SAMPLED.add(policy)


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
    rollout_batch_size: int | None = None,
) -> Rollout:
    """Samples num_generations completions of each prompt; one seed a sample.

    A completion also ends with the first of the strings `stops`, which is no part of its text.
    progress: see kernels/sampling.py. rollout_batch_size: samples decoded at a time, in whole
    prompts; None: all. Raises InputError at the first call for a model that cannot be sampled from.
    """
    check_sampling(policy)
    unshard(policy)
    ends = eos_ids(policy, tokenizer)
    stop = masking.stop_table(line_table(tokenizer), list(stops)) if stops else None
    size = max(1, (rollout_batch_size or len(seeds)) // num_generations)  # prompts
    parts = [
        sampling.sample(
            policy,
            prompts[start : start + size],
            num_generations,
            max_length,
            temperature,
            ends,
            seeds[start * num_generations : (start + size) * num_generations],
            stop=stop,
            top_p=top_p,
            progress=progress,
        )
        for start in range(0, max(1, len(prompts)), size)
    ]
    width = max(ids.shape[1] for ids, _, _ in parts)
    ids, mask, logprobs = (
        torch.cat([F.pad(x, (0, width - x.shape[1])) for x in column])
        for column in zip(*parts, strict=True)
    )
    reshard(policy)
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
        rollout_batch_size=config.rollout_batch_size,
    )
    repeated = tuple(tasks[i] for _, i in mine for _ in range(config.num_generations))
    samples = samples_a_row(rollout, config, policy)
    return rollout._replace(tasks=repeated, samples_a_row=samples)


def samples_a_row(rollout: Rollout, config, model) -> int:
    """How many samples of a prompt share a row of a forward pass, which reads the prompt once: the
    divisor k of config.num_generations with the fewest operations a sample, within `limits_of`.

    With P tokens a prompt and C a completion a row has P + k C tokens. In a layer of width H a
    token takes about 24 H^2 operations in matrix products, and 4 H for each token of its row in
    attention, which computes what the mask then hides.
    """
    if not rollout.prompts or not shares_prompts(model):
        return 1
    prompt, completion = (statistics.fmean(map(len, x)) for x in rollout[:2])
    longest_prompt, longest = max(map(len, rollout.prompts)), rollout.ids.shape[1]
    most_tokens = min(MAX_SHARED, config.max_tokens_per_forward)
    width = model.config.get_text_config().hidden_size

    def cost(k: int) -> float:
        tokens = prompt + k * completion
        return tokens / k * (6 * width + tokens)

    fitting = [
        k
        for k in range(2, min(config.num_generations, config.per_device_train_batch_size) + 1)
        if config.num_generations % k == 0 and longest_prompt + k * longest <= most_tokens
    ]
    return min([1, *fitting], key=cost)


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
    """Waits for the programs that `execute` has started.

    InputError where no program of any rank has a verdict: there is nothing to learn from.
    """
    rows = [execution.result() for execution in executions]
    judged = torch.tensor([row["status"] != "harness_error" for row in rows], device=device())
    num_rows, num_judged = all_sum(len(rows), judged.sum())
    if num_rows and not num_judged:
        reason = f": {rows[0]['message']}" if rows else ""
        raise InputError(
            f"the sandbox has no verdict on any of {num_rows:.0f} programs{reason}. "
            "The same command goes on from where the run was"
        )
    passed = torch.tensor([row["status"] == "passed" for row in rows], device=device())
    rates = [row.get("passed", 0) / max(row.get("total", 0), 1) for row in rows]
    pass_rate = torch.tensor(rates, device=device()).maximum(passed.float())
    return Verdicts(rows, judged, passed, pass_rate)


def mini_batches(rollout: Rollout, config) -> list[list[list[int]]]:
    """Rows of the rollout, one list a micro-batch, one list of micro-batches an optimiser step.

    Prompt i goes to mini-batch i modulo config.num_mini_batches, with all of its completions. Rows
    of like length share a micro-batch; samples that share a row (`pad_rollout`) stay together. A
    micro-batch is read whole in scoring and in the update, since low-precision results depend on
    the batch that a row is in.
    """
    size, batches = rollout.samples_a_row, []
    limits = limits_of(config)
    limits["batch_size"] //= size
    for number in range(config.num_mini_batches):
        rows = [
            i
            for i in range(len(rollout.ids))
            if i // config.num_generations % config.num_mini_batches == number
        ]
        shared = [rows[start : start + size] for start in range(0, len(rows), size)]
        lengths = [
            len(rollout.prompts[group[0]]) + sum(len(rollout.completions[i]) for i in group)
            for group in shared
        ]
        cut = batches_by_length(lengths, **limits)  # indices of `shared`
        batches.append([[i for g in micro for i in shared[g]] for micro in cut])
    return batches


class Rows(NamedTuple):
    """n completions of up to T tokens as the input of a forward pass: B rows of L tokens,
    right-padded. x.flatten(0, 1)[at] brings a result (B, L, ...) to (n, T, ...)."""

    inputs: dict[str, torch.Tensor]  # input_ids (B, L), and how samples that share a row are read
    at: torch.Tensor  # (n, T) long: where completion token t stands among the B L tokens
    before: torch.Tensor  # (n, T) long: where the token before it stands; t = 0: the prompt's last


def pad_rollout(rollout: Rollout, rows: list[int], model) -> Rows:
    """Some rows of a rollout as the input of a model's forward pass.

    A row is a prompt and its completion; or a prompt and rollout.samples_a_row of its completions,
    one after the other, where the model can read them so (`models.shares_prompts`). The completions
    in a row do not see each other: attention_mask (B, 1, L, L) bool lets a token see the prompt and
    the tokens of its own completion up to itself, and position_ids (B, L) go on from the prompt in
    each completion. So every completion is read as if it stood alone with its prompt.

    Without rows input_ids has one row, and at and before have none.
    """
    size = rollout.samples_a_row if shares_prompts(model) else 1
    shared = [list(group) for _, group in itertools.groupby(rows, key=lambda i: i // size)]
    ids, owners, positions, starts, ends = [], [], [], [], []  # lists: a row each; a sample each
    for group in shared:
        prompt = rollout.prompts[group[0]]
        ids.append(list(prompt))
        owners.append([0] * len(prompt))  # 0: the prompt's token, 1, 2, ...: a completion's
        positions.append(list(range(len(prompt))))
        for number, i in enumerate(group, 1):
            completion = rollout.completions[i]
            starts.append([len(ids) - 1, len(ids[-1])])
            ends.append(len(prompt) - 1)
            ids[-1] += completion
            owners[-1] += [number] * len(completion)
            positions[-1] += range(len(prompt), len(prompt) + len(completion))
    input_ids = pad(ids or [[0, 0]])  # (B, L)
    length = input_ids.shape[1]
    token = torch.arange(rollout.ids.shape[1], device=input_ids.device)  # (T,)
    row, start = pad(starts or [[0, 0]])[: len(rows)].T[..., None]  # (n, 1), (n, 1)
    at = row * length + (start + token).clamp(max=length - 1)  # (n, T)
    prompt_end = row * length + pad([ends]).T  # (n, 1)
    before = torch.where(token == 0, prompt_end, at - 1)
    inputs = {"input_ids": input_ids}
    if size > 1:
        owner = pad(owners or [[0, 0]], value=-1)  # (B, L)
        own = owner[:, :, None] == owner[:, None, :]  # (B, L, L)
        seen = (own | (owner == 0)[:, None, :]).tril()
        inputs["attention_mask"] = seen[:, None]
        inputs["position_ids"] = pad(positions or [[0, 0]])
    return Rows(inputs, at, before)
