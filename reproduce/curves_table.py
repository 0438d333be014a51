"""Learning curves as a table: a metric's mean over each ten batches, means over seeds with 95 % intervals.

    python reproduce/curves_table.py runs/psgpo/8 rewards/tests/mean "ppo-tests=PPO, tests" "ppo-dense=PPO, tests + PRM"

The first argument holds a folder a seed, each with run folders `<arm>`; the second is a column of their metrics.jsonl
(plot.py draws the same from the same files). An arm is name=label; seeds that lack one are left out, and batches on which
the metric is not defined. "All" is the mean over the whole run, the area under the curve; the last column is its
difference from the first arm's, paired seed by seed.
"""

import statistics
import sys
from pathlib import Path

from seeds_table import cell, seeds_with

sys.path.insert(0, str(Path(__file__).parent.parent))
import common


def main(runs: Path, metric: str, words: list[str]) -> None:
    arms = dict(word.split("=", 1) for word in words)
    seeds = seeds_with(runs, [f"{arm}/config.json" for arm in arms])
    curves, areas = {}, {}  # of an arm, a list a seed
    for arm in arms:
        curves[arm], areas[arm] = [], []
        for seed in seeds:
            rows = common.read_jsonl(seed / arm / "metrics.jsonl", {})
            windows = [[row[metric] for row in rows[i : i + 10]] for i in range(0, len(rows), 10)]
            windows = [[x for x in window if x is not None] for window in windows]
            curves[arm].append([statistics.fmean(window) if window else None for window in windows])
            areas[arm].append(statistics.fmean(x for window in windows for x in window))
    length = max(len(curve) for each in curves.values() for curve in each)
    base = next(iter(arms))
    print(
        f"{metric}, mean over ten batches; {len(seeds)} seeds, mean ± half of the 95 % interval over seeds\n"
    )
    ranges = [f"{10 * i + 1}-{10 * i + 10}" for i in range(length)]
    print(f"| arm | {' | '.join(ranges)} | all | against {arms[base]} |")
    print("|---|" + "---|" * (length + 2))
    for arm, label in arms.items():
        columns = [
            [x for x in column if x is not None] for column in zip(*curves[arm], strict=True)
        ]
        cells = [cell(column) if column else "" for column in [*columns, areas[arm]]]
        against = [a - b for a, b in zip(areas[arm], areas[base], strict=True)]
        print(f"| {label} | {' | '.join(cells)} | {'' if arm == base else cell(against, '+')} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
