"""What a task must be for the sandbox to judge it, and what can be read off a task's sources.

Runs in the caller's process. Imports the standard library alone.
"""

from __future__ import annotations

import ast
import warnings

STYLES = ("assert", "call", "stdio", "unittest", "answer")


class TaskError(ValueError):
    """A task cannot be judged. The message is one line that names the field."""


def check_task(task: dict) -> None:
    """Raise TaskError, a one-line message that names the field, unless the task can be judged."""
    if not isinstance(task, dict):
        raise TaskError(f"a task must be an object, not {type(task).__name__}")
    name = task.get("task_id")
    if not isinstance(name, str):
        raise TaskError("task_id: missing or not a string")

    def fail(field, reason):
        raise TaskError(f"task {name}: {field}: {reason}")

    style = task.get("style")
    if style not in STYLES:
        fail("style", f"{style!r} is not one of {', '.join(STYLES)}")
    tests = task.get("tests")
    if not isinstance(tests, list) or not tests:
        fail("tests", "must be a list with at least one test")
    for field in ("setup", "preamble"):
        if not isinstance(task.get(field) or "", str):
            fail(field, "must be a string")
    entry_point = task.get("entry_point")
    parts = entry_point.split(".") if isinstance(entry_point, str) else [""]
    if entry_point is not None and not all(part.isidentifier() for part in parts):
        fail("entry_point", f"{entry_point!r} is not a name")
    timeout = task.get("timeout")
    number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
    if timeout is not None and not (number and timeout > 0):
        fail("timeout", f"{timeout!r} is not a positive number of seconds")
    if style == "call" and not entry_point:
        fail("entry_point", "the call style needs one")
    for index, test in enumerate(tests):
        field = f"tests[{index}]"
        if style in ("assert", "unittest"):
            if not isinstance(test, str) or not test.strip():
                fail(field, "must be Python source")
            check_source(test, field, fail)
        elif not isinstance(test, dict):
            fail(field, "must be an object")
        elif style == "call":
            if not isinstance(test.get("args"), list):
                fail(f"{field}.args", "must be a list")
            if "output" not in test:
                fail(f"{field}.output", "is missing")
            if not isinstance(test.get("atol") or 0.0, (int, float)):
                fail(f"{field}.atol", "must be a number")
        else:
            for key in ("input", "output") if style == "stdio" else ("answer",):
                if not isinstance(test.get(key), str):
                    fail(f"{field}.{key}", "must be a string")
    if style in ("assert", "unittest", "call"):
        check_source(task.get("setup") or "", "setup", fail)
    check_source(task.get("preamble") or "", "preamble", fail)
    if style == "unittest" and not any(unittest_methods(test) for test in tests):
        fail("tests", "hold no test method of a TestCase class")


def check_source(source: str, field: str, fail) -> None:
    """Call `fail` unless the source compiles and, if a test, holds a statement."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of doubtful escapes, which are the benchmark's own
            statements = ast.parse(source).body
            compile(source, field, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError) as error:
        fail(field, f"does not compile: {str(error)[:200]}")
    if not statements and field not in ("setup", "preamble"):
        fail(field, "holds no statement")


def unittest_methods(source: str) -> list[str]:
    """Names of the test methods in the source, as "Class.test_name"."""
    return [
        f"{node.name}.{item.name}"
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef)
        for item in node.body
        if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef))
        and item.name.startswith("test")
    ]


def prompt_helpers(prompt: str, entry_point: str) -> str:
    """Source of what a code prompt defines besides the entry point, for `setup`."""
    kept = [node for node in ast.parse(prompt).body if getattr(node, "name", None) != entry_point]
    return "".join(ast.unparse(node) + "\n" for node in kept)
