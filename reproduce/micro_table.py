"""Prints the table of reproduce/micro.sh from the run folders: `python reproduce/micro_table.py runs/micro`."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import common

POLICIES = {
    "sft": "SFT",
    "grpo-tests": "GRPO, test reward",
    "ppo-tests": "PPO, test reward",
    "ppo-prm": "PPO, test reward + PRM",
    "sft-references": "no RL: SFT on the PRM's references",
}


def last_metrics(folder: Path) -> tuple[dict, float]:
    """The last line of a run's metrics.jsonl, and the minutes that its steps took."""
    rows = common.read_jsonl(folder / "metrics.jsonl", {})
    return rows[-1], sum(row["step_time"] for row in rows) / 60


def main(runs: Path) -> None:
    reports = {
        name: json.loads((runs / f"eval-{name}" / "report.json").read_text()) for name in POLICIES
    }
    steps = list(reports["sft"]["by_steps"])
    print(f"pass@1 on held-out tasks, by number of steps; {reports['sft']['tasks']} tasks, "
          f"{reports['sft']['samples']} samples at temperature 1, 95 % intervals\n")  # fmt: skip
    print(
        "| policy | " + " | ".join(f"{n} steps" for n in steps) + " | all | RL samples | minutes |"
    )
    print("|---|" + "---|" * (len(steps) + 1) + "---:|---:|")
    for name, label in POLICIES.items():
        last, minutes = last_metrics(runs / name)
        cells = [reports[name]["by_steps"][n] for n in steps] + [reports[name]]
        texts = [f"{cell['pass@1']:.2f} [{cell['low']:.2f}, {cell['high']:.2f}]" for cell in cells]
        print(
            f"| {label} | " + " | ".join(texts) + f" | {last.get('episode', 0):,} | {minutes:.1f} |"
        )
    report, minutes = (
        json.loads((runs / "prm" / "report.json").read_text()),
        last_metrics(runs / "prm")[1],
    )
    print(f"\nPRM: held-out line accuracy {report['eval_accuracy']:.3f} (majority {report['eval_majority']:.3f}), "
          f"AUC {report['eval_auc']:.3f}, over {report['eval_lines']} lines; trained in {minutes:.1f} minutes on lines "
          "that the policy did not sample")  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]))
