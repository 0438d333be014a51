"""Differences in pass@1 between arms with paired bootstrap intervals over tasks and seeds (eval.py's).

    python reproduce/gains_table.py runs/psgpo/8 "ppo-dense:ppo-tests=PRM against tests" ...

The first argument holds a folder a seed with evaluations `eval-<arm>` of eval.py. A difference is arm:arm=label, the first
minus the second. Seeds that lack an arm's evaluation are left out.
"""

import sys
from pathlib import Path

from seeds_table import seeds_with

sys.path.insert(0, str(Path(__file__).parent.parent))
import common
import eval


def main(runs: Path, words: list[str]) -> None:
    pairs = [(*word.split("=", 1)[0].split(":"), word.split("=", 1)[1]) for word in words]
    names = sorted({arm for first, second, _ in pairs for arm in (first, second)})
    seeds = seeds_with(runs, [f"eval-{arm}/verdicts.jsonl" for arm in names])
    folders = {arm: ",".join(str(seed / f"eval-{arm}") for seed in seeds) for arm in names}
    rates = eval.read_arms(list(folders.values()))  # (seeds, tasks) each
    print(f"{len(seeds)} seeds; 95 % intervals by paired bootstrap over tasks and seeds\n")
    print("| difference in pass@1 | mean | interval |")
    print("|---|---:|---|")
    for first, second, label in pairs:
        difference, low, high = eval.bootstrap(
            rates[folders[second]], rates[folders[first]], common.seed_of(0, "bootstrap")
        )
        print(f"| {label} | {difference:+.3f} | [{low:+.3f}, {high:+.3f}] |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
