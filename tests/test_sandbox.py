"""The sandbox's face: verdicts of each style, named errors, harness failures, command line."""

import ast
import contextlib
import gc
import gzip
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import sandbox
from jail import judge as judge_file
from jail import seal, syscalls, wire

SQUARE = {
    "task_id": "square",
    "style": "assert",
    "tests": ["assert f(2) == 4", "assert f(3) == 9"],
    "entry_point": "f",
}
LONG = (
    "def f(x):\n    s = 0\n    for i in range(6_000_000): s += i\n"
    "    return x * x"
)  # some tenths of a CPU second


@pytest.fixture(scope="module")
def pool():
    with sandbox.Sandbox(workers=2, timeout=3.0) as pool:
        yield pool


def judge(pool, task, program):
    return pool.submit({"task_id": "t", "entry_point": "f", **task}, program).result()


# verdicts


@pytest.mark.parametrize(
    "program, status, outcome, passed, line",
    [
        ("def f(x): return x * x", "passed", "passed", 2, None),
        ("def f(x): return 4", "failed", "failed_test", 1, None),
        ("def f(x):\n    y = 0\n    return x / y", "error", "runtime_error", 0, 3),
        ("def f(x):\n    return x * x if x < 3 else undefined", "error", "runtime_error", 1, 2),
        ("x = 1\n\nx.missing", "error", "runtime_error", 0, 3),
        ("def f(x):\n  return (x", "syntax_error", "syntax_error", 0, 2),
        (
            "def f(x):\n    x += 1\n    while True:\n        pass",
            "timeout",
            "runtime_error",
            0,
            None,
        ),
        ("def f(x):\n    return len('x' * (1 << 40))", "memory", "runtime_error", 0, 2),
        ("g = 1", "error", "runtime_error", 0, None),
    ],
)
def test_a_verdict_names_the_outcome_and_the_failing_line(
    pool, program, status, outcome, passed, line
):
    verdict = judge(pool, {**SQUARE, "timeout": 1}, program)
    assert list(verdict) == [
        "status",
        "passed",
        "total",
        "line",
        "executed",
        "message",
        "seconds",
        "trusted",
    ]
    assert (verdict["status"], verdict["passed"], verdict["total"]) == (status, passed, 2)
    assert sandbox.outcome(verdict["status"]) == outcome
    assert verdict["line"] == line or (status == "timeout" and verdict["line"] in (3, 4))
    assert verdict["trusted"] and verdict["executed"] is None and 0 <= verdict["seconds"] < 3
    assert bool(verdict["message"]) == (status != "passed")


def test_setup_runs_after_the_program_and_its_definitions_hide_the_program_s(pool):
    task = {
        "style": "assert",
        "setup": "root = Node(5)\ndef helper(x):\n    return x + 1",
        "tests": ["assert f(root) == helper(5)"],
    }
    program = (
        "class Node:\n    def __init__(self, v): self.v = v\ndef helper(x): return f\n"
        "def f(n): return n.v{}"
    )
    assert judge(pool, task, program.format(" + 1"))["status"] == "passed"
    assert judge(pool, task, program.format(""))["status"] == "failed"


def test_comparing_two_objects_of_the_program_is_marked_as_not_trusted(pool):
    program = "class A:\n    def __eq__(self, other): return True\ndef f(x): return A()"
    verdict = judge(pool, {"style": "assert", "tests": ["assert f(1) == f(2)"]}, program)
    assert verdict["status"] == "passed" and verdict["trusted"] is False


UNITTEST = """
import unittest
class TestF(unittest.TestCase):
    def setUp(self):
        self.x = 2
    def test_value(self):
        self.assertEqual(f(self.x), 4)
    def test_values(self):
        for x in range(3):
            with self.subTest(x=x):
                self.assertEqual(f(x), x * x)
    def test_error(self):
        with self.assertRaises(ValueError):
            f("a")
"""

OWN = """
class R:
    anew = 0
    def __init__(self, x=()): self.x = sorted(x)
    def __len__(self): return len(self.x)
    def __iter__(self): return iter(self.x)
    def __getitem__(self, i): return self.x[i]
    def __float__(self):
        self.anew += 1
        return float(self.anew)
    def __bool__(self):
        self.anew += 1
        return self.anew == 2
    @property
    def value(self):
        self.anew += 1
        return self.anew
    @property
    def part(self):
        self.anew += 1
        return Part([1, 2] if self.anew > 1 else [9])
class Part(R):
    def __call__(self): pass
class Steps:
    def __init__(self): self.n = 3
    def __iter__(self):
        self.n += 1
        return self
    def __next__(self):
        self.n -= 1
        if self.n > 1: return self.n
        raise StopIteration
class Node:
    def __init__(self, v, after): self.v, self.after = v, after
    def get(self): return self.v
def f(x): return R(x)
def g(x): return Node(x, Node(x + 1, None))
def h(x): return Steps()
"""


@pytest.mark.parametrize(
    "entry_point, test, status, trusted",
    [
        # one look: what the object says is what the function returned
        ("f", "assert len(f([2, 1])) == 2", "passed", True),
        ("f", "assert list(f([2, 1])) == [1, 2] and sorted(f([2, 1])) == [1, 2]", "passed", True),
        ("f", "assert abs(float(f([])) - 1) < 1e-6", "passed", True),
        ("f", "assert f([2, 1])[0] == 1", "passed", True),
        ("g", "n = g(1)\nassert (n.v, n.after.v, n.after.after) == (1, 2, None)\n"
         "assert n.v == n.get() == n.get() == 1", "passed", True),
        ("h", "assert list(h(1)) == [3, 2]", "passed", True),
        # the first answer counts, until the program does more
        ("f", "r = f([])\nassert float(r) == 1 and float(r) == 2", "failed", True),
        ("f", "r = f([])\nassert not r and r", "failed", True),
        ("f", "r = f([])\nassert float(r) == 1\nf([])\nassert float(r) == 2", "passed", False),
        # a second answer, or a second way: the program alone says that they agree
        ("f", "r = f([])\nassert r.value == 1 and r.value == 2", "passed", False),
        ("f", "r = f([2, 1])\nassert len(r) == 2 and [*r] == [1, 2]", "passed", False),
        ("f", "r = f([2, 1])\nassert [*r] == [1, 2] and len(r) == 2", "passed", False),
        ("f", "r = f([2, 1])\nassert 1 in r and 2 in r", "passed", False),
        ("f", "r = f([])\nassert list(r.part) == [9] and list(r.part) == [1, 2]", "passed", False),
        ("h", "r = h(1)\nassert list(r) == [3, 2] and list(r) == []", "passed", False),
    ],
)  # fmt: skip
def test_an_object_of_the_program_cannot_answer_anew_in_a_verdict_that_is_trusted(
    pool, entry_point, test, status, trusted
):
    task = {"style": "assert", "entry_point": entry_point, "tests": [test]}
    verdict = judge(pool, task, OWN)
    assert (verdict["status"], verdict["trusted"]) == (status, trusted), verdict["message"]


@pytest.mark.parametrize(
    "entry_point, test, program, status",
    [
        ("f", "assert f((1, 2)) == [1, 2]", "f = list", "passed"),
        ("f", "assert f((1, 2)) == [1, 3]", "f = list", "failed"),
        ("f", "assert f('aa') == {'a': 2}", "from collections import Counter as f", "passed"),
        ("f", {"args": ["ab"], "output": ["a", "b"]}, "f = list", "passed"),
        ("Solution.f", {"args": ["ab"], "output": ["a", "b"]}, "f = list", "passed"),
        ("f", "assert True", "f = list", "failed"),
        ("f", "assert True", "def f(x): return x", "failed"),
        (None, "assert f(1) == 2", "def f(x): return x + 1", "passed"),
        (None, "assert f(1) == 2", "def f(x): return x", "failed"),
        (None, "s = A()\nassert s.f(1) == 2", "class A:\n def f(s, x): return x + 1", "passed"),
        (None, "assert True", "def f(x): return x + 1", "failed"),
        ("f", "s = A()\nassert s.f(1) == 2", "class A:\n def f(s, x): return x + 1", "passed"),
        (None, UNITTEST, "def f(x): return int(x) * int(x)", "passed"),
        (None, UNITTEST, "def f(x): return int(x)", "failed"),
    ],
)
def test_a_verdict_asks_for_a_call_of_the_program_however_its_entry_point_is_bound(
    pool, entry_point, test, program, status
):
    style = "call" if isinstance(test, dict) else "unittest" if test == UNITTEST else "assert"
    verdict = judge(pool, {"style": style, "tests": [test], "entry_point": entry_point}, program)
    assert verdict["status"] == status, verdict["message"]
    if test == "assert True":
        assert verdict["message"] == "no test called the program"


@pytest.mark.parametrize(
    "test, program, trusted",
    [
        (
            "assert np.allclose(f(1), 2)",
            "class np:\n    allclose = staticmethod(lambda a, b: True)\ndef f(x): return None",
            False,
        ),
        ("assert f(1) == EXPECTED", "EXPECTED = 3\ndef f(x): return 3", False),
        (
            "assert f(Node(1)) == 1",
            "class Node:\n    def __init__(self, v): self.v = v\ndef f(n): return n.v",
            False,
        ),
        ("assert f(1) == 2 and math.isclose(f(1), 2)", "import math\ndef f(x): return x + 1", True),
        ("def check(g):\n    assert g(1) == 2\ncheck(f)", "def f(x): return x + 1", True),
    ],
)
def test_a_name_of_the_program_that_a_test_uses_makes_the_verdict_not_trusted(
    pool, test, program, trusted
):
    verdict = judge(pool, {"style": "assert", "tests": [test]}, program)
    assert (verdict["status"], verdict["trusted"]) == ("passed", trusted), verdict["message"]


def test_both_parts_of_a_dotted_entry_point_are_the_entry_point(pool):
    task = {"style": "call", "entry_point": "Solution.f", "tests": [{"args": [1], "output": 2}]}
    for program in (
        "class Solution:\n    def f(self, x): return x + 1\ndef f(x): return 0",
        "def f(x): return x + 1",
    ):
        verdict = judge(pool, task, program)
        assert (verdict["status"], verdict["trusted"]) == ("passed", True), verdict["message"]


def test_a_fault_in_the_judge_is_no_verdict_on_the_program(pool, monkeypatch):
    monkeypatch.setattr(sandbox, "check_task", lambda task: None)
    verdict = judge(
        pool, {"task_id": "broken", "style": "assert", "tests": ["assert ("]}, "def f(x): return 1"
    )
    assert verdict["status"] == "harness_error" and "SyntaxError" in verdict["message"]
    assert judge(pool, SQUARE, "def f(x): return x * x")["status"] == "passed"


def test_tests_that_never_call_the_entry_point_do_not_pass(pool):
    for tests in (["assert 1 == 1"], ["assert f"], ["assert g(1) == 1"]):
        verdict = judge(
            pool, {"style": "assert", "tests": tests}, "def f(x): return 1\ndef g(x): return 1"
        )
        assert verdict["status"] == "failed", tests


def test_executed_lines_are_those_that_ran():
    program = (
        "def f(x):\n    if x > 2:\n        y = 9\n    else:\n        y = 4\n    return y\n"
        "def g():\n    return 1"
    )
    with sandbox.Sandbox(timeout=1, trace=True) as pool:
        assert judge(pool, SQUARE, program)["executed"] == [1, 2, 3, 5, 6, 7]
        assert judge(pool, {**SQUARE, "tests": ["assert f(2) == 4"]}, program)["executed"] == [
            1,
            2,
            5,
            6,
            7,
        ]
        assert judge(pool, SQUARE, "def f(x):\n    1 / 0\n    return 1")["executed"] == [1, 2]
        assert (
            4
            in judge(
                pool, SQUARE, "def f(x):\n    y = 0\n    while True:\n        y += 1\n    return y"
            )["executed"]
        )
        stdio = {
            "style": "stdio",
            "tests": [{"input": "1", "output": "1"}, {"input": "2", "output": "x"}],
        }
        assert judge(pool, stdio, "if input() == '1':\n    print(1)\nelse:\n    print('x')")[
            "executed"
        ] == [1, 2, 4]


# styles


def test_call_style_compares_as_json_would_write_the_result(pool):
    def status(output, result, **options):
        task = {"style": "call", "tests": [{"args": [[1, 2]], "output": output, **options}]}
        return judge(pool, task, f"def f(x): return {result}")["status"]

    assert status([1, [2]], "(1, (2,))") == "passed"
    assert status({"1": [2], "true": None}, "{'true': None, 1: (2,)}") == "passed"
    assert status(2, "2.0") == "passed" and status(2.0, "2") == "passed"
    assert status([2, 1], "x[::-1]") == "passed"
    assert status(0.3, "0.1 + 0.2") == "failed" and status(0.3, "0.1 + 0.2", atol=1e-9) == "passed"
    assert (
        status([0.3], "[0.31]", atol=0.02) == "passed"
        and status([0.3], "[0.33]", atol=0.02) == "failed"
    )
    assert (
        status([1, 2], "[1]") == "failed"
        and status({"a": 1}, "{}") == "failed"
        and status(None, "0") == "failed"
    )
    assert status("12", "12") == "failed" and status([1], "{1}") == "failed"


def test_no_tolerance_reaches_an_infinite_output(pool):
    task = {"style": "call", "tests": [{"args": [1], "output": math.inf, "atol": 1e-6}]}
    assert judge(pool, task, "def f(x): return 0.0")["status"] == "failed"
    assert judge(pool, task, "def f(x): return float('inf')")["status"] == "passed"


@pytest.mark.parametrize(
    "size", [1, 5000]
)  # as many calls as fit into the socket ahead of the results, and more
def test_calls_before_the_one_that_ends_the_program_keep_their_verdict(pool, size):
    task = {"style": "call", "tests": [{"args": [[i] * size], "output": i} for i in range(5)]}
    for end in ("raise ValueError", "import os; os._exit(0)", "while True: pass"):
        program = (
            f"def f(x):\n    if x[0] == 3:\n        {end}\n    x.clear() if x[0] < 0 else None\n"
            f"    return x[0]"
        )
        verdict = judge(pool, task | {"timeout": 1}, program)
        assert (verdict["passed"], verdict["total"]) == (4 if "raise" in end else 3, 5), end
        assert verdict["status"] == ("timeout" if "while" in end else "error")


@pytest.fixture
def long_numbers():
    """As in the judge: no limit on the digits of a number."""
    sys.set_int_max_str_digits(0)
    yield
    sys.set_int_max_str_digits(sys.int_info.default_max_str_digits)


SOURCES = ["x = (", "x = " + "9" * 5000, "x = 1" + " + 1" * 60_000, "\0", "# coding: nonsense\nx ="]


@pytest.mark.parametrize("program", SOURCES)
def test_a_program_that_the_judge_does_not_compile_gets_the_candidates_own_error(
    pool, program, long_numbers
):
    assert judge_file.compiled({"program": program, "attempt": 0}) == program
    assert sys.get_int_max_str_digits() == 0
    assert judge(pool, SQUARE, program)["status"] in ("syntax_error", "error", "memory")


def test_after_a_failure_of_the_harness_the_judge_does_not_compile_again(long_numbers):
    assert isinstance(judge_file.compiled({"program": "x = 1", "attempt": 0}), bytes)
    assert judge_file.compiled({"program": "x = 1", "attempt": 1}) == "x = 1"


def test_call_style_finds_a_method_of_solution(pool):
    task = {"style": "call", "entry_point": "Solution.go", "tests": [{"args": [2], "output": 3}]}
    assert (
        judge(pool, task, "class Solution:\n    def go(self, x): return x + 1")["status"]
        == "passed"
    )
    assert (
        judge(pool, task, "class Solution:\n    def went(self, x): return x + 1")["status"]
        == "error"
    )


def test_stdio_style_compares_whole_outputs(pool):
    task = {
        "style": "stdio",
        "entry_point": None,
        "tests": [{"input": "3\n", "output": "1\n2\n3\n"}],
    }
    for program, status in {
        "for i in range(int(input())): print(i + 1)": "passed",
        "import sys\nsys.stdout.write('1 \\n2\\n3')": "passed",
        "import sys\nfor i in range(int(sys.stdin.buffer.readline())): "
        "sys.stdout.buffer.write(b'%d\\n' % (i + 1))": "passed",
        "if __name__ == '__main__':\n"
        "    print('1.0', '2e0', '+3', sep='\\n')\n    exit()": "passed",
        "import threading\nthreading.Timer(0.05, print, ('1\\n2\\n3',)).start()": "passed",
        "import atexit\natexit.register(print, '1\\n2\\n3')": "passed",
        "import os\nos.write(1, b'1\\n2\\n3\\n')\nos._exit(0)": "passed",
        "print(1)\nprint(2)": "failed",
        "print('1\\n2\\n3\\n4')": "failed",
        "print('1 2 3')": "failed",
        "print('1\\n2\\n3')\nraise SystemExit(2)": "passed",  # as LiveCodeBench and APPS judge
        "print('1\\n2\\n3')\nexit('done')": "passed",
        "print('1\\n2')\nexit(1)": "failed",
        "import os\nprint('1\\n2\\n3', flush=True)\nos._exit(2)": "error",
        "print('1\\n2\\n3')\nraise ValueError": "error",
        "print(": "syntax_error",
    }.items():
        assert judge(pool, task, program)["status"] == status, program


def test_stdio_style_gives_partial_credit_and_a_fresh_process_per_test(pool):
    task = {"style": "stdio", "tests": [{"input": str(i), "output": str(i * i)} for i in range(3)]}
    program = (
        "import os\nassert not os.listdir('.')\nopen('left', 'w').close()\nprint(int(input()) * 2)"
    )
    verdict = judge(pool, task, program)
    assert (verdict["status"], verdict["passed"], verdict["total"]) == ("failed", 2, 3)


def test_unittest_style_counts_test_methods(pool):
    task = {"style": "unittest", "tests": [UNITTEST]}
    right = "def f(x):\n    if isinstance(x, str): raise ValueError(x)\n    return x * x"
    for program, status, passed in (
        (right, "passed", 3),
        ("def f(x): return x * x", "error", 2),
        ("def f(x):\n    return int(x) * 2", "failed", 2),
        ("x = 1", "error", 0),
    ):
        verdict = judge(pool, task, program)
        assert (verdict["status"], verdict["passed"], verdict["total"]) == (status, passed, 3), (
            program
        )
        assert verdict["trusted"]


def test_unittest_style_with_patches_runs_inside_and_is_not_trusted(pool):
    source = """
import unittest
from unittest.mock import patch
class TestF(unittest.TestCase):
    @patch("time.time", return_value=7)
    def test_patched(self, _):
        self.assertEqual(f(1), 8)
"""
    task = {"style": "unittest", "tests": [source]}
    verdict = judge(pool, task, "import time\ndef f(x): return time.time() + x")
    assert (verdict["status"], verdict["passed"], verdict["trusted"]) == ("passed", 1, False)
    verdict = judge(pool, task, "def f(x): return x")
    assert (verdict["status"], verdict["passed"], verdict["trusted"]) == ("failed", 0, False)


def test_answer_style_compares_the_final_answer(pool):
    for text, answer, status in (
        ("so 6 * 3 = 18\n#### 18", "18", "passed"),
        ("#### 1,000", "1000", "passed"),
        ("#### $18.00.", "18", "passed"),
        (r"thus \boxed{18}", "18", "passed"),
        ("#### 17", "18", "failed"),
        ("18", "18", "failed"),
        ("#### eighteen", "eighteen", "passed"),
    ):
        assert (
            judge(pool, {"style": "answer", "tests": [{"answer": answer}]}, text)["status"]
            == status
        ), text


# bad tasks


@pytest.mark.parametrize(
    "change, field",
    [
        ({"style": "essay"}, "style"),
        ({"style": None}, "style"),
        ({"tests": []}, "tests"),
        ({"tests": None}, "tests"),
        ({"tests": ["assert f( == 1"]}, "tests[0]"),
        ({"tests": ["# nothing"]}, "tests[0]"),
        ({"tests": ["assert f(1)", 5]}, "tests[1]"),
        ({"setup": "x ="}, "setup"),
        ({"setup": 3}, "setup"),
        ({"entry_point": "f()"}, "entry_point"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": "3"}, "timeout"),
        ({"task_id": 5}, "task_id"),
        ({"style": "call"}, "tests[0]"),
        ({"style": "call", "tests": [{"args": 1, "output": 1}]}, "tests[0].args"),
        ({"style": "call", "tests": [{"args": [1]}]}, "tests[0].output"),
        ({"style": "stdio", "tests": [{"input": "x"}]}, "tests[0].output"),
        ({"style": "stdio", "tests": [{"input": "\ud800", "output": ""}]}, "tests[0].input"),
        (
            {"style": "stdio", "tests": [{"input": "", "output": "", "blank_lines": 0}]},
            "tests[0].blank_lines",
        ),
        ({"style": "answer", "tests": [{"answer": 3}]}, "tests[0].answer"),
        ({"style": "call", "tests": [{"args": [{1}], "output": 1}]}, "tests"),
        ({"style": "call", "tests": [{"args": [[0] * 4_000_000], "output": 1}]}, "tests"),
        ({"setup": "from numpy import array"}, "setup"),
        ({"tests": ["assert f(2) == 4", "def g():\n    import numpy.linalg\ng()"]}, "tests[1]"),
        ({"tests": ["from .solution import f\nassert f(2) == 4"]}, "tests[0]"),
        (
            {
                "style": "unittest",
                "tests": [
                    "import unittest\nclass T(unittest.TestCase):\n    def check(self): pass"
                ],
            },
            "tests",
        ),
    ],
)
def test_a_task_that_cannot_be_judged_is_an_error_that_names_the_field(pool, change, field):
    task = {**SQUARE, **change}
    with pytest.raises(sandbox.TaskError) as caught:
        sandbox.check_task(task)
    assert f"{field}: " in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(sandbox.TaskError):
        pool.submit(task, "def f(x): return 1")


def test_an_oversized_program_costs_its_own_verdict_alone(pool):
    programs = ["#" * (wire.MAX_MESSAGE + 1), "def f(x): return x * x"]
    long, right = pool.judge([(SQUARE, program) for program in programs])
    assert (long["status"], long["passed"]) == ("memory", 0) and "exceeds" in long["message"]
    assert right["status"] == "passed"


def test_a_test_that_passes_what_cannot_cross_is_no_pass(pool):
    task = {"style": "assert", "tests": ["assert f(object()) == 1"]}
    verdict = judge(pool, task, "def f(x): return 1")
    assert verdict["status"] == "harness_error" and "cannot cross" in verdict["message"]


# the pool


def processes() -> set[int]:
    """Living descendants of this process, zombies among them."""
    found, todo = set(), [os.getpid()]
    while todo:
        pid = todo.pop()
        for path in (
            f"/proc/{pid}/task/{task}/children" for task in os.listdir(f"/proc/{pid}/task")
        ):
            with contextlib.suppress(OSError), open(path) as file:
                children = [int(child) for child in file.read().split()]
                found.update(children)
                todo += [child for child in children if os.path.exists(f"/proc/{child}/task")]
    return found


def test_submission_returns_at_once_and_execution_overlaps(pool):
    begin = time.monotonic()
    futures = [
        pool.submit(SQUARE, "import time\ntime.sleep(0.4)\ndef f(x): return x * x")
        for _ in range(2)
    ]
    assert time.monotonic() - begin < 0.2
    time.sleep(0.6)  # the caller's own work
    assert all(future.done() for future in futures)


def test_verdicts_come_in_the_order_of_submission(pool):
    programs = [
        f"import time\ntime.sleep({0.1 if i % 2 else 0})\n"
        f"def f(x): return {'x * x' if i % 3 else 0}"
        for i in range(8)
    ]
    verdicts = pool.judge([(SQUARE, program) for program in programs])
    assert [verdict["status"] == "passed" for verdict in verdicts] == [
        bool(i % 3) for i in range(8)
    ]


def test_verdicts_are_repeatable(pool):
    program = (
        "import random\nS = {'a', 'b', 'c'}\n"
        "def f(): return [random.random(), sorted(S, key=hash), list(S)]"
    )
    task = {"style": "assert", "tests": ["assert f() == 0, f()"]}
    assert len({judge(pool, task, program)["message"] for _ in range(4)}) == 1


def kill_tree_member(pool, role):
    """Send SIGKILL to the judge, the zygote or the running candidate of the pool's only worker."""
    launcher, judge_process = (process.pid for process in pool.workers[0].processes)
    pid = judge_process
    if role != "judge":
        pid = launcher
        for _ in range(1 if role == "zygote" else 2):
            with open(f"/proc/{pid}/task/{pid}/children") as file:
                pid = int(file.read().split()[0])
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("role", ["judge", "zygote", "candidate"])
def test_a_process_killed_from_outside_is_retried(role):
    with sandbox.Sandbox(timeout=10) as pool:
        future = pool.submit(SQUARE, "import time\ntime.sleep(0.5)\ndef f(x): return x * x")
        time.sleep(0.25)
        kill_tree_member(pool, role)
        assert future.result()["status"] == "passed"

        future = pool.submit(SQUARE, "import time\ntime.sleep(60)\ndef f(x): return x * x")
        while not future.done():
            with contextlib.suppress(OSError, IndexError, ValueError):
                kill_tree_member(pool, role)
            time.sleep(0.3)
        verdict = future.result()
        # The system kills the process that takes most memory: a candidate is killed for its own.
        assert verdict["status"] == ("memory" if role == "candidate" else "harness_error")
        assert sandbox.outcome("harness_error") is None
        assert judge(pool, SQUARE, "def f(x): return x * x")["status"] == "passed"


def test_closing_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    gc.collect()  # or descriptors that earlier tests dropped may be closed in between
    before, descriptors = processes(), len(os.listdir("/proc/self/fd"))
    threads = threading.active_count()
    with sandbox.Sandbox(workers=3) as pool:
        assert judge(pool, SQUARE, "def f(x): return x * x")["status"] == "passed"
        assert len(processes() - before) >= 6
    assert processes() <= before
    assert len(os.listdir("/proc/self/fd")) == descriptors and threading.active_count() == threads
    assert not list(tmp_path.iterdir())
    with pytest.raises(RuntimeError):
        pool.submit(SQUARE, "def f(x): return 1")


def test_an_error_of_the_caller_does_not_wait_for_what_is_queued():
    begin = time.monotonic()
    with pytest.raises(KeyError), sandbox.Sandbox(timeout=1) as pool:
        futures = [pool.submit(SQUARE, "import time\ntime.sleep(0.3)") for _ in range(50)]
        raise KeyError
    assert time.monotonic() - begin < 5 and futures[-1].cancelled()


def test_processes_end_when_their_owner_is_killed(tmp_path):
    script = (
        "import sandbox, time\npool = sandbox.Sandbox(timeout=60)\n"
        "pool.submit({'task_id': 't', 'style': 'assert', 'tests': ['f()'], 'entry_point': "
        "'f'}, 'while True: pass')\n"
        "time.sleep(0.5)\n"
        "print(*[p.pid for w in pool.workers for p in w.processes], flush=True)\n"
        "time.sleep(60)"
    )
    folder = os.path.dirname(os.path.abspath(sandbox.__file__))
    owner = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    pids = [int(pid) for pid in owner.stdout.readline().split()]
    owner.kill()
    owner.communicate()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and (
        any(running(pid) for pid in pids) or list(tmp_path.iterdir())
    ):
        time.sleep(0.05)
    assert len(pids) == 2 and not any(running(pid) for pid in pids)
    assert not list(tmp_path.iterdir())


def running(pid: int) -> bool:
    """Whether a process is there and not a zombie that somebody else has to reap."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_four_times_more_workers_than_cores_change_no_verdict():
    workers = 4 * (os.cpu_count() or 1)
    with sandbox.Sandbox(workers=workers, timeout=2) as pool:
        verdicts = pool.judge([(SQUARE, LONG)] * workers)
    assert {verdict["status"] for verdict in verdicts} == {"passed"}


SOAK = [  # programs that hang, crash or bomb
    "def f(x):\n    while True: pass",
    "import time\ndef f(x): time.sleep(100)",
    "import os\ndef f(x): os._exit(3)",
    "import ctypes\ndef f(x): ctypes.string_at(0)",
    "def f(x):\n    y = []\n    while True: y.append(bytearray(1 << 24))",
    "import threading, time\ndef f(x):\n"
    "    while True: threading.Thread(target=time.sleep, args=(9,)).start()",
    "import os\ndef f(x):\n"
    "    for i in range(200): open(f'file{i}', 'w').write('x' * 1000)\n"
    "    os.makedirs('a/b/c')\n    os._exit(1)",
    "def f(x): return 'x' * (33 << 20)",
    "import os\ndef f(x): return [os.open('/dev/null', 0) for _ in range(1000)]",
    "import sys\nsys.setrecursionlimit(1 << 30)\ndef f(x): return f(x)",
]


def resident(pids) -> int:
    """Resident memory of the processes, in bytes."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/statm") as file:
            total += int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return total


def soak(count: int, monkeypatch, folder):
    """Judge many programs, one in twenty of them bad; check that nothing is left over or grows."""
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    gc.collect()  # or descriptors that earlier tests dropped may be closed in between
    before, descriptors = processes(), len(os.listdir("/proc/self/fd"))
    with sandbox.Sandbox(workers=2, timeout=1, memory_mb=256) as pool:
        good, wrong = "def f(x):\n    return x * x", "def f(x):\n    return 0"
        pool.judge([(SQUARE, good)] * 100)
        mine = {pid for pid in processes() - before if running(pid)}
        size = resident(mine)
        bad = iter(range(count))
        programs = [
            SOAK[next(bad) % len(SOAK)] if i % 20 == 10 else (good, wrong)[i % 2]
            for i in range(count)
        ]
        verdicts = pool.judge([(SQUARE, program) for program in programs])
        for program, verdict in zip(programs, verdicts, strict=True):
            expected = {good: ("passed",), wrong: ("failed",)}.get(
                program, ("error", "timeout", "memory")
            )
            assert verdict["status"] in expected, (program, verdict)
        now = processes() - before
        assert len(now) == len(mine), "a process or a zombie is left over"
        assert resident(now) < size + (32 << 20)
        for path in folder.iterdir():
            assert sorted(item.name for item in path.rglob("*")) == [
                "canary",
                "packages",
                "scratch",
            ]
        launchers = [worker.processes[0].pid for worker in pool.workers]
        assert all(len(os.listdir(f"/proc/{pid}/fd")) <= 8 for pid in (*launchers, *now))
    assert processes() <= before and len(os.listdir("/proc/self/fd")) <= descriptors
    assert not list(folder.iterdir())


@pytest.mark.slow
def test_bad_programs_leave_no_process_descriptor_file_or_memory(monkeypatch, tmp_path):
    soak(int(os.environ.get("SANDBOX_SOAK", 200)), monkeypatch, tmp_path)


# isolation


def refusing(*numbers):
    """A preexec function: the kernel refuses system calls in a child, as in many containers."""
    kernel = syscalls.Kernel()
    out = syscalls.Assembler()
    out.load(0)
    for number in numbers:
        out.when_equal(number, lambda: out.give(syscalls.RETURN_ERRNO | syscalls.EPERM))
    out.give(syscalls.RETURN_ALLOW)
    install = kernel.filter_installer(out.code)

    def prepare():
        kernel.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        assert install() == 0

    return prepare


def command(folder, *arguments, prepare=None):
    script = os.path.abspath(sandbox.__file__)
    return subprocess.run(
        [sys.executable, script, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        preexec_fn=prepare,
    )


LANDLOCK, UNSHARE = 444, {"x86_64": 272, "aarch64": 97}


def test_isolation_is_refused_where_layers_are_missing(tmp_path):
    (tmp_path / "T").write_text(json.dumps(SQUARE))
    (tmp_path / "S").write_text(
        json.dumps({"task_id": "square", "solution": "def f(x): return x * x"})
    )
    run = ("run", "--tasks", "T", "--samples", "S", "--out", "V", "--workers", "1")
    unshare = UNSHARE[os.uname().machine]

    def attempt(isolation, *numbers):
        return command(tmp_path, *run, "--isolation", isolation, prepare=refusing(*numbers))

    assert attempt("strict").returncode == 0
    result = attempt("strict", unshare)
    assert (
        result.returncode == 2
        and "user namespace (" in result.stderr
        and len(result.stderr.splitlines()) == 1
    )
    result = attempt("auto", unshare)
    assert result.returncode == 0 and "user namespace (" in result.stderr
    result = attempt("auto", LANDLOCK)
    assert result.returncode == 0 and "landlock (" in result.stderr
    (tmp_path / "V").unlink()
    result = attempt("auto", unshare, LANDLOCK)
    assert (
        result.returncode == 2 and "landlock (" in result.stderr and not (tmp_path / "V").exists()
    )
    result = attempt("none", unshare, LANDLOCK)
    assert result.returncode == 0 and json.loads((tmp_path / "V").read_text())["status"] == "passed"


def test_probe_lists_each_layer_as_proved_or_absent(tmp_path):
    result = command(tmp_path, "probe")
    assert result.returncode == 0
    assert [line.split(":")[0].split() for line in result.stdout.splitlines()[:-1]] == [
        [*name.split(), "proved"] for name in seal.LAYERS
    ]
    result = command(tmp_path, "probe", prepare=refusing(LANDLOCK))
    assert (
        "landlock           absent: " in result.stdout and "containment complete" in result.stdout
    )


# the command line


def test_run_writes_rows_with_verdicts_and_prints_counts(tmp_path):
    (tmp_path / "T").write_text(json.dumps(SQUARE) + "\n")
    rows = [
        {
            "task_id": "square",
            "sample": 0,
            "completion": "no program",
            "solution": "def f(x): return x * x",
        },
        {"task_id": "square", "sample": 1, "completion": "def f(x): return x * x"},
        {"task_id": "square", "sample": 2, "completion": "def f(x): return x"},
    ]
    (tmp_path / "S").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = command(
        tmp_path,
        "run",
        "--tasks",
        "T",
        "--samples",
        "S",
        "--out",
        "V",
        "--workers",
        "2",
        "--timeout",
        "1",
        "--memory_mb",
        "256",
    )
    assert result.returncode == 0, result.stderr
    written = [json.loads(line) for line in (tmp_path / "V").read_text().splitlines()]
    assert [
        {key: row[key] for key in given} for row, given in zip(written, rows, strict=True)
    ] == rows
    assert [row["status"] for row in written] == ["passed", "passed", "failed"]
    assert result.stdout.split() == [
        "passed",
        "2",
        "failed",
        "1",
        "passed",
        "2",
        "of",
        "3",
        "judged",
        "(66.7%)",
    ]
    assert "3/3" in result.stderr and sorted(path.name for path in tmp_path.iterdir()) == [
        "S",
        "T",
        "V",
    ]


@pytest.mark.parametrize(
    "tasks, samples, words",
    [
        ("{", "", "T:1: not JSON"),
        (json.dumps({**SQUARE, "style": "x"}), "", "T:1: task square: style"),
        (json.dumps(SQUARE) + "\n" + json.dumps(SQUARE), "", "T:2: task_id"),
        (json.dumps(SQUARE), "\n[]", "S:2: not an object"),
        (json.dumps(SQUARE), json.dumps({"task_id": "other", "solution": ""}), "S:1: task_id"),
        (json.dumps(SQUARE), json.dumps({"task_id": "square", "solution": 5}), "S:1: solution"),
        (json.dumps(SQUARE), json.dumps({"task_id": "square"}), "S:1: completion"),
        (None, "", "T: "),
    ],
)
def test_a_bad_line_is_one_line_that_names_the_place(tmp_path, tasks, samples, words):
    if tasks is not None:
        (tmp_path / "T").write_text(tasks)
    (tmp_path / "S").write_text(samples)
    result = command(tmp_path, "run", "--tasks", "T", "--samples", "S", "--out", "V")
    assert (
        result.returncode == 2 and words in result.stderr and len(result.stderr.splitlines()) == 1
    )
    assert not (tmp_path / "V").exists()


# references of the public benchmarks


def called_name(program: str, tests: list[str]) -> str:
    """The function or class of the program that the tests call."""
    defined = [
        node.name
        for node in ast.parse(program).body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    ]
    calls = [
        node.func
        for test in tests
        for node in ast.walk(ast.parse(test))
        if isinstance(node, ast.Call)
    ]
    return next(call.id for call in calls if isinstance(call, ast.Name) and call.id in defined)


def assert_task(task_id, setup, tests, entry_point):
    return {
        "task_id": str(task_id),
        "style": "assert",
        "setup": setup,
        "tests": tests,
        "entry_point": entry_point,
        "timeout": 10,
    }


def mbpp(folder):
    for line in (folder / "mbpp/mbpp.jsonl").read_text().splitlines():
        row = json.loads(line)
        entry_point = called_name(row["code"], row["test_list"])
        yield (
            assert_task(row["task_id"], row["test_setup_code"], row["test_list"], entry_point),
            row["code"],
        )


def sanitized_mbpp(folder):
    for row in json.loads((folder / "mbpp/sanitized-mbpp.json").read_text()):
        entry_point = called_name(row["code"], row["test_list"])
        yield (
            assert_task(
                row["task_id"], "\n".join(row["test_imports"]), row["test_list"], entry_point
            ),
            row["code"],
        )


def humaneval(folder):
    with gzip.open(folder / "humaneval/HumanEval.jsonl.gz", "rt") as file:
        for line in file:
            row = json.loads(line)
            name = row["entry_point"]
            test = f"{row['test']}\ncheck({name})\n"
            setup = sandbox.prompt_helpers(row["prompt"], name)
            yield (
                assert_task(row["task_id"], setup, [test], name),
                row["prompt"] + row["canonical_solution"],
            )


def statuses(pairs):
    with sandbox.Sandbox(workers=2, timeout=10) as pool:
        return [verdict["status"] for verdict in pool.judge(pairs)]


@pytest.mark.slow
@pytest.mark.parametrize("source, count", [(mbpp, 974), (sanitized_mbpp, 427), (humaneval, 164)])
def test_every_reference_program_passes(benchmark_data, source, count):
    pairs = list(source(benchmark_data))
    failed = [
        task["task_id"]
        for (task, _), status in zip(pairs, statuses(pairs), strict=True)
        if status != "passed"
    ]
    assert len(pairs) == count and not failed


WRONG_BODIES = {
    "nothing": "    pass\n",
    "an exception": "    raise NotImplementedError\n",
    "an object that equals everything": "    return Equal()\n",
    "an exit": "    import os\n    os._exit(0)\n",
}
EQUAL = """
class Equal:
    __eq__ = __le__ = __ge__ = __lt__ = __gt__ = __contains__ = lambda self, other: True
    __sub__ = __rsub__ = __abs__ = __hash__ = __len__ = __ne__ = lambda *arguments: 0
"""


@pytest.mark.slow
@pytest.mark.parametrize("source", [humaneval, mbpp])
def test_no_wrong_body_of_a_reference_passes(benchmark_data, source):
    pairs, names = [], []
    for task, _ in source(benchmark_data):
        for name, body in WRONG_BODIES.items():
            pairs.append(
                (task, f"{EQUAL}\ndef {task['entry_point']}(*arguments, **keywords):\n{body}")
            )
            names.append((task["task_id"], name))
    passed = [
        name
        for name, status in zip(names, statuses(pairs), strict=True)
        if status in ("passed", "harness_error")
    ]
    assert not passed


def test_helpers_of_a_prompt_cannot_be_redefined(benchmark_data):
    tasks = {task["task_id"]: (task, program) for task, program in humaneval(benchmark_data)}
    for number, helper in ((32, "poly"), (38, "encode_cyclic"), (50, "encode_shift")):
        task, program = tasks[f"HumanEval/{number}"]
        name = task["entry_point"]
        assert helper in task["setup"] and f"def {name}" not in task["setup"]
        cheat = (
            f"def {helper}(*a): return a[-1] if isinstance(a[-1], str) else 0.0\n"
            f"def {name}(x): return 0.0 if {number} == 32 else x"
        )
        assert statuses([(task, program), (task, cheat)]) == ["passed", "failed"]


TYPED = "def f(xs: List[int]) -> int:\n    return helper(sum(xs))\n"
PREAMBLE = "from typing import *\n\n\ndef helper(x):\n    return x + 1\n"


@pytest.mark.parametrize(
    ("program", "output"),
    [
        (TYPED, 4),
        ("def helper(x):\n    return -x\n\n\n" + TYPED, -3),  # its own name stands
        ("from __future__ import annotations\n" + TYPED, 4),
    ],
)
def test_a_preamble_gives_what_a_program_does_not_define_itself(pool, program, output):
    task = {
        "task_id": "t",
        "style": "call",
        "entry_point": "f",
        "tests": [{"args": [[1, 2]], "output": output}],
    }
    assert pool.submit({**task, "preamble": PREAMBLE}, program).result()["status"] == "passed"
    if "helper(x)" not in program.replace("helper(sum", ""):
        assert pool.submit(task, program).result()["status"] == "error"


def test_lines_are_counted_without_the_preamble(pool):
    task = {
        "task_id": "t",
        "style": "assert",
        "entry_point": "f",
        "tests": ["assert f() == 1"],
        "preamble": PREAMBLE,
    }
    verdict = pool.submit(task, "def f():\n    return 1 // 0\n").result()
    assert verdict["status"] == "error" and verdict["line"] == 2


def test_a_program_that_reads_stdin_has_the_preamble_too(pool):
    task = {
        "task_id": "t",
        "style": "stdio",
        "tests": [{"input": "4\n", "output": "5\n"}],
        "preamble": PREAMBLE,
    }
    assert pool.submit(task, "print(helper(int(input())))\n").result()["status"] == "passed"
    wrong = {**task, "preamble": "import ("}
    with pytest.raises(sandbox.TaskError, match="preamble: does not compile"):
        pool.submit(wrong, "print(5)\n")


# what a program's exceptions do to the tests' own control flow


@pytest.mark.parametrize("name", ["StopIteration", "StopAsyncIteration"])
def test_a_program_ends_no_loop_of_a_test(pool, name):
    tests = ["assert all(map(lambda p: f(p[0]) == p[1], [(1, 2), (2, 3)]))"]
    verdict = judge(pool, {"style": "assert", "tests": tests}, f"def f(x): raise {name}('x')")
    assert (verdict["status"], verdict["line"]) == ("error", 1), verdict
    assert verdict["message"] == f"{name}: x"


def test_a_test_that_steps_an_iterator_or_names_stop_iteration_gets_it(pool):
    program = "def f(x): yield from x\ndef g(): raise StopIteration"
    for test in (
        "assert list(f([1, 2])) == [1, 2]",
        "it = f([1])\nassert (next(it), next(it, None)) == (1, None)",
        "try:\n    f([]).send(None)\nexcept StopIteration:\n    pass",
    ):
        verdict = judge(pool, {"style": "assert", "tests": [test]}, program)
        assert verdict["status"] == "passed", (test, verdict["message"])


@pytest.mark.parametrize("end", ["sys.exit(3)", "quit()", "raise KeyboardInterrupt", "leave()"])
def test_no_test_takes_an_exit_for_the_exception_that_it_expects(pool, end):
    program = (
        "import sys, unittest\ndef leave(): raise unittest.SkipTest\n"
        f"def f(x):\n    if x < 0: {end}\n    return x"
    )
    case = (
        "import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n"
        "        with self.assertRaises(Exception):\n            f(-1)\n"
    )
    caught = "assert f(1) == 1\ntry:\n    f(-1)\n    assert 0\nexcept Exception:\n    pass"
    for task in ({"style": "unittest", "tests": [case]}, {"style": "assert", "tests": [caught]}):
        assert judge(pool, task, program)["status"] == "error", task
        honest = program.replace(f": {end}", ": raise ValueError")
        assert judge(pool, task, honest)["status"] == "passed", task


# which test methods count

METHODS = """
import unittest
class Base(unittest.TestCase):
    def test_base(self): self.assertEqual(f(1), 2)
class T(Base):
    @unittest.skip("not yet")
    def test_skipped(self): self.fail()
    @unittest.expectedFailure
    def test_expected(self): self.assertEqual(f(2), 4)
class Inherits(Base):
    pass
@unittest.skipIf(True, "whole")
class Skipped(unittest.TestCase):
    def test_a(self): self.fail()
"""


@pytest.mark.parametrize("inside", [False, True])
def test_inherited_methods_count_skipped_ones_do_not_expected_failures_pass(pool, inside):
    task = {"style": "unittest", "tests": [{"code": METHODS} if inside else METHODS]}
    for program, status, passed in (
        ("def f(x): return x + 1", "passed", 4),
        ("def f(x): return x * 2", "failed", 3),
        ("def f(x): return 3", "failed", 1),
    ):
        verdict = judge(pool, task, program)
        assert (verdict["status"], verdict["passed"], verdict["total"]) == (status, passed, 4), (
            program,
            verdict,
        )


@pytest.mark.parametrize("inside", [False, True])
def test_an_expected_failure_is_not_the_end_of_the_program_and_skips_alone_pass_nothing(
    pool, inside
):
    for source, program in (
        (METHODS, "import os\ndef f(x): return x + 1 if x == 1 else os._exit(0)"),
        (METHODS.replace("@unittest.expectedFailure", "@unittest.skip('')"), "def f(x): return 3"),
        (
            "import unittest\nclass T(unittest.TestCase):\n    @unittest.skip('')\n"
            "    def test_a(self): f()",
            "def f(): pass",
        ),
        (
            "import unittest\nclass T(unittest.TestCase):\n"
            "    def test_a(self):\n        f()\n        self.skipTest('')",
            "def f(): pass",
        ),
    ):
        task = {"style": "unittest", "tests": [{"code": source} if inside else source]}
        verdict = judge(pool, task, program)
        assert verdict["status"] in ("failed", "error"), source
        if "os._exit" in program:
            assert verdict["passed"] == (0 if inside else 2), verdict
