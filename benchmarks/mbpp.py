"""MBPP (Austin et al., 2021), full (mbpp.jsonl) or sanitized (sanitized-mbpp.json).

    python make_tasks.py --source mbpp --input mbpp.jsonl --output_dir tasks/mbpp
    python make_tasks.py --source mbpp --input mbpp.jsonl --plus MbppPlus.jsonl.gz \\
        --output_dir tasks/mbpp

--plus gives the tasks that MBPP+ covers more tests: the first inputs of MBPP+, in its order.
MBPP's own program must pass these tests, with a second of CPU time. A task whose program fails
(some of these programs are wrong) keeps its three tests.

MBPP+ has tasks of MBPP's splits for training: 108 of its 378 are in `train`, 39 in `validation`.
Where MBPP+ is reported, --exclude MbppPlus.jsonl.gz leaves these out of the training files.
"""

import ast
from dataclasses import dataclass, field
from typing import Literal

import common
import sandbox
from benchmarks import evalplus, files
from common import InputError, InputFile, OutputDir, PositiveInt


@dataclass
class Config:
    output_dir: OutputDir  # one JSONL file a split is written here
    input: InputFile  # the published file, mbpp.jsonl or sanitized-mbpp.json
    source: Literal["mbpp"] = "mbpp"
    plus: InputFile | None = None  # file of MBPP+, whose inputs strengthen the tests of its tasks
    exclude: list[InputFile] = field(default_factory=list)  # training tasks that these have go
    max_plus_inputs: PositiveInt = 20  # with --plus: added tests a task
    sandbox_workers: PositiveInt = 1  # with --plus: processes that run the added tests
    think: bool = False  # prompts ask for reasoning between think tags before the program


def make(config: Config) -> dict[str, list[dict]]:
    """The published splits, by task id."""
    splits = {"prompt": [], "test": [], "validation": [], "train": []}
    fields = {"task_id": int, "code": str, "test_list": list}
    for row in files.read_benchmark(config.input, fields):
        number, text = row["task_id"], row.get("text") or row.get("prompt")
        if not isinstance(text, str):
            raise InputError(f"{config.input}: task {number}: field 'text' must be str")
        code = common.unix(row["code"]).rstrip("\n") + "\n"  # 972 of 974 have CRLF line ends
        imports = row.get("test_imports") or []
        for name, texts in (("test_list", row["test_list"]), ("test_imports", imports)):
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise InputError(f"{config.input}: task {number}: field {name!r} must be strings")
        tests = [common.unix(test) for test in row["test_list"]]
        setup = row.get("test_setup_code") or ""
        if not isinstance(setup, str):
            raise InputError(f"{config.input}: task {number}: field 'test_setup_code' must be str")
        setup += "\n".join(imports)
        try:
            entry_point = called_function(code, tests)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise InputError(
                f"{config.input}: task {number}: 'code' or a test is no Python: {error}"
            ) from None
        split = evalplus.mbpp_split(number)
        splits[split].append(
            {
                "task_id": f"mbpp/{number}",
                "prompt": "You are an expert Python programmer, and here is your task: "
                f"{text.strip()} Your code should pass these tests:\n\n" + "\n".join(tests) + "\n",
                "entry_point": entry_point,
                "solution": code,
                "setup": common.unix(setup),
                "style": "assert",
                "tests": tests,
                "timeout": 10,
                "meta": {"split": split},
            }
        )
    splits = {split: tasks for split, tasks in splits.items() if tasks}
    splits = files.without_tasks_of(splits, config.exclude)
    if config.plus:
        strengthen([task for tasks in splits.values() for task in tasks], config)
    return splits


def called_function(code: str, tests: list[str]) -> str | None:
    """The function of `code` that the tests call: the entry point that MBPP does not name."""
    definitions = ast.FunctionDef | ast.ClassDef
    defined = {node.name for node in ast.parse(code).body if isinstance(node, definitions)}
    for test in tests:
        for node in ast.walk(ast.parse(test)):
            match node:
                case ast.Call(func=ast.Name(id=name)) if name in defined:
                    return name
    return None


def strengthen(tasks: list[dict], config: Config) -> None:
    """Adds inputs of MBPP+ to the tests of each task, in place, whose own program passes them.

    `meta.base_tests` counts MBPP's own tests, which come first, `meta.plus_tests` the added ones.
    """
    plus_rows = {row["task_id"].lower(): row for row in evalplus.read_plus(config.plus)}
    evalplus.warn_of_training_tasks(
        [task["task_id"] for task in tasks if task["task_id"] in plus_rows]
    )
    covered = []  # (task, its setup and tests with those of MBPP+)
    for task in tasks:
        row = plus_rows.get(task["task_id"])
        if not row:
            continue
        inputs = evalplus.plus_arguments(row["task_id"], row["plus_input"])
        added = evalplus.plus_tests(task["entry_point"], inputs[: config.max_plus_inputs])
        if added:
            setup = evalplus.plus_setup(row, row["canonical_solution"]) + task["setup"]
            covered.append((task, {"setup": setup, "tests": task["tests"] + added}))
    with sandbox.Sandbox(workers=config.sandbox_workers) as runner:
        # A second at most, for the reference as well: labels by mutation run these tests hundreds
        # of times.
        verdicts = runner.judge(
            [(task | stronger | {"timeout": 1}, task["solution"]) for task, stronger in covered]
        )
    failing = []
    for (task, stronger), verdict in zip(covered, verdicts, strict=True):
        if verdict["status"] == "passed":
            task["meta"]["base_tests"] = len(task["tests"])
            task["meta"]["plus_tests"] = len(stronger["tests"]) - len(task["tests"])
            task.update(stronger)
        else:
            failing.append(task["task_id"])
    print(
        f"{len(covered)} of {len(tasks)} tasks are covered by MBPP+, "
        f"{len(covered) - len(failing)} have its tests now"
    )
    if failing:
        print(
            f"{len(failing)} keep their own alone, since their program fails the others: "
            f"{' '.join(failing)}"
        )


def main(config: Config) -> None:
    files.write_splits(make(config), config.output_dir, config.think)
