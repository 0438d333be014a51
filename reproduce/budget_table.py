"""What each arm has cost in samples of the policy, labels included, and what it has found; means over seeds.

    python reproduce/budget_table.py runs/psgpo/8 "ppo-tests=PPO, tests" "ppo-dense=PPO, tests + PRM" ...

Reads `<seed>/<arm>` of ppo.py, its PRM's run folder and the report of the labels that the PRM was trained on, whose paths
the run folders hold, and `<seed>/eval-<arm>`. "For labels" are the responses that were labelled by search, their
completions, and those of --prm_refresh; the checkpoints that wrote them come from the run with tests alone, whose
samples are not counted again. "Ever solved" is the share of the training tasks drawn so far of which a sample has passed;
"best of n" the share of held-out tasks of which one of the evaluation's samples passes. "Until" is the number of RL samples
after which the mean training pass rate of ten batches first is the first arm's at its end, the mean over seeds; a run
that never gets there counts whole, and is counted.
"""

import json
import statistics
import sys
from pathlib import Path

from seeds_table import cell, interval, seeds_with

sys.path.insert(0, str(Path(__file__).parent.parent))
import common


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def label_samples(run: Path) -> int:
    """Samples of a policy that the labels behind an arm's PRMs have cost."""
    total = common.read_jsonl(run / "metrics.jsonl", {})[-1].get("label_samples", 0)
    for prm in read_json(run / "run_config.json")["prm"] or []:
        data = Path(read_json(Path(prm) / "run_config.json")["data"])
        report = read_json(data.with_suffix(".report.json"))
        total += report.get("responses", 0) + report.get("completions", 0)
    return total


def ever_solved(run: Path) -> float:
    rows = common.read_jsonl(run / "completions.jsonl", {})
    return len({row["task_id"] for row in rows if row["status"] == "passed"}) / len(
        {row["task_id"] for row in rows}
    )


def passed_in(run: Path) -> list[float]:
    """Pass rate of a run's rollouts, mean over the ten batches up to each one from the tenth on."""
    rates = [row["rewards/tests/mean"] for row in common.read_jsonl(run / "metrics.jsonl", {})]
    return [statistics.fmean(rates[end - 10 : end]) for end in range(10, len(rates) + 1)]


def main(runs: Path, words: list[str]) -> None:
    arms = dict(word.split("=", 1) for word in words)
    seeds = seeds_with(runs, [f"eval-{arm}/report.json" for arm in arms])
    num_samples = read_json(seeds[0] / f"eval-{next(iter(arms))}" / "run_config.json")[
        "num_samples"
    ]
    base = next(iter(arms))
    print(f"{len(seeds)} seeds, mean ± half of the 95 % interval over seeds\n")
    print(f"| arm | RL samples | until the last pass rate of {arms[base]} | for labels | training tasks ever solved | "
          f"held-out tasks solved, best of {num_samples} |")  # fmt: skip
    print("|---|---:|---|---:|---|---|")
    for arm, label in arms.items():
        episodes = [
            common.read_jsonl(seed / arm / "metrics.jsonl", {})[-1]["episode"] for seed in seeds
        ]
        until, never = [], 0
        for seed, total in zip(seeds, episodes, strict=True):
            target, curve = passed_in(seed / base)[-1], passed_in(seed / arm)
            reached = next((i for i, rate in enumerate(curve) if rate >= target), None)
            never += reached is None
            until.append(total if reached is None else total * (reached + 10) / (len(curve) + 9))
        half = interval(until)[1]
        cells = [
            f"{statistics.fmean(until):,.0f} ± {half:,.0f}" + (f" ({never} never)" if never else "")
        ]
        cells += [f"{statistics.fmean(label_samples(seed / arm) for seed in seeds):,.0f}"]
        cells += [cell([ever_solved(seed / arm) for seed in seeds])]
        cells += [
            cell([read_json(seed / f"eval-{arm}" / "report.json")["solved"] for seed in seeds])
        ]
        print(f"| {label} | {statistics.fmean(episodes):,.0f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
