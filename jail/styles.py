"""The five styles of tests: how each runs against a program.

Runs in the judge; the caller's process takes `make_verdict` from this file. Imports session.py,
proxies.py, equality.py, wire.py and the standard library. In a run_... function,
`note(status, message)` is called once for each test, and `names` are the names whose values the
program must give.
"""

from __future__ import annotations

import builtins
import marshal
import sys
from collections import deque

from jail.equality import as_json, final_answer, same, same_answer, same_output, tolerances
from jail.proxies import PROXY_HANDLE, CallableProxy
from jail.session import (
    MODULES,
    TEST_MODULE,
    HarnessError,
    ProgramEnd,
    Session,
    lines,
    number,
    text_of,
)
from jail.wire import MAX_TEXT, MessageError, decode, to_json

MAX_METHODS = 100_000  # test methods of a task whose tests run in the program's process
MAX_AHEAD = 32_768  # bytes of calls that may wait for a program: less than a socket holds


class Plan:
    """A task in the judge: what worker.py sent, with the compiled sources, and what tests keep."""

    def __init__(self, task: dict):
        self.order = task
        self.setup = load(task["setup"]) if task["setup"] is not None else None
        self.tests = [load(code) for code in task["tests"]] if task["labels"] else []
        self.entry = task["entry_point"] and task["entry_point"].split(".")[0]
        self.small = task["style"] == "call" and len(to_json(task["tests"])) < MAX_AHEAD
        self.names = task["names"]
        self.memories = [{} for _ in task["tests"]]  # `__memory__` of each test

    def forget(self) -> None:
        """Drop what the tests kept."""
        for memory in self.memories:
            memory.clear()


def load(code: bytes | str):
    """The code object of a marshalled source. SyntaxError for a text: why there is no code."""
    if isinstance(code, str):
        raise SyntaxError(code)
    return marshal.loads(code)


def start(session: Session, names: list[str], entry_point: str | None) -> dict:
    """Wait until the program has run. Returns the namespace of the tests, with the names.

    A name beside the entry point makes the verdict weak: the program says what the name means, and
    `np.allclose` of its own may be True of everything.
    """
    parts = entry_point.split(".") if entry_point else [None]
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
            if name in MODULES and name != parts[0]:
                # The program imports it for the tests. They get the judge's own, not the program's.
                namespace[name] = __import__(name)
                continue
            session.weak += name not in parts
            namespace[name] = decode(value, session.borrow)
            if name == parts[0] and type(value) is list and value[0] == "h":
                session.entry = value[1]
            if name in parts and type(value) is list and value[0] == "T":
                namespace[name] = counted(session, namespace[name])
        return namespace
    except (MessageError, TypeError, ValueError, LookupError) as error:
        session.finish("error", f"MessageError: {str(error)[:200]}")


def counted(session: Session, kind):
    """The entry point of a program that says `f = list`: the judge's own type, calls counted."""

    def entry_point(*args, **kwargs):
        session.entry_calls += 1
        return kind(*args, **kwargs)

    return entry_point if isinstance(kind, type) else kind


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
    return status, f"{type(error).__name__}: {text_of(error)}"


def guarded(session: Session, note, action, source: str = "") -> bool:
    """Run one test, note its result, return whether it passed. The program's end goes through."""
    try:
        action()
    except (ProgramEnd, HarnessError):
        raise
    except BaseException as error:
        status, message = describe(error)
        if source and status == "failed":
            message = f"{message} in: {source}"
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
    namespace = start(session, names, order["entry_point"])
    if not run_setup(plan, session, namespace, note):
        return
    for code, label, memory in zip(plan.tests, plan.order["labels"], plan.memories, strict=True):
        namespace["__memory__"] = memory
        passed = guarded(session, note, lambda code=code: exec(code, namespace), label)
        if not passed and order["fail_fast"]:
            break


def run_calls(order: dict, plan: Plan, session: Session, names: list[str], note) -> None:
    """Style call: the result of the entry point, as JSON would write it, equals the output."""
    namespace = start(session, names, order["entry_point"])
    if not run_setup(plan, session, namespace, note):
        return
    *parents, last = order["entry_point"].split(".")
    name = plan.entry
    if parents and name not in namespace:  # as LiveCodeBench and APPS: no class, so a function
        parents, name = [], last
    function = namespace.get(name)
    if name == last and type(function) is CallableProxy:
        session.entry = PROXY_HANDLE(function)
    # Calls that fit into the socket are sent before the first result is back: waits cost more.
    limit = order["test_timeout"]
    early = type(function) is CallableProxy and not parents and plan.small and not limit
    tests = order["tests"] if early else []
    requests = deque(session.request("apply", (function, *t["args"]), {}) for t in tests)

    def one(test):
        if name not in namespace:
            raise NameError(f"name {plan.entry!r} is not defined")
        session.begin_test(limit)
        if early:
            result = as_json(session.wait(*requests.popleft()))
        else:
            target = getattr(function(), last) if parents else function
            result = as_json(target(*test["args"]))
        session.end_test()
        if not same(result, as_json(test["output"]), *tolerances(test)):
            raise AssertionError(f"a result that is not the output: {short_text(result)}")

    for test in order["tests"]:
        passed = guarded(session, note, lambda test=test: one(test))
        if not passed and order["fail_fast"]:
            break


def short_text(value) -> str:
    """The beginning of a value's text. The text of a huge integer may be refused."""
    try:
        return repr(value)[:200]
    except ValueError:
        return f"a {type(value).__name__}"


def run_unittests(order: dict, plan: Plan, session: Session, names: list[str], note) -> None:
    """Style unittest, in the judge: every test method is one test.

    A method that its source skips is none. One that is expected to fail passes by failing. The
    order's total is set: what the sources show has neither inherited methods nor skips.
    """
    import unittest

    namespace = start(session, names, order["entry_point"])
    if not run_setup(plan, session, namespace, note):
        return

    class Result(unittest.TestResult):
        def addSuccess(self, test):
            note("passed")

        def addExpectedFailure(self, test, error):
            if session.end is not None:
                raise session.end
            note("passed")

        def addUnexpectedSuccess(self, test):
            note("failed", f"{test}: passes, and is expected to fail")
            if order["fail_fast"]:
                self.stop()

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
            if order["fail_fast"]:
                self.stop()
            if session.end is not None:
                raise session.end

    def run_all():
        for code in plan.tests:
            exec(code, namespace)
        cases = [
            case
            for kind in list(namespace.values())
            if isinstance(kind, type)
            and issubclass(kind, unittest.TestCase)
            and kind.__module__ == TEST_MODULE
            for case in unittest.defaultTestLoader.loadTestsFromTestCase(kind)
        ]
        skipped = "__unittest_skip__"  # set by the decorators
        order["total"] = sum(
            not getattr(case, skipped, False)
            and not getattr(getattr(case, case._testMethodName), skipped, False)
            for case in cases
        )
        sys.modules[TEST_MODULE] = type(sys)(TEST_MODULE)  # where unittest looks for setUpModule
        unittest.TestSuite(cases).run(Result())

    def only_failures(status, message=""):
        if status != "passed":
            note(status, message)

    guarded(session, only_failures, run_all)


# Runs in the candidate after the program: `module` is the program's, `tests` the code of the tests.
INSIDE = """
import unittest
for code in tests:
    exec(code, module.__dict__)
class Result(unittest.TestResult):
    passed = 0
    def addSuccess(self, test):
        self.passed += 1
    def addExpectedFailure(self, test, error):
        self.passed += 1
result = Result()
result.failfast = fail_fast
loader = unittest.TestLoader()
kinds = [vars(module)[name] for name in classes]
kinds = [kind for kind in kinds if issubclass(kind, unittest.TestCase)]
cases = [case for kind in kinds for case in loader.loadTestsFromTestCase(kind)]
total = 0
for case in cases:
    method = getattr(case, case._testMethodName)
    skipped = [getattr(place, "__unittest_skip__", False) for place in (case, method)]
    total += not any(skipped)
unittest.TestSuite(cases).run(result)
bad = result.errors + result.failures
kind = "error" if result.errors else "failed"
report = [result.passed, total, kind, bad[0][1][-500:] if bad else ""]
"""
INSIDE_MODULE = "__test__"  # value of __name__ where tests run inside, as BigCodeBench has it


def run_inside(order: dict, session: Session, names: list[str], note) -> None:
    """Style unittest, in the candidate: only the candidate's word counts, so it is not trusted."""
    session.weak += 1
    report = start(session, names, None).get("report")
    kinds = [type(part) for part in report] if type(report) is list else None
    if kinds != [int, int, str, str] or report[2] not in ("error", "failed"):
        note("failed", "no report")
        return
    session.entry_calls += 1
    passed, total, status, text = report
    order["total"] = min(max(total, 0), MAX_METHODS)
    for _ in range(min(max(passed, 0), order["total"])):
        note("passed")
    if passed < total:
        note(status, text.strip() or f"{max(passed, 0)} of {total} tests passed")


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
    blank_lines = test.get("blank_lines", True)
    if same_output(stdout.read(), test["output"], *tolerances(test), blank_lines):
        note("passed")
    else:
        note("failed", "a different output")


def judge_answer(text: str, tests: list) -> dict:
    """Style answer: the text's last marked answer equals the given one.

    Commas of thousands, currency, per cent, bold and the unit behind a number do not count.
    """
    answer = final_answer(text)
    if answer is None:
        return make_verdict("failed", 0, len(tests), "no answer")
    passed = sum(same_answer(answer, test["answer"]) for test in tests)
    if passed == len(tests):
        return make_verdict("passed", passed, passed, "")
    return make_verdict("failed", passed, len(tests), f"answer {answer[:100]!r}")


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
