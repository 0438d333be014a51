"""Learning curves as a table: a metric's mean over each ten batches, means over seeds with 95 % intervals.

    python reproduce/curves_table.py runs/psgpo/8 rewards/tests/mean "ppo-tests=PPO, tests" "ppo-dense=PPO, tests + PRM"

The first argument holds a folder a seed, each with run folders `<arm>`; the second is a column of their metrics.jsonl
(plot.py draws the same from the same files). An arm is name=label; seeds that lack one are left out, and batches on which
the metric is not defined.
"""

import json
import statistics
import sys
from pathlib import Path

from seeds_table import cell, seeds_with


def main(runs: Path, metric: str, words: list[str]) -> None:
    arms = dict(word.split("=", 1) for word in words)
    seeds = seeds_with(runs, [f"{arm}/config.json" for arm in arms])
    curves = {}  # of an arm, a list a seed
    for arm in arms:
        curves[arm] = []
        for seed in seeds:
            rows = [json.loads(line) for line in (seed / arm / "metrics.jsonl").read_text("utf-8").splitlines()]
            values = [row[metric] for row in rows]
            windows = [[x for x in values[i : i + 10] if x is not None] for i in range(0, len(values), 10)]
            curves[arm].append([statistics.fmean(window) if window else None for window in windows])
    length = max(len(curve) for each in curves.values() for curve in each)
    print(f"{metric}, mean over ten batches; {len(seeds)} seeds, mean ± half of the 95 % interval over seeds\n")
    print("| arm | " + " | ".join(f"{10 * i + 1}-{10 * i + 10}" for i in range(length)) + " |")
    print("|---|" + "---|" * length)
    for arm, label in arms.items():
        columns = [[x for x in column if x is not None] for column in zip(*curves[arm], strict=True)]
        print(f"| {label} | " + " | ".join(cell(column) if column else "" for column in columns) + " |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
