"""What the benchmarks share: finding and reading a published file, asking for reasoning, leaving
tasks out, writing the splits."""

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from huggingface_hub import hf_hub_download

import common
import sandbox
from common import InputError


def fetch(name: str) -> str:
    """The path of a published file: `name` itself where it exists. Otherwise `name` is
    owner/dataset/file of the Hugging Face hub, and the file goes to the hub's cache.

    Raises InputError, one line that says which file to put where, if the hub does not answer.
    """
    if Path(name).exists():
        return name
    owner, dataset, file = [*name.split("/", 2), "", ""][:3]
    if not (owner.strip(".") and dataset and file):
        raise InputError(f"{name}: no such file, and no file of the hub (owner/dataset/file)")
    try:
        return hf_hub_download(f"{owner}/{dataset}", file, repo_type="dataset")
    except Exception as error:  # of the connection, the repository, the file
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{name}: no such file, and the hub does not give it: put {file} of "
            f"https://huggingface.co/datasets/{owner}/{dataset} here, and name it: --input "
            f"{Path(file).name} ({type(error).__name__}: {reason})"
        ) from None


def iterate_benchmark(path: str, fields: dict[str, type]) -> Iterator[dict]:
    """Rows of a published file (.jsonl, .jsonl.gz, or one JSON list in .json), one by one.

    `fields` maps each required field to its type. Raises InputError naming file, row and field.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    open_text = gzip.open if path.endswith(".gz") else open
    try:
        with open_text(path, "rt", encoding="utf-8", newline="\n") as file:
            if path.endswith(".json"):
                rows = json.load(file)
            else:
                rows = (json.loads(line) for line in file if line != "\n")
            for number, row in enumerate(rows, 1):
                for field, kind in fields.items():
                    if not isinstance(row, dict) or not isinstance(row.get(field), kind):
                        raise InputError(
                            f"{path}:{number}: field {field!r} must be {kind.__name__}"
                        )
                yield row
    except (OSError, EOFError, zlib.error, ValueError, TypeError) as error:
        raise InputError(f"{path}: not a readable benchmark file: {error}") from None


def read_benchmark(path: str, fields: dict[str, type]) -> list[dict]:
    """All rows of a published file, checked, as in `iterate_benchmark`."""
    return list(iterate_benchmark(path, fields))


def ask_to_think(task: dict) -> None:
    """Changes a task's prompt, in place, to ask for <think> and <answer>, the form of grpo.py.

    A `prefix`, or `meta.starter_code`, becomes part of the question. An answer with a rationale
    (GSM8K) gives the task a `completion` in this form, and `meta.plan`, the rationale's lines.
    """
    code = task.pop("prefix", None)
    question = f"Complete this program:\n\n{code}" if code else task["prompt"]
    if task["meta"].get("starter_code"):
        question += f"\n\nThe program begins like this:\n\n{task['meta']['starter_code']}"
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


def without_tasks_of(splits: dict[str, list[dict]], paths: list[str]) -> dict[str, list[dict]]:
    """The splits; all but `test` without the tasks that a file of `paths` has: an evaluation set,
    published or as tasks. A task is the same if its id is, but for case ("Mbpp/601")."""
    names = {
        row["task_id"].lower()
        for path in paths
        for row in iterate_benchmark(path, {"task_id": str})
    }
    kept = {}
    for split, tasks in splits.items():
        left = [task for task in tasks if split == "test" or task["task_id"].lower() not in names]
        if len(left) < len(tasks):
            number = len(tasks) - len(left)
            print(f"{split}: {number} of {len(tasks)} tasks are left out, which --exclude has")
        if left:
            kept[split] = left
    return kept


def why_not_judged(task: dict) -> str | None:
    """Why the sandbox would refuse a task: for its form, or because its tests are too long."""
    if not task["tests"]:
        return "no tests"
    try:
        sandbox.check_task(task)
    except sandbox.TaskError as error:
        return str(error)
    size, limit = len(json.dumps(task)), sandbox.MAX_MESSAGE // 2
    return f"{size >> 20} MiB of tests, more than {limit >> 20}" if size > limit else None


def check_new(path: Path, rows: list[dict]) -> None:
    """Raises InputError where a file has other rows than these: no file of the user's goes."""
    if path.exists():
        with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
            if any(a != b for a, b in zip_longest(file, map(common.json_line, rows))):
                raise InputError(
                    f"{path}: exists, with other rows; choose another --output_dir or delete it"
                )


def write_left_out(left_out: dict[str, str], output_dir: str) -> None:
    """Writes and prints which published tasks the splits lack: {task_id: reason}. Tasks that the
    file names already stay: another command may have made another split of the folder."""
    if not left_out:
        return
    path = Path(output_dir) / "left_out.jsonl"
    named = common.read_jsonl(path, {"task_id": str}) if path.is_file() else []
    rows = [{"task_id": name, "reason": reason} for name, reason in left_out.items()]
    common.write_jsonl(path, {row["task_id"]: row for row in [*named, *rows]}.values())
    named = "; ".join(f"{name} ({reason})" for name, reason in list(left_out.items())[:8])
    more = "; ..." if len(left_out) > 8 else ""
    print(f"{path}: {len(left_out)} tasks are left out, and count in no mean: {named}{more}")


def write_splits(
    splits: dict[str, list[dict]],
    output_dir: str,
    think: bool = False,
    left_out: dict[str, str] | None = None,
) -> None:
    """Writes {split: tasks} as one JSONL file a split; `think`: every prompt asks for reasoning;
    left_out: see `write_left_out`. InputError, before a file is written, where one of the files
    exists with other rows."""
    for tasks in splits.values() if think else ():
        for task in tasks:
            ask_to_think(task)
    for split, tasks in splits.items():
        check_new(Path(output_dir) / f"{split}.jsonl", tasks)
    for split, tasks in splits.items():
        path = Path(output_dir) / f"{split}.jsonl"
        common.write_jsonl(path, tasks)
        print(f"{path}: {len(tasks)} tasks")
    write_left_out(left_out or {}, output_dir)
