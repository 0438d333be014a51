"""Evaluation of policies: samples, verdicts, reports, comparisons; the input that is refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import common
import eval as evaluation
import train_prm
from benchmarks import evalplus
from common import InputError
from common.flags import check_paths

TASKS = [
    {
        "task_id": name,
        "prompt": "p",
        "entry_point": "f",
        "solution": None,
        "setup": "",
        "style": "call",
        "tests": [{"args": [1], "output": 1}],
        "timeout": None,
        "meta": {"steps": steps},
    }
    for name, steps in (("a", 2), ("b", 2), ("c", 3))
]


def test_a_sample_without_a_verdict_counts_nowhere():
    statuses = [("a", "passed"), ("a", "harness_error"), ("b", "failed"), ("c", "passed")]
    verdicts = [
        {"task_id": name, "status": status, "solution": "x\n" * 4} for name, status in statuses
    ]
    report = common.policy_report(TASKS, verdicts, [1])
    assert report["pass@1"] == pytest.approx(2 / 3)
    assert (
        report["by_steps"]["2"]["pass@1"] == pytest.approx(0.5)
        and report["by_steps"]["3"]["tasks"] == 1
    )
    assert report["status"] == {"passed": 2, "harness_error": 1, "failed": 1}


BY_ID = {task["task_id"]: task for task in TASKS}


def test_samples_of_missing_tasks_are_refused_and_those_of_unknown_tasks_left_out(tmp_path, capsys):
    path = tmp_path / "samples.jsonl"
    rows = [{"task_id": name, "completion": "x"} for name in "azbzcy"]
    common.write_jsonl(path, rows)
    unknown = {"unknown": {"samples": 3, "task_ids": ["y", "z"]}}
    assert common.unknown_samples(path, BY_ID) == unknown
    assert "3 samples of 2 unknown tasks are left out: y, z" in capsys.readouterr().out
    assert [row["task_id"] for row in common.read_samples(path, BY_ID)] == ["a", "b", "c"]
    common.write_jsonl(
        path, [{"task_id": "a", "completion": "x"}, {"task_id": "b", "solution": "y"}]
    )
    with pytest.raises(InputError, match="1 tasks have no sample, c among them"):
        common.unknown_samples(path, BY_ID)
    common.write_jsonl(path, [{"task_id": "a"}])
    with pytest.raises(InputError, match=r":1: field 'solution' or 'completion' must be str"):
        common.unknown_samples(path, BY_ID)


def test_samples_are_numbered_by_task_and_completions_become_programs(tmp_path):
    rows = [{"task_id": name, "completion": "```python\nx = 1\n```"} for name in "aabc"]
    common.write_jsonl(tmp_path / "samples.jsonl", rows)
    read = list(common.read_samples(tmp_path / "samples.jsonl", BY_ID))
    assert [row["sample"] for row in read] == [0, 1, 0, 0] and {
        row["solution"] for row in read
    } == {"x = 1\n"}


def test_pass_rates_are_told_apart_by_lines_and_tasks_that_any_sample_solves_are_counted():
    samples = [
        ("a", "passed", 2),
        ("a", "failed", 5),
        ("b", "failed", 4),
        ("b", "error", 30),
        ("c", "passed", 5),
    ]
    verdicts = [
        {"task_id": name, "status": status, "completion": "x\n" * lines, "solution": "long\n" * 50}
        for name, status, lines in samples
    ]
    report = common.policy_report(TASKS, verdicts, [1, 2])
    rates = {name: (part["pass@1"], part["samples"]) for name, part in report["by_lines"].items()}
    assert rates == {"0-3": (1, 1), "4-5": (pytest.approx(1 / 3), 3), "26+": (0, 1)}
    assert report["solved"] == pytest.approx(2 / 3)
    json.dumps(report, allow_nan=False)
    # Task c has one sample: pass@2 is the mean over the two others.
    assert report["pass@2"] == 0.5 and report["pass@2_tasks"] == 2 and report["pass@1_tasks"] == 3
    assert common.policy_report(TASKS, verdicts, [3])["pass@3"] is None
    nothing = common.policy_report(
        TASKS, [{"task_id": "a", "status": "harness_error", "solution": ""}], [1]
    )
    assert nothing["pass@1"] is None and nothing["by_steps"]["2"]["low"] is None


def test_the_line_of_all_tasks_counts_those_with_a_verdict_and_warns_where_many_lack_one(capsys):
    def printed(unjudged):
        statuses = [("a", "passed")] * 19 + [("b", "harness_error")] * unjudged
        rows = [{"task_id": name, "status": status, "solution": ""} for name, status in statuses]
        common.print_policy_report(common.policy_report(TASKS, rows, [1]))
        return capsys.readouterr().out

    few, many = printed(1), printed(2)  # 5 %, and more
    assert "  1 tasks" in few and "warning" not in few
    assert "warning: that is more than 5%; the rates are of the others alone" in many


def test_pass_rates_are_told_apart_by_difficulty_month_and_tokens_and_cut_off_samples_counted():
    metas = [
        {"difficulty": "easy", "date": "2024-05-31T00:00:00"},
        {"difficulty": "hard", "date": "2024-05-01"},
        {"difficulty": "easy"},
    ]
    tasks = [task | {"meta": meta} for task, meta in zip(TASKS, metas, strict=True)]
    samples = [("a", "passed", 32, True), ("b", "failed", 33, False), ("c", "error", 20_000, False)]
    verdicts = [
        {"task_id": t, "status": s, "completion": "x", "completion_tokens": n, "terminated": ended}
        for t, s, n, ended in samples
    ]
    report = common.policy_report(tasks, verdicts, [1])
    rates = {
        title: {name: (row["pass@1"], row.get("tasks")) for name, row in report[title].items()}
        for title in ("by_difficulty", "by_month", "by_tokens", "by_steps")
    }
    assert rates == {
        "by_difficulty": {"easy": (0.5, 2), "hard": (0, 1)},
        "by_month": {"2024-05": (0.5, 2)},
        "by_tokens": {"0-32": (1, None), "33-64": (0, None), "16385+": (0, None)},
        "by_steps": {},
    }
    assert report["truncated"] == 2
    verdicts = [{"task_id": t, "status": s, "solution": "x"} for t, s, *_ in samples]
    report = common.policy_report(tasks, verdicts, [1])
    assert report["truncated"] is None and report["by_tokens"] == {} and "base" not in report


def test_verdicts_are_outcome_rows_for_an_orm(tmp_path):
    programs = {
        "a": "def f(x):\n    return x\n",
        "b": "def f(x):\n    return 2\n",
        "c": "def f(x:\n",
    }
    tasks = [
        task | {"prefix": "import math\n"} if task["task_id"] == "b" else task for task in TASKS
    ]
    common.write_jsonl(tmp_path / "tasks.jsonl", tasks)
    rows = [
        {"task_id": name, "completion": text, "terminated": name != "c"}
        for name, text in programs.items()
    ]
    common.write_jsonl(tmp_path / "samples.jsonl", rows)
    evaluation.main(
        evaluation.Config(
            str(tmp_path / "tasks.jsonl"),
            str(tmp_path / "run"),
            samples=str(tmp_path / "samples.jsonl"),
        )
    )
    config = train_prm.Config(str(tmp_path / "run" / "verdicts.jsonl"), "", objective="outcome")
    examples = common.read_examples(config)
    assert [row["outcome"] for row in examples] == [3, 2, 0] and [
        row["prompt"] for row in examples
    ] == ["p"] * 3
    assert [row["eos"] for row in examples] == [True, True, False] and examples[1][
        "prefix"
    ] == "import math\n"


def write_run(folder, statuses):
    folder.mkdir()
    rows = [
        {"task_id": name, "status": status}
        for name, words in statuses.items()
        for status in words.split()
    ]
    common.write_jsonl(folder / "verdicts.jsonl", rows)
    return str(folder)


def test_arms_are_compared_on_the_tasks_that_every_run_has_a_verdict_on(tmp_path, capsys):
    a0 = write_run(tmp_path / "a0", {"x": "passed failed", "y": "failed failed", "z": "passed"})
    a1 = write_run(
        tmp_path / "a1", {"x": "passed harness_error", "y": "failed error", "z": "harness_error"}
    )
    b = write_run(tmp_path / "b", {"z": "passed", "x": "passed", "y": "passed timeout"})
    evaluation.main(evaluation.Config(compare=[f"{a0},{a1}", b], output_dir=str(tmp_path / "run")))
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["tasks"] == 2 and report["base"] == f"{a0},{a1}"
    assert report["pass@1"] == {f"{a0},{a1}": pytest.approx(0.375), b: pytest.approx(0.75)}
    found = report["differences"][b]
    assert found["difference"] == pytest.approx(0.375) and found["low"] <= 0.375 <= found["high"]
    assert found["method"] == "bootstrap over tasks and seeds, not paired by seed"
    assert "difference +0.375 [" in capsys.readouterr().out


def test_run_i_of_an_arm_is_paired_with_run_i_of_the_other(tmp_path, capsys):
    rates = {"a0": "passed failed", "a1": "failed failed", "b0": "passed", "b1": "passed failed"}
    arms = {name: write_run(tmp_path / name, {"x": words}) for name, words in rates.items()}
    a, b = (f"{arms[arm + '0']},{arms[arm + '1']}" for arm in "ab")
    evaluation.main(evaluation.Config(compare=[a, b], output_dir=str(tmp_path / "run")))
    found = json.loads((tmp_path / "run" / "report.json").read_text())["differences"][b]
    # Seed by seed the arms differ by a half: no spread, so no width.
    assert (found["difference"], found["low"], found["high"]) == (0.5, 0.5, 0.5)
    assert found["method"] == "Student's t over 2 paired seeds"
    assert "(Student's t over 2 paired seeds)" in capsys.readouterr().out


def test_arms_are_compared_by_pass_at_k_on_the_tasks_with_k_verdicts(tmp_path):
    a = write_run(tmp_path / "a", {"x": "passed failed", "y": "failed failed", "z": "passed"})
    b = write_run(tmp_path / "b", {"x": "failed failed", "y": "failed error", "z": "failed"})
    evaluation.main(evaluation.Config(compare=[a, b], k=[2], output_dir=str(tmp_path / "run")))
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["tasks"] == 2 and report["pass@2"] == {a: 0.5, b: 0}
    assert report["differences"][b]["method"] == "bootstrap over tasks, one seed"
    for k, message in (
        ([3], "no task has 3 verdicts in every"),
        ([1, 2], "takes one value of --k"),
    ):
        with pytest.raises(InputError, match=message):
            config = evaluation.Config(compare=[a, b], k=k, output_dir=str(tmp_path / "no"))
            evaluation.main(config)


def test_what_cannot_be_evaluated_is_refused_before_work_starts(tmp_path):
    a = write_run(tmp_path / "a", {"x": "passed", "y": "failed"})
    b = write_run(tmp_path / "b", {"x": "passed"})
    out = str(tmp_path / "run")
    for flags, message in (
        ({"compare": [a, b]}, "b: only one of it and .*a has task 'y'"),
        ({"compare": [a]}, "--compare needs two arms or more"),
        ({"compare": [a, a]}, "no two the same"),
        ({"compare": [a, f"{a}/"]}, "no two the same"),
        ({"compare": [f"{a},{a}/", b]}, "a,.*a/ has a folder twice"),
        ({"compare": [a, str(tmp_path / "c")]}, r"c/verdicts\.jsonl: no such file"),
        ({"compare": [a, b], "tasks": "x"}, "give either --tasks or --compare"),
        ({}, "give either --tasks or --compare"),
    ):
        with pytest.raises(InputError, match=message):
            evaluation.main(evaluation.Config(output_dir=out, **flags))
    with pytest.raises(InputError, match="--output_dir is required"):
        evaluation.main(evaluation.Config(compare=[a, b]))
    assert not (tmp_path / "run").exists()


def test_a_reward_model_s_flags_are_answered_with_the_script_that_takes_them(tmp_path):
    for flag in ("--prm", "--pairs"):
        command = [sys.executable, "eval.py", flag, "x", "--output_dir", str(tmp_path / "run")]
        root = Path(__file__).parent.parent
        result = subprocess.run(command, cwd=root, capture_output=True, text=True)
        assert result.returncode == 2 and not (tmp_path / "run").exists()
        assert result.stderr == "eval.py: error: eval_prm.py takes --prm and --pairs\n"


def test_a_benchmark_s_packages_are_asked_for_and_their_want_is_counted(tmp_path):
    test = {"args": [2], "output": 4}
    base = {"prompt": "", "solution": None, "setup": "", "style": "call", "entry_point": "f"}
    plain = base | {"task_id": "a", "tests": [test, test], "timeout": None, "meta": {}}
    common.write_jsonl(tmp_path / "plain.jsonl", [plain])
    common.write_jsonl(tmp_path / "numpy.jsonl", [plain | {"packages": ["numpy"]}])
    program = "import numpy\ndef f(x):\n    return int(numpy.square(x))\n"
    rows = [{"task_id": "a", "completion": program, "solution": program}]
    common.write_jsonl(tmp_path / "samples.jsonl", rows)

    def run(tasks, output, **flags):
        samples, folder = str(tmp_path / "samples.jsonl"), str(tmp_path / output)
        evaluation.main(
            evaluation.Config(
                tasks=str(tmp_path / tasks), samples=samples, output_dir=folder, **flags
            )
        )
        return json.loads((tmp_path / output / "report.json").read_text())

    with pytest.raises(InputError, match="--packages numpy"):
        run("numpy.jsonl", "refused")
    assert not (tmp_path / "refused").exists()
    assert run("plain.jsonl", "without")["missing_packages"] == {"numpy": 1}
    report = run("numpy.jsonl", "with", packages=["numpy"])
    assert report["pass@1"] == 1 and not report["missing_packages"]


def test_an_evaluation_stops_at_a_sample_s_first_failing_test_unless_details_are_asked_for(
    tmp_path,
):
    tests = [{"args": [1], "output": 0}, {"args": [2], "output": 2}, {"args": [3], "output": 3}]
    task = {"task_id": "a", "prompt": "", "solution": None, "setup": "", "style": "call"}
    task |= {"entry_point": "f", "tests": tests, "timeout": None, "meta": {}}
    common.write_jsonl(tmp_path / "tasks.jsonl", [task])
    program = "def f(x):\n    return x\n"
    rows = [{"task_id": "a", "completion": program, "solution": program}]
    common.write_jsonl(tmp_path / "samples.jsonl", rows)
    passed = []
    for details in (False, True):
        folder = tmp_path / f"details-{details}"
        evaluation.main(
            evaluation.Config(
                tasks=str(tmp_path / "tasks.jsonl"),
                samples=str(tmp_path / "samples.jsonl"),
                output_dir=str(folder),
                details=details,
            )
        )
        (verdict,) = common.read_jsonl(folder / "verdicts.jsonl", {})
        assert verdict["status"] == "failed" and verdict["total"] == 3
        passed.append(verdict["passed"])
    assert passed == [0, 2]


def test_an_input_among_the_files_of_the_output_folder_is_refused_and_stays(tmp_path, monkeypatch):
    tasks, mine = tmp_path / "tasks.jsonl", tmp_path / "out" / "verdicts.jsonl"
    mine.parent.mkdir()
    for path in (tasks, mine):
        path.write_text("{}\n")
    flags = {"tasks": str(tasks), "samples": str(mine), "output_dir": str(mine.parent)}
    with pytest.raises(InputError, match=r"--samples: .*verdicts\.jsonl lies in --output_dir"):
        check_paths(evaluation.Config(**flags))
    check_paths(evaluation.Config(**flags | {"output_dir": str(tmp_path / "other")}))
    monkeypatch.chdir(mine.parent)
    for output in (".", "../out"):
        with pytest.raises(InputError, match="lies in --output_dir"):
            check_paths(
                evaluation.Config(**flags | {"samples": "verdicts.jsonl", "output_dir": output})
            )
    assert mine.read_text() == "{}\n"


def test_the_base_rate_counts_tasks_without_more_tests_by_their_status():
    verdicts = [
        {"task_id": "a", "status": "passed", "solution": "x"},  # no more tests than the base's
        {"task_id": "b", "status": "failed", "base_status": "passed", "solution": "x"},
        {"task_id": "c", "status": "failed", "base_status": "failed", "solution": "x"},
        {"task_id": "c", "status": "failed", "base_status": "harness_error", "solution": "x"},
    ]
    report = common.policy_report(TASKS, verdicts, [1])
    assert report["pass@1"] == pytest.approx(1 / 3)
    assert report["base"]["pass@1"] == pytest.approx(2 / 3)
    assert report["base"]["pass@1_tasks"] == report["pass@1_tasks"] == 3
    assert "base" not in common.policy_report(TASKS, verdicts[:1], [1])


@pytest.mark.parametrize(
    "source, name, more, right, rate",
    [  # Qwen2.5-Coder-0.5B-Instruct: EvalPlus' own figures of docs/results/real_models.md
        ("humanevalplus", "HumanEvalPlus-NoExtreme.jsonl.gz", 164, 94, 0.573),
        ("mbppplus", "MbppPlus-NoExtreme.jsonl.gz", 377, 193, 0.511),  # Mbpp/793: no more inputs
    ],
)
def test_the_base_rate_of_a_plus_benchmark_is_over_all_of_its_tasks_as_evalplus_counts(
    benchmark_data, source, name, more, right, rate
):
    path = str(benchmark_data / source / name)
    tasks = evalplus.make(evalplus.Config(source, "unused", path))["test"]
    base = evaluation.base_tasks({task["task_id"]: task for task in tasks})
    assert len(base) == more
    verdicts = []
    for number, task in enumerate(sorted(tasks, key=lambda task: task["task_id"] in base)):
        status = "passed" if number < right else "failed"
        row = {"task_id": task["task_id"], "status": status, "solution": "x"}
        verdicts.append(row | ({"base_status": status} if task["task_id"] in base else {}))
    report = common.policy_report(tasks, verdicts, [1])
    assert report["base"]["pass@1_tasks"] == len(tasks)
    assert round(report["base"]["pass@1"], 3) == rate
