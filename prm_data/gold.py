"""Exact line labels for policy samples, where a reference exists: prm.jsonl.

--method gold     Line i of a sample is right (+1) when the reference program, with its own line i
                  replaced by that line, still passes the task's tests, and wrong (-1) when this
                  program fails. A line beyond the reference's last is wrong. Blank lines and
                  comments have no label and do not count as lines, neither here nor in the
                  reference. Every other line is treated alike, `def` and `return` too.

--labels in_place A label says whether its line is right where the line stands, also after an error.
                  The labels say nothing of what is missing after a sample's last line.
--labels prefix   A label says whether the program can still pass when it goes on after its line, as
                  the labels of --method search do: from the first wrong line on, every line is
                  wrong. After its last line a program does not go on: the last line of a program
                  that ends before the reference ends is wrong.

The labels are exact where right programs agree line by line, as in the micro benchmark: line i of a
sample has the task of line i of the reference, and the tests see every wrong state. On tasks whose
right programs differ in their lines the labels are of no use. No paper has this method: learned
labels are measured against it, each against exact labels of its own kind.

    python make_prm_data.py --method gold --tasks tasks/micro/train.jsonl \\
        --samples samples.jsonl --output_file gold.jsonl

A row holds the completion as the policy wrote it. Prose and fences around the program have no
label.

A changed line is executed once a task and line number, however many samples have it. A task whose
reference fails its own tests is left out. Nothing is written before the end: a run that was cut
off, or lacks a verdict, starts again.
"""

from collections import Counter, deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal

import common
import sandbox
from common import InputError, InputFile, OutputFile, PositiveFloat, PositiveInt
from prm_data import rows
from prm_data.rows import is_code, lines_of


@dataclass
class Config:
    tasks: InputFile  # tasks.jsonl with reference solutions
    samples: InputFile  # samples.jsonl or verdicts.jsonl of eval.py
    output_file: OutputFile  # prm.jsonl
    method: Literal["gold"] = "gold"
    labels: Literal["in_place", "prefix"] = "in_place"  # each line alone; the program up to a line
    num_samples: PositiveInt | None = None  # samples a task at most, the first ones; none: all
    sandbox_workers: PositiveInt = 1  # processes that run programs
    sandbox_timeout: PositiveFloat = 3.0  # CPU seconds a program, where the task sets none
    packages: list[str] = field(default_factory=list)  # that programs may import, as numpy


def submit(runner: sandbox.Sandbox, task: dict, program: str, cache: dict) -> list:
    """Starts the executions that decide the labels of a program's lines; `labels` waits for them.

    task: with a reference `solution` that passes its tests. program: the whole program
    (common.extract_program); where the task gives a `prefix`, its lines come first.
    cache: a dict that the caller keeps, empty at first: a line that it knows does not run again.

    Returns for each line of `lines_of(program)` its label, where no execution is needed, or the
    Future of the verdict that decides it.
    """
    reference = lines_of(task["solution"])
    code_lines = [i for i, line in enumerate(reference) if is_code(line)]
    pending, number = [], 0  # number: lines of code of the program so far
    for line in lines_of(program):
        if not is_code(line):
            pending.append(None)
            continue
        text = line.removesuffix("\n")
        if number >= len(code_lines):
            pending.append(-1.0)
        elif text == reference[code_lines[number]].removesuffix("\n"):
            pending.append(1.0)
        else:
            key = (task["task_id"], number, text)
            if key not in cache:
                i = code_lines[number]
                spliced = [*reference[:i], text + "\n", *reference[i + 1 :]]
                cache[key] = runner.submit(task, "".join(spliced))
            pending.append(cache[key])
        number += 1
    return pending


def labels(pending: list) -> list[float | None]:
    """The labels in place of a program's lines, once their executions have ended; see `submit`.

    1.0 right, -1.0 wrong; None for a blank line, a comment, or a line on which the sandbox failed.
    """
    return [label_of(item.result()) if isinstance(item, Future) else item for item in pending]


def label_of(verdict: dict) -> float | None:
    if verdict["status"] == "harness_error":
        return None
    return 1.0 if verdict["status"] == "passed" else -1.0


def prefix_labels(task: dict, program: str, found: list[float | None]) -> list[float | None]:
    """Labels by prefix of a program's lines from its labels in place; see the module's docstring.

    task, program: as for `submit`; found: `labels` of the program. Without a label are blank lines,
    comments, and every line up to which no line is known to be wrong and one is not known.
    """
    code = [i for i, line in enumerate(lines_of(program)) if is_code(line)]
    by_prefix, so_far = [None] * len(found), 1.0  # so_far: of the lines up to this one
    for i in code:
        if found[i] == -1.0 or so_far == 1.0:
            so_far = found[i]
        by_prefix[i] = so_far
    if code and len(code) < sum(map(is_code, lines_of(task["solution"]))):
        by_prefix[code[-1]] = -1.0
    return by_prefix


def read_samples(config: Config, tasks: dict[str, dict]) -> list[dict]:
    """The samples to label, each with its program; InputError where one belongs to no task."""

    def check(row):
        common.check_known_task(row, tasks)
        common.check_sample(row)
        if not isinstance(row.get("completion", ""), str):
            raise ValueError("field 'completion' must be str")

    samples, numbers = [], Counter()
    for row in common.read_jsonl(config.samples, {"task_id": str}, check):
        numbers[row["task_id"]] += 1
        if config.num_samples is None or numbers[row["task_id"]] <= config.num_samples:
            task = tasks[row["task_id"]]
            if "solution" not in row:
                row["solution"] = common.extract_program(task, common.judged_text(row))
            elif "completion" in row:
                row["solution"] = without_preamble(task, row["solution"])
            samples.append(row)
    return samples


def without_preamble(task: dict, program: str) -> str:
    """A sample's program without the task's `preamble`, which eval.py puts before it for other
    harnesses (common.standalone): the preamble's lines are no lines of the policy's. A program that
    goes on from the task's `prefix` got none."""
    own = program.replace(common.standalone(task, ""), "", 1)
    goes_on = common.standalone(task, program) == program
    return own if not goes_on and common.standalone(task, own) == program else program


def row_of(task: dict, sample: dict, pending: list, kind: str = "in_place") -> dict:
    """A sample's row of prm.jsonl, with labels of a kind (--labels).

    `changed` are the lines that are not the reference's.
    """
    own = labels(pending)
    if kind == "prefix":
        own = prefix_labels(task, sample["solution"], own)
    found = common.program_lines(sample["solution"], sample.get("completion", ""))
    if any(line is not None for line in found):  # the completion as written, with its prose
        lines = lines_of(sample["completion"])
    else:  # without the lines that the task gave, where the program goes on from them
        goes_on = sample["solution"].startswith(task.get("prefix", ""))
        given = rows.given_lines(task) if goes_on else 0
        lines = lines_of(sample["solution"])[given:]
        found = range(given, given + len(lines))
    changed = [
        i for i, line in enumerate(found) if line is not None and pending[line] not in (None, 1.0)
    ]
    meta = {"changed": changed, "steps": rows.steps_of(task)}
    meta |= {"status": sample["status"]} if "status" in sample else {}
    own = [None if line is None else own[line] for line in found]
    return rows.line_row(task, lines, own, "gold", meta)


def main(config: Config) -> None:
    def check(row):
        rows.check_reference(row, "--method gold compares with reference programs")

    read = common.read_jsonl(config.tasks, common.PROMPT_FIELDS, check)
    rows.check_unique(read, config.tasks)
    common.check_packages(config, read)
    tasks = {task["task_id"]: task for task in read}
    samples = read_samples(config, tasks)
    if rows.is_complete(config):
        return
    cache, labelled, waiting = {}, [], deque()
    bar = common.progress_bar("samples labelled", len(samples))

    def collect():
        sample, pending = waiting.popleft()
        labelled.append(row_of(tasks[sample["task_id"]], sample, pending, config.labels))
        bar.update()

    limits = {"workers": config.sandbox_workers, "timeout": config.sandbox_timeout}
    with sandbox.Sandbox(**limits, packages=config.packages) as runner:
        sampled = dict.fromkeys(sample["task_id"] for sample in samples)
        references = {name: runner.submit(tasks[name], tasks[name]["solution"]) for name in sampled}
        common.verdicts_of(list(references.values()))  # stops where the sandbox is broken
        passing = {name for name, run in references.items() if run.result()["status"] == "passed"}
        for sample in samples:
            if sample["task_id"] not in passing:
                bar.update()
                continue
            task = tasks[sample["task_id"]]
            waiting.append((sample, submit(runner, task, sample["solution"], cache)))
            if len(waiting) > 64:  # enough that no worker waits for this loop
                collect()
        while waiting:
            collect()
    bar.close()
    labelled = [row for row in labelled if any(label is not None for label in row["labels"])]
    if not labelled:
        raise InputError(
            f"{config.samples}: no line of a task whose reference passes its tests; "
            "nothing to label"
        )
    counts = Counter(label for row in labelled for label in row["labels"])
    print(
        f"{len(labelled)} rows from {len(passing)} tasks "
        f"({len(sampled) - len(passing)} left out: the reference fails)"
    )
    print(
        f"lines: {counts[1.0]} positive, {counts[-1.0]} negative, {counts[None]} without label; "
        f"{len(cache)} programs executed"
    )
    executed = [run.result()["status"] for run in [*references.values(), *cache.values()]]
    unjudged = executed.count("harness_error")
    rows.check_judged([(len(executed), unjudged)], config.output_file)
    rows.write_result(config, labelled, unjudged)
