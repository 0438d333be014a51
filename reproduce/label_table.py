"""Line labels found by search against exact ones, and what they cost, by number of steps; means over seeds.

    python reproduce/label_table.py tasks/psgpo/8/train.jsonl "K = 8=runs/psgpo/8/0/search.jsonl,runs/psgpo/8/1/search.jsonl"

A prefix can still be completed when each of its lines is right, which prm_data/gold.py decides by execution. Only
failing responses count: a passing one is right on every line. "Late" is a search that finds the first wrong line after
the place where it is: the completions of a wrong prefix would have to pass.
"""

import json
import statistics
import sys
from collections import Counter, defaultdict
from itertools import accumulate
from pathlib import Path

from seeds_table import cell

sys.path.insert(0, str(Path(__file__).parent.parent))
import common
import sandbox
from prm_data import gold

COLUMNS = ("line accuracy", "first wrong line found", "early", "late")


def scores_of(tasks: dict[str, dict], rows: list[dict]) -> dict[str, dict[str, float]]:
    """By number of steps, and "all": the columns, over the failing responses of one search."""
    failing, counts, cache = (
        [row for row in rows if not row["meta"]["passed"]],
        defaultdict(Counter),
        {},
    )
    with sandbox.Sandbox(workers=2) as runner:
        handles = [
            gold.submit(runner, tasks[row["task_id"]], "".join(row["completions"]), cache)
            for row in failing
        ]
        for row, handle in zip(failing, handles, strict=True):
            right = list(
                accumulate(
                    (label in (None, 1.0) for label in gold.labels(handle)), lambda a, b: a and b
                )
            )
            first_wrong = (
                right.index(False) + 1 if False in right else len(right)
            )  # right so far, but too short
            for key in (str(row["meta"]["steps"]), "all"):
                compared = [
                    (x > 0) == y for x, y in zip(row["labels"], right, strict=True) if x
                ]  # neither 0 nor null
                found = row["meta"]["first_bad"] - first_wrong
                counts[key].update({"lines": len(compared), COLUMNS[0]: sum(compared), "responses": 1,
                                    COLUMNS[1]: found == 0, COLUMNS[2]: found < 0, COLUMNS[3]: found > 0})  # fmt: skip
    return {key: {column: count[column] / count["lines" if column == COLUMNS[0] else "responses"] for column in COLUMNS}
            for key, count in counts.items()}  # fmt: skip


def main(tasks_file: str, words: list[str]) -> None:
    tasks = {task["task_id"]: task for task in common.read_jsonl(tasks_file, common.PROMPT_FIELDS)}
    print(
        "Labels by search against exact ones, on responses that fail; mean ± half of the 95 % interval over seeds\n"
    )
    print("| labels | steps | " + " | ".join(COLUMNS) + " | completions | tokens | programs |")
    print("|---|---|" + "---|" * len(COLUMNS) + "---:|---:|---:|")
    for word in words:
        label, _, files = word.rpartition("=")
        paths = files.split(",")
        found = [scores_of(tasks, common.read_jsonl(path, {})) for path in paths]
        reports = [
            json.loads(Path(path).with_suffix(".report.json").read_text(encoding="utf-8"))
            for path in paths
        ]
        costs = [f"{statistics.fmean(report[name] / report['failed'] for report in reports):.1f}"
                 for name in ("completions", "completion_tokens", "executions")]  # fmt: skip
        steps = sorted(set.intersection(*map(set, found)), key=lambda n: (n == "all", n))
        for n in steps[-1:] if len(steps) == 2 else steps:  # one horizon: "all" alone
            cells = [cell([scores[n][column] for scores in found]) for column in COLUMNS]
            print(f"| {label} | {n} | " + " | ".join(cells) + " | " + " | ".join(costs) + " |")
    print("\ncompletions, their tokens, and executed programs: a failing response")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
