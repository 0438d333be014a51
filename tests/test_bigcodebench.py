"""BigCodeBench's rows become tasks; a task whose packages are missing says nothing of a model."""

import json
import os

import pytest

import common
from benchmarks import bigcodebench
from common import InputError
from sandbox import Sandbox, check_task

CODE = "import json\nimport numpy as np\ndef task_func(x):\n"
COMPLETE = CODE + '    """One more."""\n'
TEST = """\
import unittest
class TestCases(unittest.TestCase):
    def test_one(self):
        self.assertEqual(task_func(1), 2)
    def test_two(self):
        self.assertEqual(task_func(2), 3)
"""


def row(number=1, **fields) -> dict:
    task = {
        "task_id": f"BigCodeBench/{number}",
        "complete_prompt": COMPLETE.replace("import numpy as np\n", ""),
        "instruct_prompt": "Add one.\n",
        "canonical_solution": "    return x + 1\n",
        "code_prompt": CODE.replace("import numpy as np\n", ""),
        "test": TEST,
        "entry_point": "task_func",
        "libs": "['json']",
    }
    return task | fields


def write(tmp_path, *rows) -> str:
    path = tmp_path / "BigCodeBench.jsonl"
    path.write_text("".join(json.dumps(task) + "\n" for task in rows))
    return str(path)


def make(tmp_path, *rows, **flags):
    return bigcodebench.make(bigcodebench.Config("", write(tmp_path, *rows), **flags))["test"]


def test_a_task_of_each_split(tmp_path):
    complete, instruct = (
        make(tmp_path, row(), split=split)[0] for split in ("complete", "instruct")
    )
    assert complete["prefix"] == complete["prompt"] == row()["complete_prompt"]
    assert "prefix" not in instruct and instruct["prompt"] == "Add one.\n"
    for task in (complete, instruct):
        check_task(task)
        assert (task["style"], task["packages"], task["timeout"]) == ("unittest", [], 240)
    # An answer may leave out the imports of its prompt; the harness gives os, sys and environ too.
    bare = "def task_func(x):\n    environ, os.path, sys.path\n    return json.loads(str(x)) + 1\n"
    programs = {
        common.extract_program(complete, "    return x + 1\n"): "passed",
        complete["solution"]: "passed",
        instruct["solution"]: "passed",
        bare: "passed",
        "def task_func(x):\n    return 2\n": "failed",
        "def other(x):\n    return x + 1\n": "error",
    }
    with Sandbox() as sandbox:
        verdicts = sandbox.judge([(complete, program) for program in programs])
    got = [verdict["status"] == "passed" for verdict in verdicts]
    assert got == [status == "passed" for status in programs.values()]


def test_packages_are_what_reference_and_tests_import_besides_the_standard_library():
    assert bigcodebench.packages_of(
        "import os, numpy.linalg as la\nfrom . import x\n",
        "def f():\n    from yaml.nodes import Node\n    import numpy\nimport unittest.mock\n",
    ) == ["numpy", "yaml"]


def test_tasks_whose_packages_are_missing_are_left_out_and_named(tmp_path, capsys):
    missing = row(2, test="import no_such_package\nfrom neither_here import x\n" + TEST)
    config = bigcodebench.Config(str(tmp_path / "out"), write(tmp_path, row(), missing, row(3)))
    bigcodebench.main(config)
    tasks = [json.loads(line) for line in (tmp_path / "out/test.jsonl").read_text().splitlines()]
    assert [task["task_id"] for task in tasks] == ["BigCodeBench/1", "BigCodeBench/3"]
    assert json.loads((tmp_path / "out/left_out.jsonl").read_text()) == {
        "task_id": "BigCodeBench/2",
        "reason": "not installed: neither_here, no_such_package",
    }
    printed = capsys.readouterr().out
    assert "neither_here 1, no_such_package 1" in printed and "BigCodeBench/2" in printed


def test_a_task_that_needs_an_installed_package_says_so(tmp_path):
    (task,) = make(tmp_path, row(code_prompt=CODE, complete_prompt=COMPLETE))
    assert task["packages"] == ["numpy"]


def test_a_file_of_other_form_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"BigCodeBench.jsonl:2: field 'test' must be str"):
        make(tmp_path, row(), row(test=None))
    with pytest.raises(InputError, match=r"BigCodeBench.jsonl:1: BigCodeBench/1: "):
        make(tmp_path, row(test="def"))
    with pytest.raises(InputError, match="no task has all of its packages installed"):
        make(tmp_path, row(test="import no_such_package\n" + TEST))


def test_the_published_file(benchmark_data, monkeypatch):
    path = str(benchmark_data / "bigcodebench" / "BigCodeBench.jsonl.gz")
    known = {"numpy"}

    def find_spec(name):
        return name in known or None

    monkeypatch.setattr(bigcodebench.importlib.util, "find_spec", find_spec)
    splits, left_out = bigcodebench.make_with_left_out(bigcodebench.Config("", path))
    tasks = splits["test"]
    assert (len(tasks), len(left_out)) == (333, 807)
    assert sum(task["packages"] == ["numpy"] for task in tasks) == 33
    for task in tasks:
        check_task(task)
        assert (
            common.extract_program(task, task["solution"].removeprefix(task["prefix"]))
            == task["solution"]
        )


# What the sandbox has not: other processes, semaphores between processes, a network.
PROCESSES = {14, 15, 16, 18, 346, 350, 459, 562, 604, 785, 1028, 1101, 1103, 1104}
SEMAPHORES = {205, 363}
NETWORK = {147, 176, 314, 1005, 1038, 1040}


@pytest.mark.slow
def test_references_that_need_the_standard_library_or_numpy_pass(benchmark_data):
    path = str(benchmark_data / "bigcodebench" / "BigCodeBench.jsonl.gz")
    tasks = bigcodebench.make(bigcodebench.Config("", path))["test"]
    tasks = [task for task in tasks if task["packages"] in ([], ["numpy"])]
    assert len(tasks) == 333
    tasks = tasks[:: int(os.environ.get("BIGCODEBENCH_STEP", 4))]  # 1: all, some five minutes
    with Sandbox(workers=2, packages=("numpy",)) as sandbox:
        verdicts = sandbox.judge([(task, task["solution"]) for task in tasks])
    failing = {
        int(task["task_id"].split("/")[1])
        for task, verdict in zip(tasks, verdicts, strict=True)
        if verdict["status"] != "passed"
    }
    judged = {int(task["task_id"].split("/")[1]) for task in tasks}
    assert failing == (PROCESSES | SEMAPHORES | NETWORK) & judged
