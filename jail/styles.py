"""The five styles of tests: how each runs against a program, and what counts as equal.

Runs in the judge; the caller's process takes `make_verdict` from this file. Imports proxies.py,
wire.py and the standard library. In a run_... function, `note(status, message)` is called once for
each test, and `names` are the names whose values the program must give.
"""

from __future__ import annotations

import ast
import builtins
import math
import re
import sys
from collections import deque
from decimal import Decimal, InvalidOperation

from jail.proxies import (
    MODULES,
    TEST_MODULE,
    CallableProxy,
    HarnessError,
    ProgramEnd,
    Proxy,
    Session,
    lines,
    number,
)
from jail.wire import MAX_TEXT, MessageError, decode, to_json

MAX_AHEAD = 32_768  # bytes of calls that may wait for a program: less than a socket holds
# Imports of unittest source that reaches into the program.
INSIDE_NAMES = "mock unittest.mock tempfile os shutil pathlib io sys subprocess warnings"
INSIDE_MODULES = frozenset(INSIDE_NAMES.split())


class Plan:
    """What is prepared once a task: compiled sources, and the names that the program must give."""

    def __init__(self, setup: str, style: str, tests: list, entry_point: str | None):
        self.setup = compile(setup, "<setup>", "exec", dont_inherit=True) if setup.strip() else None
        sources = tests if style in ("assert", "unittest") else []
        self.tests = [
            compile(test, f"<test {i}>", "exec", dont_inherit=True)
            for i, test in enumerate(sources)
        ]
        self.entry = entry_point.split(".")[0] if entry_point else None
        self.small = style == "call" and len(to_json(tests)) < MAX_AHEAD
        self.names = sorted(free_names([setup, *sources]) | ({self.entry} if self.entry else set()))
        self.inside = style == "unittest" and any(needs_inside(test) for test in tests)


def free_names(sources: list[str]) -> set[str]:
    """Names that the sources read, do not define, and do not find among the builtins."""
    read, defined = set(), set(vars(builtins)) | {"__name__", "__file__"}
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Name):
                (read if isinstance(node.ctx, ast.Load) else defined).add(node.id)
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                defined.add(node.name)
            elif isinstance(node, ast.arg):
                defined.add(node.arg)
            elif isinstance(node, ast.alias):
                defined.add((node.asname or node.name).split(".")[0])
            elif isinstance(node, ast.ExceptHandler) and node.name:
                defined.add(node.name)
    return read - defined


def needs_inside(source: str) -> bool:
    """Whether unittest source patches what the program calls, or shares files with the program."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import) and any(item.name in INSIDE_MODULES for item in node.names):
            return True
        if isinstance(node, ast.ImportFrom):
            mock = node.module == "unittest" and any(item.name == "mock" for item in node.names)
            if mock or node.module in INSIDE_MODULES:
                return True
        if isinstance(node, ast.Name) and node.id in ("patch", "open", "mock"):
            return True
    return False


def start(session: Session, names: list[str], entry: str | None) -> dict:
    """Wait until the program has run. Returns the namespace of the tests, with the names."""
    message = session.receive()
    end_if_failed(session, message)
    try:
        values = message[1]
        if message[0] != "ok" or len(values) != len(names):
            raise MessageError("not the names that were asked for")
        namespace = {"__name__": TEST_MODULE, "__builtins__": builtins}
        for name, value in zip(names, values, strict=True):
            if value == ["undefined"]:
                continue
            if name in MODULES and name != entry:
                # The program imports it for the tests. They get the judge's own, not the program's.
                namespace[name] = __import__(name)
            else:
                namespace[name] = decode(value, session.borrow)
            if name == entry and type(value) is list and value[0] == "h":
                session.entry = value[1]
        return namespace
    except (MessageError, TypeError, ValueError, LookupError) as error:
        session.finish("error", f"MessageError: {str(error)[:200]}")


def end_if_failed(session: Session, message: list) -> None:
    """End the session if the message says that the program did not compile or raised."""
    try:
        if message[0] == "syntax":
            session.finish("syntax_error", str(message[2])[:MAX_TEXT], number(message[1]))
        if message[0] == "raise":
            error = session.exception(message)
            status = "memory" if isinstance(error, MemoryError) else "error"
            session.finish(status, error.from_program, session.line)
    except (MessageError, TypeError, ValueError, LookupError) as error:
        session.finish("error", f"MessageError: {str(error)[:200]}")


def describe(error: BaseException) -> tuple[str, str]:
    """Status and message of an exception that ended a test."""
    text = getattr(error, "from_program", None)
    if isinstance(error, MemoryError):
        return "memory", text or "MemoryError in a test"
    if text is not None:
        return "error", text
    status = "error" if isinstance(error, NameError) else "failed"
    return status, f"{type(error).__name__}: {str(error)[:MAX_TEXT]}"


def guarded(session: Session, note, action, source: str = "") -> bool:
    """Run one test, note its result, return whether it passed. The program's end goes through."""
    try:
        action()
    except (ProgramEnd, HarnessError):
        raise
    except BaseException as error:
        status, message = describe(error)
        if source and status == "failed":
            message = f"{message} in: {source.strip()[:200]}"
        note(status, message)
        return False
    if session.end is not None:
        raise session.end
    note("passed")
    return True


def run_setup(plan: Plan, session: Session, namespace: dict, note) -> bool:
    """Run the setup and return whether it passed; note nothing but a failure."""
    if plan.setup is None:
        return True

    def only_failures(status, message=""):
        if status != "passed":
            note(status, f"setup: {message}")

    return guarded(session, only_failures, lambda: exec(plan.setup, namespace))


def run_asserts(order: dict, plan: Plan, session: Session, names: list[str], note) -> None:
    """Style assert: every test string is one test."""
    namespace = start(session, names, plan.entry)
    if not run_setup(plan, session, namespace, note):
        return
    for code, source in zip(plan.tests, order["tests"], strict=True):
        guarded(session, note, lambda code=code: exec(code, namespace), source)


def run_calls(order: dict, plan: Plan, session: Session, names: list[str], note) -> None:
    """Style call: the result of the entry point, as JSON would write it, equals the output."""
    namespace = start(session, names, plan.entry)
    if not run_setup(plan, session, namespace, note):
        return
    *parents, last = order["entry_point"].split(".")
    function = namespace.get(plan.entry)
    # Calls that fit into the socket are sent before the first result is back: waits cost more.
    early = type(function) is CallableProxy and not parents and plan.small
    tests = order["tests"] if early else []
    requests = deque(session.request("apply", (function, *t["args"]), {}) for t in tests)

    def one(test):
        if plan.entry not in namespace:
            raise NameError(f"name {plan.entry!r} is not defined")
        if early:
            result = as_json(session.wait(*requests.popleft()))
        else:
            target = getattr(function(), last) if parents else function
            result = as_json(target(*test["args"]))
        if not same(result, as_json(test["output"]), test.get("atol") or 0.0):
            raise AssertionError(f"a result that is not the output: {short_text(result)}")

    for test in order["tests"]:
        guarded(session, note, lambda test=test: one(test))


def short_text(value) -> str:
    """The beginning of a value's text. The text of a huge integer may be refused."""
    try:
        return repr(value)[:200]
    except ValueError:
        return f"a {type(value).__name__}"


def as_json(value):
    """The value as it would come back from JSON: lists for tuples, string keys."""
    if type(value) in (list, tuple):
        return [as_json(item) for item in value]
    if type(value) is dict:
        return {key_text(key): as_json(item) for key, item in value.items()}
    return value


def key_text(key):
    """A key as JSON would write it."""
    if type(key) is bool or key is None:
        return {True: "true", False: "false", None: "null"}[key]
    return str(key) if type(key) in (int, float) else key


def same(result, expected, atol: float) -> bool:
    """Whether a result equals the expected value, both as JSON would write them. NaN equals NaN.

    atol: with atol > 0, floats are equal if |result - expected| <= atol + 1e-7 |expected|.
    """
    if type(expected) is list:
        if type(result) is not list or len(result) != len(expected):
            return False
        return all(same(a, b, atol) for a, b in zip(result, expected, strict=True))
    if type(expected) is dict:
        if type(result) is not dict or result.keys() != expected.keys():
            return False
        return all(same(result[key], expected[key], atol) for key in expected)
    if type(expected) is float and type(result) in (int, float):
        if math.isnan(expected):
            return math.isnan(result)
        tolerance = atol + 1e-7 * abs(expected)
        within = atol > 0 and tolerance < math.inf and abs(result - expected) <= tolerance
        return result == expected or within
    return not isinstance(result, Proxy) and result == expected


def run_unittests(order: dict, plan: Plan, session: Session, names: list[str], note) -> None:
    """Style unittest, in the judge: every test method is one test."""
    import unittest

    namespace = start(session, names, plan.entry)
    if not run_setup(plan, session, namespace, note):
        return

    class Result(unittest.TestResult):
        def addSuccess(self, test):
            note("passed")

        def addError(self, test, error):
            self.bad(test, error)

        def addFailure(self, test, error):
            self.bad(test, error)

        def addSubTest(self, test, subtest, error):
            if error is not None:
                self.bad(subtest, error)

        def bad(self, test, error):
            status, message = describe(error[1])
            note(status, f"{test}: {message}")
            if session.end is not None:
                raise session.end

    def run_all():
        for code in plan.tests:
            exec(code, namespace)
        suite = unittest.TestSuite(
            unittest.defaultTestLoader.loadTestsFromTestCase(kind)
            for kind in list(namespace.values())
            if isinstance(kind, type)
            and issubclass(kind, unittest.TestCase)
            and kind.__module__ == TEST_MODULE
        )
        sys.modules[TEST_MODULE] = type(sys)(TEST_MODULE)  # where unittest looks for setUpModule
        suite.run(Result())

    def only_failures(status, message=""):
        if status != "passed":
            note(status, message)

    guarded(session, only_failures, run_all)


# Runs in the candidate, after the program, the setup and `_source`, the tests.
INSIDE = """
import sys as _sys, types as _types, unittest as _unittest
_module = _types.ModuleType("tests")
_module.__dict__.update(globals())
_module.__dict__["__name__"] = "tests"
_sys.modules["tests"] = _module
_sys.modules["__test__"] = _module
exec(compile(_source, "<tests>", "exec", dont_inherit=True), _module.__dict__)
_result = _unittest.TestResult()
_suite = _unittest.TestSuite(
    _unittest.defaultTestLoader.loadTestsFromTestCase(_kind)
    for _kind in list(_module.__dict__.values())
    if isinstance(_kind, type)
    and issubclass(_kind, _unittest.TestCase)
    and _kind.__module__ == "tests"
)
_suite.run(_result)
_bad = [_text for _, _text in _result.errors + _result.failures]
_report = [_result.testsRun - len(_bad) - len(_result.skipped), _bad[0] if _bad else ""]
"""


def run_inside(order: dict, session: Session, names: list[str], note) -> None:
    """Style unittest, in the candidate: only the candidate's word counts, so it is not trusted."""
    namespace = start(session, names, None)
    report = namespace.get("_report")
    if type(report) is not list or len(report) != 2 or type(report[0]) is not int:
        note("failed", "no report")
        return
    session.weak += 1
    session.entry_calls += 1
    for _ in range(min(max(report[0], 0), order["total"])):
        note("passed")
    if report[0] < order["total"]:
        note("failed", str(report[1])[-MAX_TEXT:])


def run_stdio(session: Session, stdout, test: dict, note) -> None:
    """Style stdio: wait for the program's end; what counts is the whole output."""
    session.entry_calls += 1
    while True:
        try:
            message = session.receive()
        except ProgramEnd as end:
            if end.status != "error" or end.message.startswith("MessageError"):
                raise
            break
        end_if_failed(session, message)
        if message[0] == "executed" and len(message) == 2:
            session.executed = lines(message[1])
    session.end = None
    stdout.seek(0)
    if same_output(stdout.read(), test["output"]):
        note("passed")
    else:
        note("failed", "a different output")


def judge_answer(text: str, tests: list) -> dict:
    """Style answer: the text's final answer equals the given one, but for commas and currency."""
    found = re.search(r"####\s*(\S[^\n]*)", text)
    boxed = re.findall(r"\\boxed\{([^{}]*)\}", text)
    answer = found.group(1) if found else boxed[-1] if boxed else None
    if answer is None:
        return make_verdict("failed", 0, len(tests), "no answer")
    value = plain_answer(answer)
    passed = sum(value == plain_answer(test["answer"]) for test in tests)
    if passed == len(tests):
        return make_verdict("passed", passed, passed, "")
    return make_verdict("failed", passed, len(tests), f"answer {answer[:100]!r}")


def plain_answer(text: str):
    """A number where the text is one, else the bare text."""
    bare = text.strip().replace(",", "").replace("$", "").rstrip(".").strip()
    try:
        return Decimal(bare)
    except InvalidOperation:
        return bare


def same_output(output: bytes, expected: str) -> bool:
    """Whether whole outputs are equal, but for trailing white space and the spelling of numbers."""
    got = [line.rstrip() for line in output.decode("utf-8", "replace").rstrip().split("\n")]
    want = [line.rstrip() for line in expected.rstrip().split("\n")]
    if len(got) != len(want):
        return False
    return all(a == b or same_numbers(a, b) for a, b in zip(got, want, strict=True))


def same_numbers(line: str, expected: str) -> bool:
    """Whether two lines hold the same numbers, however they are spelt."""
    a, b = line.split(), expected.split()
    if len(a) != len(b) or len(line) >= 1 << 16:
        return False
    try:
        return [Decimal(word) for word in a] == [Decimal(word) for word in b]
    except InvalidOperation:
        return False


def make_verdict(
    status: str,
    passed: int,
    total: int,
    message: str,
    line: int | None = None,
    executed: list[int] | None = None,
    seconds: float = 0.0,
    trusted: bool = True,
) -> dict:
    """A verdict, as the docstring of sandbox.py describes its fields."""
    return {
        "status": status,
        "passed": passed,
        "total": total,
        "line": line,
        "executed": executed,
        "message": message[:MAX_TEXT],
        "seconds": round(seconds, 6),
        "trusted": trusted,
    }
