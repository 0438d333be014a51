"""Rules by which official graders judge: packages, unittest in one namespace, numbers, answers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import sandbox
from jail import tasks as tasks_file

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def pool():
    with sandbox.Sandbox(packages=["numpy"]) as pool:
        yield pool


@pytest.fixture(scope="module")
def plain_pool():
    with sandbox.Sandbox() as pool:
        yield pool


def judge(pool, task, program):
    return pool.submit({"task_id": "t", "entry_point": "f", **task}, program).result()


# tasks: checked, compiled and sent once; what tests keep


def test_a_task_is_read_once_however_many_programs_it_has(plain_pool, monkeypatch):
    seen = []
    monkeypatch.setattr(sandbox, "to_json", lambda value: seen.append(1) or json.dumps(value))
    tasks_file.compile_sources.cache_clear()
    task = {"task_id": "once", "style": "assert", "entry_point": "f", "tests": ["assert f(1) == 1"]}
    sandbox.check_task(task)
    for _ in range(5):
        assert plain_pool.submit(task, "def f(x): return x").result()["status"] == "passed"
    assert len(seen) == 1
    # The setup, the preamble and the tests are compiled at the first check alone.
    assert tasks_file.compile_sources.cache_info().misses == 3


def test_a_task_whose_parts_were_replaced_is_another_task(plain_pool):
    task = {"task_id": "t", "style": "assert", "entry_point": "f", "tests": ["assert f(1) == 1"]}
    assert plain_pool.submit(task, "def f(x): return x").result()["status"] == "passed"
    task["tests"][0] = "assert f(1) == 2"
    assert plain_pool.submit(task, "def f(x): return x").result()["status"] == "failed"
    task["setup"] = "def f(x): return 2"
    assert plain_pool.submit(task, "def f(x): return x").result()["message"] != ""


def test_a_judge_that_forgot_a_task_is_sent_it_again(monkeypatch):
    monkeypatch.setattr("jail.worker.MAX_TASKS", 2)
    rows = [{"style": "assert", "tests": [f"assert f({n}) == {n}"]} for n in range(5)]
    with sandbox.Sandbox() as pool:
        processes = pool.workers[0].processes
        for row in rows + rows:
            assert judge(pool, row, "def f(x): return x")["status"] == "passed"
        assert pool.workers[0].processes is processes  # no failure of the harness on the way


KEPT = """
def reference(x):
    __memory__["calls"] = __memory__.get("calls", 0) + 1
    return x * x
def agrees(f, x):
    if "expected" not in __memory__:
        __memory__["expected"] = reference(x)
    assert f(x) == __memory__["expected"], __memory__["calls"]
    return True
"""


def test_what_a_test_keeps_outlives_a_program_and_is_its_own(plain_pool):
    tests = [f"assert agrees(f, {n})" for n in (2, 3)]
    task = {"style": "assert", "setup": KEPT, "tests": tests}
    for _ in range(3):
        assert judge(plain_pool, task, "def f(x): return x * x")["status"] == "passed"
    verdict = judge(plain_pool, task, "def f(x): return -1")
    assert verdict["status"] == "failed" and verdict["message"].startswith("AssertionError: 1 ")


def test_a_program_does_not_reach_what_tests_keep(plain_pool):
    program = "class M(dict):\n    def get(self, *a): return 1\n__memory__ = {'expected': 7}\n"
    program += "def f(x):\n    __memory__['expected'] = 7\n    return 7"
    task = {"style": "assert", "setup": KEPT, "tests": ["assert agrees(f, 5)"]}
    assert judge(plain_pool, task, program)["status"] == "failed"


@pytest.mark.parametrize(
    "task",
    [
        {"style": "assert", "tests": ["assert f(0) == 0", "assert f(1) == 0", "assert f(2) == 2"]},
        {"style": "call", "tests": [{"args": [n], "output": n and n - n % 2} for n in range(3)]},
        {
            "style": "unittest",
            "tests": [
                "import unittest\nclass T(unittest.TestCase):\n"
                "    def test_a(self): self.assertEqual(f(0), 0)\n"
                "    def test_b(self): self.assertEqual(f(1), 0)\n"
                "    def test_c(self): self.assertEqual(f(2), 2)\n"
            ],
        },
    ],
    ids=lambda task: task["style"],
)
def test_fail_fast_ends_a_program_at_its_first_failing_test(task):
    for fail_fast, passed in ((False, 2), (True, 1)):
        with sandbox.Sandbox(fail_fast=fail_fast) as pool:
            verdict = judge(pool, task, "def f(x): return x")
            assert (verdict["status"], verdict["passed"]) == ("failed", passed)


def test_fail_fast_ends_a_program_that_reads_stdin_too():
    task = {"style": "stdio", "tests": [{"input": f"{n}", "output": f"{n % 2}"} for n in range(4)]}
    with sandbox.Sandbox(fail_fast=True) as pool:
        assert judge(pool, task, "print(input())")["passed"] == 2


# packages


def test_a_package_on_request_can_be_imported_and_nothing_beside_it(pool, plain_pool):
    program = "import numpy as np\ndef f(x): return int(np.arange(x + 1).sum())"
    task = {"style": "assert", "tests": ["assert f(3) == 6"]}
    assert judge(pool, task, program)["status"] == "passed"
    verdict = judge(plain_pool, task, program)
    assert verdict["status"] == "error" and sandbox.missing_package(verdict) == "numpy"
    verdict = judge(pool, task, "import torch\ndef f(x): return 6")
    assert sandbox.missing_package(verdict) == "torch"
    verdict = judge(pool, task, "import no_such.module")
    assert sandbox.missing_package(verdict) == "no_such"
    assert sandbox.missing_package(judge(pool, task, "def f(x): return 1")) is None


def test_a_package_lies_in_the_reach_of_programs_without_a_mount_namespace(monkeypatch):
    from jail import seal

    source = Path(seal.__file__).read_text()
    cut = source.replace("        if self.namespaces:\n", "        if False:\n", 1)
    assert cut != source
    code = compile(cut, "<jail/seal.py>", "exec", dont_inherit=True)
    from jail import worker

    worker.role_code.cache_clear()
    original = compile

    def compile_cut(text, name, *rest, **options):
        return code if name == "<jail/seal.py>" else original(text, name, *rest, **options)

    monkeypatch.setattr("builtins.compile", compile_cut)
    try:
        with sandbox.Sandbox(packages=["numpy"], isolation="none") as pool:
            assert pool.layers["mount namespace"] and not pool.layers["landlock"]
            program = "import numpy\ndef f(x): return numpy.array([x]).tolist()"
            assert judge(pool, {"style": "assert", "tests": ["assert f(3) == [3]"]}, program)[
                "status"
            ] == ("passed")
            program = "import os\ndef f(x): os.chmod(os.getcwd(), 0o777)"
            verdict = judge(pool, {"style": "assert", "tests": ["f(3)"]}, program)
            assert "Operation not permitted" in verdict["message"]
    finally:
        worker.role_code.cache_clear()


def test_numbers_of_numpy_cross_as_numbers_and_its_arrays_equal_nothing(pool):
    task = {"style": "assert", "tests": ["assert f(3) == 6"]}
    for result, status in (
        ("np.int64(6)", "passed"),
        ("np.float32(6)", "passed"),
        ("np.int64(5)", "failed"),
        ("np.array([6])", "failed"),
    ):
        program = f"import numpy as np\ndef f(x): return {result}"
        assert judge(pool, task, program)["status"] == status, result


def test_a_package_that_is_not_there_is_named():
    with pytest.raises(sandbox.SandboxError, match="packages: nosuchpackage is not installed"):
        sandbox.Sandbox(packages=["nosuchpackage"])
    task = {"task_id": "a", "style": "assert", "tests": ["assert 1"], "packages": ["numpy"]}
    with sandbox.Sandbox() as pool, pytest.raises(sandbox.TaskError, match="packages: numpy"):
        pool.submit(task, "")
    with pytest.raises(sandbox.TaskError, match="packages"):
        sandbox.check_task({**task, "packages": "numpy"})


def test_run_counts_the_samples_that_fail_for_want_of_a_package(tmp_path):
    square = {"style": "assert", "entry_point": "f", "tests": ["assert f(2) == 4"]}
    rows = [
        {"task_id": "a", **square},
        {"task_id": "b", **square, "packages": ["nosuchpackage"]},
    ]
    program = "import numpy\ndef f(x): return x * x"
    (tmp_path / "T").write_text("".join(json.dumps(row) + "\n" for row in rows))
    samples = [{"task_id": row["task_id"], "solution": program} for row in rows]
    (tmp_path / "S").write_text("".join(json.dumps(row) + "\n" for row in samples))
    command = [sys.executable, "sandbox.py", "run", "--tasks", tmp_path / "T", "--samples"]
    command += [tmp_path / "S", "--out", tmp_path / "V", "--workers", "1"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "nosuchpackage is not installed: 1 tasks are left out: b\n" in result.stdout
    assert "1 samples failed for want of numpy\n" in result.stdout
    assert result.stdout.endswith("passed 0 of 1 judged (0.0%)\n")
    command += ["--packages", "numpy"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.endswith("passed 1 of 1 judged (100.0%)\n")


# unittest in the program's namespace

MODULE = """
import unittest, random, sqlite3, socket
import numpy as np
from unittest.mock import patch
class TestCases(unittest.TestCase):
    def test_one(self):
        {body}
"""
SHARED = {
    "the seed of random": (
        "random.seed(5); x = random.random(); random.seed(5); self.assertEqual(f(), x)",
        "import random\ndef f(): return random.random()",
    ),
    "the seed of numpy": (
        "np.random.seed(5); x = np.random.rand(); np.random.seed(5); self.assertEqual(f(), x)",
        "import numpy\ndef f(): return numpy.random.rand()",
    ),
    "an array": (
        "np.testing.assert_allclose(f(np.ones(3)), [2, 2, 2])",
        "def f(x): return x + 1",
    ),
    "a generator": ("self.assertEqual(next(f(x for x in 'ab')), 'a')", "def f(x): yield from x"),
    "a connection of sqlite": (
        "self.assertEqual(f(sqlite3.connect(':memory:')).fetchone(), (1,))",
        "def f(c): return c.execute('select 1')",
    ),
    "a pair of sockets": (
        "a, b = socket.socketpair(); f(a); b.settimeout(1); self.assertEqual(b.recv(9), b'x')",
        "def f(s): s.sendall(b'x')",
    ),
    "a mocked socket": (
        "with patch('socket.socket') as s: f(); s.return_value.connect.assert_called_once()",
        "import socket\ndef f(): socket.socket().connect(('10.0.0.1', 80))",
    ),
    "a name of the program's module": (
        "with patch('__test__.g', return_value=7): self.assertEqual(f(), 7)",
        "def g(): return 1\ndef f(): return g()",
    ),
    "copied files": (
        "open('a', 'w').write('x'); f(); self.assertEqual(sorted(__import__('os').listdir('.')), "
        "['a', 'b', 'c', 'd'])",
        "import shutil\ndef f():\n    shutil.copy('a', 'b')\n    shutil.copy2('a', 'c')\n"
        "    shutil.copytree('.', '/tmp/d', ignore=lambda *a: 'd')",
    ),
}


@pytest.mark.parametrize("body, program", SHARED.values(), ids=SHARED)
def test_program_and_tests_share_a_process_where_a_task_asks_for_it(pool, body, program):
    task = {"style": "unittest", "tests": [{"code": MODULE.format(body=body)}]}
    verdict = judge(pool, task, program)
    assert (verdict["status"], verdict["trusted"]) == ("passed", False), verdict["message"]
    verdict = judge(pool, task, "def f(*a): return None")
    assert verdict["status"] in ("failed", "error") and verdict["passed"] == 0
    assert verdict["message"]


@pytest.mark.parametrize(
    "program, words",
    [
        ("import sys\ndef f(): sys.exit(0)", "SystemExit"),
        ("import os\ndef f(): os._exit(0)", "ended its process"),
        ("import socket\ndef f(): socket.socket()", "PermissionError"),
        ("import unittest\ndef f(): raise unittest.SkipTest", "0 of 1"),
        ("def f(: pass", "SyntaxError"),
    ],
)
def test_what_ends_or_leaves_the_process_is_no_pass_and_no_fault_of_the_harness(
    pool, program, words
):
    task = {"style": "unittest", "tests": [{"code": MODULE.format(body="f()")}]}
    verdict = judge(pool, task, program)
    assert verdict["status"] in ("failed", "error", "syntax_error")
    assert verdict["passed"] == 0 and words in verdict["message"]


def test_a_test_method_that_hides_another_counts_once(pool):
    code = MODULE.format(body="self.assertEqual(f(), 0)") + "    def test_one(self): f()\n"
    verdict = judge(pool, {"style": "unittest", "tests": [{"code": code}]}, "def f(): return 1")
    assert (verdict["status"], verdict["passed"], verdict["total"]) == ("passed", 1, 1)


# the scratch folder


def test_modes_can_be_changed_in_the_scratch_folder_and_nowhere_else(plain_pool):
    body = """
import os
def f(path):
    os.makedirs('x/y/z')
    for name in ('x/y/z/w', 'a'):
        open(name, 'w').close()
    os.chmod('a', 0o640)
    assert os.stat('a').st_mode & 0o777 == 0o640
    for name in ('x/y/z', 'x/y', 'x', '.'):
        os.chmod(name, 0)
"""
    tests = [{"args": [path], "output": None} for path in ("/tmp",)]
    task = {"style": "call", "tests": tests}
    assert judge(plain_pool, task, body)["status"] == "passed"
    clean = "import os\ndef f(path):\n    assert not os.listdir('.')\n    os.mkdir('new')"
    assert judge(plain_pool, task, clean)["status"] == "passed"
    for path in ("/", "/dev/null", "/packages", json.__file__):
        change = "import os\ndef f(path): os.chmod(path, 0o777)"
        verdict = judge(
            plain_pool, {"style": "call", "tests": [{"args": [path], "output": None}]}, change
        )
        assert verdict["status"] == "error" and "Read-only" in verdict["message"], path


def test_an_open_descriptor_leads_to_no_file_outside(plain_pool):
    program = """
import os
def f():
    changed = []
    for descriptor in (0, 1, 2):
        for change in (lambda n: os.fchmod(n, 0o666), os.utime):
            try:
                change(descriptor)
                changed.append(descriptor)
            except OSError: pass
    return changed
"""
    task = {"style": "call", "tests": [{"args": [], "output": []}]}
    assert judge(plain_pool, task, program)["status"] == "passed"


# values


def test_subclasses_of_dict_are_compared_as_json_writes_them(plain_pool):
    task = {"style": "call", "tests": [{"args": [], "output": {"1": [2], "b": 1}}]}
    for expression in (
        "collections.Counter({1: [2], 'b': 1})",
        "collections.OrderedDict([(1, (2,)), ('b', 1)])",
        "collections.defaultdict(list, {1: [2], 'b': 1})",
        "D({1: [2], 'b': 1})",
    ):
        program = f"import collections\nclass D(dict): pass\ndef f(): return {expression}"
        assert judge(plain_pool, task, program)["status"] == "passed", expression


@pytest.mark.parametrize("depth", [10, 400, 900])
def test_results_may_be_nested_up_to_the_limit_of_cpython(plain_pool, depth):
    program = f"def f(n):\n    x = [n]\n    for _ in range({depth}): x = [x]\n    return x"
    expected = f"x = [7]\nfor _ in range({depth}): x = [x]\nassert f(7) == x"
    for tests, status in (([expected], "passed"), ([expected.replace("[7]", "[8]")], "failed")):
        verdict = judge(plain_pool, {"style": "assert", "tests": tests}, program)
        assert verdict["status"] == status, verdict


@pytest.mark.parametrize("depth", [10, 260, 900])
def test_arguments_may_be_nested_as_deep_as_results(plain_pool, depth):
    test = f"x = [7]\nfor _ in range({depth}): x = [x]\nassert f(x) == {depth} and x[-1] == 5"
    program = (
        "import sys\ndef f(x):\n    x.append(5)\n    n = -1\n"
        "    while type(x) is list: x, n = x[0], n + 1\n"
        "    return n if sys.getrecursionlimit() == 1000 else 0"
    )
    verdict = judge(plain_pool, {"style": "assert", "tests": [test]}, program)
    assert verdict["status"] == "passed", verdict


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan"), 1e300, 1e9, True, "3"])
@pytest.mark.parametrize("field", ["timeout", "test_timeout"])
def test_a_limit_that_no_system_takes_is_refused(field, seconds):
    test = {"args": [1], "output": 1}
    task = {"task_id": "t", "style": "call", "entry_point": "f", "tests": [test], field: seconds}
    with pytest.raises(sandbox.TaskError, match=f"task t: {field}: .* is not a number of seconds"):
        sandbox.check_task(task)


@pytest.mark.parametrize(
    "limit",
    [
        {"workers": 0},
        {"timeout": 0},
        {"timeout": float("inf")},
        {"memory_mb": 10},
        {"memory_mb": 1 << 40},
    ],
)
def test_a_sandbox_with_such_a_limit_does_not_start(limit):
    with pytest.raises(sandbox.SandboxError, match=f"^{next(iter(limit))}: "):
        sandbox.Sandbox(**limit)


@pytest.mark.parametrize(
    "flag, value",
    [("timeout", "inf"), ("timeout", "nan"), ("timeout", "1e300"), ("memory_mb", "1" + "0" * 14)],
)
def test_the_command_line_refuses_such_a_limit_in_one_line(tmp_path, flag, value):
    test = {"task_id": "t", "style": "answer", "tests": [{"answer": "1"}]}
    (tmp_path / "t.jsonl").write_text(json.dumps(test))
    (tmp_path / "s.jsonl").write_text('{"task_id": "t", "solution": "#### 1"}')
    files = [f"--{name}={tmp_path / name[0]}.jsonl" for name in ("tasks", "samples", "out")]
    commands = [["run", *files], ["probe"]] if flag == "memory_mb" else [["run", *files]]
    for command in commands:
        run = [sys.executable, sandbox.__file__, *command, f"--{flag}={value}"]
        done = subprocess.run(run, capture_output=True, text=True, timeout=60)
        lines = done.stderr.splitlines()
        assert done.returncode == 2 and len(lines) == 1, done.stderr
        assert lines[0].startswith(f"sandbox.py: {flag}: "), lines
    assert not (tmp_path / "o.jsonl").exists()


def test_a_result_beyond_every_limit_is_an_error_of_the_program(plain_pool):
    program = "def f(n):\n    x = [n]\n    for _ in range(10 ** 6): x = [x]\n    return x"
    verdict = judge(plain_pool, {"style": "assert", "tests": ["assert f(7) == 1"]}, program)
    assert verdict["status"] in ("error", "failed")
    same = judge(
        plain_pool, {"style": "assert", "tests": ["assert f(7) == 7"]}, "def f(n):return n"
    )
    assert same["status"] == "passed"


@pytest.mark.parametrize("depth", [900, 1950, 3900, 100_000])
@pytest.mark.parametrize("brackets", [("[", "]"), ('["l",', "]"), ('["t",', "]"), ('["d",1,', "]")])
def test_a_message_nested_by_hand_does_not_end_the_judge(plain_pool, depth, brackets):
    left, right = brackets
    program = f"""
import os, socket, struct
for n in range(3, 64):
    try:
        if socket.socket(fileno=os.dup(n)).family == socket.AF_UNIX: break
    except OSError: pass
body = ('["ok",' + {left!r} * {depth} + '1' + {right!r} * {depth} + ',null]').encode()
def f(x):
    os.write(n, struct.pack('>I', len(body)) + body)
    import time; time.sleep(0.2)
    os._exit(0)
"""
    tests = ["x = f(7)\ny = x == x, repr(x), x == [x], str(x)\nassert x == 7"]
    verdict = judge(plain_pool, {"style": "assert", "tests": tests}, program)
    assert verdict["status"] in ("error", "failed"), verdict
    assert "ended its process" not in verdict["message"]


def test_long_lists_of_numbers_keep_their_types(plain_pool):
    program = "def f(): return [1, 2.0, 2**63, float('inf'), -0.0, True, None] * 3"
    test = (
        "import math\nx = f()\nassert [type(v) for v in x[:7]] == [int, float, int, float, float,"
    )
    test += " bool, type(None)]\nassert x[2] == 2**63 and x[3] == math.inf and str(x[4]) == '-0.0'"
    task = {"style": "assert", "tests": [test]}
    assert judge(plain_pool, task, program)["status"] == "passed"
    for numbers in ([1, 2.5, 3], [0.5, float("inf")], [1 << 62, 0.5], [10**400, 0.5], [1, 2]):
        program = f"from math import inf\ndef f(): return {numbers}"
        task = {"style": "assert", "tests": [f"from math import inf\nassert f() == {numbers}"]}
        assert judge(plain_pool, task, program)["status"] == "passed", numbers


# outputs


@pytest.mark.parametrize(
    "output, expected, tolerance, equal",
    [
        ("10", "10.0", {}, True),
        ("1e1", "10", {}, True),
        ("+10", "10", {}, True),
        (" 10 \n", "10", {}, True),
        ("0010", "10", {}, False),
        ("1_000", "1000", {}, False),
        ("0010", "0010", {}, True),
        ("0.1 x", "0.10 x", {}, False),
        ("0.3333", "0.33333", {}, False),
        ("0.33333", "0.333333", {"atol": 1e-4}, True),
        ("1000001", "1000000", {"rtol": 1e-5}, True),
        ("1000001", "1000000", {"atol": 1e-8}, False),
        ("nan", "0", {"atol": 1.0}, False),
        ("1e999", "1", {"atol": 1.0}, False),
        ("", "0", {}, False),
    ],
)
def test_numbers_in_outputs_are_compared_as_decimals(
    plain_pool, output, expected, tolerance, equal
):
    test = {"input": "", "output": expected, **tolerance}
    verdict = judge(plain_pool, {"style": "stdio", "tests": [test]}, f"print({output!r})")
    assert verdict["status"] == ("passed" if equal else "failed")


@pytest.mark.parametrize("tolerance, status", [({"rtol": 1e-2}, "passed"), ({}, "failed")])
def test_a_call_may_have_a_relative_tolerance(plain_pool, tolerance, status):
    test = {"args": [], "output": [100.0], **tolerance}
    task = {"style": "call", "tests": [test]}
    assert judge(plain_pool, task, "def f(): return [100.5]")["status"] == status


def test_standard_input_has_a_path(plain_pool):
    task = {"style": "stdio", "tests": [{"input": "3\n4\n", "output": "7"}]}
    for program in (
        "print(sum(map(int, open('/dev/stdin'))))",
        "import sys\nsys.stdin = open('/dev/stdin')\nprint(int(input()) + int(input()))",
        "import os\nprint(sum(map(int, os.read(os.open('/dev/stdin', 0), 99).split())))",
        "import io\nprint(sum(map(int, io.open('/dev/stdin', 'rb').read().split())))",
    ):
        assert judge(plain_pool, task, program)["status"] == "passed", program


@pytest.mark.parametrize(
    "text, answer, right",
    [
        ("#### 17\nno:\n#### 18", "18", True),
        ("#### 18\nno:\n#### 17", "18", False),
        ("#### 18 dollars", "18", True),
        ("#### $18.00 per day", "18", True),
        ("#### 18 or 20", "18", False),
        ("#### 3/4", "3", False),
        ("#### 25%", "25", True),
        (r"#### 25\%", "25", True),
        ("#### **18**", "18", True),
        (r"so \boxed{17} and \boxed{18}", "18", True),
        (r"\boxed{\boxed{18}}", "18", True),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", True),
        (r"\boxed{18\text{ apples}}", "18", True),
        (r"\boxed{1{,}000}", "1000", True),
        (r"\boxed{18", "18", False),
        ("#### 1_8", "18", False),
        ("#### -18", "18", False),
        ("#### 18.5", "18", False),
        ("####", "18", False),
    ],
)
def test_the_last_marked_answer_counts_without_its_dress(plain_pool, text, answer, right):
    verdict = judge(plain_pool, {"style": "answer", "tests": [{"answer": answer}]}, text)
    assert verdict["status"] == ("passed" if right else "failed"), verdict["message"]


# limits


def test_each_call_has_its_own_limit_where_a_task_gives_one(plain_pool):
    program = "def f(n):\n    s = 0\n    for i in range(n): s += i\n    return n"
    tests = [{"args": [n], "output": n} for n in (10, 4_000_000, 10)]
    task = {"style": "call", "tests": tests, "test_timeout": 0.02}
    verdict = judge(plain_pool, task, program)
    assert (verdict["status"], verdict["passed"]) == ("timeout", 1), verdict
    assert "a test used" in verdict["message"]
    assert judge(plain_pool, {**task, "test_timeout": 60}, program)["status"] == "passed"
    with pytest.raises(sandbox.TaskError, match="test_timeout"):
        sandbox.check_task({**task, "task_id": "t", "entry_point": "f", "test_timeout": 0})


def test_memory_is_limited_as_asked():
    task = {"style": "assert", "tests": ["assert f(1) == 1"]}
    program = "def f(x): return len(bytearray(300 << 20)) and x"
    for memory_mb, status in ((256, "memory"), (1024, "passed")):
        with sandbox.Sandbox(memory_mb=memory_mb) as pool:
            assert judge(pool, task, program)["status"] == status


# a program cannot choose to have no verdict

STDIO = {"style": "stdio", "tests": [{"input": "1\n", "output": "2\n"}]}
LOWERED = "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (0, 0))\nwhile True: pass"
NO_TEXT = "class C:\n    def __{0}__(self): raise ValueError('x')\ndef f(x): return C()"
EVASIONS = {
    "a number beyond Decimal": (STDIO, "print('1e99999999999999999999')", "failed"),
    "the same as an answer": (
        {"style": "answer", "tests": [{"answer": "5"}]},
        "#### 1e99999999999999999999",
        "failed",
    ),
    "a limit that kills it": (
        {"style": "assert", "tests": ["assert f(1) == 2"]},
        LOWERED,
        "memory",
    ),
    "such a limit after the right output": (STDIO, f"print(2, flush=True)\n{LOWERED}", "memory"),
    "a message without a text": (
        {"style": "assert", "tests": ["assert f(1) == 2, f(1)"]},
        NO_TEXT.format("str"),
        "failed",
    ),
    "a missing key without a text": (
        {"style": "assert", "tests": ["assert {2: 1}[f(1)] == 1"]},
        NO_TEXT.format("repr"),
        "failed",
    ),
    "an exit as it is hashed": (
        {"style": "assert", "tests": ["assert f(1) == 2", "assert g == 1"]},
        "class C:\n    def __hash__(self): return len(D) and quit(3)\nD = []\ng = {C()}\n"
        "D.append(1)\ndef f(x): return 2",
        "error",
    ),
    "what a callback may not give": (
        {"style": "assert", "tests": ["assert f(lambda: object()) == 2"]},
        "def f(g): return g()",
        "error",
    ),
}


@pytest.mark.parametrize("task, program, status", EVASIONS.values(), ids=EVASIONS)
def test_what_a_program_provokes_in_the_judge_is_its_own_failure(plain_pool, task, program, status):
    verdict = judge(plain_pool, task, program)
    assert (verdict["status"], verdict["passed"]) == (status, 0), verdict["message"]


def test_an_unforeseen_exception_as_tests_run_is_an_error_of_the_program(monkeypatch):
    from jail import worker

    worker.role_code.cache_clear()
    original = compile

    def compile_with_a_fault(text, name, *rest, **options):
        if name == "<jail/styles.py>":
            cut = text.replace(
                "    namespace = start(session, names, ", "    1 // 0\n    start(", 1
            )
            assert cut != text
            text = cut
        return original(text, name, *rest, **options)

    monkeypatch.setattr("builtins.compile", compile_with_a_fault)
    try:
        with sandbox.Sandbox() as pool:
            verdict = judge(pool, {"style": "assert", "tests": ["assert f(1)"]}, "def f(x): pass")
        assert verdict["status"] == "error" and "ZeroDivisionError" in verdict["message"]
    finally:
        worker.role_code.cache_clear()


@pytest.mark.parametrize("view", ["keys", "values", "items"])
def test_views_of_a_dict_cross_from_a_test_to_a_program(plain_pool, view):
    tests = [
        f"assert f(lambda d: d.{view}(), {{1: 2}}) == list({{1: 2}}.{view}())",
        f"assert f(lambda v: v, {{1: [2]}}.{view}()) == list({{1: [2]}}.{view}())",
    ]
    verdict = judge(plain_pool, {"style": "assert", "tests": tests}, "def f(g, d): return [*g(d)]")
    assert verdict["status"] == "passed", verdict["message"]
    sets = {"style": "assert", "tests": ["assert f({1: 2, 3: 4}.keys()) == {1}"]}
    assert judge(plain_pool, sets, "def f(k): return k & {1: 0}.keys()")["status"] == "passed"


def test_a_test_may_try_to_import_a_package_and_one_that_runs_inside_may_import_it(pool):
    tried = "try:\n    import numpy\nexcept ImportError:\n    numpy = None\nassert f(1) == 2"
    task = {"style": "assert", "tests": [tried]}
    assert judge(pool, task, "def f(x): return x + 1")["status"] == "passed"
    inside = {"style": "unittest", "tests": [{"code": MODULE.format(body="f(np.ones(1))")}]}
    assert judge(pool, inside, "def f(x): return x")["status"] == "passed"


# what a program leaves in the scratch folder

LEAVE = """
import os
for name in ("1", "1.1", "2.1", "0/1/2", "x/0", "x/1.1"):
    os.makedirs(f"/tmp/{name}", exist_ok=True)
with open("/tmp/1.1/big", "wb", buffering=0) as file:
    for _ in range(63): file.write(bytes(1 << 20))
for name in ("0/1/file", "x/1.1/file", "x/2", "file"):
    open(f"/tmp/{name}", "w").close()
def f(x): return x + 1
"""


def test_a_program_finds_nothing_of_the_one_before_whatever_names_that_one_chose(plain_pool):
    tests = ["assert f(1) == 2"]
    assert judge(plain_pool, {"style": "assert", "tests": tests}, LEAVE)["status"] == "passed"
    honest = "with open('out', 'w') as file: file.write('x' * 60_000_000)\ndef f(x): return x + 1"
    assert judge(plain_pool, {"style": "assert", "tests": tests}, LEAVE)["status"] == "passed"
    verdict = judge(plain_pool, {"style": "assert", "tests": tests}, honest)
    assert verdict["status"] == "passed", verdict["message"]
    assert judge(plain_pool, {"style": "assert", "tests": tests}, LEAVE)["status"] == "passed"
    look = "import os\nfound = [*os.walk('/tmp')]\ndef f(x): return len(found[0][1] + found[0][2])"
    task = {"style": "assert", "tests": ["assert f(1) == 0, f(1)"]}
    assert judge(plain_pool, task, look)["status"] == "passed"


def test_what_cannot_be_moved_keeps_nothing_else_in_the_scratch_folder(tmp_path, monkeypatch):
    from jail import zygote

    for name in ("a/kept", "b/c/d", "0", "1/2"):
        (tmp_path / name).mkdir(parents=True)
    rename = zygote.os.rename

    def refuse(source, target):
        if source.endswith("kept"):
            raise OSError
        rename(source, target)

    monkeypatch.setattr(zygote.os, "rename", refuse)
    assert zygote.empty_directory(str(tmp_path)) == ["a"]
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "kept"]


def test_a_zygote_that_cannot_empty_the_scratch_folder_is_replaced(monkeypatch):
    from jail import worker

    worker.role_code.cache_clear()
    original = compile

    def compile_so_that_some_are_left(text, name, *rest, **options):
        begin = "    counter, going_on = 0, True\n"
        left = "    if 'out' in os.listdir(path): return ['out']\n"
        return original(text.replace(begin, left + begin), name, *rest, **options)

    monkeypatch.setattr("builtins.compile", compile_so_that_some_are_left)
    task = {"style": "assert", "tests": ["assert f(1) == 2"]}
    try:
        with sandbox.Sandbox() as pool:
            before = pool.workers[0].processes
            program = "open('out', 'w').close()\ndef f(x): return x + 1"
            assert judge(pool, task, program)["status"] == "passed"
            look = "import os\ndef f(x): return x + 1 + len(os.listdir('.'))"
            assert judge(pool, task, look)["status"] == "passed"
            assert pool.workers[0].processes is not before
    finally:
        worker.role_code.cache_clear()


# installed packages that nobody asked for

SEEK_PACKAGES = """
import os, sys
library = os.path.dirname(os.__file__)
parents = (library, "/usr/lib/python3", f"/usr/local/lib/python3.{sys.version_info[1]}")
folders = [f"{p}/{n}" for p in parents for n in ("site-packages", "dist-packages")]
found = []
for folder in filter(os.path.isdir, folders):
    try:
        names = os.listdir(folder)
    except PermissionError:
        continue
    for file in [f"{folder}/{name}{end}" for name in names for end in ("", "/__init__.py")]:
        if os.path.isfile(file):
            try:
                open(file).close()
                found.append(file)
            except PermissionError:
                pass
sys.path += folders
for name in PACKAGES:
    try:
        __import__(name)
        found.append(name)
    except (ImportError, PermissionError):
        pass
import sqlite3, ctypes.util, zoneinfo
def f(): return found
"""
NO_PACKAGE = {"style": "assert", "tests": ["assert f() == [], f()"]}


def packages_of_the_interpreter() -> list[str]:
    """Names of what lies in the folder of installed packages beside the standard library."""
    folder = Path(json.__file__).parent.parent / "site-packages"
    return sorted(path.parent.name for path in folder.glob("*/__init__.py"))


def test_no_installed_package_is_in_reach_unless_it_is_asked_for(plain_pool):
    program = SEEK_PACKAGES.replace("PACKAGES", repr(packages_of_the_interpreter()))
    verdict = judge(plain_pool, NO_PACKAGE, program)
    assert verdict["status"] == "passed", verdict["message"]


@pytest.mark.parametrize("hidden", [True, False])
def test_landlock_alone_keeps_installed_packages_out_of_reach(monkeypatch, hidden):
    from jail import worker

    worker.role_code.cache_clear()
    original = compile

    def compile_without_mounts(text, name, *rest, **options):
        text = text.replace("        if self.namespaces:\n", "        if False:\n", 1)
        if not hidden:
            text = text.replace("if path in hidden:", "if False:")
            text = text.replace("if not any(folder.startswith", "if True or any(folder.startswith")
        return original(text, name, *rest, **options)

    monkeypatch.setattr("builtins.compile", compile_without_mounts)
    try:
        with sandbox.Sandbox(isolation="none") as pool:
            assert pool.layers["mount namespace"]
            assert bool(pool.layers["landlock"]) is not hidden  # which the self-test finds out
            # Where the files can be read, importing all of a machine's packages takes seconds.
            names = packages_of_the_interpreter() if hidden else []
            verdict = judge(pool, NO_PACKAGE, SEEK_PACKAGES.replace("PACKAGES", repr(names)))
            assert verdict["status"] == ("passed" if hidden else "failed"), verdict["message"]
    finally:
        worker.role_code.cache_clear()


def test_verdicts_are_written_without_nan(tmp_path):
    task = {"task_id": "a", "style": "call", "entry_point": "f"}
    tests = [{"args": [], "output": float("nan")}]
    (tmp_path / "T").write_text(json.dumps({**task, "tests": tests}))
    row = {"task_id": "a", "solution": "def f(): return float('nan')", "score": [float("nan")]}
    (tmp_path / "S").write_text(json.dumps(row))
    command = [sys.executable, "sandbox.py", "run", "--tasks", tmp_path / "T", "--samples"]
    command += [tmp_path / "S", "--out", tmp_path / "V", "--workers", "1"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.endswith("passed 1 of 1 judged (100.0%)\n")  # a task may hold NaN
    assert json.loads((tmp_path / "V").read_text(), parse_constant=pytest.fail)["score"] == [None]


def test_a_kept_verdict_is_not_found_after_a_package_changed_its_version(tmp_path, monkeypatch):
    import common

    task = {"task_id": "a", "style": "assert", "entry_point": "f", "tests": ["assert f(1)"]}

    def key(packages):
        return common.VerdictLog([tmp_path], 1, packages=packages).key(task, "")

    with_numpy, without = key(["numpy"]), key([])
    assert key(["numpy"]) == with_numpy
    monkeypatch.setattr("jail.packages.locate", lambda names: {"numpy-0.1.dist-info": "somewhere"})
    assert key(["numpy"]) != with_numpy and key([]) == without
