"""The embedded benchmark holds what its docstring promises; published files become tasks."""

import ast
import dataclasses
import gzip
import hashlib
import json
import math
import random

import pytest

import common
import make_tasks
from benchmarks import evalplus, files, gsm8k, humaneval, mbpp, micro, micro_operations
from common import InputError
from sandbox import Sandbox, check_task


@pytest.fixture(scope="module")
def splits():
    config = micro.Config(
        output_dir="",
        num_sft_tasks=200,
        num_train_tasks=80,
        num_test_tasks=60,
        train_min_steps=3,
    )
    return micro.make(config)


def steps_of(row):
    """The operations of a micro program, recognised from its lines."""
    steps = []
    for line in row["solution"].splitlines()[1:-1]:
        code = line.removeprefix("    xs = ")
        steps.append(
            next(
                i
                for i, (template, _, _, (low, high)) in enumerate(micro_operations.OPERATIONS)
                for k in range(low, high + 1)
                if template.format(k=k, j=k + 1) == code
            )
        )
    return tuple(steps)


def test_every_row_is_a_valid_task_and_the_same_seed_gives_the_same_rows(splits):
    for rows in splits.values():
        for row in rows:
            check_task(row)
            assert (
                len(row["prompt"].splitlines())
                == row["meta"]["steps"]
                == len(row["solution"].splitlines()) - 2
            )
    sizes = {"num_sft_tasks": 200, "num_train_tasks": 80, "num_test_tasks": 60}
    again = micro.make(micro.Config("", train_min_steps=3, **sizes))
    assert again == splits


def test_no_composition_and_no_prompt_is_in_two_splits(splits):
    test = {steps_of(row) for row in splits["test"]}
    assert not test & {steps_of(row) for split in ("sft", "train") for row in splits[split]}
    validation = {steps_of(row) for row in splits["validation"]}
    trained = {steps_of(row) for split in ("sft", "train") for row in splits[split]}
    assert len(validation) > 30 and not validation & (test | trained)
    prompts = [row["prompt"] for rows in splits.values() for row in rows]
    assert len(set(prompts)) == len(prompts)


def test_the_validation_split_changes_no_other_split(splits):
    sizes = {"num_sft_tasks": 200, "num_train_tasks": 80, "num_test_tasks": 60}
    fewer = micro.make(micro.Config("", train_min_steps=3, num_validation_tasks=5, **sizes))
    assert len(fewer["validation"]) == 5 and len(splits["validation"]) == 200
    assert fewer["validation"] == splits["validation"][:5]
    assert all(fewer[split] == splits[split] for split in ("sft", "train", "test"))
    # The digest of the three splits before there was a fourth.
    text = json.dumps([splits[split] for split in ("sft", "train", "test")], sort_keys=True)
    assert (
        hashlib.sha256(text.encode()).hexdigest()
        == "645afe7d6a6f86b424f508fd8c23dc58e3afaee977b5071bdc323dd32ac3b4c1"
    )


def test_compositions_that_the_test_split_has_taken_are_not_left_for_validation():
    sizes = {"num_sft_tasks": 10, "num_train_tasks": 10, "num_test_tasks": 30}
    with pytest.raises(InputError, match=r"no more tasks of 1 steps for validation.jsonl"):
        micro.make(micro.Config("", min_steps=1, train_min_steps=1, max_steps=1, **sizes))


def test_references_pass_and_every_near_miss_of_every_line_fails(splits):
    rows = splits["train"][:12] + splits["test"][:12]
    with Sandbox(workers=2) as sandbox:
        good = [sandbox.submit(row, row["solution"]) for row in rows]
        bad = []
        for row in rows:
            lines = row["solution"].splitlines(keepends=True)
            for number, operation in enumerate(steps_of(row), 1):
                template, _, misses, bounds = micro_operations.OPERATIONS[operation]
                code = lines[number].removeprefix("    xs = ").rstrip("\n")
                k = next(
                    k
                    for k in range(bounds[0], bounds[1] + 1)
                    if template.format(k=k, j=k + 1) == code
                )
                for miss in misses:
                    changed = [*lines]
                    changed[number] = f"    xs = {miss.format(k=k, j=k + 1)}\n"
                    bad.append(sandbox.submit(row, "".join(changed)))
        assert all(future.result()["status"] == "passed" for future in good)
        assert len(bad) > 150 and all(future.result()["status"] != "passed" for future in bad)


def test_every_step_changes_half_of_the_inputs(splits):
    for row in splits["train"]:
        states = [test["args"][0] for test in row["tests"]]
        for line in row["solution"].splitlines()[1:-1]:
            after = [micro.apply_line(line.removeprefix("    xs = "), xs) for xs in states]
            assert 2 * sum(a != b for a, b in zip(after, states, strict=True)) >= len(states)
            states = after
        assert states == [test["output"] for test in row["tests"]]


def test_the_teacher_is_wrong_on_some_phrases_most_of_the_time_and_seldom_on_the_others(splits):
    wrong, seen = {}, {}
    for row in splits["sft"]:
        for phrase, right, taught in zip(
            row["prompt"].splitlines(),
            row["solution"].splitlines()[1:],
            row["completion"].splitlines()[1:],
            strict=False,
        ):
            words = [word for word in phrase.split() if not word.lstrip("-").isdigit()]
            if words[0] in ("now", "then", "next"):
                words = words[1:]
            seen[" ".join(words)] = seen.get(" ".join(words), 0) + 1
            wrong[" ".join(words)] = wrong.get(" ".join(words), 0) + (right != taught)
    rates = [wrong[phrase] / seen[phrase] for phrase in seen if seen[phrase] >= 10]
    biased = [rate for rate in rates if rate > 0.3]
    assert len(seen) == 54 and 15 <= len(biased) <= 23  # 19 pairs of 54 are biased
    assert sum(biased) / len(biased) == pytest.approx(0.6, abs=0.1)
    assert sum(rate for rate in rates if rate <= 0.3) / (len(rates) - len(biased)) < 0.08


def test_lines_of_the_grammar_cannot_do_more_than_list_arithmetic():
    rng = random.Random(0)
    assert micro.run_steps(micro.random_steps(rng, 0), [[1, 2, 3, 4]]) == [[[1, 2, 3, 4]]]


@pytest.mark.parametrize(("name", "count"), [("mbpp.jsonl", 974), ("sanitized-mbpp.json", 427)])
def test_every_mbpp_reference_passes(benchmark_data, name, count):
    config = mbpp.Config(output_dir="", input=str(benchmark_data / "mbpp" / name))
    splits = mbpp.make(config)
    tasks = [task for rows in splits.values() for task in rows]
    assert len(tasks) == count and all(task["entry_point"] for task in tasks)
    assert {int(task["task_id"].split("/")[1]) for task in splits["train"]} <= set(range(601, 975))
    assert {int(task["task_id"].split("/")[1]) for task in splits["test"]} <= set(range(11, 511))
    assert not any("\r" in task["solution"] for task in tasks)
    with Sandbox(workers=2) as sandbox:
        verdicts = [
            future.result() for future in [sandbox.submit(task, task["solution"]) for task in tasks]
        ]
    failing = [
        task["task_id"]
        for task, verdict in zip(tasks, verdicts, strict=True)
        if verdict["status"] != "passed"
    ]
    assert failing == []


def test_every_humaneval_reference_passes_as_a_completion_of_its_prompt(benchmark_data):
    path = benchmark_data / "humaneval" / "HumanEval.jsonl.gz"
    tasks = humaneval.make(humaneval.Config(output_dir="", input=str(path)))["test"]
    assert len(tasks) == 164
    programs = [
        common.extract_program(task, task["solution"].removeprefix(task["prefix"]))
        for task in tasks
    ]
    with Sandbox(workers=2) as sandbox:
        futures = [
            sandbox.submit(task, program) for task, program in zip(tasks, programs, strict=True)
        ]
        failing = [
            t["task_id"]
            for t, f in zip(tasks, futures, strict=True)
            if f.result()["status"] != "passed"
        ]
    assert failing == []


def plus_tasks(source, path):
    return evalplus.make(evalplus.Config(source=source, output_dir="", input=str(path)))["test"]


@pytest.fixture(scope="module")
def pool():
    with Sandbox(workers=2) as pool:
        yield pool


WRONG_BODIES = {
    "nothing": "return None",
    "an exception": "raise NotImplementedError",
    "an object that equals everything": "return type("
    "'Equal', (), {'__eq__': lambda *_: True, '__hash__': lambda _: 0})()",
    "a number that is not a number": "return float('nan')",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "name", "count", "cap"),
    [
        ("humanevalplus", "humanevalplus/HumanEvalPlus-Mini.jsonl.gz", 164, None),
        ("mbppplus", "mbppplus/MbppPlus-NoExtreme.jsonl.gz", 378, 12),
    ],
)
def test_plus_references_pass_and_wrong_bodies_fail(benchmark_data, pool, source, name, count, cap):
    tasks = plus_tasks(source, benchmark_data / name)
    assert len(tasks) == count
    tasks = [task | {"tests": task["tests"][:cap]} for task in tasks]
    verdicts = pool.judge([(task, task["solution"]) for task in tasks])
    assert not [
        t["task_id"]
        for t, v in zip(tasks, verdicts, strict=True)
        if (v["status"], v["trusted"]) != ("passed", True)
    ]
    names, pairs = [], []
    for task in tasks:
        for body, text in WRONG_BODIES.items():
            names.append((task["task_id"], body))
            pairs.append(
                (
                    task,
                    f"{task.get('prefix', '')}\n"
                    f"def {task['entry_point']}(*arguments):\n    {text}\n",
                )
            )
    statuses = [verdict["status"] for verdict in pool.judge(pairs)]
    assert not [
        n
        for n, status in zip(names, statuses, strict=True)
        if status in ("passed", "harness_error")
    ]


def test_arguments_of_mbpp_plus_are_those_of_its_files_for_people(benchmark_data):
    """MbppPlus-OriginFmt holds the same inputs as Python literals, with their tuples."""
    literals = {}
    with gzip.open(benchmark_data / "mbppplus" / "MbppPlus-OriginFmt.jsonl.gz", "rt") as file:
        for row in map(json.loads, file):
            text = row["test"].split("\ninputs = ")[1].split("\n")[0]
            literals[f"Mbpp/{row['task_id']}"] = eval(text, {"inf": math.inf, "nan": math.nan})
    rows = evalplus.read_plus(str(benchmark_data / "mbppplus" / "MbppPlus.jsonl.gz"))
    different = []
    for row in rows:
        texts = evalplus.plus_arguments(row["task_id"], row["base_input"] + row["plus_input"])
        assert len(set(texts)) == len(texts)  # none is there twice
        ours = [list(eval(f"({text},)", {"inf": math.inf, "nan": math.nan})) for text in texts]
        if {repr(x) for x in ours} != {repr(list(x)) for x in literals[row["task_id"]]}:
            different.append(row["task_id"])
    assert len(rows) == 378 and different == [
        "Mbpp/255"
    ]  # whose results are too large on five inputs


def plus_row(**fields):
    row = {
        "task_id": "Mbpp/1000",
        "prompt": "p",
        "entry_point": "f",
        "canonical_solution": "\ndef f(x):\n    return x\n",
    }
    return {**row, "base_input": [[1]], "plus_input": [], "atol": 0, **fields}


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("fields", "right", "wrong"),
    [
        (
            {"base_input": [[[1, 2.5]]]},
            ["[1, 2.5]", "[1.0, 2.5]"],
            ["(1, 2.5)", "[1, 2.5000001]", "[2.5, 1]"],
        ),
        ({"base_input": [[1.5]]}, ["1.5", "1.5000005"], ["1.500002", "'1.5'", "[1.5]", "1"]),
        (
            {"base_input": [[[1.5, 2.5]]]},
            ["[1.5, 2.5000005]"],
            ["[1.5]", "(1.5, 2.5)", "[1.5, 2.6]"],
        ),
        ({"base_input": [[10]], "atol": 1e-4}, ["10", "10.0"], ["11", "10.00005"]),
        (
            {"base_input": [[[[1.5], 2]]], "atol": 1e-4},
            ["[[1.50009], 2]"],
            ["[[1.51], 2]", "[[1.5], 2, 3]"],
        ),
        ({"base_input": [[float("nan")]]}, ["x", "float('nan')"], ["1.0", "None"]),
        ({"base_input": [[float("inf")]]}, ["x"], ["-x", "1e308", "float('nan')"]),
        ({"base_input": [["a"]]}, ["'a'"], ["'b'", "None", "['a']", "b'a'"]),
        (
            {"task_id": "Mbpp/7", "base_input": [[["a", "b"]]]},
            ["['b', 'a']", "{'a', 'b'}"],
            ["['a']", "None", "'abc'"],
        ),
        (
            {"task_id": "Mbpp/737", "base_input": [[1]]},
            ["True", "5", "__import__('re').match('', '')"],
            ["None", "False"],
        ),
        ({"task_id": "Mbpp/737", "base_input": [[None]]}, ["None", "False"], ["True", "5"]),
        (
            {
                "task_id": "Mbpp/558",
                "canonical_solution": "def f(a, b): return 0",
                "base_input": [[123, 9]],
            },
            ["0", "9"],
            ["8", "None"],
        ),
        (
            {
                "task_id": "Mbpp/581",
                "canonical_solution": "def f(a, b): return 33",
                "base_input": [[3, 4]],
            },
            ["33", "35"],
            ["34", "None"],
        ),
        (
            {"task_id": "HumanEval/32", "base_input": [[[-6, 1, 1]]], "atol": 1e-4},
            ["2", "-3.0", "2.00001"],
            ["1", "2.001", "None", "float('nan')", "x"],
        ),
        (
            {
                "task_id": "Mbpp/2",
                "canonical_solution": "def f(x): return x",
                "base_input": [[[1]]],
            },
            ["(1,)", "[1, 1]", "{1}"],
            ["[2]", "1"],
        ),
        ({"task_id": "Mbpp/116", "base_input": [[[1, 2]]]}, ["(1, 2)", "x"], ["[1, 2]"]),
        (
            {"task_id": "Mbpp/252", "base_input": [["(1+2j)"]]},
            ["1 + 2j", "x"],
            ["'(1+2j)'", "1 - 2j"],
        ),
    ],
)
def test_results_are_compared_by_the_rules_of_evalplus(tmp_path, pool, fields, right, wrong):
    (task,) = plus_tasks("mbppplus", write_rows(tmp_path / "plus.jsonl", [plus_row(**fields)]))
    for expressions, status in ((right, {"passed"}), (wrong, {"failed", "error"})):
        programs = [f"def f(x, y=None):\n    return {expression}" for expression in expressions]
        verdicts = pool.judge([(task, program) for program in programs])
        assert {v["status"] for v in verdicts} <= status, list(zip(programs, verdicts, strict=True))


def test_the_base_tests_of_a_plus_benchmark_are_the_first_of_its_tests(tmp_path):
    path = write_rows(tmp_path / "plus.jsonl", [plus_row(base_input=[[1], [2]], plus_input=[[3]])])
    made = [
        evalplus.make(evalplus.Config("mbppplus", "unused", path, tests))["test"][0]
        for tests in ("plus", "base")
    ]
    plus, base = (task["tests"] for task in made)
    assert len(plus) == 3 and base == plus[:2]
    assert [task["meta"]["base_tests"] for task in made] == [2, 2]


def test_a_plus_task_says_how_many_of_its_tests_are_the_base_tests(tmp_path):
    row = plus_row(base_input=[[1], [2], [1]], plus_input=[[2], [3]])
    (task,) = plus_tasks("mbppplus", write_rows(tmp_path / "plus.jsonl", [row]))
    assert len(task["tests"]) == 3 and task["meta"]["base_tests"] == 2


def test_a_program_that_changes_its_argument_changes_no_expected_result(tmp_path, pool):
    row = plus_row(
        canonical_solution="def f(x):\n    x.append(3)\n    return x", base_input=[[[1]], [[2]]]
    )
    (task,) = plus_tasks("mbppplus", write_rows(tmp_path / "plus.jsonl", [row]))
    programs = [
        "def f(x): return x + [3]",
        row["canonical_solution"],
        "def f(x):\n    x.append(3)\n    return x + [3]",
    ]
    assert [v["status"] for v in pool.judge([(task, p) for p in programs])] == [
        "passed",
        "passed",
        "failed",
    ]


def test_inputs_of_mbpp_plus_strengthen_the_tasks_whose_own_program_passes_them(
    tmp_path, pool, capsys
):
    weak = "def f(x):\n    return x if x < 9 else 9\n"
    rows = [
        {"task_id": number, "text": "t", "code": code, "test_list": ["assert f(1) == 1"]}
        for number, code in ((601, "def f(x):\n    return x\n"), (602, weak), (603, weak))
    ]
    plus = [
        plus_row(task_id=f"Mbpp/{number}", plus_input=[[2], [50], [51], [52]])
        for number in (601, 602)
    ]
    config = mbpp.Config(output_dir="", input=write_rows(tmp_path / "mbpp.jsonl", rows),
        plus=write_rows(tmp_path / "plus.jsonl", plus), max_plus_inputs=3,
    )  # fmt: skip
    plain = mbpp.make(dataclasses.replace(config, plus=None))["train"]
    tasks = mbpp.make(config)["train"]
    assert tasks[0]["tests"] == [
        "assert f(1) == 1",
        *(f"assert agrees(f, {number})" for number in (2, 50, 51)),
    ]
    assert tasks[0]["meta"]["base_tests"] == 1
    assert tasks[0]["meta"]["plus_tests"] == 3 and tasks[0]["prompt"] == plain[0]["prompt"]
    assert tasks[1:] == plain[1:]  # its own program fails the inputs; not covered
    assert "2 of 3 tasks are covered by MBPP+, 1 have its tests now" in capsys.readouterr().out
    assert [v["status"] for v in pool.judge([(plain[0], weak), (tasks[0], weak)])] == [
        "passed",
        "failed",
    ]


def test_training_tasks_that_an_evaluation_set_has_are_left_out(tmp_path, capsys):
    rows = [
        {
            "task_id": number,
            "text": "t",
            "code": "def f(x): pass",
            "test_list": ["assert f(1) is None"],
        }
        for number in (20, 21, 511, 601, 602)
    ]
    path = write_rows(tmp_path / "mbpp.jsonl", rows)
    names = [{"task_id": "Mbpp/20"}, {"task_id": "Mbpp/511"}, {"task_id": "Mbpp/602"}]
    exclude = [write_rows(tmp_path / "a.jsonl", names[:2]), write_rows(tmp_path / "b.jsonl", names)]
    splits = mbpp.make(mbpp.Config("", path, exclude=exclude))
    ids = {split: [task["task_id"] for task in tasks] for split, tasks in splits.items()}
    assert ids == {"test": ["mbpp/20", "mbpp/21"], "train": ["mbpp/601"]}
    printed = capsys.readouterr().out
    assert "validation: 1 of 1 tasks are left out" in printed
    assert "train: 1 of 2 tasks are left out" in printed


def test_a_plus_benchmark_warns_of_its_tasks_that_are_training_tasks(tmp_path, pool, capsys):
    rows = [plus_row(task_id=f"Mbpp/{number}") for number in (11, 511, 601, 602)]
    path = write_rows(tmp_path / "plus.jsonl", rows)
    warning = "warning: {} tasks of MBPP+ are in MBPP's train split, {} in its validation split"
    plus_tasks("mbppplus", path)
    assert warning.format(2, 1) in capsys.readouterr().out
    code = {"text": "t", "code": "def f(x):\n    return x", "test_list": ["assert f(1) == 1"]}
    published = write_rows(
        tmp_path / "mbpp.jsonl", [{"task_id": number} | code for number in (11, 601, 603)]
    )
    mbpp.make(mbpp.Config("", published, plus=path))
    assert warning.format(1, 0) in capsys.readouterr().out
    plus_tasks("mbppplus", write_rows(tmp_path / "plus.jsonl", rows[:1]))
    assert "warning" not in capsys.readouterr().out


def test_the_evaluation_tasks_of_mbpp_plus_leave_mbpps_training_files(benchmark_data, capsys):
    plus = str(benchmark_data / "mbppplus" / "MbppPlus.jsonl.gz")
    plus_tasks("mbppplus", plus)
    assert "warning: 108 tasks of MBPP+ are in MBPP's train split, 39" in capsys.readouterr().out
    for name, sizes in (("mbpp.jsonl", (266, 51, 500)), ("sanitized-mbpp.json", (12, 4, 257))):
        splits = mbpp.make(mbpp.Config("", str(benchmark_data / "mbpp" / name), exclude=[plus]))
        assert tuple(len(splits[split]) for split in ("train", "validation", "test")) == sizes


def test_the_names_of_the_plus_setup_hide_no_name_that_the_tests_of_mbpp_use(benchmark_data):
    config = mbpp.Config(output_dir="", input=str(benchmark_data / "mbpp" / "mbpp.jsonl"))
    setup = ast.parse(evalplus.plus_setup(plus_row(), ""))
    defined = {
        name.id for node in setup.body for name in ast.walk(node) if isinstance(name, ast.Name)
    }
    defined |= {node.name for node in setup.body if isinstance(node, ast.FunctionDef)}
    assert {"source", "entry_point", "atol", "program", "close", "tolerance", "agrees"} <= defined
    for task in (task for rows in mbpp.make(config).values() for task in rows):
        program_names = {n.name for n in ast.parse(task["solution"]).body if hasattr(n, "name")}
        used = {
            n.id for t in task["tests"] for n in ast.walk(ast.parse(t)) if isinstance(n, ast.Name)
        }
        assert not used & program_names & defined


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plus_input": 3}, "field 'plus_input' must be"),
        ({"atol": None}, "field 'atol' must be"),
        ({"base_input": None}, "field 'base_input' must be list"),
    ],
)
def test_a_damaged_plus_file_is_named(tmp_path, change, message):
    path = write_rows(tmp_path / "plus.jsonl", [plus_row(), plus_row(**change)])
    with pytest.raises(InputError, match=f"plus.jsonl:2: {message}"):
        plus_tasks("mbppplus", path)


def mbpp_row(**fields):
    row = {"task_id": 601, "text": "t", "code": "x = 1\n", "test_list": ["assert x"]}
    return json.dumps(row | fields) + "\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"task_id": 601, "text": "t", "code": "c", "test_list": []}\n{"task_id": 602}\n',
            ":2: field 'code' must be str",
        ),
        ("{", "not a readable benchmark file"),
        (mbpp_row(code="print 1\n"), "task 601: 'code' or a test is no Python"),
        (mbpp_row(test_setup_code=3), "task 601: field 'test_setup_code' must be str"),
        (mbpp_row(test_list=[1]), "task 601: field 'test_list' must be strings"),
        (mbpp_row(test_imports=[1]), "task 601: field 'test_imports' must be strings"),
    ],
)
def test_a_damaged_benchmark_file_is_named(tmp_path, text, message):
    (tmp_path / "mbpp.jsonl").write_text(text)
    with pytest.raises(InputError, match=message):
        mbpp.make(mbpp.Config(output_dir="", input=str(tmp_path / "mbpp.jsonl")))


def test_a_file_of_other_tasks_is_refused_and_not_replaced(tmp_path):
    files.write_splits({"train": [{"a": 1}]}, str(tmp_path), left_out={"t": "no tests"})
    files.write_splits({"train": [{"a": 1}]}, str(tmp_path), left_out={"t": "no tests"})
    for tasks in ([{"a": 2}], [{"a": 1}, {"b": 1}], []):
        splits = {"test": [{"c": 1}], "train": tasks}
        with pytest.raises(InputError, match=r"train\.jsonl: exists, with other rows"):
            files.write_splits(splits, str(tmp_path))
        assert (tmp_path / "train.jsonl").read_text() == '{"a": 1}\n'
        assert not (tmp_path / "test.jsonl").exists()


def test_the_tasks_that_another_split_of_the_folder_lacks_stay_named(tmp_path):
    for split, name in (("train", "t"), ("test", "u"), ("test", "u")):
        files.write_splits({split: [{"a": 1}]}, str(tmp_path), left_out={name: "no tests"})
    named = common.read_jsonl(tmp_path / "left_out.jsonl", {"task_id": str, "reason": str})
    assert [row["task_id"] for row in named] == ["t", "u"]


def test_a_benchmark_needs_its_file():
    with pytest.raises(InputError, match="--input is required"):
        common.parse_flags(mbpp.Config, ["--source", "mbpp", "--output_dir", "unused"])
    with pytest.raises(InputError, match="no such file"):
        humaneval.make(humaneval.Config(output_dir="", input="nowhere.jsonl.gz"))


@pytest.mark.parametrize("source", make_tasks.SOURCES)
def test_a_source_chooses_a_benchmark_with_flags_of_its_own(source):
    flags = ["--source", source, "--output_dir", "o"]
    benchmark = common.chosen("source", make_tasks.SOURCES, flags)
    flags += ["--seed", "3"] if source == "micro" else ["--input", "i", "--think"]
    config = common.parse_flags(benchmark.Config, flags)
    assert config.source == source and config.output_dir == "o"
    foreign = "--input" if source == "micro" else "--num_sft_tasks"
    with pytest.raises(InputError, match=f"unknown flag {foreign}"):
        common.parse_flags(benchmark.Config, [*flags, foreign, "1"])


@pytest.mark.parametrize("flags", [[], ["--source"], ["--source", "mbp"], ["--source=nothing"]])
def test_a_source_that_is_missing_or_unknown_is_one_line_with_the_known_ones(flags):
    with pytest.raises(InputError, match="--source is required, one of micro, mbpp"):
        common.chosen("source", make_tasks.SOURCES, flags)
    assert common.chosen("source", make_tasks.SOURCES, ["--source=gsm8k"]) is gsm8k


def test_solutions_are_json_safe(splits):
    assert json.loads(json.dumps(splits["test"])) == splits["test"]


@pytest.fixture(scope="module")
def plans():
    numbers = {
        "num_sft_tasks": 200,
        "num_train_tasks": 20,
        "num_test_tasks": 20,
        "train_min_steps": 3,
    }
    return micro.make(micro.Config(output_dir="", plans=True, **numbers))


def test_plans_change_nothing_but_the_demonstrations_and_the_meta(plans):
    numbers = {
        "num_sft_tasks": 200,
        "num_train_tasks": 20,
        "num_test_tasks": 20,
        "train_min_steps": 3,
    }
    plain = micro.make(micro.Config(output_dir="", **numbers))
    for split, rows in plans.items():
        for row, other in zip(rows, plain[split], strict=True):
            assert {**row, "completion": "", "meta": other["meta"]} == {**other, "completion": ""}
            if split == "sft":
                assert common.extract_program(row, row["completion"]) == other["completion"]


def test_every_line_of_the_grammar_has_a_plan_line_of_its_own_that_no_prompt_uses():
    lines = {
        line.replace("{j}", "{k}")
        for row in micro_operations.OPERATIONS
        for line in [row[0], *row[2]]
    }
    assert lines == set(micro_operations.PLANS) and len(
        set(micro_operations.PLANS.values())
    ) == len(lines)
    phrases = {phrase for row in micro_operations.OPERATIONS for phrase in row[1]}
    assert not phrases & {*micro_operations.PLANS.values(), *micro_operations.VAGUE_PLAN_LINES}


def test_demonstrations_plan_what_their_program_does_but_for_the_vague_and_the_unaligned_lines(
    plans,
):
    says = {}  # plan line -> line of code, over all numbers
    for line, plan in micro_operations.PLANS.items():
        for k in range(-5, 13):
            says[plan.format(k=k)] = line.format(k=k)
    counts = {"aligned": 0, "vague": 0, "unaligned": 0, "sound and wrong": 0}
    for row in plans["sft"]:
        reasoning = common.reasoning_of(row["completion"])
        program = common.extract_program(row, row["completion"]).splitlines()[1:-1]
        reference = row["solution"].splitlines()[1:-1]
        assert [f"    xs = {says[line]}" for line in row["meta"]["plan"]] == reference
        for line, code, right in zip(reasoning.split("\n")[1:-1], program, reference, strict=True):
            if line in micro_operations.VAGUE_PLAN_LINES:
                counts["vague"] += 1
            else:
                counts["aligned" if f"    xs = {says[line]}" == code else "unaligned"] += 1
                counts["sound and wrong"] += f"    xs = {says[line]}" == right and code != right
    total = counts["aligned"] + counts["vague"] + counts["unaligned"]
    assert counts["vague"] / total == pytest.approx(0.2, abs=0.04)
    assert counts["unaligned"] / total == pytest.approx(0.1, abs=0.03)
    assert counts["sound and wrong"] > 0  # an unaligned line can be the right one


def test_every_gsm8k_reference_passes_and_perturbed_answers_fail(benchmark_data):
    path = benchmark_data / "gsm8k" / "test.jsonl"
    tasks = gsm8k.make(gsm8k.Config(output_dir="", input=str(path)))["test"]
    assert len(tasks) == 1319 and len({task["task_id"] for task in tasks}) == 1319
    cases = []  # (task, text, passes)
    for task in tasks:
        check_task(task)
        number = task["tests"][0]["answer"].replace(",", "")
        for other in (
            str(int(number) + 1),
            str(-int(number) or 5),
            number + "0" if number != "0" else "10",
            "x",
        ):
            cases.append((task, task["solution"].rpartition("####")[0] + f"#### {other}", False))
        cases += [
            (task, task["solution"], True),
            (task, f"so it is\n#### ${int(number):,}.00", True),
        ]
        cases.append((task, task["solution"].rpartition("####")[0], False))
    with Sandbox(workers=2) as sandbox:
        verdicts = [
            future.result() for future in [sandbox.submit(task, text) for task, text, _ in cases]
        ]
    wrong = [
        (task["task_id"], text[-40:])
        for (task, text, passes), verdict in zip(cases, verdicts, strict=True)
        if (verdict["status"] == "passed") != passes
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("source", "path", "split"),
    [("gsm8k", "gsm8k/test.jsonl", "test"), ("mbpp", "mbpp/mbpp.jsonl", "validation"),
     ("humaneval", "humaneval/HumanEval.jsonl.gz", "test")],
)  # fmt: skip
def test_a_task_that_asks_for_reasoning_judges_what_stands_between_the_answer_tags(
    benchmark_data, tmp_path, source, path, split
):
    benchmark = make_tasks.SOURCES[source]
    benchmark.main(benchmark.Config(str(tmp_path), str(benchmark_data / path), think=True))
    cases = []  # (task, text)
    for task in common.read_jsonl(tmp_path / f"{split}.jsonl", common.PROMPT_FIELDS, check_task):
        assert "prefix" not in task and task["prompt"].endswith("between <answer> and </answer>.\n")
        whole = f"<think>\nx\n</think>\n<answer>\n```python\n{task['solution']}```\n</answer>\n"
        text = task.get("completion", whole)
        if source == "gsm8k":
            assert (
                common.reasoning_of(text).split("\n") == ["", *task["meta"]["plan"], ""]
                and "<<" not in text
            )
        cases.append((task, text))
    with Sandbox(workers=2) as sandbox:
        verdicts = sandbox.judge(
            [(task, common.extract_program(task, text)) for task, text in cases]
        )
    failed = [
        task["task_id"]
        for (task, _), v in zip(cases, verdicts, strict=True)
        if v["status"] != "passed"
    ]
    assert failed == []


def test_a_gsm8k_row_without_a_final_answer_is_named(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text('{"question": "q", "answer": "#### 1"}\n{"question": "q", "answer": "1"}\n')
    with pytest.raises(InputError, match=r"test.jsonl:2: field 'answer'"):
        gsm8k.make(gsm8k.Config(output_dir="", input=str(path)))


def test_comments_stand_above_lines_of_the_demonstrations_alone_and_change_nothing_else():
    numbers = {"num_sft_tasks": 60, "num_train_tasks": 3, "num_test_tasks": 3}
    plain, commented = (
        micro.make(micro.Config("", comment_rate=rate, **numbers)) for rate in (0.0, 0.3)
    )
    assert plain["train"] == commented["train"] and plain["test"] == commented["test"]
    lines = comments = 0
    for a, b in zip(plain["sft"], commented["sft"], strict=True):
        code = [
            line for line in b["completion"].splitlines(True) if not line.lstrip().startswith("#")
        ]
        assert "".join(code) == a["completion"] and a["solution"] == b["solution"]
        lines, comments = lines + len(code) - 1, comments + b["completion"].count("#")
    assert 0.25 < comments / lines < 0.35
