"""Pass rates with their intervals, the differences between two policies, the report of samples.

A sample counts where it has a verdict, and nowhere else.
"""

import functools
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np

import sandbox
from common.files import null_for_nan, read_jsonl
from common.flags import InputError
from common.reports import bucket, format_interval, format_numbers, leading_number
from common.runs import MAX_UNJUDGED

BOOTSTRAP_REPLICATES = 10_000
TOKEN_BOUNDS = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)  # of buckets of completions
TASK_GROUPS = {  # of a report: what of a task's `meta` it groups by
    "by_steps": lambda meta: meta.get("steps"),
    "by_difficulty": lambda meta: meta.get("difficulty"),
    "by_month": lambda meta: str(meta["date"])[:7] if meta.get("date") else None,
}


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that one of k of the n samples passes, c of which do; NaN for k > n.

    The unbiased estimator 1 - C(n - c, k) / C(n, k) (Chen et al., 2021, eq. 1).
    """
    if k > n:
        return math.nan
    return 1.0 - math.prod((n - c - i) / (n - i) for i in range(k))


def pass_rate(results: Collection[tuple[int, float]]) -> tuple[float, float, float]:
    """Mean pass rate over tasks and its 95 % Wilson interval (low, high), from (samples, passing)
    of each task; NaN without samples.

    The interval's sample size n is an effective one, since samples of one task are alike: n =
    p (1 - p) / variance of the mean over tasks (Korn and Graubard, 1998), at least 1 and at most
    the number of samples. Where no variance is seen (all pass, or all fail) n is the number of
    tasks.
    """
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


@functools.cache
def student_quantile(degrees: int, share: float = 0.95) -> float:
    """The t for which a Student variable with `degrees` degrees of freedom has P(|T| < t) = share.

    P(|T| < t) is a finite sum in the angle atan(t / sqrt(degrees)): Abramowitz and Stegun,
    Handbook of Mathematical Functions, 26.7.3 (odd degrees) and 26.7.4 (even degrees). Bisection
    inverts the sum.
    """

    def probability(angle: float) -> float:
        odd, square = degrees % 2, math.cos(angle) ** 2
        term, total = 1.0, 0.0
        for k in range(1, (degrees - odd) // 2 + 1):
            total += term
            term *= square * (2 * k - 1 + odd) / (2 * k + odd)
        if odd:
            return 2 / math.pi * (angle + math.sin(angle) * math.cos(angle) * total)
        return math.sin(angle) * total

    low, high = 0.0, math.pi / 2
    for _ in range(60):  # the angle to the last bit of a float
        middle = (low + high) / 2
        low, high = (middle, high) if probability(middle) < share else (low, middle)
    return math.sqrt(degrees) * math.tan(low)


def bootstrap(first: np.ndarray, second: np.ndarray, seed: int) -> tuple[float, float, float]:
    """Mean of second - first and its 95 % percentile interval (low, high), by a paired bootstrap.

    first, second: (seeds, tasks), pass rates of a task in a run. A replicate draws tasks with
    replacement, the same for both arms, and seeds with replacement in each arm.
    """
    rng, num_tasks, differences = np.random.default_rng(seed), first.shape[1], []
    for _ in range(0, BOOTSTRAP_REPLICATES, 1000):
        tasks = rng.multinomial(num_tasks, np.full(num_tasks, 1 / num_tasks), 1000)
        tasks = tasks / num_tasks  # (1000, tasks), weights
        rates = []
        for arm in (first, second):
            seeds = rng.multinomial(len(arm), np.full(len(arm), 1 / len(arm)), 1000)
            seeds = seeds / len(arm)  # (1000, seeds), weights
            rates.append(((seeds @ arm) * tasks).sum(1))
        differences.append(rates[1] - rates[0])
    low, high = np.percentile(np.concatenate(differences), [2.5, 97.5])
    return float(second.mean() - first.mean()), float(low), float(high)


def paired_difference(
    first: np.ndarray, second: np.ndarray, seed: int
) -> tuple[float, float, float, str]:
    """Mean of second - first, its 95 % interval (low, high), and the method of the interval.

    first, second: (seeds, tasks), pass rates of a task in a run. Run i of an arm and run i of the
    other have one seed. With two seeds or more the interval is Student's t over the differences of
    the seeds, each a mean over tasks: the tasks are held fixed. One seed says nothing of other
    seeds: the interval is then `bootstrap` over tasks. It is `bootstrap` also where the arms differ
    in their number of seeds, so that no pairs exist; with few seeds that interval is too narrow.
    """
    num_seeds = len(first)
    if num_seeds != len(second):
        return *bootstrap(first, second, seed), "bootstrap over tasks and seeds, not paired by seed"
    if num_seeds == 1:
        return *bootstrap(first, second, seed), "bootstrap over tasks, one seed"
    differences = (second - first).mean(1)  # (seeds,)
    mean = float(differences.mean())
    error = float(differences.std(ddof=1)) / math.sqrt(num_seeds)
    half = student_quantile(num_seeds - 1) * error
    return mean, mean - half, mean + half, f"Student's t over {num_seeds} paired seeds"


def interval_of(counts: Collection[tuple[int, float]], **size: int) -> dict:
    """`pass_rate` as a row of a report, with the sizes of what it counts."""
    rate, low, high = pass_rate(counts)
    return null_for_nan({"pass@1": rate, "low": low, "high": high}) | size


def pass_at_ks(counts: Iterable[tuple[int, int]], ks: list[int]) -> dict:
    """pass@k of each k, a mean over the tasks with k samples or more; and how many tasks these are.
    counts: (samples, passing) of each task."""
    counts, row = list(counts), {}
    for k in ks:
        values = [pass_at_k(n, c, k) for n, c in counts if n >= k]
        row[f"pass@{k}"] = sum(values) / len(values) if values else None
        row[f"pass@{k}_tasks"] = len(values)
    return row


def read_pass_rates(folder: str, k: int) -> dict[str, float]:
    """pass@k of each task in an evaluation's verdicts.jsonl; NaN with fewer than k verdicts."""
    counts = defaultdict(lambda: [0, 0])
    for row in read_jsonl(Path(folder) / "verdicts.jsonl", {"task_id": str, "status": str}):
        counts[row["task_id"]][0] += row["status"] != "harness_error"
        counts[row["task_id"]][1] += row["status"] == "passed"
    return {name: pass_at_k(n, c, k) for name, (n, c) in counts.items()}


def read_arms(words: list[str], k: int = 1) -> dict[str, np.ndarray]:
    """pass@k (seeds, tasks) of each arm, on the tasks that have k verdicts in all folders.

    words: an arm each, the folders of evaluations with commas between.
    """
    folders = {word: word.split(",") for word in words}
    runs = {word: [Path(folder).resolve() for folder in arm] for word, arm in folders.items()}
    if len(words) < 2 or len(set(map(tuple, runs.values()))) < len(words):
        raise InputError("--compare needs two arms or more, no two the same")
    for word, arm in runs.items():
        if len(set(arm)) < len(arm):  # a run is one seed, however often it is named
            raise InputError(f"--compare: {word} has a folder twice")
    rates = {folder: read_pass_rates(folder, k) for arm in folders.values() for folder in arm}
    first = folders[words[0]][0]
    for folder in rates:
        different = sorted(rates[folder].keys() ^ rates[first].keys())
        if different:
            raise InputError(f"{folder}: only one of it and {first} has task {different[0]!r}")
    names = sorted(rates[first])
    names = [name for name in names if not any(math.isnan(run[name]) for run in rates.values())]
    if not names:
        raise InputError(f"--compare: no task has {k} verdicts in every folder")
    return {
        word: np.array([[rates[folder][name] for name in names] for folder in arm])
        for word, arm in folders.items()
    }


def policy_report(tasks: list[dict], verdicts: Iterable[dict], ks: list[int]) -> dict:
    """Report of samples: pass@1 with its interval, pass@k, the share of tasks that a sample solves.

    tasks: every task of the evaluation. verdicts: rows with task_id, status and the sample's text;
    they are read once. pass@1 comes again by the tasks' `meta.steps`, `meta.difficulty` and month
    of `meta.date`, and by the completions' lines and tokens, as far as tasks and samples have them.
    `base`: the same rates with the benchmark's own tests alone (`base_status`), where any task has
    more; a sample of a task that has no more counts by its `status`. `truncated`: samples that
    ended at their length limit, null where no sample says how it ended. `missing_packages`: samples
    that failed since they import a package that is not there.
    """
    by_task = {task["task_id"]: [0, 0] for task in tasks}  # [samples, passing] with a verdict
    base, has_base = {name: [0, 0] for name in by_task}, False
    by_size = {
        unit: defaultdict(lambda: defaultdict(lambda: [0, 0])) for unit in ("lines", "tokens")
    }
    statuses, ended, wanted = Counter(), Counter(), Counter()
    for verdict in verdicts:
        name, status = verdict["task_id"], verdict["status"]
        statuses[status] += 1
        wanted[sandbox.missing_package(verdict)] += 1
        ended[verdict.get("terminated")] += 1
        if status == "harness_error":
            continue
        text = verdict["completion"] if "completion" in verdict else verdict["solution"]
        num_lines = len(text.splitlines())
        counts = [by_task[name], by_size["lines"][bucket(num_lines)][name]]
        if "completion_tokens" in verdict:
            tokens = bucket(verdict["completion_tokens"], TOKEN_BOUNDS)
            counts.append(by_size["tokens"][tokens][name])
        for count in counts:
            count[0] += 1
            count[1] += status == "passed"
        has_base |= "base_status" in verdict
        own = verdict.get("base_status", status)
        base[name][0] += own != "harness_error"
        base[name][1] += own == "passed"

    judged = [(n, c) for n, c in by_task.values() if n]
    report = {"tasks": len(tasks), "samples": statuses.total()} | interval_of(judged)
    report |= pass_at_ks(judged, ks)
    report["solved"] = sum(c > 0 for _, c in judged) / len(judged) if judged else None
    if has_base and any(n for n, _ in base.values()):
        report["base"] = interval_of(base.values()) | pass_at_ks(base.values(), ks)
    report["truncated"] = ended[False] if ended[False] + ended[True] else None
    for title, value_of in TASK_GROUPS.items():
        groups = defaultdict(list)
        for task in tasks:
            groups[value_of(task.get("meta", {}))].append(by_task[task["task_id"]])
        groups.pop(None, None)
        report[title] = {
            str(value): interval_of(groups[value], tasks=len(groups[value]))
            for value in sorted(groups)
        }
    for unit, groups in by_size.items():
        report[f"by_{unit}"] = {
            name: interval_of(
                groups[name].values(), samples=sum(n for n, _ in groups[name].values())
            )
            for name in sorted(groups, key=leading_number)
        }
    report["status"] = dict(statuses.most_common())
    report["unjudged"] = statuses["harness_error"]
    report["missing_packages"] = {name: n for name, n in wanted.most_common() if name}
    return report


def print_policy_report(report: dict) -> None:
    """A line a group, then pass@1 over all tasks, pass@k, and what was left out."""
    groups = {name: group for name, group in report.items() if name.startswith("by_")}
    for title, group in groups.items():
        for name, row in group.items():
            count = "  ".join(f"{row[unit]} {unit}" for unit in ("samples", "tasks") if unit in row)
            print(f"{name:>12} {title[3:]:<10} pass@1 {format_interval(row, 'pass@1')}  {count}")
    judged = report.get("pass@1_tasks", report["tasks"])
    print(f"all        pass@1 {format_interval(report, 'pass@1')}  {judged} tasks")
    if "base" in report:
        print(f"base tests pass@1 {format_interval(report['base'], 'pass@1')}")
    plain = {name: value for name, value in report.items() if "@" in name or name == "solved"}
    print(format_numbers(plain | {"truncated": report["truncated"]}), report["status"])
    for name, number in report["missing_packages"].items():
        print(f"{number} samples failed for want of {name}; see --packages")
    if report["unjudged"]:
        print(
            f"{report['unjudged']} samples have no verdict; the same command asks again for these"
        )
        if report["unjudged"] > MAX_UNJUDGED * sum(report["status"].values()):
            share = f"{MAX_UNJUDGED:.0%}"
            print(f"warning: that is more than {share}; the rates are of the others alone")
