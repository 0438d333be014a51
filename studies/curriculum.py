"""Tasks of which the policy writes the last lines alone, after a prefix of the reference, for
completion_curriculum.diff and jump_start.diff."""

import ast

import common
from common import InputError
from prm_data import rows

CONDITIONALS = ast.If | ast.For | ast.While


def check_task(task: dict) -> None:
    """Raises ValueError for a task that cannot be judged or has no reference to begin with."""
    rows.check_reference(task, "the policy goes on from references")


def check_format(tokenizer, config) -> None:
    """Raises InputError for chat prompts: a chat's answer does not go on in mid-program."""
    if common.prompt_format_of(config).is_chat(tokenizer):
        raise InputError("the policy goes on from a reference's lines: use --prompt_format plain")


def cut_points(task: dict, kind: str) -> list[int]:
    """How many lines of the reference may be given, ascending; 0, the task as it is, is left out.

    kind "lines": any number from 1 to all but the last. "conditionals": those up to and with the
    first line of an `if`, `for` or `while` (StepCoder); all "lines" for a reference without one. A
    task that has a `prefix` already gives at least the prefix.
    """
    source, least = task["solution"], task.get("prefix", "").count("\n")
    lines = range(1, len(source.splitlines()))
    found = {node.lineno for node in ast.walk(ast.parse(source)) if isinstance(node, CONDITIONALS)}
    chosen = sorted(found) if kind == "conditionals" and found else lines
    return [cut for cut in chosen if least < cut < len(lines) + 1]


def given(task: dict, num_lines: int) -> dict:
    """The task with the reference's first lines in its prompt and as its `prefix`; 0: itself."""
    if num_lines == 0:
        return task
    prefix = "".join(task["solution"].splitlines(keepends=True)[:num_lines])
    written = task.get("prefix", "")  # stands in the prompt already
    prompt = task["prompt"].removesuffix(written) if written else task["prompt"].rstrip("\n") + "\n"
    return task | {"prompt": prompt + prefix, "prefix": prefix}
