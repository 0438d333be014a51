"""What each arm has cost in samples of the policy, labels included, and what it has found; means over seeds.

    python reproduce/budget_table.py runs/psgpo/8 "ppo-tests=PPO, tests" "ppo-dense=PPO, tests + PRM" ...

Reads `<seed>/<arm>` of ppo.py, its PRM's run folder and the report of the labels that the PRM was trained on, whose paths
the run folders hold, and `<seed>/eval-<arm>`. "For labels" are the responses that were labelled by search, their
completions, and those of --prm_refresh; the checkpoints that wrote them come from the run with tests alone, whose
samples are not counted again. "Ever solved" is the share of the training tasks drawn so far of which a sample has passed;
"best of n" the share of held-out tasks of which one of the evaluation's samples passes.
"""

import json
import statistics
import sys
from pathlib import Path

from seeds_table import cell, seeds_with


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def label_samples(run: Path) -> int:
    """Samples of a policy that the labels behind an arm's PRMs have cost."""
    total = rows_of(run / "metrics.jsonl")[-1].get("label_samples", 0)
    for prm in read_json(run / "run_config.json")["prm"] or []:
        data = Path(read_json(Path(prm) / "run_config.json")["data"])
        report = read_json(data.with_suffix(".report.json"))
        total += report.get("responses", 0) + report.get("completions", 0)
    return total


def ever_solved(run: Path) -> float:
    rows = rows_of(run / "completions.jsonl")
    return len({row["task_id"] for row in rows if row["status"] == "passed"}) / len({row["task_id"] for row in rows})


def main(runs: Path, words: list[str]) -> None:
    arms = dict(word.split("=", 1) for word in words)
    seeds = seeds_with(runs, [f"eval-{arm}/report.json" for arm in arms])
    num_samples = read_json(seeds[0] / f"eval-{next(iter(arms))}" / "run_config.json")["num_samples"]
    print(f"{len(seeds)} seeds, mean ± half of the 95 % interval over seeds\n")
    print(
        f"| arm | RL samples | for labels | training tasks ever solved | held-out tasks solved, best of {num_samples} |"
    )
    print("|---|---:|---:|---|---|")
    for arm, label in arms.items():
        episodes = statistics.fmean(rows_of(seed / arm / "metrics.jsonl")[-1]["episode"] for seed in seeds)
        labels = statistics.fmean(label_samples(seed / arm) for seed in seeds)
        solved = cell([ever_solved(seed / arm) for seed in seeds])
        best = cell([read_json(seed / f"eval-{arm}" / "report.json")["solved"] for seed in seeds])
        print(f"| {label} | {episodes:,.0f} | {labels:,.0f} | {solved} | {best} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
