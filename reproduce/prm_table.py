"""The PRM against exact line labels by number of steps, means over seeds.

    python reproduce/prm_table.py runs/prlcoder prm-on-sft prm-on-ppo-prm

Reads `<seed>/eval-<name>/report.json` of eval.py for each name; seeds that lack one are left out.
"""

import json
import sys
from pathlib import Path

from seeds_table import cell, seeds_with


def main(runs: Path, names: list[str]) -> None:
    seeds = seeds_with(runs, [f"eval-{name}/report.json" for name in names])
    reports = {
        name: [
            json.loads((seed / f"eval-{name}" / "report.json").read_text("utf-8")) for seed in seeds
        ]
        for name in names
    }
    steps = list(reports[names[0]][0]["by_steps"])
    steps = steps if len(steps) > 1 else []  # one length: "all" says it
    print(
        f"AUC of the PRM against exact labels of held-out lines, {len(seeds)} seeds, mean ± half of the 95 % interval\n"
    )
    print(
        "| PRM, on lines of | "
        + "".join(f"{n} steps | " for n in steps)
        + "all | to the first error | accuracy |"
    )
    print("|---|" + "---|" * (len(steps) + 3))
    for name, rows in reports.items():
        cells = [cell([row["by_steps"][n]["auc"] for row in rows]) for n in steps]
        cells += [
            cell([row["eval_auc"] for row in rows]),
            cell([row["to_first_error"]["auc"] for row in rows]),
        ]
        cells += [cell([row["eval_accuracy"] for row in rows])]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
