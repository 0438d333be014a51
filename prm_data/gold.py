"""Exact line labels for policy samples, where a reference exists: prm.jsonl, and the oracle arm of ppo.py.

--method gold     Line i of a sample is right (+1) when the reference program, with its own line i replaced by that
                  line, still passes the task's tests, and wrong (-1) when it does not. A line beyond the reference's
                  last is wrong. Blank lines and comments have no label and do not count as lines, neither here nor in
                  the reference. Every other line is treated alike, `def` and `return` too.

This is exact where programs go in lock step: line i of a sample has the task of line i of the reference, and the tests
see every wrong state, as in the micro benchmark. It says nothing of what is missing after a sample's last line, and
nothing of use on tasks whose right programs differ in their lines: it is not meant for those. No paper has it: it is
the truth that learned labels are measured against.

    python make_prm_data.py --method gold --tasks tasks/micro/train.jsonl --samples samples.jsonl --output_file gold.jsonl

A changed line is executed once a task and place, however many samples have it. A task whose reference fails its own
tests is left out. Nothing is written before the end: a run that was cut off starts again, to the same result.
"""

import dataclasses
import json
import re
from collections import Counter, deque
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import common
import sandbox
from common import InputError


@dataclass
class Config:
    tasks: str  # tasks.jsonl with reference solutions
    samples: str  # samples.jsonl or verdicts.jsonl of eval.py: rows of task_id and completion or solution
    output_file: str  # prm.jsonl
    method: Literal["gold"] = "gold"
    num_samples: int | None = None  # samples a task at most, the first ones; none: all
    sandbox_workers: int = 1  # processes that run programs
    sandbox_timeout: float = 3.0  # CPU seconds a program, where the task sets none


def lines_of(text: str) -> list[str]:
    """The lines of a text, each with its newline, as kernels.masking counts them: the last one may have none."""
    return re.findall(r"[^\n]*\n|[^\n]+", common.unix(text))


def is_code(line: str) -> bool:
    """Whether a line has more than white space and a comment."""
    return bool(line.strip()) and not line.lstrip().startswith("#")


def submit(runner: sandbox.Sandbox, task: dict, program: str, cache: dict) -> list:
    """Starts what has to run for the labels of a program's lines; `labels` waits for them.

    task: with a reference `solution` that passes its tests. program: the whole program (common.extract_program).
    cache: a dict that the caller keeps, empty at first: a line that it knows does not run again.
    Returns a handle a line of `lines_of(program)`. Where the task gives a `prefix`, its lines come first.
    """
    reference = lines_of(task["solution"])
    places = [i for i, line in enumerate(reference) if is_code(line)]
    handles = []
    for line in lines_of(program):
        number, text = sum(handle is not None for handle in handles), line.removesuffix("\n")
        if not is_code(line):
            handles.append(None)
        elif number >= len(places):
            handles.append(-1.0)
        elif text == reference[places[number]].removesuffix("\n"):
            handles.append(1.0)
        else:
            key, place = (task["task_id"], number, text), places[number]
            if key not in cache:
                spliced = [*reference[:place], text + "\n", *reference[place + 1 :]]
                cache[key] = runner.submit(task, "".join(spliced))
            handles.append(cache[key])
    return handles


def labels(handles: list) -> list[float | None]:
    """The labels of a program's lines, once they have run: 1.0 right, -1.0 wrong; None for a blank line, a comment, or
    a line on which the sandbox failed."""
    values = []
    for handle in handles:
        if isinstance(handle, Future):
            status = handle.result()["status"]
            handle = None if status == "harness_error" else 1.0 if status == "passed" else -1.0
        values.append(handle)
    return values


def is_complete(config) -> bool:
    """Whether config.output_file holds the result of these flags; InputError where it is of others. Keeps the flags
    beside it, for the next run to compare with."""
    output = Path(config.output_file)
    kept, flags = (
        output.with_name(output.name + ".run_config.json"),
        json.dumps(dataclasses.asdict(config), indent=2),
    )
    if output.is_file():
        if not kept.is_file() or kept.read_text(encoding="utf-8") != flags + "\n":
            raise InputError(
                f"{output}: exists, made with other flags; choose another --output_file or delete it"
            )
        print(f"{output} is complete; nothing to do")
        return True
    common.write_text(kept, flags + "\n")
    return False


def read_samples(config: Config, tasks: dict[str, dict]) -> list[dict]:
    """The samples to label, each with its program; InputError where one belongs to no task."""

    def check(row):
        if row["task_id"] not in tasks:
            raise ValueError(f"field 'task_id': no task {row['task_id']!r}")
        if not isinstance(row.get("solution", row.get("completion")), str):
            raise ValueError("field 'solution' or 'completion' must be str")

    samples, numbers = [], Counter()
    for row in common.read_jsonl(config.samples, {"task_id": str}, check):
        numbers[row["task_id"]] += 1
        if config.num_samples is None or numbers[row["task_id"]] <= config.num_samples:
            if "solution" not in row:
                row["solution"] = common.extract_program(tasks[row["task_id"]], row["completion"])
            samples.append(row)
    return samples


def row_of(task: dict, sample: dict, handles: list) -> dict:
    """A sample's row of prm.jsonl; the lines that the task gives away (`prefix`) belong to no completion."""
    given = task.get("prefix", "").count("\n")
    changed = [
        i - given for i, handle in enumerate(handles) if handle not in (None, 1.0) and i >= given
    ]
    meta = {"changed": changed, "steps": task.get("meta", {}).get("steps")}
    meta |= {"status": sample["status"]} if "status" in sample else {}
    row = {"prompt": task["prompt"], "completions": lines_of(sample["solution"])[given:],
           "labels": labels(handles)[given:], "task_id": task["task_id"], "origin": "gold", "meta": meta}  # fmt: skip
    return row | ({"prefix": task["prefix"]} if task.get("prefix") else {})


def main(config: Config) -> None:
    def check(row):
        sandbox.check_task(row)
        if not isinstance(row.get("solution"), str):
            raise ValueError(
                "field 'solution' must be str: --method gold compares with reference programs"
            )

    tasks = {
        row["task_id"]: row for row in common.read_jsonl(config.tasks, common.PROMPT_FIELDS, check)
    }
    samples = read_samples(config, tasks)
    if is_complete(config):
        return
    cache, rows, waiting = {}, [], deque()
    bar = common.progress_bar("samples labelled", len(samples))

    def collect():
        sample, handles = waiting.popleft()
        rows.append(row_of(tasks[sample["task_id"]], sample, handles))
        bar.update()

    with sandbox.Sandbox(workers=config.sandbox_workers, timeout=config.sandbox_timeout) as runner:
        asked = {name: None for name in (sample["task_id"] for sample in samples)}
        references = {name: runner.submit(tasks[name], tasks[name]["solution"]) for name in asked}
        failing = {
            name for name, future in references.items() if future.result()["status"] != "passed"
        }
        for sample in samples:
            if sample["task_id"] in failing:
                bar.update()
                continue
            waiting.append(
                (sample, submit(runner, tasks[sample["task_id"]], sample["solution"], cache))
            )
            if len(waiting) > 64:  # enough that no worker waits for this loop
                collect()
        while waiting:
            collect()
    bar.close()
    rows = [row for row in rows if any(label is not None for label in row["labels"])]
    if not rows:
        raise InputError(
            f"{config.samples}: no line of a task whose reference passes its tests; nothing to label"
        )
    counts = Counter(label for row in rows for label in row["labels"])
    print(
        f"{len(rows)} rows from {len(asked) - len(failing)} tasks ({len(failing)} left out: the reference fails)"
    )
    print(f"lines: {counts[1.0]} positive, {counts[-1.0]} negative, {counts[None]} without label; "
          f"{len(cache)} programs executed")  # fmt: skip
    common.write_jsonl(config.output_file, rows)
