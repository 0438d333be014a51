"""Rows of a file made anew for another use.

    python reproduce/rewrite.py prefix mutate.jsonl mutate-prefix.jsonl
    python reproduce/rewrite.py plans train.jsonl references.jsonl
    python reproduce/rewrite.py half-1 train.jsonl labelled.jsonl SEED

prefix  Labels of lines in place (prm.jsonl) as labels of prefixes: after a wrong line every line is
        wrong. Lines without a label stay without one. The report beside the first file, which says
        what the labels have cost, is copied beside the second.
plans   References of the micro benchmark with plans (tasks.jsonl) as demonstrations for sft.py.
half-1  Half of the tasks, drawn by the seed; half-2 are the others: reward models learn from one
        half, reinforcement learning draws its prompts from the other.
"""

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import common


def by_prefix(labels: list[float | None]) -> list[float | None]:
    """From the first label below 0 on, every label is -1."""
    wrong, found = False, []
    for label in labels:
        wrong = wrong or (label is not None and label < 0)
        found.append(-1.0 if wrong and label is not None else label)
    return found


def with_plan(task: dict) -> str:
    """The reference as a completion: its plan between think tags, its program in an answer."""
    lines = ["<think>", *task["meta"]["plan"], "</think>", "<answer>"]
    return "\n".join([*lines, task["solution"] + "</answer>\n"])


def half(rows: list[dict], number: int, seed: int) -> list[dict]:
    """The first (1) or second (2) half of the rows in an order that the seed draws."""
    middle = len(rows) // 2
    order = common.shuffled(len(rows), seed, "halves")
    return [rows[i] for i in (order[:middle] if number == 1 else order[middle:])]


def main(what: str, source: Path, target: Path, seed: int = 0) -> None:
    rows = common.read_jsonl(source, {})
    if what == "prefix":
        rows = [row | {"labels": by_prefix(row["labels"])} for row in rows]
        shutil.copy(source.with_suffix(".report.json"), target.with_suffix(".report.json"))
    elif what.startswith("half-"):
        rows = half(rows, int(what[-1]), seed)
    else:
        rows = [row | {"completion": with_plan(row)} for row in rows]
    common.write_jsonl(target, rows)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), *map(int, sys.argv[4:]))
