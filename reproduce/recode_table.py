"""The table of reproduce/recode.sh: what each reward does to programs, plans and lengths; means over seeds.

    python reproduce/recode_table.py tasks/recode/test.jsonl runs/recode outcome "sft=SFT" "outcome=GRPO, tests" ... sum:hard

The second argument holds a folder a seed, each with run folders `<arm>` of grpo.py and evaluations `eval-<arm>` of
eval.py; the third names the arm that pass@1 is compared with, seed by seed. An arm is name=label; name:name prints the
difference of two more. Plan accuracy is the share of plan lines that are the reference's, place by place
(prm_data/contrast.py); "vague" the share that state no step. R_proc is the mean over the rollouts of the last ten batches;
an arm that does not pay it may still log it. "No advantage" is the share of groups in those batches whose samples all have
the same reward.
"""

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from seeds_table import cell

sys.path.insert(0, str(Path(__file__).parent.parent))
import common
from benchmarks.micro_operations import VAGUE_PLAN_LINES
from teachers.reasoning_rules import plan_accuracy, plan_lines


def measures(evaluation: Path, run: Path, tasks: dict[str, dict], tokenizer) -> dict[str, float]:
    """One arm on one seed: the table's columns."""
    rows = common.read_jsonl(evaluation / "samples.jsonl", {"task_id": str, "completion": str})
    plans = [common.reasoning_of(row["completion"]) or "" for row in rows]
    lines = [line for plan in plans for line in plan_lines(plan)]
    found = {
        "pass@1": json.loads((evaluation / "report.json").read_text(encoding="utf-8"))["pass@1"],
        "plan accuracy": statistics.fmean(
            plan_accuracy(tasks[row["task_id"]]["meta"]["plan"], plan)
            for row, plan in zip(rows, plans, strict=True)
        ),
        "vague": sum(line in VAGUE_PLAN_LINES for line in lines) / max(len(lines), 1),
        "tokens": statistics.fmean(
            len(ids) for ids in tokenizer([row["completion"] for row in rows])["input_ids"]
        ),
    }
    if (run / "metrics.jsonl").is_file():
        steps = common.read_jsonl(run / "metrics.jsonl", {"step": int})[-10:]
        names = {"R_proc": "rewards/reasoning/mean", "R_proc, passing": "rewards/reasoning/passed",
                 "R_proc, failing": "rewards/reasoning/failed", "no advantage": "frac_reward_zero_std"}  # fmt: skip
        for name, column in names.items():
            values = [row[column] for row in steps if row.get(column) is not None]
            if values:
                found[name] = statistics.fmean(values)
    return found


def main(tasks_file: str, runs: Path, base: str, words: list[str]) -> None:
    tasks = {task["task_id"]: task for task in common.read_jsonl(tasks_file, common.PROMPT_FIELDS)}
    seeds = [
        path.parent
        for path in sorted(runs.glob(f"*/eval-{base}"), key=lambda path: int(path.parent.name))
    ]
    arms, columns = (
        dict(word.split("=") for word in words if "=" in word),
        defaultdict(lambda: defaultdict(list)),
    )
    for arm in arms:
        for seed in seeds:
            config = json.loads(
                (seed / f"eval-{arm}" / "run_config.json").read_text(encoding="utf-8")
            )
            tokenizer = common.load_tokenizer(config["model_name_or_path"])
            for name, value in measures(seed / f"eval-{arm}", seed / arm, tasks, tokenizer).items():
                columns[arm][name].append(value)
    names = list(columns[base])
    print(
        f"{len(seeds)} seeds, {len(tasks)} held-out tasks; mean ± half of the 95 % interval over seeds\n"
    )
    print(f"| reward | pass@1 | against {arms[base]} | " + " | ".join(names[1:]) + " |")
    print("|---|" + "---|" * (len(names) + 1))
    for arm, label in arms.items():
        pass_1 = columns[arm]["pass@1"]
        against = [a - b for a, b in zip(pass_1, columns[base]["pass@1"], strict=True)]
        cells = [
            cell(columns[arm][name]) if len(columns[arm][name]) == len(seeds) else ""
            for name in names[1:]
        ]
        print(
            f"| {label} | {cell(pass_1)} | {'' if arm == base else cell(against, '+')} | "
            + " | ".join(cells)
            + " |"
        )
    for first, second in (word.split(":") for word in words if "=" not in word):
        pairs = zip(columns[first]["pass@1"], columns[second]["pass@1"], strict=True)
        print(
            f"\npass@1 of {arms[first]!r} minus that of {arms[second]!r}: {cell([a - b for a, b in pairs], '+')}"
        )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
