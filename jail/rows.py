"""The files of `python sandbox.py run`: tasks and samples, read whole and checked; verdicts."""

from __future__ import annotations

import json
import os

from jail.tasks import TaskError, check_task


class RowError(Exception):
    """A bad tasks or samples file: one line that names the file, the line and the field."""


def read_rows(path: str, **options):
    """(line number, object) of a JSONL file; options: of json.loads."""
    try:
        with open(path, encoding="utf-8") as file:
            for line_number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line, **options)
                except (ValueError, RecursionError) as error:
                    raise RowError(f"{path}:{line_number}: not JSON: {error}") from None
                if not isinstance(row, dict):
                    raise RowError(f"{path}:{line_number}: not an object")
                yield line_number, row
    except (OSError, UnicodeDecodeError) as error:
        raise RowError(f"{path}: {error}") from None


def read_tasks(path: str) -> dict[str, dict]:
    """The checked tasks of a JSONL file, by task_id."""
    tasks = {}
    for line_number, task in read_rows(path):
        try:
            check_task(task)
        except TaskError as error:
            raise RowError(f"{path}:{line_number}: {error}") from None
        if task["task_id"] in tasks:
            raise RowError(f"{path}:{line_number}: task_id: {task['task_id']!r} occurs twice")
        tasks[task["task_id"]] = task
    return tasks


def read_samples(path: str, tasks: dict[str, dict]) -> list[tuple[dict, dict, str]]:
    """(task, row, program) of every sample. NaN in a row becomes null: JSON does not have it."""
    samples = []
    for line_number, row in read_rows(path, parse_constant=lambda name: None):
        place = f"{path}:{line_number}"
        task_id = row.get("task_id")
        if not isinstance(task_id, str) or task_id not in tasks:
            raise RowError(f"{place}: task_id: {task_id!r} is no task of the tasks file")
        field = "solution" if row.get("solution") is not None else "completion"
        if not isinstance(row.get(field), str):
            raise RowError(f"{place}: {field}: missing or not a string")
        samples.append((tasks[task_id], row, row[field]))
    return samples


def check_out(path: str, inputs: list[str]) -> None:
    """RowError unless verdicts can be written to `path`, and nothing else is lost there."""
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path):
        raise RowError(f"--out: {path} is a folder")
    if not os.path.isdir(folder):
        raise RowError(f"--out: {folder}: no such folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RowError(f"--out: {folder} cannot be written to")
    if os.path.exists(path):
        if any(os.path.samefile(path, other) for other in inputs):
            raise RowError(f"--out: {path} is an input")
        if not all("status" in row for _, row in read_rows(path)):
            raise RowError(f"--out: {path} exists, and is no file of verdicts")


def write_rows(path: str, rows: list[dict]) -> None:
    """Write JSONL beside its final name, sync, rename."""
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            text = json.dumps(row, ensure_ascii=False)
            try:
                text.encode()
            except UnicodeEncodeError:  # half of a surrogate pair, which UTF-8 does not have
                text = json.dumps(row)
            file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
