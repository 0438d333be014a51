"""What the methods share: lines of programs, rows of prm.jsonl and pairs.jsonl, runs to resume."""

import dataclasses
import json
from pathlib import Path

import common
import sandbox
from common import InputError


def lines_of(text: str) -> list[str]:
    """The lines of a text, each with its newline, as kernels.masking counts them.

    The last line may have no newline.
    """
    return common.lines_of(common.unix(text))


def is_code(line: str) -> bool:
    """Whether a line has more than white space and a comment."""
    return bool(line.strip()) and not line.lstrip().startswith("#")


def given_lines(task: dict) -> int:
    """How many lines of the program the task gives away (`prefix`): they are of no completion."""
    return task.get("prefix", "").count("\n")


def steps_of(task: dict) -> int | None:
    """The length of the task's reference, where the benchmark says so."""
    return task.get("meta", {}).get("steps")


def line_row(
    task: dict, lines: list[str], labels: list[float | None], origin: str, meta: dict
) -> dict:
    """One row of prm.jsonl: the lines of a completion and their labels."""
    row = {
        "prompt": task["prompt"],
        "completions": lines,
        "labels": labels,
        "task_id": task["task_id"],
        "origin": origin,
        "meta": meta,
    }
    return row | prefix_of(task)


def pair_row(task: dict, chosen: str, rejected: str, kind: str) -> dict:
    """One row of pairs.jsonl, without its `meta`."""
    return {
        "prompt": task["prompt"],
        "chosen": chosen,
        "rejected": rejected,
        "task_id": task["task_id"],
        "kind": kind,
    }


def prefix_of(task: dict) -> dict:
    """The field `prefix` of a row whose task has one."""
    return {"prefix": task["prefix"]} if task.get("prefix") else {}


def check_reference(row: dict, reason: str) -> None:
    """Raises ValueError for a row of tasks.jsonl that is no task, or has no reference program."""
    sandbox.check_task(row)
    if not isinstance(row.get("solution"), str):
        raise ValueError(f"field 'solution' must be str: {reason}")


def check_unique(tasks: list[dict], path: str) -> None:
    """Raises InputError where two tasks have one id."""
    if len({task["task_id"] for task in tasks}) < len(tasks):
        raise InputError(f"{path}: a task_id occurs twice")


def is_complete(config) -> bool:
    """Whether config.output_file holds the result of these flags.

    Raises InputError where the file is the result of other flags, or of another program.
    """
    output = Path(config.output_file)
    if not output.exists():
        return False
    flags = flags_beside(output)
    if not flags.is_file() or flags.read_text(encoding="utf-8") != flags_of(config):
        raise InputError(
            f"{output}: exists, made with other flags; choose another --output_file or delete it"
        )
    print(f"{output} is complete; nothing to do")
    return True


def write_result(config, result: list[dict]) -> None:
    """Writes config.output_file, and the flags beside the file, for `is_complete`."""
    common.write_text(flags_beside(Path(config.output_file)), flags_of(config))
    common.write_jsonl(config.output_file, result)


def flags_beside(output: Path) -> Path:
    return output.with_name(output.name + ".run_config.json")


def flags_of(config) -> str:
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def progress_of(config) -> Path:
    """The progress file, beside the output: a line with the flags, then a line for each result."""
    return Path(f"{config.output_file}.progress")


def read_progress(path: Path, flags: dict) -> list[str]:
    """The whole lines of a progress file, or its first line where there is no file yet.

    Raises InputError where the file belongs to a run with other flags.
    """
    first = json.dumps(flags) + "\n"
    lines = common.whole_lines(path) if path.is_file() else [first]
    if lines[:1] != [first]:
        raise InputError(
            f"{path}: holds a run with other flags; choose another --output_file or delete it"
        )
    return lines


def results_in(path: Path) -> list[dict]:
    """The results in a progress file, in the order in which they came."""
    return [json.loads(line) for line in common.whole_lines(path)[1:]]
