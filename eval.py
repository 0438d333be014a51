"""Evaluation: samples, verdicts, pass@k, and pass@1 by number of steps with confidence intervals.

pass@k is the unbiased estimator 1 - C(n - c, k) / C(n, k) of Chen et al. (2021), n samples and c passing ones a task,
averaged over tasks. Intervals are 95 % Wilson intervals on an effective sample size: samples of one task are alike, so
the number of independent ones is p (1 - p) / variance of the mean over tasks (Korn and Graubard, 1998), at least 1 and
at most the number of samples; where no variance is seen (all pass or all fail) it is the number of tasks.

A sample whose verdict the sandbox could not reach counts nowhere. samples.jsonl can be read by the evalplus and
human-eval harnesses as it is.

    python eval.py --tasks test.jsonl --model_name_or_path runs/ppo --num_samples 20 --k 1 10 --output_dir runs/eval
    python eval.py --tasks test.jsonl --samples samples.jsonl --output_dir runs/eval2
"""

import json
import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import common
import sandbox
from common import InputError


@dataclass
class Config:
    tasks: str  # tasks.jsonl
    output_dir: str  # samples.jsonl, verdicts.jsonl and report.json are written here; a cut-off run goes on
    model_name_or_path: str | None = None  # policy to sample from
    samples: str | None = None  # or samples that exist already: rows of task_id and completion or solution
    num_samples: int = 1  # completions a task
    temperature: float = 1.0  # 0: greedy, one sample
    max_completion_length: int = 128  # tokens
    k: list[int] = field(default_factory=lambda: [1])  # values of k for pass@k
    batch_size: int = 64  # tasks a sampling batch
    sandbox_workers: int = 1  # processes that run programs
    sandbox_timeout: float = 3.0  # CPU seconds a program, where the task sets none
    seed: int = 0


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that one of k of the n samples passes, c of which do (Chen et al., 2021, eq. 1); NaN for k > n."""
    if k > n:
        return math.nan
    return 1.0 - math.prod((n - c - i) / (n - i) for i in range(k))


def pass_rate(results: list[tuple[int, int]]) -> tuple[float, float, float]:
    """Mean pass rate over tasks and its 95 % interval (low, high) from (samples, passing) a task; see the docstring."""
    rates = [c / n for n, c in results if n]
    if not rates:
        return math.nan, math.nan, math.nan
    m, total = len(rates), sum(n for n, _ in results)
    p = sum(rates) / m
    variance = sum((rate - p) ** 2 for rate in rates) / (m * (m - 1)) if m > 1 else 0.0
    n = min(max(p * (1 - p) / variance, 1.0), total) if variance > 0 else m
    z = 1.959964
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return p, max(0.0, centre - half), min(1.0, centre + half)


def generate(config: Config, tasks: list[dict], path: Path) -> None:
    """Appends to `path` the samples of every task that it does not hold yet, batch by batch."""
    tokenizer = common.load_tokenizer(config.model_name_or_path)
    policy = common.shard(common.load_policy(config.model_name_or_path).eval())
    done = Counter()
    if path.is_file():
        whole = common.whole_lines(path)
        done.update(json.loads(line)["task_id"] for line in whole)
        common.write_text(path, "".join(whole))
    left = [task for task in tasks if done[task["task_id"]] < config.num_samples]
    bar = common.progress_bar("samples", len(tasks), len(tasks) - len(left))
    for start in range(0, len(left), config.batch_size):
        batch = left[start : start + config.batch_size]
        seeds = [
            common.seed_of(config.seed, "eval", task["task_id"], g) for task in batch for g in range(config.num_samples)
        ]
        rollout = common.roll_out(
            policy, tokenizer, [common.encode_prompt(tokenizer, task) for task in batch],
            config.num_samples, config.max_completion_length, config.temperature, seeds,
        )  # fmt: skip
        rows = []
        for i, text in enumerate(rollout.texts):
            task, g = batch[i // config.num_samples], i % config.num_samples
            if done[task["task_id"]] <= g:  # a batch may have been cut off half-written
                rows.append({"task_id": task["task_id"], "sample": g, "completion": text,
                             "solution": common.extract_program(task, text)})  # fmt: skip
        common.append_jsonl(path, rows)
        bar.update(len(batch))
    bar.close()


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


def report_of(tasks: list[dict], verdicts: list[dict], ks: list[int]) -> dict:
    """Numbers of the report: pass@k, pass@1 with its interval over all tasks and by steps, counts by status."""
    counts = {task["task_id"]: [0, 0] for task in tasks}
    for verdict in verdicts:
        if verdict["status"] != "harness_error":
            counts[verdict["task_id"]][0] += 1
            counts[verdict["task_id"]][1] += verdict["status"] == "passed"
    by_steps = defaultdict(list)
    for task in tasks:
        by_steps[task.get("meta", {}).get("steps")].append(tuple(counts[task["task_id"]]))
    everything = [tuple(count) for count in counts.values()]
    rate, low, high = pass_rate(everything)
    report = {"tasks": len(tasks), "samples": len(verdicts), "pass@1": rate, "low": low, "high": high}
    for k in ks:
        report[f"pass@{k}"] = sum(pass_at_k(n, c, k) for n, c in everything) / len(everything)
    report["by_steps"] = {}
    for steps in sorted(step for step in by_steps if step is not None):
        rate, low, high = pass_rate(by_steps[steps])
        report["by_steps"][str(steps)] = {"pass@1": rate, "low": low, "high": high, "tasks": len(by_steps[steps])}
    report["status"] = dict(Counter(verdict["status"] for verdict in verdicts).most_common())
    return report


def main(config: Config) -> None:
    tasks = common.read_jsonl(config.tasks, common.PROMPT_FIELDS, sandbox.check_task)
    if len({task["task_id"] for task in tasks}) < len(tasks):
        raise InputError(f"{config.tasks}: a task_id occurs twice")
    if (config.model_name_or_path is None) == (config.samples is None):
        raise InputError("give either --model_name_or_path or --samples")
    if common.world_size() > 1:
        raise InputError("eval.py runs in one process")
    if max(config.k) > config.num_samples and config.samples is None:
        raise InputError(f"pass@{max(config.k)} needs --num_samples {max(config.k)} or more")
    common.check_model_folder(config.model_name_or_path)
    if common.open_run(config, complete="report.json") is not None:
        raise InputError(f"{config.output_dir}: holds checkpoints; choose another --output_dir")
    folder = Path(config.output_dir)
    if config.samples is None:
        generate(config, tasks, folder / "samples.jsonl")
    samples = read_samples(config.samples or folder / "samples.jsonl", tasks)
    by_id = {task["task_id"]: task for task in tasks}
    with sandbox.Sandbox(workers=config.sandbox_workers, timeout=config.sandbox_timeout) as runner:
        futures = [runner.submit(by_id[sample["task_id"]], sample["solution"]) for sample in samples]
        bar, verdicts = common.progress_bar("verdicts", len(samples)), []
        for sample, future in zip(samples, futures, strict=True):
            verdicts.append(sample | future.result())
            bar.update()
        bar.close()
    common.write_jsonl(folder / "verdicts.jsonl", verdicts)
    report = report_of(tasks, verdicts, config.k)
    for steps, row in report["by_steps"].items():
        print(
            f"{steps:>3} steps  pass@1 {row['pass@1']:.3f} [{row['low']:.3f}, {row['high']:.3f}]  {row['tasks']} tasks"
        )
    print(f"all        pass@1 {report['pass@1']:.3f} [{report['low']:.3f}, {report['high']:.3f}]  {len(tasks)} tasks")
    print("  ".join(f"pass@{k} {report[f'pass@{k}']:.3f}" for k in config.k), report["status"])
    common.write_text(folder / "report.json", json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    common.run(main, Config)
