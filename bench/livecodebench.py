"""The rules of LiveCodeBench's grader, written anew: what sandbox.py is compared with.

Source: lcb_runner/evaluation/testing_util.py of LiveCodeBench/LiveCodeBench, commit 15808c76. A
program with a function to call is run, and the function (a method of Solution) gets one JSON value
a line; a tuple counts as a list. Any other program becomes the body of a function that is called
once a test, its imports before it, with objects in place of sys.stdin and sys.stdout. So some
programs fail that are right as scripts:

- one that reads `stdin` of `from sys import stdin`, or `open(0)`: those are the process' own input
- one that prints in a thread that is not waited for: the function returns before it
- one whose functions say `global` for names of the whole program, which are local names there
- one whose `input()` meets an empty line, which reads as the end of the input

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
import types
from functools import partial
from unittest import mock


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


class Stdin(io.StringIO):
    """Standard input: readline gives lines without newlines, and StopIteration after the last."""

    def __init__(self, text: str):
        super().__init__(text)
        self.text, self.lines = text, iter(text.split("\n"))

    def read(self, *_):
        return self.text

    def readline(self, *_):
        return next(self.lines)

    def readlines(self, *_):
        return self.text.split("\n")


class Stdout(io.StringIO):
    def close(self):
        """A program that closes its output loses none of it."""


def function_of(row: dict) -> str | None:
    """The method that a record calls: the last one of its starter code. None: it has none."""
    return (re.findall(r"def (\w+)\(", row["starter_code"]) or [None])[-1]


def as_function(program: str, header: str):
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
    exec(f"{header}\n{ast.unparse(module)}", names)
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


def run_call(program: str, function: str, tests: list[dict], header: str, limit: float) -> None:
    module = types.ModuleType("program")
    timed(limit, lambda: exec(f"{header}\n{program}", module.__dict__))
    owner = module.Solution() if "class Solution" in program else module
    for test in tests:
        arguments = [json.loads(line) for line in test["input"].split("\n")]
        result = timed(limit, partial(getattr(owner, function), *arguments))
        if isinstance(result, tuple):
            result = list(result)
        assert result == json.loads(test["output"]), "wrong answer"


def run_stdio(program: str, tests: list[dict], header: str, limit: float) -> None:
    call = timed(limit, lambda: as_function(program, header))
    for test in tests:
        output = Stdout()
        with (
            contextlib.redirect_stdout(output),
            mock.patch("sys.stdin", Stdin(test["input"])),
            mock.patch("builtins.open", mock.mock_open(read_data=test["input"])),
            contextlib.suppress(SystemExit),
        ):
            timed(limit, call)
        assert same_output(output.getvalue(), test["output"]), "wrong answer"


def run_alone(program: str, row: dict, header: str, limit: float) -> str:
    """Runs the tests in this process, which is one for this program alone; why it fails."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    signal.signal(signal.SIGPROF, expire)
    builtins.quit = None
    function, tests = function_of(row), json.loads(row["public_test_cases"])
    try:
        if function:
            run_call(program, function, tests, header, limit)
        else:
            run_stdio(program, tests, header, limit)
    except BaseException as error:
        return f"{type(error).__name__} {error}"[:100]
    return "passed"


def grade(program: str, row: dict, header: str, limit: float) -> tuple[bool, str]:
    """Whether a program passes the public tests of a record, and why not.

    header: what the grader puts before a program. limit: CPU seconds of a test, and of the start.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, run_alone(program, row, header, limit).encode(errors="replace"))
        os._exit(0)
    os.close(writer)
    ready = select.select([reader], [], [], 60)[0]  # for one that sleeps, or waits for a thread
    reason = os.read(reader, 999).decode() if ready else ""
    os.close(reader)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return reason == "passed", reason or "no end"
