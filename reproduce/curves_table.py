"""Learning curves as a table: a metric's mean over each ten batches, means over seeds with 95 % intervals.

    python reproduce/curves_table.py runs/psgpo/8 rewards/tests/mean "ppo-tests=PPO, tests" "ppo-dense=PPO, tests + PRM"

The first argument holds a folder a seed, each with run folders `<arm>`; the second is a column of their metrics.jsonl
(plot.py draws the same from the same files). An arm is name=label.
"""

import json
import statistics
import sys
from pathlib import Path

from seeds_table import cell


def main(runs: Path, metric: str, words: list[str]) -> None:
    arms = dict(word.split("=", 1) for word in words)
    found = runs.glob(f"*/{next(iter(arms))}/metrics.jsonl")
    seeds = sorted((path.parent.parent for path in found), key=lambda path: int(path.name))
    curves = {}  # of an arm, a list a seed
    for arm in arms:
        curves[arm] = []
        for seed in seeds:
            rows = [json.loads(line) for line in (seed / arm / "metrics.jsonl").read_text("utf-8").splitlines()]
            values = [row[metric] for row in rows]
            curves[arm].append([statistics.fmean(values[i : i + 10]) for i in range(0, len(values), 10)])
    length = max(len(curve) for each in curves.values() for curve in each)
    print(f"{metric}, mean over ten batches; {len(seeds)} seeds, mean ± half of the 95 % interval over seeds\n")
    print("| arm | " + " | ".join(f"{10 * i + 1}-{10 * i + 10}" for i in range(length)) + " |")
    print("|---|" + "---|" * length)
    for arm, label in arms.items():
        print(f"| {label} | " + " | ".join(cell(list(values)) for values in zip(*curves[arm], strict=True)) + " |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
