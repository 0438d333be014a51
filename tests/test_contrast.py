"""Pairs of reasonings: what each rule does, that a pair's order is right, that form is no sign."""

import json
import random
from pathlib import Path

import pytest
import torch

import common
import eval_prm
import make_prm_data
from benchmarks import micro
from benchmarks.micro_operations import PLANS
from common import InputError
from prm_data import contrast
from teachers import chat, chat_reasoning, reasoning_rules

PLAN = [
    "retain numbers that are at least 3",
    "insert at the head the highest number",
    "shift all places to the left by 2",
]


@pytest.fixture(scope="module")
def tasks():
    """The teacher's demonstrations, with vague, unaligned and wrong lines in their plans."""
    numbers = {
        "num_sft_tasks": 120,
        "num_train_tasks": 1,
        "num_test_tasks": 1,
        "max_steps": 5,
        "train_min_steps": 3,
    }
    return micro.make(micro.Config(output_dir="", plans=True, **numbers))["sft"]


def make_pairs(folder, tasks, **flags):
    common.write_jsonl(folder / "tasks.jsonl", tasks)
    config = contrast.Config(str(folder / "tasks.jsonl"), str(folder / "pairs.jsonl"), **flags)
    for path in (config.output_file, config.lines_file):
        if path is not None:
            Path(path).unlink(missing_ok=True)  # a result of other flags is not written over
    contrast.main(config)
    return common.read_jsonl(folder / "pairs.jsonl", {})


@pytest.mark.parametrize(
    ("operator", "place", "expected"),
    [
        ("wrong_operation", 0, ["retain numbers that are less than 3", *PLAN[1:]]),
        ("wrong_operation", 1, [PLAN[0], "insert at the head the lowest number", PLAN[2]]),
        ("swapped", 1, [PLAN[0], PLAN[2], PLAN[1]]),
        ("swapped", 2, None),
        ("contradictory", 0, [PLAN[0], "retain numbers that are less than 3", PLAN[2]]),
        ("contradictory", 2, None),
        ("duplicated", 0, [PLAN[0], PLAN[0], PLAN[2]]),
        ("duplicated", 2, None),
    ],
)
def test_each_rule_changes_what_its_name_says(operator, place, expected):
    assert getattr(reasoning_rules, operator)(PLAN, place, random.Random(0)) == expected


def test_a_wrong_number_is_another_number_and_a_line_without_one_has_none():
    changed = {reasoning_rules.wrong_number(PLAN, 0, random.Random(seed))[0] for seed in range(50)}
    assert changed == {f"retain numbers that are at least {n}" for n in (0, 1, 2, 4, 5, 6)}
    assert reasoning_rules.wrong_number(PLAN, 1, random.Random(0)) is None


@pytest.mark.parametrize(
    ("lines", "accuracy"),
    [
        (PLAN, 1),
        (PLAN[:2], 2 / 3),
        ([*PLAN, "more"], 3 / 4),
        ([PLAN[1], PLAN[0], PLAN[2]], 1 / 3),
        ([], 0),
    ],
)
def test_plan_accuracy_counts_right_lines_place_by_place(lines, accuracy):
    assert (
        reasoning_rules.plan_accuracy(
            PLAN, "\n" + "\n".join(f"  {line} " for line in lines) + "\n\n"
        )
        == accuracy
    )
    assert reasoning_rules.plan_accuracy(PLAN, None) == 0


def test_optimising_puts_right_the_lines_of_one_dimension_alone():
    known = {reasoning_rules.opening_of(line) for line in PLANS.values()}
    lines = [
        "retain numbers that are at most 3",
        "handle this step",
        PLAN[1],
    ]  # wrong, vague, in the wrong place
    right = {
        dimension: reasoning_rules.optimise(lines, dimension, PLAN, known)
        for dimension in reasoning_rules.DIMENSIONS
    }
    assert right["factual"] == [PLAN[0], *lines[1:]]
    assert right["coherence"] == [lines[0], PLAN[1], lines[2]]
    assert right["rigour"] == [*lines[:2], PLAN[2]]
    assert all(
        reasoning_rules.optimise(PLAN, dimension, PLAN, known) is None
        for dimension in reasoning_rules.DIMENSIONS
    )
    assert reasoning_rules.optimise(PLAN[:2], "factual", PLAN, known) is None


def test_the_chosen_of_every_pair_is_the_sounder_one_and_every_kind_and_dimension_occurs(
    tasks, tmp_path
):
    rows = make_pairs(tmp_path, tasks)
    plans = {task["task_id"]: task["meta"]["plan"] for task in tasks}
    for row in rows:
        accuracy = [
            reasoning_rules.plan_accuracy(plans[row["task_id"]], row[side])
            for side in ("chosen", "rejected")
        ]
        assert accuracy[0] > accuracy[1]
    cells = {(row["kind"], row["meta"]["dimension"]) for row in rows}
    assert {
        (kind, d) for kind in ("degradation", "strong") for d in ("factual", "coherence")
    } <= cells
    assert {kind for kind, _ in cells} == set(contrast.KINDS)
    operators = {row["meta"]["operator"] for row in rows}
    assert {
        rule.__name__ for rules in reasoning_rules.OPERATORS.values() for rule in rules
    } <= operators
    assert rows == make_pairs(tmp_path, tasks)  # the same seed, the same pairs
    assert {row["kind"] for row in make_pairs(tmp_path, tasks, kinds=["strong"])} == {"strong"}


def test_form_and_length_do_not_tell_the_chosen_from_the_rejected(tasks, tmp_path):
    rows = make_pairs(tmp_path, tasks)
    for row in rows:
        assert row["chosen"].count("\n") == row["rejected"].count("\n")
        lengths = [len(row["chosen"]), len(row["rejected"])]
        assert max(lengths) - min(lengths) <= 0.15 * max(lengths)
    everything = make_pairs(tmp_path, tasks, match_length=None)
    assert len(everything) > len(rows)
    shortest = torch.tensor([len(row["rejected"]) - len(row["chosen"]) for row in rows])
    assert (
        common.auc(torch.cat([shortest, -shortest]), torch.arange(2 * len(rows)) < len(rows)) < 0.65
    )


@pytest.mark.parametrize(
    ("rejected", "alike"),
    [
        ("- a b c d e f\n- g", True),
        ("- a b c d e f g", False),
        ("- a b c d e f\ng h", False),
        ("- a b c\n- g", False),
        ("- a b c d <i>\n- g", False),
        ("1. a b c d f\n- g", False),
    ],
)
def test_a_pair_is_matched_by_lines_tags_marks_and_length(rejected, alike):
    assert contrast.matched("- a b c d e F\n- G", rejected, 0.15) == alike
    assert contrast.matched("- a b c d e F\n- G", rejected, None)


@pytest.mark.parametrize(("longer", "alike"), [(115, True), (117, True), (118, False)])
def test_a_longer_text_is_matched_whether_it_is_the_chosen_one_or_not(longer, alike):
    short, long = "a" * 100, "a" * longer
    assert contrast.matched(long, short, 0.15) == contrast.matched(short, long, 0.15) == alike


@pytest.mark.parametrize("separator", ["\x0c", "\x85", "\u2028", "\x1c", "\r"])
def test_lines_of_a_base_end_where_the_reader_of_the_rows_says(tasks, tmp_path, separator):
    task = tasks[0]
    first, *plan = task["meta"]["plan"]
    text = completion([f"{first} {separator} or so", *plan])
    common.write_jsonl(
        tmp_path / "samples.jsonl", [{"task_id": task["task_id"], "completion": text}]
    )
    flags = {"samples": str(tmp_path / "samples.jsonl"), "reference_bases": False}
    flags |= {"lines_file": str(tmp_path / "lines.jsonl"), "match_length": None}
    pairs = make_pairs(tmp_path, [task], **flags)
    assert pairs and not any("\r" in pair["chosen"] + pair["rejected"] for pair in pairs)
    row = common.read_jsonl(tmp_path / "lines.jsonl", common.PRM_FIELDS, common.check_prm_row)[0]
    if separator == "\r":  # as Python ends a line
        assert row["completions"][1:3] == [f"{first} \n", " or so\n"]
    else:
        assert row["completions"][1] == f"{first} {separator} or so\n"
        assert row["labels"] == [None, -1.0, *[1.0] * len(plan)]


@pytest.mark.parametrize("flag", ["samples", "from_verdicts"])
def test_a_sample_of_another_file_s_task_is_refused(tasks, tmp_path, flag):
    sample = {"task_id": "other", "completion": completion(PLAN), "status": "passed"}
    common.write_jsonl(tmp_path / "samples.jsonl", [sample])
    with pytest.raises(InputError, match=r"samples.jsonl:1: field 'task_id': no task 'other'"):
        make_pairs(tmp_path, tasks, **{flag: str(tmp_path / "samples.jsonl")})


def test_policy_samples_are_the_bases_where_they_are_given(tasks, tmp_path):
    lines = ["retain numbers that are odd"] * 9
    texts = [
        "<think>\n" + "\n".join(lines) + "\n</think>\n<answer>\nx\n</answer>",
        "no reasoning at all",
    ]
    common.write_jsonl(
        tmp_path / "samples.jsonl",
        [{"task_id": task["task_id"], "completion": t} for task in tasks for t in texts],
    )
    bases = contrast.read_bases(
        tasks, contrast.Config("", "", samples=str(tmp_path / "samples.jsonl"))
    )
    assert [text for _, text in bases[::2]] == ["\n" + "\n".join(lines) + "\n"] * len(tasks)
    assert [text.strip().split("\n") for _, text in bases[1::2]] == [
        task["meta"]["plan"] for task in tasks
    ]


def test_line_labels_are_exact_and_every_reasoning_stands_once(tasks, tmp_path):
    pairs = make_pairs(tmp_path, tasks, lines_file=str(tmp_path / "lines.jsonl"), match_length=None)
    rows = common.read_jsonl(tmp_path / "lines.jsonl", common.PRM_FIELDS, common.check_prm_row)
    plans = {task["task_id"]: task["meta"]["plan"] for task in tasks}
    texts = [(row["task_id"], "".join(row["completions"])) for row in rows]
    assert len(set(texts)) == len(texts)
    assert set(texts) >= {
        (row["task_id"], row[side]) for row in pairs for side in ("chosen", "rejected")
    }
    for row in rows:
        reference = plans[row["task_id"]]
        assert row["labels"][0] is None and row["completions"][0] == "\n"
        right = [label > 0 for label in row["labels"][1:]]
        assert sum(right) / max(len(right), len(reference)) == reasoning_rules.plan_accuracy(
            reference, "".join(row["completions"])
        )
        swapped = reasoning_rules.swapped(reference, 0, None)
        if (
            row["completions"][1:] == [f"{line}\n" for line in swapped]
            and reference[0] != reference[1]
        ):
            assert right == [False, False] + [True] * (len(reference) - 2)
    in_pairs = {(row["task_id"], row[side]) for row in pairs for side in ("chosen", "rejected")}
    others = [
        row["labels"].count(-1.0) / (len(row["labels"]) - 1)
        for row, text in zip(rows, texts, strict=True)
        if text not in in_pairs
    ]
    assert (
        len(others) > 2 * len(tasks) and 0.4 < sum(others) / len(others) < 0.75
    )  # the scrambled ones
    make_pairs(
        tmp_path,
        tasks,
        lines_file=str(tmp_path / "fewer.jsonl"),
        match_length=None,
        num_scrambled=0,
    )
    fewer = common.read_jsonl(tmp_path / "fewer.jsonl", {})
    assert len(rows) - len(fewer) == len(others) and all(row in rows for row in fewer)
    with pytest.raises(InputError, match="--lines_file needs --teacher rules"):
        make_pairs(tmp_path, tasks, lines_file=str(tmp_path / "lines.jsonl"), teacher="some/model")


def test_a_scrambled_plan_keeps_its_number_of_lines_and_the_form_of_each():
    known = {reasoning_rules.opening_of(line) for line in PLAN}
    versions = {tuple(reasoning_rules.scrambled(PLAN, random.Random(seed))) for seed in range(200)}
    assert tuple(PLAN) in versions and len(versions) > 30
    assert all(
        len(lines) == 3 and {reasoning_rules.opening_of(line) for line in lines} == known
        for lines in versions
    )


def completion(lines):
    return "<think>\n" + "\n".join(lines) + "\n</think>\n<answer>\nx\n</answer>"


def test_a_benchmark_from_verdicts_holds_what_execution_and_plan_agree_on(tasks, tmp_path):
    rows, expected = [], 0
    for number, task in enumerate(tasks):
        plan = task["meta"]["plan"]
        wrong = reasoning_rules.swapped(plan, 0, random.Random(0)) if plan[0] != plan[1] else None
        if wrong is None:
            continue
        kinds = [
            (plan, "passed"),
            (wrong, "failed"),
            (wrong, "passed"),
            (plan, "failed"),
            (plan, "harness_error"),
        ]
        kinds = (
            kinds[: 2 + number % 4] if number % 2 else kinds[1:]
        )  # every second task has no sound sample that passes
        expected += number % 2
        rows += [
            {"task_id": task["task_id"], "completion": completion(p), "status": s} for p, s in kinds
        ]
    common.write_jsonl(tmp_path / "verdicts.jsonl", rows)
    pairs = make_pairs(tmp_path, tasks, from_verdicts=str(tmp_path / "verdicts.jsonl"))
    plans = {task["task_id"]: task["meta"]["plan"] for task in tasks}
    assert len(pairs) == expected > 20 and {row["kind"] for row in pairs} == {"verdict"}
    for row in pairs:
        assert (
            reasoning_rules.plan_lines(row["chosen"])
            == plans[row["task_id"]]
            != reasoning_rules.plan_lines(row["rejected"])
        )
        assert row["meta"]["dimension"] == "rigour"


def test_a_language_model_is_asked_for_each_version_and_its_answers_make_the_pairs(
    tasks, tmp_path, monkeypatch
):
    asked = []

    class Teacher:
        def __init__(self, *arguments, **keywords):
            pass

        def ask(self, prompts, desc, whole):
            asked.extend(prompts)
            answers = []
            for prompt in prompts:
                base = prompt.split("<reasoning>\n")[1].split("\n</reasoning>")[0]
                better = any(order in prompt for order in chat_reasoning.OPTIMISE.values())
                answers.append(None if "once" in base else ("B" if better else "W") + base[1:])
            return answers

    monkeypatch.setattr(chat, "Teacher", Teacher)
    plain = [task | {"meta": {}} for task in tasks]  # a language model needs no reference plan
    rows = make_pairs(tmp_path, plain, teacher="http://localhost:1/v1", num_bases=1, num_degraded=1)
    assert len(asked) == len(tasks) * 3 * 2 and len(set(asked)) == len(asked)
    signs = {
        kind: {(row["chosen"][1], row["rejected"][1]) for row in rows if row["kind"] == kind}
        for kind in contrast.KINDS
    }
    assert signs["strong"] == {("B", "W")}
    assert {b for b, _ in signs["optimisation"]} == {"B"} and {
        w for _, w in signs["degradation"]
    } == {"W"}
    assert not {b for _, b in signs["optimisation"]} & {"B", "W"}


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({}, "field 'meta' must hold 'plan'"),
        ({"plan": [1]}, "'plan' must be a list of str"),
        ({"plan": ["a", "b "]}, "'plan': not one line without margins: 'b '"),
        ({"plan": ["a", ""]}, "'plan': not one line without margins: ''"),
        ({"plan": ["a\nb"]}, "'plan': not one line without margins"),
    ],
)
def test_a_task_without_a_plan_is_named(tmp_path, meta, message):
    with pytest.raises(InputError, match=rf"tasks.jsonl:1: .*{message}"):
        make_pairs(tmp_path, [{"task_id": "a", "prompt": "p", "meta": meta}])


def test_a_task_that_occurs_twice_or_holds_no_text_is_refused(tmp_path):
    task = {"task_id": "a", "prompt": "p", "meta": {"plan": PLAN}}
    with pytest.raises(InputError, match="a task_id occurs twice"):
        make_pairs(tmp_path, [task, task])
    with pytest.raises(InputError, match=r"tasks.jsonl:1: field 'completion' must be str"):
        make_pairs(tmp_path, [task | {"completion": 5}])


def test_the_method_has_its_place_in_make_prm_data():
    assert common.chosen("method", make_prm_data.METHODS, ["--method", "contrast"]) is contrast
    assert json.dumps(contrast.Config("", "").dimensions) == json.dumps(
        list(reasoning_rules.DIMENSIONS)
    )


def test_pair_accuracy_is_reported_by_kind_dimension_and_operator_with_intervals(tasks, tmp_path):
    rows = make_pairs(tmp_path, tasks[:20])
    tokenizer = common.new_tokenizer(
        [text for row in rows for text in (row["prompt"], row["chosen"])], 400
    )
    model = common.new_model(tokenizer, 32, 1, seed=0, num_labels=1).eval()
    common.save_model(model, tokenizer, tmp_path / "rm")
    config = eval_prm.Config(
        pairs=str(tmp_path / "pairs.jsonl"),
        reasoning_rm=str(tmp_path / "rm"),
        output_dir=str(tmp_path / "report"),
        batch_size=7,
    )
    eval_prm.main(config)
    report = json.loads((tmp_path / "report" / "report.json").read_text())

    def score(row, side):
        ids = tokenizer(row["prompt"] + row[side]).input_ids
        with torch.no_grad():
            return float(model(input_ids=torch.tensor([ids])).logits[0, -1, 0])

    right = [score(row, "chosen") > score(row, "rejected") for row in rows]
    assert 0 < sum(right) < len(rows)
    for name, of in (
        ("kind", lambda row: row["kind"]),
        ("operator", lambda row: row["meta"]["operator"]),
    ):
        for value, part in report[f"by_{name}"].items():
            own = [r for r, row in zip(right, rows, strict=True) if of(row) == value]
            assert part["pairs"] == len(own) and part["low"] <= part["accuracy"] <= part["high"]
            if (
                name == "operator" and value == "swapped"
            ):  # tasks weigh alike, whatever their number of pairs
                by_task = {}
                for r, row in zip(right, rows, strict=True):
                    if of(row) == value:
                        by_task.setdefault(row["task_id"], []).append(r)
                assert part["accuracy"] == pytest.approx(
                    sum(sum(x) / len(x) for x in by_task.values()) / len(by_task)
                )
    with pytest.raises(InputError, match="--pairs needs --reasoning_rm"):
        eval_prm.main(eval_prm.Config(pairs="x", output_dir=str(tmp_path / "other")))
