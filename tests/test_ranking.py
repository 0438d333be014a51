"""Best of n: how rankers choose, what agreement compares, the table of eval_prm.py --samples."""

import json
import math

import pytest
import torch

import common
import eval_prm
import sandbox
from common import InputError
from common.ranking import chosen_rate


def test_scores_of_lines_are_reduced_to_one():
    scores = [0.5, -0.5, math.nan, 1.0]
    assert common.reduce_lines(scores, "min") == -0.5
    assert common.reduce_lines(scores, "mean") == pytest.approx(1 / 3)
    assert common.reduce_lines(scores, "last") == 1.0
    product = math.log(0.75 * 0.25 * 1.0)
    assert common.reduce_lines(scores, "product") == pytest.approx(product)
    assert common.reduce_lines([-3.0], "product") == pytest.approx(math.log(1e-6))
    for how in ("min", "mean", "last", "product"):
        assert common.reduce_lines([], how) == common.reduce_lines([math.nan], how) == -math.inf


def test_among_equal_scores_the_chance_counts():
    assert chosen_rate([0.1, 0.9, 0.3], [False, True, False]) == 1
    assert chosen_rate([2.0, 2.0, 1.0], [True, False, True]) == 0.5
    assert chosen_rate([-math.inf] * 4, [True, False, False, False]) == 0.25


def test_the_largest_cluster_of_outputs_wins_and_programs_without_outputs_have_none():
    assert common.agreement_scores(["a", "b", None, "a", None, None]) == [2, 1, 0, 2, 0, 0]


def test_the_table_has_the_choice_beside_the_mean_and_the_oracle():
    won = {"t0": [1, 0, 0, 0], "t1": [0, 1, 1, 0], "t2": [0, 0], "t3": [1, 1]}
    samples = [
        {"task_id": name, "status": "passed" if passed else "failed"}
        for name, row in won.items()
        for passed in row
    ]
    # Right, wrong, anything, anything; then the first sample of each task, interleaved or not.
    rankers = {"good": [9, 0, 0, 0, 0, 9, 1, 0, 0, 0, 0, 0], "flat": [0] * 12}
    report = common.best_of_n_report(samples, rankers)
    assert (report["tasks"], report["n"], report["least_n"]) == (4, 4, 2)
    rows = report["rankers"]
    assert list(rows) == ["random", "good", "flat", "oracle"]
    random = (0.25 + 0.5 + 0 + 1) / 4
    assert rows["random"]["pass@1"] == rows["flat"]["pass@1"] == pytest.approx(random)
    assert rows["good"]["pass@1"] == rows["oracle"]["pass@1"] == 0.75
    assert rows["good"]["gain"] == pytest.approx(0.75 - random) and rows["flat"]["gain"] == 0
    for row in rows.values():
        assert 0 <= row["low"] <= row["pass@1"] <= row["high"] <= 1
    assert rows["good"]["gain_low"] <= rows["good"]["gain"] <= rows["good"]["gain_high"]
    shuffled = [8, 0, 4, 9, 1, 10, 5, 2, 11, 6, 3, 7]
    again = common.best_of_n_report(
        [samples[i] for i in shuffled],
        {name: [scores[i] for i in shuffled] for name, scores in rankers.items()},
    )["rankers"]
    assert {name: row["pass@1"] for name, row in again.items()} == {
        name: row["pass@1"] for name, row in rows.items()
    }


def task_of(style, tests, entry_point="f", **fields):
    task = {"task_id": "t", "prompt": "p", "style": style, "tests": tests}
    return task | {"entry_point": entry_point} | fields


def outputs(task, *programs):
    asked = common.output_task(task)
    with sandbox.Sandbox(timeout=1.0) as runner:
        return [common.outputs_of(v) for v in runner.judge([(asked, p) for p in programs])]


CALLS = [{"args": [[1, 2, 3]], "output": 0}, {"args": [[]], "output": 0}]


@pytest.mark.parametrize(
    "task",
    [
        task_of("call", CALLS),
        task_of("assert", ["assert f([1, 2, 3]) == 0", "assert f([]) == 0"]),
        task_of("assert", ["def check(candidate):\n    assert candidate([1, 2]) == 9\ncheck(f)"]),
        task_of("assert", ["assert agrees(f, [5, 6])"], setup="def agrees(f, x): return False"),
        task_of("assert", ["x = g()\nassert f(x) == 1\nassert f(g()) == 2"], setup="g = list"),
    ],
    ids=["call", "assert", "check", "agrees", "setup"],
)
def test_programs_are_compared_by_their_outputs_whatever_the_tests_expect(task):
    one = "def f(xs):\n    return [x * 2 for x in xs]\n"
    same = "def f(xs):\n    return tuple(x + x + 0.0 for x in xs)\n"
    other = "def f(xs):\n    return [x * 3 for x in xs] + [1]\n"
    raises, missing, broken = "def f(xs):\n    raise OSError\n", "x = 1\n", "def f(:\n"
    endless = "def f(xs):\n    while True: pass\n"
    found = outputs(task, one, same, other, raises, missing, broken, endless)
    assert found[0] == found[1] is not None and found[2] not in (None, found[0])
    assert found[3:] == [None] * 4


def test_outputs_of_all_kinds_have_a_text_of_their_own():
    task = task_of("call", [{"args": [1], "output": None}])
    values = ["True", "1", "'1'", "None", "[1]", "{1}", "{1: 2}", "1.5", "10**40", "10**40 + 1"]
    values += ["10**10", "10**10 + 7", "b'ab'", "b'cd'", "1 + 2j", "range(3)", "range(9)"]
    found = outputs(task, *(f"def f(x):\n    return {value}\n" for value in values))
    assert len(set(found)) == len(values) and None not in found
    equal = ["{1: 2, 3: 4}", "{3: 4, 1: 2}"], ["{'a', 'b'}", "{'b', 'a'}"], ["0.1 + 0.2", "0.3"]
    equal += ["0.0", "-0.0"], ["10**16", "1e16"], ["3", "3.0000000001"]
    for pair in equal:
        first, second = outputs(task, *(f"def f(x):\n    return {value}\n" for value in pair))
        assert first == second is not None


def test_a_method_is_called_as_the_tests_call_it():
    task = task_of("call", CALLS, "Solution.f")
    programs = [f"class Solution:\n    def f(self, xs):\n        return {x}\n" for x in (1, 2)]
    first, second = outputs(task, *programs)
    assert None not in (first, second) and first != second


def test_answers_agree_as_numbers_do_and_some_styles_show_no_inputs():
    task = task_of("answer", [{"answer": "9"}], None)
    found = outputs(task, "So #### 1,200", "#### $1200.", "#### 9", "no answer")
    assert found == ["1200", "1200", "9", None]
    assert common.output_task(task_of("stdio", [{"input": "1", "output": "1"}], None)) is None
    assert common.output_task(task_of("unittest", ["import unittest"])) is None
    assert common.output_task(task_of("assert", ["assert f(1) == 1"], None)) is None
    assert common.output_task(task_of("assert", ["for x in [1]:\n    assert f(x) == 1"])) is None


RIGHT, WRONG, OTHER = (f"def f(x):\n    return x + {n}\n" for n in (1, 2, 3))
FENCED = f"Bad bad bad.\n```python\n{RIGHT}```\n"


@pytest.fixture
def sampled(tmp_path, monkeypatch):
    """Tasks, verdicts, and a PRM that likes `+ 1` and dislikes all other lines but `def`."""
    tasks = [
        task_of("call", [{"args": [1], "output": 2}], task_id=f"t{i}", prompt="p") for i in (0, 1)
    ]
    common.write_jsonl(tmp_path / "tasks.jsonl", tasks)
    texts = {"t0": [WRONG, FENCED, RIGHT, OTHER], "t1": [OTHER, WRONG, WRONG, RIGHT]}
    rows = [
        {
            "task_id": name,
            "completion": text,
            "solution": RIGHT if text == FENCED else text,
            "status": "passed" if text in (RIGHT, FENCED) else "failed",
        }
        for name, row in texts.items()
        for text in row
    ]
    rows.append(rows[0] | {"status": "harness_error"})
    common.write_jsonl(tmp_path / "verdicts.jsonl", rows)
    tokenizer = common.new_tokenizer([RIGHT, WRONG] * 3, 300)
    for name in ("prm", "orm"):
        model = common.new_model(tokenizer, 32, 1, seed=0, num_labels=1)
        (tmp_path / name).mkdir()
        common.save_model(model, tokenizer, tmp_path / name)

    def scores_of(model, ids):
        scores = torch.zeros(ids.shape)
        for row, values in zip(ids, scores, strict=True):
            for t in range(len(row)):
                line = tokenizer.decode(row[: t + 1]).split("\n")[-2:]
                line = line[0] if not line[-1].strip() else line[-1]
                values[t] = 1.0 if "+ 1" in line else 0.5 if "def" in line else -1.0
        return scores

    monkeypatch.setattr("common.scoring.scores_of", scores_of)

    def rank(out, **flags):
        config = eval_prm.Config(
            output_dir=str(tmp_path / out),
            samples=str(tmp_path / "verdicts.jsonl"),
            tasks=str(tmp_path / "tasks.jsonl"),
            batch_size=3,
            **flags,
        )
        eval_prm.main(config)
        report = json.loads((tmp_path / out / "report.json").read_text())
        return {name: row["pass@1"] for name, row in report["rankers"].items()}

    rank.folder = tmp_path
    return rank


def test_several_rankers_print_one_table(sampled, capsys):
    prm = str(sampled.folder / "prm")
    rates = sampled("all", prm=prm, orm=prm, agreement=True)
    reductions = ["prm min", "prm mean", "prm last", "prm product"]
    assert list(rates) == ["random", *reductions, "orm", "agreement", "oracle"]
    assert rates["random"] == (2 / 4 + 1 / 4) / 2 and rates["oracle"] == 1
    assert all(rates[name] == 1 for name in reductions)
    # t0: two right programs agree, of which one stands in a fence; t1: two wrong ones do.
    assert rates["agreement"] == 0.5
    out = capsys.readouterr().out
    assert "2 tasks, 4 samples a task with a verdict" in out
    assert len([line for line in out.splitlines() if "[" in line and "." in line]) >= 8


def test_prose_counts_where_asked_and_n_takes_the_first_samples(sampled):
    prm = str(sampled.folder / "prm")
    rates = sampled("n2", prm=prm, n=2, reduce=["min"])
    assert rates == {"random": 0.25, "prm min": 0.5, "oracle": 0.5}
    rates = sampled("prose", prm=prm, n=2, reduce=["min"], score_prose=True)
    assert rates["prm min"] == 0.25  # the prose is the fenced program's weakest line


def test_samples_that_cannot_be_ranked_are_refused(sampled):
    folder = sampled.folder
    for flags, message in (
        ({}, "needs a ranker"),
        ({"agreement": True, "pairs": "x"}, "--samples needs --tasks"),
        ({"agreement": True, "n": 9}, "no task has 9 samples"),
    ):
        with pytest.raises(InputError, match=message):
            sampled("refused", **flags)
    common.write_jsonl(folder / "verdicts.jsonl", [{"task_id": "x", "status": "passed"}])
    with pytest.raises(InputError, match=r"verdicts.jsonl:1: field 'task_id': no task 'x'"):
        sampled("refused", agreement=True)
    common.write_jsonl(folder / "verdicts.jsonl", [{"task_id": "t0", "completion": "x"}])
    with pytest.raises(InputError, match=r"verdicts.jsonl:1: .*status"):
        sampled("refused", agreement=True)


def test_a_whole_program_is_read_after_its_task_s_prefix_and_not_with_it_again(tmp_path):
    task = task_of("call", CALLS, prompt="def f(x):\n", prefix="def f(x):\n")
    rows = [{"task_id": "t", "solution": "def f(x):\n    return 1\n", "status": "passed"}]
    rows.append({"task_id": "t", "completion": "    return 2\n", "status": "failed"})
    common.write_jsonl(tmp_path / "verdicts.jsonl", rows)
    path = str(tmp_path / "verdicts.jsonl")
    config = eval_prm.Config(str(tmp_path / "out"), samples=path)
    samples = eval_prm.read_samples(config, {"t": task})
    assert [row["text"] for row in samples] == ["    return 1\n", "    return 2\n"]
    programs = [f"def f(x):\n    return {i}\n" for i in (1, 2)]
    assert [row["program"] for row in samples] == programs
