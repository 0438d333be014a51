"""The table of a comparison over seeds: pass@1 on held-out tasks, means over seeds with 95 % intervals.

    python reproduce/seeds_table.py runs/prlcoder ppo-tests "sft=SFT" "ppo-tests=PPO, tests" ...

The first argument holds a folder a seed, each with run folders `<arm>` and evaluations `eval-<arm>` of eval.py; seeds that
lack an arm's evaluation are left out. The second one names the arm that the others are compared with: differences are
paired, seed by seed. Intervals are Student's over the seeds, so they hold the spread of what the seed changes. An arm is
name=label, or name=label=samples where its run folder does not say how many samples of the policy it learned from.
"train" is the pass rate of the rollouts in the last ten batches.
"""

import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import common

# 97.5 % quantiles of Student's t by degrees of freedom
STUDENT = {
    1: 12.706,
    2: 4.303,
    3: 3.182,
    4: 2.776,
    5: 2.571,
    6: 2.447,
    7: 2.365,
    8: 2.306,
    9: 2.262,
}


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half of the 95 % interval over seeds."""
    if len(values) < 2:
        return statistics.fmean(values), float("nan")
    half = STUDENT.get(len(values) - 1, 1.96) * statistics.stdev(values) / len(values) ** 0.5
    return statistics.fmean(values), half


def cell(values: list[float], sign: str = "") -> str:
    mean, half = interval(values)
    return f"{mean:{sign}.3f} ± {half:.3f}"


def training(folder: Path) -> tuple[int, float | None]:
    """Samples that a run drew for training, and the pass rate of its last ten batches; 0 and None without rollouts."""
    if not (folder / "metrics.jsonl").is_file():
        return 0, None
    rows = common.read_jsonl(folder / "metrics.jsonl", {})
    passed = [
        row["rewards/tests/mean"] for row in rows[-10:] if row.get("rewards/tests/mean") is not None
    ]
    return rows[-1].get("episode", 0), statistics.fmean(passed) if passed else None


def seeds_with(runs: Path, files: list[str]) -> list[Path]:
    """The seeds' folders that hold every one of the files, in order; SystemExit if there is none."""
    seeds = sorted(
        (path for path in runs.iterdir() if path.name.isdigit()), key=lambda path: int(path.name)
    )
    complete = [seed for seed in seeds if all((seed / name).is_file() for name in files)]
    if not complete:
        sys.exit(f"{runs}: no seed has all of {', '.join(files)}")
    return complete


def main(runs: Path, base: str, words: list[str]) -> None:
    arms = {word.split("=")[0]: word.split("=")[1] for word in words}
    told = {word.split("=")[0]: int(word.split("=")[2]) for word in words if word.count("=") == 2}
    seeds = seeds_with(runs, [f"eval-{arm}/report.json" for arm in [base, *arms]])
    reports = {
        arm: [
            json.loads((seed / f"eval-{arm}" / "report.json").read_text(encoding="utf-8"))
            for seed in seeds
        ]
        for arm in [base, *arms]
    }
    first = reports[base][0]
    steps = (
        list(first["by_steps"]) if len(first["by_steps"]) > 1 else []
    )  # one length: "all" says it
    title = "pass@1 on held-out tasks" + (" by number of steps" if steps else "")
    print(f"{title}: {len(seeds)} seeds, {first['tasks']} tasks, {first['samples']} samples "
          "a seed at temperature 1; mean ± half of the 95 % interval over seeds\n")  # fmt: skip
    print(
        "| arm | "
        + "".join(f"{n} steps | " for n in steps)
        + f"all | all, against {arms.get(base, base)} | RL samples | train |"
    )
    print("|---|" + "---|" * (len(steps) + 2) + "---:|---:|")
    for arm, label in arms.items():
        cells = [
            cell([report["by_steps"][n]["pass@1"] for report in reports[arm]]) + " | "
            for n in steps
        ]
        total = [report["pass@1"] for report in reports[arm]]
        against = [a - b["pass@1"] for a, b in zip(total, reports[base], strict=True)]
        samples, passed = zip(*(training(seed / arm) for seed in seeds), strict=True)
        train = "" if passed[0] is None else cell(list(passed))
        print(f"| {label} | " + "".join(cells) + f"{cell(total)} | {'' if arm == base else cell(against, '+')} | "
              f"{told.get(arm, samples[0]):,} | {train} |")  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
