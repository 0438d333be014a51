"""The rules of LiveCodeBench's grader, written anew: what sandbox.py is compared with.

Source: lcb_runner/evaluation/testing_util.py of LiveCodeBench/LiveCodeBench, commit 15808c76. A
program with a function to call is run, and the function (a method of Solution) gets one JSON value
a line; a tuple counts as a list. Any other program becomes the body of a function that is called
once a test, after its imports, with other objects as sys.stdin and sys.stdout. So some programs
fail there that are right as scripts:

- one that reads `open(0)`, or the lines of a `stdin` imported from sys: that is the process' own
- one that prints in a thread and does not wait for it: the function returns before
- one whose functions say `global` for a name of the program, which is local there
- one that asks for `__name__` in other words than a last `if __name__ == "__main__"`

The `stdin` imported from sys is the process' own with other methods: `read` gives the whole input,
`readline` lines without newlines and StopIteration after the last.

Where the grader limits wall time, a process here counts CPU time (ITIMER_PROF): the machine's load
changes no verdict. Programs run without a sandbox.
"""

import ast
import builtins
import contextlib
import decimal
import io
import json
import os
import re
import resource
import select
import signal
import sys
import types
from functools import partial
from unittest import mock

from benchmarks import livecodebench
from benchmarks.livecodebench import HEADER


class Timeout(Exception):
    """A call took longer than its limit."""


def expire(*_) -> None:
    raise Timeout


def timed(limit: float, call):
    """What the call returns. Raises Timeout after `limit` CPU seconds."""
    signal.setitimer(signal.ITIMER_PROF, limit)
    try:
        return call()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


class Stdout(io.StringIO):
    def close(self):
        """A program that closes its output loses none of it."""


@contextlib.contextmanager
def given(text: str):
    """The input of a test, in the places where the grader puts it; gives what is printed."""
    lines = iter(text.split("\n"))
    with (
        mock.patch("sys.stdin.read", lambda *_: text),
        mock.patch("sys.stdin.readline", lambda *_: next(lines)),
        mock.patch("sys.stdin.readlines", lambda *_: text.split("\n")),
        mock.patch("sys.stdin", io.StringIO(text)),  # the process' own keeps the methods above
        mock.patch("builtins.open", mock.mock_open(read_data=text)),
        contextlib.redirect_stdout(Stdout()) as output,
    ):
        yield output


def function_of(row: dict) -> str | None:
    """The method that a record calls: the last one of its starter code. None: it has none."""
    return (re.findall(r"def (\w+)\(", row["starter_code"]) or [None])[-1]


def as_function(program: str):
    """The program as a function without arguments. The imports run now, the rest when called."""
    body = ast.parse(program).body
    last = body[-1]
    if isinstance(last, ast.If) and ast.unparse(last.test) == "__name__ == '__main__'":
        body = body[:-1] + last.body
    imports = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    module = ast.parse("def whole(): pass")
    module.body[0].body = [node for node in body if node not in imports]
    module.body = imports + module.body
    names = types.ModuleType("program").__dict__
    exec(f"{HEADER}\n{ast.unparse(module)}", names)
    return names["whole"]


def decimals(line: str) -> list[decimal.Decimal] | None:
    try:
        return [decimal.Decimal(word) for word in line.split()]
    except decimal.InvalidOperation:
        return None


def same_output(output: str, expected: str) -> bool:
    """As many lines; each, stripped, is the same text or the same decimals."""
    lines, wanted = ([x.strip() for x in text.strip().split("\n")] for text in (output, expected))
    return len(lines) == len(wanted) and all(
        a == b or (decimals(a) is not None and decimals(a) == decimals(b))
        for a, b in zip(lines, wanted, strict=True)
    )


def run_call(program: str, function: str, tests: list[dict], limit: float) -> None:
    module = types.ModuleType("program")
    timed(limit, lambda: exec(f"{HEADER}\n{program}", module.__dict__))
    owner = module.Solution() if "class Solution" in program else module
    for test in tests:
        arguments = [json.loads(line) for line in test["input"].split("\n")]
        result = timed(limit, partial(getattr(owner, function), *arguments))
        if isinstance(result, tuple):
            result = list(result)
        assert result == json.loads(test["output"]), "wrong answer"


def run_stdio(program: str, tests: list[dict], limit: float) -> None:
    call = timed(limit, lambda: as_function(program))
    for test in tests:
        with given(test["input"]) as output, contextlib.suppress(SystemExit):
            timed(limit, call)
        assert same_output(output.getvalue(), test["output"]), "wrong answer"


def run_alone(program: str, row: dict, limit: float) -> str:
    """Runs the tests in this process, which is one for this program alone; why it fails."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    sys.stdin = open(os.devnull, encoding="utf-8")
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    signal.signal(signal.SIGPROF, expire)
    builtins.quit = None
    function, tests = function_of(row), json.loads(row["public_test_cases"])
    try:
        if function:
            run_call(program, function, tests, limit)
        else:
            run_stdio(program, tests, limit)
    except BaseException as error:
        return f"{type(error).__name__} {error}"[:100]
    return "passed"


def grade(program: str, row: dict, limit: float = 6) -> tuple[bool, str]:
    """Whether a program passes the public tests of a record, and why not.

    limit: CPU seconds of a test, and of the start.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, run_alone(program, row, limit).encode(errors="replace"))
        os._exit(0)
    os.close(writer)
    ready = select.select([reader], [], [], 120)[0]  # of wall time: it may wait for a thread
    reason = os.read(reader, 999).decode() if ready else ""
    os.close(reader)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return reason == "passed", reason or "no end"


def tasks_of(rows: list[dict]) -> list[dict]:
    """The tasks of records that have public tests alone, and no statements."""
    unknown = dict.fromkeys(livecodebench.FIELDS.split(), "") | {"private_test_cases": "[]"}
    rows = [row | {"metadata": json.dumps({"func_name": function_of(row)})} for row in rows]
    return [livecodebench.task_of(unknown | row) for row in rows]


def samples_of(rows: list[dict], submissions: list[dict]) -> list[dict]:
    """The first program of each submission. `recorded`: its verdict, which is None where it failed
    a test that is not public."""
    inputs = {}
    for row in rows:
        inputs[row["question_id"]] = [t["input"] for t in json.loads(row["public_test_cases"])]
    samples = []
    for row in submissions:
        name, passed = row["question_id"], row["graded_list"][0]
        if not passed and json.loads(row["metadata"][0]).get("inputs") not in inputs[name]:
            passed = None
        samples.append({"task_id": name, "solution": row["code_list"][0], "recorded": passed})
    return samples
