"""The embedded benchmark holds what its docstring promises, and the published files become tasks."""

import json
import random

import pytest

import common
import make_tasks
from common import InputError
from sandbox import Sandbox, check_task


@pytest.fixture(scope="module")
def micro():
    config = make_tasks.Config(
        source="micro", output_dir="", num_sft_tasks=200, num_train_tasks=80, num_test_tasks=60, train_min_steps=3
    )
    return make_tasks.make_micro(config)


def steps_of(row):
    """The operations of a micro program, recognised from its lines."""
    steps = []
    for line in row["solution"].splitlines()[1:-1]:
        code = line.removeprefix("    xs = ")
        steps.append(next(i for i, (template, _, _, (low, high)) in enumerate(make_tasks.OPERATIONS)
                          for k in range(low, high + 1) if template.format(k=k, j=k + 1) == code))  # fmt: skip
    return tuple(steps)


def test_every_row_is_a_valid_task_and_the_same_seed_gives_the_same_rows(micro):
    for rows in micro.values():
        for row in rows:
            check_task(row)
            assert len(row["prompt"].splitlines()) == row["meta"]["steps"] == len(row["solution"].splitlines()) - 2
    again = make_tasks.make_micro(make_tasks.Config("micro", "", None, 200, 80, 60, train_min_steps=3))
    assert again == micro


def test_no_composition_and_no_prompt_is_in_two_splits(micro):
    test = {steps_of(row) for row in micro["test"]}
    assert not test & {steps_of(row) for split in ("sft", "train") for row in micro[split]}
    prompts = [row["prompt"] for rows in micro.values() for row in rows]
    assert len(set(prompts)) == len(prompts)


def test_references_pass_and_every_near_miss_of_every_line_fails(micro):
    rows = micro["train"][:12] + micro["test"][:12]
    with Sandbox(workers=2) as sandbox:
        good = [sandbox.submit(row, row["solution"]) for row in rows]
        bad = []
        for row in rows:
            lines = row["solution"].splitlines(keepends=True)
            for number, operation in enumerate(steps_of(row), 1):
                template, _, misses, bounds = make_tasks.OPERATIONS[operation]
                code = lines[number].removeprefix("    xs = ").rstrip("\n")
                k = next(k for k in range(bounds[0], bounds[1] + 1) if template.format(k=k, j=k + 1) == code)
                for miss in misses:
                    changed = [*lines]
                    changed[number] = f"    xs = {miss.format(k=k, j=k + 1)}\n"
                    bad.append(sandbox.submit(row, "".join(changed)))
        assert all(future.result()["status"] == "passed" for future in good)
        assert len(bad) > 150 and all(future.result()["status"] != "passed" for future in bad)


def test_every_step_changes_half_of_the_inputs(micro):
    for row in micro["train"]:
        states = [test["args"][0] for test in row["tests"]]
        for line in row["solution"].splitlines()[1:-1]:
            after = [make_tasks.apply_line(line.removeprefix("    xs = "), xs) for xs in states]
            assert 2 * sum(a != b for a, b in zip(after, states, strict=True)) >= len(states)
            states = after
        assert states == [test["output"] for test in row["tests"]]


def test_the_teacher_is_wrong_on_some_phrases_most_of_the_time_and_seldom_on_the_others(micro):
    wrong, seen = {}, {}
    for row in micro["sft"]:
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
    assert make_tasks.run_steps(make_tasks.random_steps(rng, 0), [[1, 2, 3, 4]]) == [[[1, 2, 3, 4]]]


@pytest.mark.parametrize(("name", "count"), [("mbpp.jsonl", 974), ("sanitized-mbpp.json", 427)])
def test_every_mbpp_reference_passes(benchmark_data, name, count):
    config = make_tasks.Config(source="mbpp", output_dir="", input=str(benchmark_data / "mbpp" / name))
    splits = make_tasks.make_mbpp(config)
    tasks = [task for rows in splits.values() for task in rows]
    assert len(tasks) == count and all(task["entry_point"] for task in tasks)
    assert {int(task["task_id"].split("/")[1]) for task in splits["train"]} <= set(range(601, 975))
    assert {int(task["task_id"].split("/")[1]) for task in splits["test"]} <= set(range(11, 511))
    assert not any("\r" in task["solution"] for task in tasks)
    with Sandbox(workers=2) as sandbox:
        verdicts = [future.result() for future in [sandbox.submit(task, task["solution"]) for task in tasks]]
    failing = [task["task_id"] for task, verdict in zip(tasks, verdicts, strict=True) if verdict["status"] != "passed"]
    assert failing == []


def test_every_humaneval_reference_passes_as_a_completion_of_its_prompt(benchmark_data):
    path = benchmark_data / "humaneval" / "HumanEval.jsonl.gz"
    tasks = make_tasks.make_humaneval(make_tasks.Config(source="humaneval", output_dir="", input=str(path)))["test"]
    assert len(tasks) == 164
    programs = [common.extract_program(task, task["solution"].removeprefix(task["prefix"])) for task in tasks]
    with Sandbox(workers=2) as sandbox:
        futures = [sandbox.submit(task, program) for task, program in zip(tasks, programs, strict=True)]
        failing = [t["task_id"] for t, f in zip(tasks, futures, strict=True) if f.result()["status"] != "passed"]
    assert failing == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"task_id": 601, "text": "t", "code": "c", "test_list": []}\n{"task_id": 602}\n',
            ":2: field 'code' must be str",
        ),
        ("{", "not a readable benchmark file"),
    ],
)
def test_a_damaged_benchmark_file_is_named(tmp_path, text, message):
    (tmp_path / "mbpp.jsonl").write_text(text)
    with pytest.raises(InputError, match=message):
        make_tasks.make_mbpp(make_tasks.Config(source="mbpp", output_dir="", input=str(tmp_path / "mbpp.jsonl")))


def test_a_benchmark_needs_its_file():
    with pytest.raises(InputError, match="--input is required"):
        make_tasks.make_mbpp(make_tasks.Config(source="mbpp", output_dir=""))
    with pytest.raises(InputError, match="no such file"):
        make_tasks.make_humaneval(make_tasks.Config(source="humaneval", output_dir="", input="nowhere.jsonl.gz"))


def test_solutions_are_json_safe(micro):
    assert json.loads(json.dumps(micro["test"])) == micro["test"]
