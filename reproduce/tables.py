"""The tables of the scripts in this folder, printed from run folders alone.

    python reproduce/tables.py seeds runs/prlcoder ppo-tests "sft=SFT" "ppo-tests=PPO, tests"
    python reproduce/tables.py seeds --help

RUNS is a folder with a folder for each seed: 0, 1, 2, ... A seed's folder holds the run folder
<arm> of each arm, and the folder eval-<arm> of its evaluation. A seed that lacks an arm of the
table is left out.

An ARM is NAME=LABEL: the name of the folder, and the words that the table has for the arm. It is
NAME=LABEL=SAMPLES where the run folder does not say how many samples the policy has learned from.
An ARM may also be arms of lib.sh: lines `name | label | how it is trained`, of which the table
takes name and label.

"mean ± half" is the mean over seeds and half of its 95 % interval (Student's t over the seeds).
"""

import argparse
import glob
import json
import math
import re
import statistics
import sys
from collections import Counter, defaultdict
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))
import common
import sandbox
from benchmarks.micro_operations import VAGUE_PLAN_LINES
from common import InputError
from prm_data import gold
from teachers import reasoning_rules

ARM_LINE = re.compile(r"^ *([\w.-]+) *\| *([^|\n]+?) *\|", re.MULTILINE)  # name | label |
HACK_COLUMNS = {
    "pass rate": "rewards/tests/mean",
    "PRM score": "rewards/prm/mean",
    "lines": "completions/mean_lines",
    "comments": "completions/comment_ratio",
}
LABEL_COSTS = "label_costs.json"  # in a run folder of reproduce/kept.py, which has no labels
LABEL_COLUMNS = ("line accuracy", "first wrong line found", "early", "late")
RECODE_COLUMNS = {
    "R_proc": "rewards/reasoning/mean",
    "R_proc, passing": "rewards/reasoning/passed",
    "R_proc, failing": "rewards/reasoning/failed",
    "no advantage": "frac_reward_zero_std",
}


def half_interval(values: list[float]) -> float:
    """Half of the 95 % interval of the mean; NaN for one value."""
    if len(values) < 2:
        return math.nan
    quantile = common.student_quantile(len(values) - 1)
    return quantile * statistics.stdev(values) / math.sqrt(len(values))


def would_be_seen(differences: list[float]) -> float:
    """The true difference that so many seeds show with probability 0.8:
    (t(0.975) + t(0.8)) s / sqrt(n), with s the standard deviation over the n seeds."""
    degrees = len(differences) - 1
    quantiles = common.student_quantile(degrees) + common.student_quantile(degrees, 0.6)
    return quantiles * statistics.stdev(differences) / math.sqrt(len(differences))


def shown_together(contrasts: dict[str, list[float]]) -> list[str]:
    """The contrasts that are shown when the chance of one false one among all is 5 % (Holm, 1979).

    Of the m contrasts, largest |t| first, number i needs |t| beyond the quantile 1 - 0.05/(m - i)
    of P(|T| < t), i from 0; from the first that fails on none is shown. A contrast that lacks seeds
    which others have is not shown.
    """
    most = max(map(len, contrasts.values()), default=0)
    if most < 2:
        return []
    ratios = {}  # |mean| by half of the 95 % interval: in the order of |t|
    for name, differences in contrasts.items():
        half = half_interval(differences) if len(differences) == most else math.inf
        ratios[name] = abs(statistics.fmean(differences)) / half if half else 0.0
    shown = []
    for i, name in enumerate(sorted(ratios, key=lambda name: -ratios[name])):
        wanted = common.student_quantile(most - 1, 1 - 0.05 / (len(ratios) - i))
        if ratios[name] * common.student_quantile(most - 1) <= wanted:
            break
        shown.append(name)
    return shown


def is_shown(differences: list[float]) -> bool:
    """Whether the 95 % interval of the mean does not hold 0; False for one value."""
    return abs(statistics.fmean(differences)) > half_interval(differences)


def print_shown_together(contrasts: dict[str, list[float]]) -> None:
    names = "; ".join(shown_together(contrasts)) or "none"
    print(f"\nShown among all {len(contrasts)}, with a chance of 5 % that one is false: {names}")


def cell(values: list[float], sign: str = "", form: str = ".3f") -> str:
    """mean ± half of the 95 % interval; sign "+" shows the sign of a positive mean."""
    return f"{statistics.fmean(values):{sign}{form}} ± {half_interval(values):{form}}"


def print_table(header: list[str], rows: list[list[str]], right: tuple[str, ...] = ()) -> None:
    """A Markdown table; `right` names the columns that are set to the right."""
    print(f"| {' | '.join(header)} |")
    print(f"|{'|'.join('---:' if name in right else '---' for name in header)}|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


class Arm(NamedTuple):
    label: str
    samples: int | None  # that the policy has learned from, where its run folder does not say


def read_arms(words: list[str]) -> dict[str, Arm]:
    """Arms by name from the command line's ARM words, in their order."""
    arms = {}
    for word in words:
        found = ARM_LINE.findall(word)
        if not found and "=" not in word:
            raise InputError(f"expected NAME=LABEL or lines `name | label | ...`, got {word!r}")
        for name, label in found or [word.split("=", 1)]:
            told = re.fullmatch(r"(.*)=(\d+)", label)
            arms[name] = Arm(told[1], int(told[2])) if told else Arm(label, None)
    return arms


def read_json(path: Path) -> dict:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: not a JSON object but {type(value).__name__}")
    return value


def read_report(folder: Path) -> dict:
    return read_json(folder / "report.json")


def read_metrics(run: Path) -> list[dict]:
    """The rows of a run's log, one a batch."""
    return common.read_jsonl(run / "metrics.jsonl", {})


def mean_of(rows: list[dict], column: str) -> float | None:
    """Mean of a column over the rows that have a value; None if no row has one."""
    values = [row[column] for row in rows if row.get(column) is not None]
    return statistics.fmean(values) if values else None


def seeds_with(runs: Path, files: list[str]) -> list[Path]:
    """The seeds' folders that hold every one of the files, by number; InputError if none does."""
    if not runs.is_dir():
        raise InputError(f"{runs}: no such folder")
    seeds = sorted(
        (path for path in runs.iterdir() if path.name.isdigit()), key=lambda p: int(p.name)
    )
    complete = [seed for seed in seeds if all((seed / name).is_file() for name in files)]
    if not complete:
        raise InputError(f"{runs}: no seed has all of {', '.join(files)}")
    return complete


def arm_of(base: str, arms: dict[str, Arm]) -> str:
    """Label of the arm that the others are compared with."""
    return arms[base].label if base in arms else base


def seeds(runs: Path, base: str, arms: list[str]) -> None:
    """pass@1 on held-out tasks, by number of steps, and its difference from one arm's.

    Reads <seed>/eval-<arm>/report.json of eval.py and <seed>/<arm>/metrics.jsonl. BASE is the arm
    that the others are compared with: differences are paired, seed by seed. "train" is the pass
    rate of the rollouts in the last ten batches.
    """
    arms = read_arms(arms)
    folders = seeds_with(runs, [f"eval-{arm}/report.json" for arm in [base, *arms]])
    reports = {
        arm: [read_report(folder / f"eval-{arm}") for folder in folders] for arm in [base, *arms]
    }
    first = reports[base][0]
    steps = list(first["by_steps"]) if len(first["by_steps"]) > 1 else []  # one length: "all"
    rows = []
    for arm, (label, samples) in arms.items():
        row = [cell([report["by_steps"][n]["pass@1"] for report in reports[arm]]) for n in steps]
        pass_1 = [report["pass@1"] for report in reports[arm]]
        against = [a - b["pass@1"] for a, b in zip(pass_1, reports[base], strict=True)]
        logs = [
            read_metrics(folder / arm) if (folder / arm / "metrics.jsonl").is_file() else []
            for folder in folders
        ]
        drawn = logs[0][-1].get("episode", 0) if logs[0] else 0
        passed = [mean_of(log[-10:], "rewards/tests/mean") for log in logs]
        row += [cell(pass_1), "" if arm == base else cell(against, "+")]
        row += [f"{drawn if samples is None else samples:,}"]
        rows.append([label, *row, "" if passed[0] is None else cell(passed)])
    title = "pass@1 on held-out tasks" + (" by number of steps" if steps else "")
    print(
        f"{title}: {len(folders)} seeds, {first['tasks']} tasks, {first['samples']} samples a seed "
        "at temperature 1; mean ± half of the 95 % interval over seeds\n"
    )
    header = ["arm", *(f"{n} steps" for n in steps), "all", f"all, against {arm_of(base, arms)}"]
    print_table([*header, "RL samples", "train"], rows, right=("RL samples", "train"))


def curves(runs: Path, metric: str, arms: list[str]) -> None:
    """A learning curve as a table: the mean of a metric over each ten batches.

    Reads <seed>/<arm>/metrics.jsonl, of finished runs; plot.py draws the same. METRIC is a column;
    batches on which it is not defined are left out. "all" is the mean over the whole run, the area
    under the curve. The last column is the difference from the first arm's, paired seed by seed.
    """
    arms = read_arms(arms)
    folders = seeds_with(runs, [f"{arm}/config.json" for arm in arms])
    windows, areas = {}, {}  # of an arm: a list a seed
    for arm in arms:
        logs = [read_metrics(folder / arm) for folder in folders]
        areas[arm] = [mean_of(log, metric) for log in logs]
        if None in areas[arm]:
            raise InputError(f"{runs}: {arm}'s metrics.jsonl has no values of {metric!r}")
        windows[arm] = [
            [mean_of(log[i : i + 10], metric) for i in range(0, len(log), 10)] for log in logs
        ]
    length = max(len(row) for each in windows.values() for row in each)
    base, rows = next(iter(arms)), []
    for arm, (label, _) in arms.items():
        columns = [
            [x for x in column if x is not None] for column in zip(*windows[arm], strict=True)
        ]
        row = [cell(column) if column else "" for column in [*columns, areas[arm]]]
        against = [a - b for a, b in zip(areas[arm], areas[base], strict=True)]
        rows.append([label, *row, "" if arm == base else cell(against, "+")])
    print(
        f"{metric}, mean over ten batches; {len(folders)} seeds, "
        "mean ± half of the 95 % interval over seeds\n"
    )
    ranges = [f"{10 * i + 1}-{10 * i + 10}" for i in range(length)]
    print_table(["arm", *ranges, "all", f"against {arms[base].label}"], rows)


def gains(runs: Path, differences: list[str]) -> None:
    """Differences in pass@1 between arms, with the intervals of eval.py --compare.

    Reads <seed>/eval-<arm>/verdicts.jsonl of eval.py. A DIFFERENCE is FIRST:SECOND=LABEL, the first
    arm's pass@1 less the second's.
    """
    pairs = []
    for word in differences:
        match = re.fullmatch(r"([^:=]+):([^:=]+)=(.*)", word)
        if match is None:
            raise InputError(f"expected FIRST:SECOND=LABEL, got {word!r}")
        pairs.append(match.groups())
    names = sorted({arm for first, second, _ in pairs for arm in (first, second)})
    folders = seeds_with(runs, [f"eval-{arm}/verdicts.jsonl" for arm in names])
    words = {arm: ",".join(str(folder / f"eval-{arm}") for folder in folders) for arm in names}
    rates = common.read_arms(list(words.values()))  # (seeds, tasks) each
    rows = []
    for first, second, label in pairs:
        difference, low, high, method = common.paired_difference(
            rates[words[second]], rates[words[first]], common.seed_of(0, "bootstrap")
        )
        rows.append([label, f"{difference:+.3f}", f"[{low:+.3f}, {high:+.3f}]"])
    print(f"{len(folders)} seeds; 95 % intervals by {method}\n")
    print_table(["difference in pass@1", "mean", "interval"], rows, right=("mean",))


def by_seed(runs: Path, arm: str, metric: str) -> dict[int, float]:
    """A metric of an arm in each seed's folder that has the arm's end; see `contrasts`."""
    folder, _, name = arm.rpartition("/")
    found = {}
    for seed in (runs / folder).glob("[0-9]*"):
        if metric == "pass@1":
            if (seed / f"eval-{name}" / "report.json").is_file():
                found[int(seed.name)] = read_report(seed / f"eval-{name}")["pass@1"]
        elif (seed / name / "config.json").is_file():
            found[int(seed.name)] = mean_of(read_metrics(seed / name), metric)
    if None in found.values():
        raise InputError(f"{runs}: {arm}'s metrics.jsonl has no values of {metric!r}")
    return found


def contrasts(runs: Path, metric: str, claims: list[str]) -> None:
    """Claims as signed sums of arms, paired seed by seed, each with its own interval.

    A CLAIM is LABEL=+ARM -ARM ...; an ARM is the name of a run folder, or FOLDER/NAME where the
    seeds' folders are in RUNS/FOLDER. METRIC is a column of metrics.jsonl, whose mean over the run
    counts (the area under the curve), or pass@1 of eval-<arm>/report.json. A seed counts where it
    has every arm of the claim. "shown": the interval does not hold 0. "would be seen": see
    would_be_seen.
    """
    rows, together = [], {}
    for claim in claims:
        label, _, sum_of_arms = claim.rpartition("=")
        terms = [(1 if word[0] == "+" else -1, word[1:]) for word in sum_of_arms.split()]
        if not label or not terms or not all(word[0] in "+-" for word in sum_of_arms.split()):
            raise InputError(f"expected LABEL=+ARM -ARM, got {claim!r}")
        values = [(sign, by_seed(runs, arm, metric)) for sign, arm in terms]
        seeds = sorted(set.intersection(*(set(found) for _, found in values)))
        differences = [sum(sign * found[seed] for sign, found in values) for seed in seeds]
        row = [label, str(len(seeds)), "", "", "not shown", ""]
        if len(seeds) > 1:
            mean, half = statistics.fmean(differences), half_interval(differences)
            seen = would_be_seen(differences)
            row[2:] = [f"{mean:+.3f}", f"[{mean - half:+.3f}, {mean + half:+.3f}]"]
            row += ["shown" if is_shown(differences) else "not shown", f"{seen:.3f}"]
            together[label] = differences
        rows.append(row)
    name = "pass@1 on held-out tasks" if metric == "pass@1" else f"{metric}, mean over the run"
    print(f"{name}; differences paired by seed, 95 % intervals (Student's t over the seeds)\n")
    header = ["claim", "seeds", "difference", "interval", "", "would be seen"]
    print_table(header, rows, right=("seeds", "difference", "would be seen"))
    if len(together) > 1:
        print_shown_together(together)


def spread(first: Path, second: Path, weight: float) -> None:
    """Prints WEIGHT times the ratio of the spreads of two runs' rewards, FIRST's by SECOND's.

    Reads completions.jsonl of the run folders. The spread is the standard deviation over samples.
    """
    spreads = [
        statistics.stdev(row["reward"] for row in common.read_jsonl(run / "completions.jsonl", {}))
        for run in (first, second)
    ]
    if not all(spreads):
        raise InputError(f"{first}, {second}: all rewards of a run are equal")
    print(f"{weight * spreads[0] / spreads[1]:.6g}")


def label_files(run: Path) -> list[Path]:
    """What the reward models of an arm have learned from, a file each."""
    flags = read_json(run / "run_config.json")
    prms = flags["prm"] or []
    models = [prms] if isinstance(prms, str) else prms  # an ensemble has several
    models = [*models, *filter(None, [flags.get("orm")])]
    return [Path(read_json(Path(model) / "run_config.json")["data"]) for model in models]


def label_costs(run: Path) -> tuple[float, float, float]:
    """Samples of a policy, and executed programs, that an arm's labels have cost; the tasks that
    were labelled.

    An outcome model may have learned from verdicts of eval.py: a sample and a program each. Labels
    of a run's checkpoints have also cost that run's samples, each of them a program.
    """
    if (run / LABEL_COSTS).is_file():
        return tuple(json.loads((run / LABEL_COSTS).read_text(encoding="utf-8")))
    last, tasks = read_metrics(run)[-1], set()
    samples, programs = last.get("label_samples", 0), last.get("label_programs", 0)
    for data in label_files(run):
        rows = common.read_jsonl(data, {})
        tasks |= {row["task_id"] for row in rows}
        if data.name == "verdicts.jsonl":
            samples, programs = samples + len(rows), programs + len(rows)
            continue
        report = read_json(data.with_suffix(".report.json"))
        drawn = samples_behind(data) if "responses" in report else 0  # labels by search
        samples += report.get("responses", 0) + report.get("completions", 0) + drawn
        programs += report.get("executions", 0) + drawn
    return samples, programs, len(tasks)


def samples_behind(labels: Path) -> int:
    """Samples of the reinforcement learning runs whose policies wrote what was labelled."""
    progress = Path(f"{labels}.progress")  # its first line has the flags
    if not progress.is_file():
        raise InputError(f"{progress}: no such file; it says whose samples were labelled")
    flags = next(common.whole_rows(progress), {})
    policies = [Path(path) for path in flags["model_name_or_path"]]
    runs = {path.parent if path.name.startswith("checkpoint-") else path for path in policies}
    logs = [read_metrics(run) for run in sorted(runs) if (run / "metrics.jsonl").is_file()]
    return sum(log[-1].get("episode", 0) for log in logs)


def ever_solved(run: Path) -> float | None:
    """Share of the training tasks drawn so far of which a sample has passed; None where the run's
    samples are not kept."""
    if not (run / "completions.jsonl").is_file():
        return None
    rows = common.read_jsonl(run / "completions.jsonl", {})
    solved = {row["task_id"] for row in rows if row["status"] == "passed"}
    return len(solved) / len({row["task_id"] for row in rows})


def pass_rates(run: Path) -> list[float]:
    """Pass rate of the rollouts, mean over the ten batches up to each one from the tenth on."""
    rates = [row["rewards/tests/mean"] for row in read_metrics(run)]
    if len(rates) < 10:
        raise InputError(f"{run}: {len(rates)} batches; the table needs ten or more")
    return [statistics.fmean(rates[end - 10 : end]) for end in range(10, len(rates) + 1)]


def budget(runs: Path, arms: list[str]) -> None:
    """What each arm has cost in samples of the policy, labels included, and what it has found.

    Reads <seed>/<arm> of ppo.py, its PRM's run folder, the report of the labels that the PRM was
    trained on (the run folders hold both paths), and <seed>/eval-<arm>. "until" is the number of
    RL samples after which the mean training pass rate of ten batches first is the first arm's at
    its end; a run that never gets there counts whole, and is counted. The rate is noisy, and the
    first passage of a noisy curve comes early: the first arm itself is at its last rate before its
    end. Its own number, below the table, is what the others are to be read against. "for labels"
    are the responses that were labelled by search, their completions, the samples of the run whose
    checkpoints wrote the responses, those of a refreshed PRM, and the samples that an outcome model
    has learned from; "programs" those that were executed for labels, where any were (exact labels:
    a line that comes again counts again); "tasks" those that a reward model has learned from. "ever
    solved" is the share of the training tasks drawn so far of which a sample has passed; "best of
    n" the share of held-out tasks of which one of the n samples passes.
    """
    arms = read_arms(arms)
    base = next(iter(arms))
    folders = seeds_with(runs, [f"eval-{arm}/report.json" for arm in arms])
    num_samples = read_json(folders[0] / f"eval-{base}" / "run_config.json")["num_samples"]
    costs = {  # (seeds, 3): samples, programs, tasks
        arm: [label_costs(folder / arm) for folder in folders] for arm in arms
    }
    counted = ["programs"] if any(n for each in costs.values() for _, n, _ in each) else []
    rows, own = [], ""  # own: the first arm's own "until"
    for arm, (label, _) in arms.items():
        drawn = [read_metrics(folder / arm)[-1]["episode"] for folder in folders]
        until, never = [], 0
        for folder, total in zip(folders, drawn, strict=True):
            target, curve = pass_rates(folder / base)[-1], pass_rates(folder / arm)
            reached = next((i for i, rate in enumerate(curve) if rate >= target), None)
            never += reached is None
            until.append(total if reached is None else total * (reached + 10) / (len(curve) + 9))
        own = own or f"{statistics.fmean(until):,.0f} of its {statistics.fmean(drawn):,.0f} samples"
        evaluations = [read_report(folder / f"eval-{arm}") for folder in folders]
        samples, programs, labelled = map(statistics.fmean, zip(*costs[arm], strict=True))
        solved = [ever_solved(folder / arm) for folder in folders]
        rows.append(
            [
                label,
                f"{statistics.fmean(drawn):,.0f}",
                cell(until, form=",.0f") + (f" ({never} never)" if never else ""),
                f"{samples:,.0f}",
                *(f"{programs:,.0f}" for _ in counted),
                f"{labelled:,.0f}",
                "" if None in solved else cell(solved),
                cell([report["solved"] for report in evaluations]),
            ]
        )
    print(f"{len(folders)} seeds, mean ± half of the 95 % interval over seeds\n")
    header = ["arm", "RL samples", f"until the last pass rate of {arms[base].label}", "for labels"]
    header += [*counted, "tasks", "training tasks ever solved"]
    header += [f"held-out tasks solved, best of {num_samples}"]
    print_table(header, rows, right=("RL samples", "for labels", "programs", "tasks"))
    print(f"\n{arms[base].label}: first at its own last pass rate after {own}")


def right_lines(path: Path) -> float:
    """Share of the labelled lines that are right."""
    rows = common.read_jsonl(path, {"labels": list})
    labels = [label for row in rows for label in row["labels"] if label is not None]
    return labels.count(1.0) / len(labels)


def seen_at(log: list[dict]) -> int | None:
    """The first batch at which ten batches' PRM score is above the first ten's while their pass
    rate is below half of the first ten's."""

    def means(end: int) -> tuple[float, float]:
        rows = log[end - 10 : end]
        return mean_of(rows, HACK_COLUMNS["PRM score"]), mean_of(rows, HACK_COLUMNS["pass rate"])

    first_score, first_rate = means(10)
    for end in range(11, len(log) + 1):
        score, rate = means(end)
        if score > first_score and rate < first_rate / 2:
            return end
    return None


def hack(runs: Path, arms: list[str]) -> None:
    """What a process reward does to the policy: the first ten batches against the last ten.

    Reads <seed>/<arm>/metrics.jsonl of ppo.py, and <seed>/gold-<arm>.jsonl and gold-sft.jsonl, the
    exact labels of the lines that the last and the starting policy write for held-out tasks. "seen
    at batch" is the first batch at which the mean PRM score of ten batches is above the first
    ten's, while their pass rate is below half of the first ten's; one number a seed.
    """
    arms = read_arms(arms)
    folders = seeds_with(runs, [f"gold-{arm}.jsonl" for arm in ["sft", *arms]])
    start = statistics.fmean(right_lines(folder / "gold-sft.jsonl") for folder in folders)
    rows = []
    for arm, (label, _) in arms.items():
        logs = [read_metrics(folder / arm) for folder in folders]
        row = []
        for column in HACK_COLUMNS.values():
            first = statistics.fmean(mean_of(log[:10], column) for log in logs)
            row.append(f"{first:.3f} → {cell([mean_of(log[-10:], column) for log in logs])}")
        right = [right_lines(folder / f"gold-{arm}.jsonl") for folder in folders]
        row.append(f"{start:.3f} → {cell(right)}")
        batches = [seen_at(log) for log in logs]
        row.append(", ".join("never" if batch is None else str(batch) for batch in batches))
        rows.append([label, *row])
    print(
        f"{len(folders)} seeds; first ten batches → last ten, "
        "mean ± half of the 95 % interval over seeds\n"
    )
    header = ["process reward", *HACK_COLUMNS, "right lines, held-out tasks", "seen at batch"]
    print_table(header, rows)


def scores_of_labels(tasks: dict[str, dict], rows: list[dict]) -> dict[str, dict[str, float]]:
    """LABEL_COLUMNS by number of steps, and "all", over the failing responses of one search."""
    failing = [row for row in rows if not row["meta"]["passed"]]
    counts, cache = defaultdict(Counter), {}
    with sandbox.Sandbox(workers=2) as runner:
        pending = [
            gold.submit(runner, tasks[row["task_id"]], "".join(row["completions"]), cache)
            for row in failing
        ]
        for row, executed in zip(failing, pending, strict=True):
            exact = gold.prefix_labels(
                tasks[row["task_id"]], "".join(row["completions"]), gold.labels(executed)
            )
            right = list(accumulate((label != -1.0 for label in exact), lambda a, b: a and b))
            first_wrong = right.index(False) + 1 if False in right else len(right)
            compared = [  # labels that say something: neither 0 nor null
                (label > 0) == prefix
                for label, prefix in zip(row["labels"], right, strict=True)
                if label
            ]
            late = row["meta"]["first_bad"] - first_wrong
            found = (sum(compared), late == 0, late < 0, late > 0)
            count = dict(zip(LABEL_COLUMNS, found, strict=True))
            for key in (str(row["meta"]["steps"]), "all"):
                counts[key].update(count | {"lines": len(compared), "responses": 1})
    return {
        key: {
            column: count[column] / count["lines" if column == LABEL_COLUMNS[0] else "responses"]
            for column in LABEL_COLUMNS
        }
        for key, count in counts.items()
    }


def labels(tasks: str, searches: list[str]) -> None:
    """Line labels found by search against exact ones, and what they cost, by number of steps.

    TASKS is the tasks.jsonl of the search. A SEARCH is LABEL=FILE,FILE: prm.jsonl files of
    --method search, one a seed (patterns with * too). A prefix can still be completed when each of
    its lines is right, which prm_data/gold.py decides by execution. Only failing responses count:
    a passing one is right on every line. "late" is a search that finds the first wrong line after
    the place where it is: the completions of a wrong prefix would have to pass.
    """
    by_id = {task["task_id"]: task for task in common.read_jsonl(tasks, common.PROMPT_FIELDS)}
    costs = ("completions", "completion_tokens", "executions")
    rows, seeds_of = [], {}  # seeds_of: a label's number of seeds
    for word in searches:
        label, _, files = word.rpartition("=")
        paths = [path for file in files.split(",") for path in sorted(glob.glob(file)) or [file]]
        found = [scores_of_labels(by_id, common.read_jsonl(path, {})) for path in paths]
        seeds_of[label] = len(found)
        reports = [read_json(Path(path).with_suffix(".report.json")) for path in paths]
        cost = [
            f"{statistics.fmean(report[name] / report['failed'] for report in reports):.1f}"
            for name in costs
        ]
        steps = sorted(set.intersection(*map(set, found)), key=lambda n: (n == "all", n))
        for n in steps[-1:] if len(steps) == 2 else steps:  # one length: "all" alone
            cells = [cell([scores[n][column] for scores in found]) for column in LABEL_COLUMNS]
            rows.append([label, n, *cells, *cost])
    number = ", ".join(f"{label}: {n} seeds" for label, n in seeds_of.items())
    if len(set(seeds_of.values())) == 1:
        number = f"{len(found)} seeds"
    print(
        f"Labels by search against exact ones, on responses that fail; {number}, "
        "mean ± half of the 95 % interval over seeds\n"
    )
    right = ("completions", "tokens", "programs")
    print_table(["labels", "steps", *LABEL_COLUMNS, *right], rows, right)
    print("\ncompletions, their tokens, and executed programs: a failing response")


def micro(runs: Path, arms: list[str]) -> None:
    """The table of micro.sh, of one seed. RUNS holds the run folders; ARMs default to micro.sh's.

    Reads <arm>/metrics.jsonl and eval-<arm>/report.json, and prm/ for the line below the table.
    Intervals are Wilson's over the samples.
    """
    arms = read_arms(arms or [Path(__file__).with_name("micro.sh").read_text(encoding="utf-8")])
    if not runs.is_dir():
        raise InputError(f"{runs}: no such folder")
    reports = {arm: read_report(runs / f"eval-{arm}") for arm in arms}
    minutes = {
        arm: sum(row["step_time"] for row in read_metrics(runs / arm)) / 60
        for arm in [*arms, "prm"]
    }
    first = next(iter(reports.values()))
    steps, rows = list(first["by_steps"]), []
    for arm, (label, _) in arms.items():
        rates = [reports[arm]["by_steps"][n] for n in steps] + [reports[arm]]
        cells = [f"{rate['pass@1']:.2f} [{rate['low']:.2f}, {rate['high']:.2f}]" for rate in rates]
        drawn = read_metrics(runs / arm)[-1].get("episode", 0)
        rows.append([label, *cells, f"{drawn:,}", f"{minutes[arm]:.1f}"])
    prm = read_report(runs / "prm")
    print(
        f"pass@1 on held-out tasks, by number of steps; {first['tasks']} tasks, "
        f"{first['samples']} samples at temperature 1, 95 % intervals\n"
    )
    header = ["policy", *(f"{n} steps" for n in steps), "all", "RL samples", "minutes"]
    print_table(header, rows, right=("RL samples", "minutes"))
    print(
        f"\nPRM: held-out line accuracy {prm['eval_accuracy']:.3f} "
        f"(majority {prm['eval_majority']:.3f}), AUC {prm['eval_auc']:.3f}, "
        f"over {prm['eval_lines']} lines; trained in {minutes['prm']:.1f} minutes "
        "on lines that the policy did not sample"
    )


def pairs(runs: Path, arms: list[str]) -> None:
    """Reasoning reward models on held-out pairs, and on sound against unsound samples.

    Reads <seed>/eval-<name>-pairs and <seed>/eval-<name>-benchmark of eval_prm.py for each ARM
    NAME=LABEL; pairs are told apart by what has been done to the worse text. Over the seeds that
    have the reward model. The last row is what a linear model reaches that never sees the prompt,
    on the same pairs (common/preferences.py). A second table has the first reward model against
    that model, paired by seed, for each kind of pair.
    """

    def row_of(label: str, reports: tuple[list[dict], list[dict]], name: str) -> list[str]:
        held_out, benchmark = reports
        means = [
            statistics.fmean(report[by][part][name] for report in held_out) for by, part in parts
        ]
        whole = [cell([report[name] for report in each]) for each in (held_out, benchmark)]
        return [label, str(len(held_out)), whole[0], *(f"{mean:.3f}" for mean in means), whole[1]]

    rows, parts = [], []
    for name, (label, _) in read_arms(arms).items():
        sets = (f"eval-{name}-pairs", f"eval-{name}-benchmark")
        folders = seeds_with(runs, [f"{each}/report.json" for each in sets])
        reports = tuple([read_report(folder / each) for folder in folders] for each in sets)
        if not rows:
            first, blind = reports[0][0], reports
            parts = [(by, part) for by in ("by_kind", "by_operator") for part in first[by]]
        rows.append(row_of(label, reports, "accuracy"))
    rows.append(row_of("without the prompt", blind, "blind_accuracy"))
    print(
        "Share of held-out pairs in which the better reasoning has the higher score; "
        f"{first['pairs']} pairs a seed, mean ± half of the 95 % interval over seeds\n"
    )
    names = [part.replace("_", " ") for _, part in parts]
    print_table(["reward model", "seeds", "all", *names, "policy samples"], rows, right=("seeds",))
    held_out, benchmark = blind
    groups = {"all": held_out}
    groups |= {part.replace("_", " "): [r[by][part] for r in held_out] for by, part in parts}
    groups["policy samples"] = benchmark
    gains, rows = {}, []
    for group, reports in groups.items():
        gain = [report["accuracy"] - report["blind_accuracy"] for report in reports]
        row = [cell([r[name] for r in reports]) for name in ("accuracy", "blind_accuracy")]
        rows.append([group, *row, cell(gain, "+"), "shown" if is_shown(gain) else "not shown"])
        gains[group] = gain
    label = next(iter(read_arms(arms).values())).label
    print(f"\nReward model: {label}; the difference is paired by seed\n")
    print_table(["pairs", "reward model", "without the prompt", "difference", ""], rows)
    print_shown_together(gains)


def prm(runs: Path, names: list[str]) -> None:
    """The PRM against exact line labels, by number of steps.

    Reads <seed>/eval-<name>/report.json of eval_prm.py for each NAME, which is PRM-on-LABELS. The
    last row of each kind of labels is what the place of a line alone gives.
    """
    folders = seeds_with(runs, [f"eval-{name}/report.json" for name in names])
    reports = {name: [read_report(folder / f"eval-{name}") for folder in folders] for name in names}
    steps = list(reports[names[0]][0]["by_steps"])
    steps = steps if len(steps) > 1 else []  # one length: "all" says it
    rows = []
    for name, each in reports.items():
        cells = [cell([report["by_steps"][n]["auc"] for report in each]) for n in steps]
        cells.append(cell([report["eval_auc"] for report in each]))
        cells.append(cell([report["to_first_error"]["auc"] for report in each]))
        cells.append(cell([report["eval_accuracy"] for report in each]))
        rows.append([name, *cells])
    for kind in dict.fromkeys(name.rpartition("-on-")[2] for name in names):
        each = next(reports[name] for name in names if name.rpartition("-on-")[2] == kind)
        early = [report["to_first_error"]["position_auc"] for report in each]
        whole = [report["eval_position_auc"] for report in each]
        rows.append([f"place-on-{kind}", *("" for _ in steps), cell(whole), cell(early), ""])
    print(
        f"AUC of the PRM against exact labels of held-out lines, {len(folders)} seeds, "
        "mean ± half of the 95 % interval\n"
    )
    header = ["PRM, on lines of", *(f"{n} steps" for n in steps), "all"]
    print_table([*header, "to the first error", "accuracy"], rows)


def rankers(runs: Path, names: list[str]) -> None:
    """Reward models as rankers: pass@1 of the one of a task's samples that each model chooses.

    Reads <seed>/eval-<name>/report.json of eval_prm.py --samples for each NAME.
    """
    folders = seeds_with(runs, [f"eval-{name}/report.json" for name in names])
    reports = {name: [read_report(folder / f"eval-{name}") for folder in folders] for name in names}
    first = reports[names[0]]

    def rates(each: list[dict], ranker: str) -> str:
        return cell([report["rankers"][ranker]["pass@1"] for report in each])

    rows = [["a random choice", rates(first, "random")]]
    for name, each in reports.items():
        for ranker in [key for key in each[0]["rankers"] if key not in ("random", "oracle")]:
            label = name if ranker == "orm" else f"{name}, {ranker.removeprefix('prm ')} of lines"
            rows.append([label, rates(each, ranker)])
    rows.append(["a sample that passes, if there is one", rates(first, "oracle")])
    print(
        f"One of {first[0]['n']} samples of the supervised policy, chosen by a reward model; "
        f"{first[0]['tasks']} held-out tasks, {len(folders)} seeds, "
        "mean ± half of the 95 % interval over seeds\n"
    )
    print_table(["chosen by", "pass@1"], rows)


def measures_of_plans(folder: Path, arm: str, tasks: dict[str, dict]) -> dict[str, float]:
    """The columns of one arm's row in the recode table, on one seed."""
    samples = folder / f"eval-{arm}"
    tokenizer = common.load_tokenizer(read_json(samples / "run_config.json")["model_name_or_path"])
    rows = common.read_jsonl(samples / "samples.jsonl", {"task_id": str, "completion": str})
    plans = [common.reasoning_of(row["completion"]) or "" for row in rows]
    lines = [line for plan in plans for line in reasoning_rules.plan_lines(plan)]
    accuracies = [
        reasoning_rules.plan_accuracy(tasks[row["task_id"]]["meta"]["plan"], plan)
        for row, plan in zip(rows, plans, strict=True)
    ]
    token_ids = tokenizer([row["completion"] for row in rows])["input_ids"]
    found = {
        "pass@1": read_report(samples)["pass@1"],
        "plan accuracy": statistics.fmean(accuracies),
        "vague": sum(line in VAGUE_PLAN_LINES for line in lines) / max(len(lines), 1),
        "tokens": statistics.fmean(len(ids) for ids in token_ids),
    }
    if (folder / arm / "metrics.jsonl").is_file():
        log = read_metrics(folder / arm)[-10:]
        means = {name: mean_of(log, column) for name, column in RECODE_COLUMNS.items()}
        found |= {name: mean for name, mean in means.items() if mean is not None}
    return found


def recode(tasks: str, runs: Path, base: str, arms: list[str]) -> None:
    """What each reward does to programs, plans and lengths: the table of recode.sh.

    Reads <seed>/<arm> of grpo.py and <seed>/eval-<arm> of eval.py on TASKS. BASE is the arm that
    pass@1 is compared with, seed by seed; an ARM of the form FIRST:SECOND prints one more
    difference in pass@1. "plan accuracy" is the share of plan lines that are the reference's, place
    by place; "vague" the share that state no step. R_proc is the mean over the rollouts of the last
    ten batches; an arm that does not pay R_proc may still log it. "no advantage" is the share of
    groups in those batches whose samples all have the same reward.
    """
    by_id = {task["task_id"]: task for task in common.read_jsonl(tasks, common.PROMPT_FIELDS)}
    differences = [word.split(":") for word in arms if re.fullmatch(r"[^:=|\n]+:[^:=|\n]+", word)]
    arms = read_arms([word for word in arms if word.split(":") not in differences])
    if base not in arms:
        raise InputError(f"{base} is not one of the arms {', '.join(arms)}")
    folders = seeds_with(runs, [f"eval-{arm}/report.json" for arm in arms])
    columns = {arm: defaultdict(list) for arm in arms}
    for arm in arms:
        for folder in folders:
            for name, value in measures_of_plans(folder, arm, by_id).items():
                columns[arm][name].append(value)

    def difference(first: str, second: str) -> str:
        both = zip(columns[first]["pass@1"], columns[second]["pass@1"], strict=True)
        return cell([a - b for a, b in both], "+")

    names, rows = [name for name in columns[base] if name != "pass@1"], []
    for arm, (label, _) in arms.items():
        row = [cell(columns[arm]["pass@1"]), "" if arm == base else difference(arm, base)]
        values = [columns[arm][name] for name in names]
        rows.append(
            [label, *row, *(cell(each) if len(each) == len(folders) else "" for each in values)]
        )
    print(
        f"{len(folders)} seeds, {len(by_id)} held-out tasks; "
        "mean ± half of the 95 % interval over seeds\n"
    )
    print_table(["reward", "pass@1", f"against {arms[base].label}", *names], rows)
    for first, second in differences:
        print(
            f"\npass@1 of {arms[first].label!r} minus that of {arms[second].label!r}: "
            f"{difference(first, second)}"
        )


ARGUMENTS = {  # of the subcommands: how many, and what they are
    "tasks": (None, "tasks.jsonl"),
    "runs": (None, "folder with the run folders"),
    "base": (None, "name of the arm to compare with"),
    "first": (None, "run folder"),
    "second": (None, "run folder"),
    "weight": (None, "number"),
    "metric": (None, "column of metrics.jsonl, such as rewards/tests/mean"),
    "arms": ("+", "NAME=LABEL, NAME=LABEL=SAMPLES, or lines `name | label | ...`"),
    "differences": ("+", "FIRST:SECOND=LABEL"),
    "claims": ("+", "LABEL=+ARM -ARM ..."),
    "searches": ("+", "LABEL=FILE,FILE"),
    "names": ("+", "evaluations, without eval-"),
}
TABLES = {
    seeds: ("runs", "base", "arms"),
    curves: ("runs", "metric", "arms"),
    gains: ("runs", "differences"),
    contrasts: ("runs", "metric", "claims"),
    spread: ("first", "second", "weight"),
    budget: ("runs", "arms"),
    hack: ("runs", "arms"),
    labels: ("tasks", "searches"),
    prm: ("runs", "names"),
    pairs: ("runs", "arms"),
    rankers: ("runs", "names"),
    recode: ("tasks", "runs", "base", "arms"),
    micro: ("runs", "arms"),
}


def main(argv: list[str]) -> None:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="tables.py", description=__doc__, formatter_class=style)
    commands = parser.add_subparsers(metavar="TABLE", required=True)
    for table, names in TABLES.items():
        summary = table.__doc__.partition("\n")[0]
        text = "\n".join(line.removeprefix("    ") for line in table.__doc__.splitlines())
        command = commands.add_parser(
            table.__name__, help=summary, description=text, formatter_class=style
        )
        command.set_defaults(table=table)
        for name in names:
            count, what = ARGUMENTS[name]
            count = "*" if table is micro and name == "arms" else count
            kind = {"runs": Path, "first": Path, "second": Path, "weight": float}.get(name, str)
            metavar = (name.removesuffix("s") if count else name).upper()
            command.add_argument(name, nargs=count, type=kind, metavar=metavar, help=what)
    arguments = vars(parser.parse_args(argv))
    table = arguments.pop("table")
    try:
        table(**arguments)
    except InputError as error:
        sys.exit(f"tables.py: {error}")
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        files = arguments.get("runs") or arguments["tasks"]
        kind = type(error).__name__
        sys.exit(f"tables.py: {files}: a file lacks what this table needs ({kind}: {error})")


if __name__ == "__main__":
    main(sys.argv[1:])
