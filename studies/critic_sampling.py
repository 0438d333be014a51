"""Critic sampling: programs that pass the examples are refined, other tasks' programs repaired.

CodeRL (Le et al., 2022, arXiv 2207.01780), at inference. A task's first tests are its examples,
which the model may see; the others stay hidden. The first samples run on the examples. Where some
pass, each of them is a seed: its lines up to the one with the critic's highest score, from which
the policy goes on. Where no sample passes, the --num_seeds samples with the critic's highest score
at their last line are the seeds, which the repair model rewrites; without --repair_model the task's
new samples start from its prompt alone. A task's --num_samples new samples are shared out among its
seeds.

The authors have not released this part; where the paper is silent: a seed never has its program's
last line, since then nothing is left to sample; scores are read at line ends; there is one round.
studies/critic_data.py makes what the critic and the repair model learn from. A PRM is a critic too.

    python eval.py --tasks test.jsonl --model_name_or_path runs/coderl --num_samples 8 \\
        --output_dir runs/first
    python studies/critic_sampling.py --tasks test.jsonl --samples runs/first/samples.jsonl \\
        --model_name_or_path runs/coderl --critic runs/critic --repair_model runs/repair \\
        --output_file second.jsonl
    python eval.py --tasks test.jsonl --samples second.jsonl --output_dir runs/second
"""

import sys
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # where the modules of the stages are

import common  # noqa: E402
import sandbox  # noqa: E402
from common import (  # noqa: E402
    InputError,
    InputFile,
    OutputFile,
    PositiveFloat,
    PositiveInt,
)
from prm_data import rows  # noqa: E402
from studies.critic_data import check_whole_programs, repair_task  # noqa: E402

SAMPLE_FIELDS = {"task_id": str, "completion": str, "solution": str}


@dataclass
class Config:
    tasks: InputFile  # tasks.jsonl
    samples: InputFile  # samples.jsonl of eval.py: the first samples of each task
    model_name_or_path: str  # policy that goes on from refined programs
    critic: str  # line-level reward model: does the program pass that begins so?
    output_file: OutputFile  # samples.jsonl, of new samples alone
    repair_model: str | None = None  # policy that rewrites a wrong program; none: no repairs
    num_samples: PositiveInt = 8  # new completions a task
    num_examples: PositiveInt = 1  # tests of a task, the first ones, that are its examples
    num_seeds: PositiveInt = 1  # samples that are repaired where no sample passes the examples
    max_completion_length: PositiveInt = 128  # tokens
    temperature: PositiveFloat = 1.0
    prompt_format: Literal["auto", "chat", "plain"] = "auto"  # auto: chat template, if there is one
    system_prompt: str | None = None  # chat: the turn before the user's
    rollout_batch_size: PositiveInt = 512  # samples decoded at a time: bounds the KV cache
    per_device_train_batch_size: PositiveInt = 64  # texts a forward pass of the critic
    bf16: bool | None = None  # models in bfloat16; default: on CUDA
    sandbox_workers: PositiveInt = 1  # processes that run programs
    sandbox_timeout: PositiveFloat = 3.0  # CPU seconds a program, where the task sets none
    packages: list[str] = field(default_factory=list)  # that programs may import, as numpy
    seed: int = 0


class Seed(NamedTuple):
    """What new samples start from."""

    origin: str  # "refined", "repaired", or "new": from the task alone
    task: dict  # whose prompt the model reads
    prefix: str  # that the completion begins with


def seeds_of(task: dict, samples: list[dict], num_seeds: int) -> list[Seed]:
    """The seeds of a task, num_seeds at most of repairs. Each sample has `completion`, `solution`,
    `status` on the examples, and `scores`, the critic's at each line of the completion."""
    passing = [sample for sample in samples if sample["status"] == "passed"]
    if passing:
        return [Seed("refined", task, best_prefix(s["completion"], s["scores"])) for s in passing]
    ranked = sorted(samples, key=lambda sample: -sample["scores"][-1])  # stable: ties as sampled
    repairs = [
        Seed("repaired", repair_task(task, sample["solution"], sample["status"]), "")
        for sample in ranked[:num_seeds]
    ]
    return repairs or [Seed("new", task, "")]


def best_prefix(completion: str, scores: list[float]) -> str:
    """The lines up to the one with the highest score, the last line left aside."""
    lines = rows.lines_of(completion)
    if len(lines) < 2:
        return ""
    best = max(range(len(lines) - 1), key=lambda line: scores[line])
    return "".join(lines[: best + 1])


def judged_samples(config: Config, tasks: dict[str, dict], samples: list[dict]) -> list[dict]:
    """The samples with their statuses on the examples and the critic's scores of their lines. A
    sample without a line or without a verdict is left out."""
    samples = [row for row in samples if row["completion"].strip()]
    examples = {
        name: task | {"tests": task["tests"][: config.num_examples]} for name, task in tasks.items()
    }
    workers, timeout = config.sandbox_workers, config.sandbox_timeout
    with sandbox.Sandbox(workers, timeout=timeout, packages=config.packages) as runner:
        executions = [runner.submit(examples[s["task_id"]], s["solution"]) for s in samples]
        statuses = [verdict["status"] for verdict in common.verdicts_of(executions).rows]
    critic = common.shard(common.load_scorer(config.critic, run_config=config).eval(), config)
    scores = common.score_text_lines(
        critic,
        common.load_tokenizer(config.critic),
        [tasks[row["task_id"]] for row in samples],
        [common.unix(row["completion"]) for row in samples],
        config.per_device_train_batch_size,
        "critic",
    )
    return [
        row | {"status": status, "scores": [x if x == x else -1.0 for x in line_scores]}
        for row, status, line_scores in zip(samples, statuses, scores, strict=True)
        if status != "harness_error"
    ]


def complete(config: Config, path: str, wanted: list[tuple[dict, int, Seed]]) -> list[dict]:
    """A model's completion of each seed: rows of samples.jsonl. wanted: task, number, seed."""
    if not wanted:
        return []
    tokenizer = common.load_tokenizer(path)
    model = common.replicate(common.load_policy(path, config).eval(), config)
    prompt_format = common.prompt_format_of(config)
    prompts = [common.encode_prompt(tokenizer, seed.task, prompt_format) for _, _, seed in wanted]
    openings = [common.opening_of(tokenizer, prompt) for prompt in prompts]
    prompts = [
        prompt + common.encode_text(tokenizer, seed.prefix)
        for prompt, (_, _, seed) in zip(prompts, wanted, strict=True)
    ]
    common.check_length(path, model, max(map(len, prompts)) + config.max_completion_length)
    rollout = common.roll_out(
        model,
        tokenizer,
        prompts,
        1,
        config.max_completion_length,
        config.temperature,
        [
            common.seed_of(config.seed, "critic sampling", task["task_id"], number)
            for task, number, _ in wanted
        ],
        rollout_batch_size=config.rollout_batch_size,
    )
    found = []
    for (task, number, seed), opening, text, terminated in zip(
        wanted, openings, rollout.texts, rollout.terminated.tolist(), strict=True
    ):
        completion = seed.prefix + text
        program = common.standalone(task, common.extract_program(task, opening + completion))
        row = {"task_id": task["task_id"], "sample": number, "completion": completion}
        row |= {"solution": program, "terminated": terminated, "origin": seed.origin}
        found.append(row | ({"opening": opening} if opening else {}))
    return found


def main(config: Config) -> None:
    listed = common.read_jsonl(config.tasks, common.PROMPT_FIELDS, sandbox.check_task)
    common.check_packages(config, listed)
    check_whole_programs(listed, config.tasks)
    rows.check_unique(listed, config.tasks)
    for task in listed:
        if len(task["tests"]) <= config.num_examples:
            raise InputError(
                f"{config.tasks}: {task['task_id']} has {len(task['tests'])} tests; beside "
                f"--num_examples {config.num_examples} no hidden test is left"
            )
    if common.world_size() > 1:
        raise InputError("studies/critic_sampling.py runs in one process")
    tasks = {task["task_id"]: task for task in listed}
    check = partial(common.check_known_task, tasks=tasks)
    first = common.read_jsonl(config.samples, SAMPLE_FIELDS, check)
    for path in (config.model_name_or_path, config.repair_model):
        common.check_model("policy", path, config.max_completion_length, listed)
    common.check_model("prm", config.critic, config.max_completion_length, listed)
    if rows.is_complete(config):
        return
    by_task = {name: [] for name in tasks}
    for row in judged_samples(config, tasks, first):
        by_task[row["task_id"]].append(row)
    wanted = []
    for name, samples in by_task.items():
        seeds = seeds_of(tasks[name], samples, config.num_seeds if config.repair_model else 0)
        wanted += [(tasks[name], n, seeds[n % len(seeds)]) for n in range(config.num_samples)]
    repairs = [job for job in wanted if job[2].origin == "repaired"]
    others = [job for job in wanted if job[2].origin != "repaired"]
    found = complete(config, config.model_name_or_path, others)
    found += complete(config, config.repair_model, repairs)
    order = {name: number for number, name in enumerate(tasks)}
    found.sort(key=lambda row: (order[row["task_id"]], row["sample"]))
    print(dict(Counter(row["origin"] for row in found)))
    rows.write_result(config, found)


if __name__ == "__main__":
    common.run(main, Config)
