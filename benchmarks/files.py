"""What the benchmarks share: reading a published file, asking for reasoning, writing the splits."""

import gzip
import json
import re
from pathlib import Path

import common
from common import InputError


def read_benchmark(path: str, fields: dict[str, type]) -> list[dict]:
    """Rows of a published file (.jsonl, .jsonl.gz, or one JSON list in .json).

    `fields` maps each required field to its type. Raises InputError naming file, row and field.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    open_text = gzip.open if path.endswith(".gz") else open
    try:
        with open_text(path, "rt", encoding="utf-8", newline="") as file:
            text = file.read()
        lines = [line for line in text.split("\n") if line]
        rows = json.loads(text) if path.endswith(".json") else list(map(json.loads, lines))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable benchmark file: {error}") from None
    for number, row in enumerate(rows, 1):
        for field, kind in fields.items():
            if not isinstance(row, dict) or not isinstance(row.get(field), kind):
                raise InputError(f"{path}:{number}: field {field!r} must be {kind.__name__}")
    return rows


def ask_to_think(task: dict) -> None:
    """Changes a task's prompt, in place, to ask for <think> and <answer>, the form of grpo.py.

    A `prefix` becomes part of the question. An answer with a rationale (GSM8K) gives the task a
    `completion` in this form, and `meta.plan`, the lines of the rationale.
    """
    code = task.pop("prefix", None)
    question = f"Complete this program:\n\n{code}" if code else task["prompt"]
    has_rationale = task["style"] == "answer"
    task["prompt"] = (
        f"{question.rstrip()}\n\nWrite your reasoning between <think> and </think>, and after it "
        f"the {'answer' if has_rationale else 'whole program'} between <answer> and </answer>.\n"
    )
    if has_rationale:
        without_marks = re.sub(r"<<.*?>>", "", task["solution"])  # <<48/2=24>>: for a calculator
        rationale, mark, answer = without_marks.rpartition("####")
        plan = [line.strip() for line in rationale.split("\n") if line.strip()]
        task["meta"]["plan"] = plan
        task["completion"] = "\n".join(
            ["<think>", *plan, "</think>", "<answer>", mark + answer, "</answer>\n"]
        )


def write_splits(splits: dict[str, list[dict]], output_dir: str, think: bool = False) -> None:
    """Writes {split: tasks} as one JSONL file a split; `think`: every prompt asks for reasoning."""
    for tasks in splits.values() if think else ():
        for task in tasks:
            ask_to_think(task)
    for split, tasks in splits.items():
        path = Path(output_dir) / f"{split}.jsonl"
        common.write_jsonl(path, tasks)
        print(f"{path}: {len(tasks)} tasks")
