"""APPS' problems become tasks: they read input, or are called; damaged ones are named."""

import json

import pytest

from benchmarks import apps
from common import InputError
from sandbox import Sandbox, check_task

STDIO = {"inputs": ["1 2\n", ["3", "4"]], "outputs": ["3\n", ["7", ""]]}
CALL = {"fn_name": "add", "inputs": [[1, 2], [3, 4]], "outputs": [[3], [7]]}


def row(**fields) -> dict:
    problem = {
        "id": 7,
        "question": "Add two numbers.",
        "solutions": json.dumps(["print 1", "print(sum(map(int, sys.stdin.read().split())))\r\n"]),
        "input_output": json.dumps(STDIO),
        "difficulty": "interview",
        "url": "u",
        "starter_code": "",
    }
    return problem | fields


def call_row(data=CALL, **fields) -> dict:
    solutions = json.dumps(["def add(a, b):\n    return a + b"])
    return row(solutions=solutions, input_output=json.dumps(data)) | fields


def write(tmp_path, *rows) -> str:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(problem) + "\n" for problem in rows))
    return str(path)


def make(tmp_path, *rows, **flags):
    splits, left_out = apps.make_with_left_out(
        apps.Config("", input=write(tmp_path, *rows), **flags)
    )
    return splits["train"], left_out


def statuses(task, programs):
    check_task(task)
    with Sandbox() as sandbox:
        return [v["status"] for v in sandbox.judge([(task, program) for program in programs])]


def test_a_problem_that_reads_input(tmp_path):
    (task,), left_out = make(tmp_path, row())
    assert (task["task_id"], task["style"], task["entry_point"]) == ("apps/train/7", "stdio", None)
    assert task["prompt"] == ("\nQUESTION:\nAdd two numbers.\nUse Standard Input format\nANSWER:\n")
    assert task["tests"] == [
        {"input": "1 2\n", "output": "3\n", "blank_lines": False},
        {"input": "3\n4", "output": "7\n", "blank_lines": False},  # lists of lines
    ]
    assert task["meta"] == {"split": "train", "difficulty": "interview", "url": "u"}
    assert task["solution"] == "print(sum(map(int, sys.stdin.read().split())))\n"  # Python 3, \n
    assert not left_out
    programs = [task["solution"], "print(int(input()) + int(input()))", "print(3)"]
    assert statuses(task, programs) == ["passed", "error", "failed"]


@pytest.mark.parametrize(
    ("expected", "right", "wrong"),
    [
        ("0.3333333333\n", ["0.333333", "0.3333", "0.333"], ["0.3343", "1", "x", ""]),
        ("1 0.5000001\n", ["1 0.50000"], ["1 0.502", "2 0.5", "0.5000001 1", "1\n0.5000001"]),
        ("0.0000123\n", ["0.000012", "0", "1.23e-5"], ["0.001"]),
        ("1234567.5\n", ["1234570"], ["1234600"]),
        ("a\n\nb\n", ["a\nb", "a\n\n\nb\n", "a\n \nb"], ["ab", "b\na", "a\nb\nb"]),
        ("1000000\n", ["1000000.0"], ["1000001", "999999.9"]),  # integers alone: exact
        ("v1.5\n7\n", ["v1.5\n7"], ["v1.5\n7.0001", "v1.50\n7"]),  # no number with a point
    ],
)
def test_outputs_are_compared_as_the_original_grader_does(tmp_path, expected, right, wrong):
    data = {"inputs": ["1"], "outputs": [expected]}
    (task,), _ = make(tmp_path, row(input_output=json.dumps(data)))
    found = statuses(task, [f"print({output!r})" for output in [*right, *wrong]])
    assert found == ["passed"] * len(right) + ["failed"] * len(wrong)


def test_one_number_with_a_decimal_point_gives_all_tests_of_a_problem_a_tolerance(tmp_path):
    data = {"inputs": ["1", "2"], "outputs": ["0.5", "5"]}
    (task,), _ = make(tmp_path, row(input_output=json.dumps(data)))
    program = "print(['0.5000001', '5.000000001'][int(input()) - 1])"
    assert statuses(task, [program]) == ["passed"]


def test_programs_write_integers_of_any_length(tmp_path):
    data = {"inputs": ["5000"], "outputs": ["1" + "0" * 5000]}
    (task,), _ = make(tmp_path, row(input_output=json.dumps(data)))
    assert statuses(task, ["print(10 ** int(input()))"]) == ["passed"]


def test_a_problem_that_is_called_loses_the_wrapping_of_its_outputs(tmp_path):
    (task,), _ = make(tmp_path, call_row(starter_code="def add(a, b):\n\t"))
    assert (task["style"], task["entry_point"]) == ("call", "add")
    assert task["tests"] == [{"args": [1, 2], "output": 3}, {"args": [3, 4], "output": 7}]
    assert task["prompt"] == (
        "\nQUESTION:\nAdd two numbers.\ndef add(a, b):\n\t\nUse Call-Based format\nANSWER:\n"
    )
    programs = [
        task["solution"],
        "def add(a, b): return sqrt((a + b) ** 2)",  # of the header
        "def add(a, b): return a - b",
        "def plus(a, b): return a + b",
    ]
    assert statuses(task, programs) == ["passed", "passed", "failed", "error"]


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ([[3], [7]], [3, 7]),
        ([3, 7], [3, 7]),
        ([[[3]], [[7]]], [[3], [7]]),
        ([[3], [7, 8]], [[3], [7, 8]]),
        ([[3], []], [[3], []]),
        ([[{"1": "a"}], [{}]], [{"1": "a"}, {}]),
    ],
)
def test_outputs_are_unwrapped_where_all_of_them_are_lists_of_one(tmp_path, outputs, expected):
    (task,), _ = make(tmp_path, call_row(CALL | {"outputs": outputs}))
    assert [test["output"] for test in task["tests"]] == expected


@pytest.mark.parametrize("where", ["starter_code", "solutions"])
def test_a_method_is_called_where_the_problem_has_a_class_solution(tmp_path, where):
    code = "class Solution:\n    def add(self, a: List[int], b):\n        return a + b\n"
    fields = (
        {"starter_code": code} if where == "starter_code" else {"solutions": json.dumps([code])}
    )
    (task,), _ = make(tmp_path, call_row(**fields))
    assert task["entry_point"] == "Solution.add"
    assert statuses(task, [code]) == ["passed"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no tests"),
        ('{"inputs": [], "outputs": []}', "no tests"),
        ("{}", "no tests"),
        ("{", "Expecting property name"),
        ("[1]", "not an object"),
        ('{"inputs": ["1"], "outputs": []}', "not two lists of one length"),
        ('{"inputs": "1", "outputs": "2"}', "not two lists of one length"),
        ('{"inputs": [1], "outputs": ["2"]}', "no text"),
        (
            '{"fn_name": "a b", "inputs": [[1]], "outputs": [[2]]}',
            "entry_point: 'a b' is not a name",
        ),
        ('{"fn_name": "f", "inputs": ["1"], "outputs": [[2]]}', "no list of arguments"),
        ('{"fn_name": "f", "inputs": [[{"1": 2}]], "outputs": [[2]]}', "keys are numbers"),
        ('{"fn_name": "f", "inputs": [[1]], "outputs": [[' + "9" * 5000 + "]]}", "integer string"),
    ],
)
def test_a_problem_whose_tests_cannot_be_read_is_left_out_and_named(tmp_path, text, reason):
    tasks, left_out = make(tmp_path, row(), row(id=8, input_output=text), row(id=9))
    assert [task["task_id"] for task in tasks] == ["apps/train/7", "apps/train/9"]
    assert list(left_out) == ["apps/train/8"] and reason in left_out["apps/train/8"]


def test_a_run_writes_the_split_and_what_it_lacks(tmp_path, capsys):
    path = write(tmp_path, row(), row(id=8, input_output=""))
    apps.main(apps.Config(str(tmp_path / "out"), input=path))
    (left_out,) = (tmp_path / "out/left_out.jsonl").read_text().splitlines()
    assert json.loads(left_out) == {"task_id": "apps/train/8", "reason": "no tests"}
    assert len((tmp_path / "out/train.jsonl").read_text().splitlines()) == 1
    assert "1 tasks are left out" in capsys.readouterr().out


@pytest.mark.parametrize("solutions", ["", "[]", "{", '["print 1"]'])
def test_a_problem_without_a_reference_in_python_3_has_no_solution(tmp_path, solutions):
    (task,), _ = make(tmp_path, row(solutions=solutions))
    assert task["solution"] is None


def test_a_file_without_any_tests_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no task with tests"):
        make(tmp_path, row(input_output=""))
    with pytest.raises(InputError, match=r"train.jsonl:1: field 'solutions' must be str"):
        make(tmp_path, row(solutions=None))


def test_training_problems_that_an_evaluation_set_has_are_left_out(tmp_path, capsys):
    tasks = tmp_path / "evaluation.jsonl"
    tasks.write_text('{"task_id": "APPS/train/8"}\n')
    kept, _ = make(tmp_path, row(), row(id=8), exclude=[str(tasks)])
    assert [task["task_id"] for task in kept] == ["apps/train/7"]
    assert "train: 1 of 2 tasks are left out" in capsys.readouterr().out


def test_a_prompt_that_asks_for_reasoning_does_not_ask_for_an_answer_before_it(tmp_path):
    apps.main(apps.Config(str(tmp_path / "out"), input=write(tmp_path, row()), think=True))
    (task,) = map(json.loads, (tmp_path / "out/train.jsonl").read_text().splitlines())
    assert "ANSWER" not in task["prompt"] and "<think>" in task["prompt"]


RESULTS = {"passed": True, "failed": False, "error": -1, "timeout": -1, "memory": -1}


def test_recorded_verdicts_on_the_sample_problems_are_ours(benchmark_data):
    """CodeRL's generations. Where the record has an error, the sandbox may say another error."""
    folder = benchmark_data / "apps_samples" / "train"
    tasks = apps.make(apps.Config("", input=str(folder)))["train"]
    assert [task["style"] for task in tasks] == ["stdio"] * 3 + ["call"] * 2
    pairs, recorded = [], []
    for task in tasks:
        place = folder / task["task_id"].split("/")[-1]
        for name in ("gen_solutions.json", "baseline_solutions.json"):
            for sample in json.loads((place / name).read_text()):
                pairs.append((task, sample["code"]))
                recorded.append(sample["result"] is True)
        pairs.append((task, task["solution"]))
        recorded.append(True)
    with Sandbox(workers=2) as sandbox:
        verdicts = sandbox.judge(pairs)
    different = [
        (task["task_id"], verdict["message"])
        for (task, _), verdict, passed in zip(pairs, verdicts, recorded, strict=True)
        if (verdict["status"] == "passed") != passed
    ]
    # One program imports numpy.
    assert len(pairs) == 93
    assert [name for name, message in different] == ["apps/train/2404"]
    assert "numpy" in different[0][1]
