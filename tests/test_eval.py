"""Evaluation: the estimators, the intervals, reward models, comparisons, and the input that is refused."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from test_chat import reply, serve  # noqa: F401

import common
import eval as evaluation
import train_prm
from common import InputError


def test_pass_at_k_is_the_chance_that_a_draw_of_k_holds_a_passing_sample():
    for n in range(1, 8):
        for c in range(n + 1):
            for k in range(1, n + 1):
                draws = list(itertools.combinations(range(n), k))
                share = sum(any(i < c for i in draw) for draw in draws) / len(draws)
                assert evaluation.pass_at_k(n, c, k) == pytest.approx(share)
    assert math.isnan(evaluation.pass_at_k(3, 1, 4))


def test_the_interval_is_wilson_s_for_one_sample_a_task():
    p, low, high = evaluation.pass_rate([(1, 1)] * 30 + [(1, 0)] * 70)
    assert p == pytest.approx(0.3)
    assert (low, high) == (
        pytest.approx(0.219, abs=2e-3),
        pytest.approx(0.396, abs=2e-3),
    )  # Wilson: 0.2189, 0.3958


def test_samples_of_one_task_that_agree_do_not_narrow_the_interval():
    one = evaluation.pass_rate([(1, i % 2) for i in range(100)])
    same = evaluation.pass_rate([(20, 20 * (i % 2)) for i in range(100)])
    spread = evaluation.pass_rate([(20, 10 + i % 2) for i in range(100)])
    assert same[2] - same[1] == pytest.approx(one[2] - one[1], abs=1e-3)
    assert spread[2] - spread[1] < 0.5 * (one[2] - one[1])


@pytest.mark.parametrize("c", [0, 4])
def test_the_interval_has_a_width_where_every_task_gives_the_same(c):
    p, low, high = evaluation.pass_rate([(4, c)] * 20)
    assert p == c / 4 and 0.1 < high - low < 0.2


TASKS = [
    {"task_id": name, "prompt": "p", "entry_point": "f", "solution": None, "setup": "", "style": "call",
     "tests": [{"args": [1], "output": 1}], "timeout": None, "meta": {"steps": steps}}
    for name, steps in (("a", 2), ("b", 2), ("c", 3))
]  # fmt: skip


def test_a_sample_without_a_verdict_counts_nowhere():
    statuses = [("a", "passed"), ("a", "harness_error"), ("b", "failed"), ("c", "passed")]
    verdicts = [
        {"task_id": name, "status": status, "solution": "x\n" * 4} for name, status in statuses
    ]
    report = evaluation.report_of(TASKS, verdicts, [1])
    assert report["pass@1"] == pytest.approx(2 / 3)
    assert (
        report["by_steps"]["2"]["pass@1"] == pytest.approx(0.5)
        and report["by_steps"]["3"]["tasks"] == 1
    )
    assert report["status"] == {"passed": 2, "harness_error": 1, "failed": 1}


def test_samples_of_unknown_or_missing_tasks_are_refused(tmp_path):
    path = tmp_path / "samples.jsonl"
    common.write_jsonl(
        path, [{"task_id": "a", "completion": "x"}, {"task_id": "z", "completion": "x"}]
    )
    with pytest.raises(InputError, match=r":2: field 'task_id': no task 'z'"):
        evaluation.read_samples(path, TASKS)
    common.write_jsonl(
        path, [{"task_id": "a", "completion": "x"}, {"task_id": "b", "solution": "y"}]
    )
    with pytest.raises(InputError, match="1 tasks have no sample, c among them"):
        evaluation.read_samples(path, TASKS)
    common.write_jsonl(path, [{"task_id": "a"}])
    with pytest.raises(InputError, match=r":1: field 'solution' or 'completion' must be str"):
        evaluation.read_samples(path, TASKS)


def test_samples_are_numbered_by_task_and_completions_become_programs(tmp_path):
    rows = [{"task_id": name, "completion": "```python\nx = 1\n```"} for name in "aabc"]
    common.write_jsonl(tmp_path / "samples.jsonl", rows)
    read = evaluation.read_samples(tmp_path / "samples.jsonl", TASKS)
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
    verdicts = [{"task_id": name, "status": status, "completion": "x\n" * lines, "solution": "long\n" * 50}
                for name, status, lines in samples]  # fmt: skip
    report = evaluation.report_of(TASKS, verdicts, [1, 2])
    rates = {name: (part["pass@1"], part["samples"]) for name, part in report["by_lines"].items()}
    assert rates == {"0-3": (1, 1), "4-5": (pytest.approx(1 / 3), 3), "26+": (0, 1)}
    assert report["solved"] == pytest.approx(2 / 3)
    json.dumps(report, allow_nan=False)  # pass@2 is not defined: task c has one sample
    assert report["pass@2"] is None
    nothing = evaluation.report_of(
        TASKS, [{"task_id": "a", "status": "harness_error", "solution": ""}], [1]
    )
    assert nothing["pass@1"] is None and nothing["by_steps"]["2"]["low"] is None


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
    examples = train_prm.read_examples(config)
    assert [row["outcome"] for row in examples] == [3, 2, 0] and [
        row["prompt"] for row in examples
    ] == ["p"] * 3
    assert [row["eos"] for row in examples] == [True, True, False] and examples[1][
        "prefix"
    ] == "import math\n"


@pytest.mark.parametrize("activation", ["none", "sigmoid_signed"])
def test_a_prm_is_read_at_line_ends_as_in_reinforcement_learning(tmp_path, activation):
    lines = ["def f(x):\n", "    y = x\n", "    return y\n"]
    rows = [
        {
            "task_id": f"t{i}",
            "prompt": f"p{i}",
            "completions": lines[:n],
            "labels": [1, None, -1][:n],
            "meta": {"steps": n},
        }
        for i, n in enumerate([3, 1, 2, 3, 3])
    ]
    common.write_jsonl(tmp_path / "prm.jsonl", rows)
    tokenizer = common.new_tokenizer(["".join(lines)] * 3, 300)
    model = common.new_model(tokenizer, 32, 1, seed=0, num_labels=1).eval()
    model.config.score_activation = activation
    (tmp_path / "prm").mkdir()
    common.save_model(model, tokenizer, tmp_path / "prm")
    evaluation.main(evaluation.Config(prm=str(tmp_path / "prm"), data=str(tmp_path / "prm.jsonl"), batch_size=2,
                                      output_dir=str(tmp_path / "run")))  # fmt: skip
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    right, squares = [], []
    for row in rows:
        for i, label in enumerate(row["labels"]):
            if label is not None:  # the prefix alone, so that nothing after the line can be seen
                ids = (
                    common.encode_prompt(tokenizer, row)
                    + tokenizer("".join(row["completions"][: i + 1])).input_ids
                )
                with torch.no_grad():
                    z = float(model(input_ids=torch.tensor([ids])).logits[0, -1, 0])
                score = z if activation == "none" else 2 / (1 + math.exp(-z)) - 1
                right.append((score > 0) == (label > 0))
                squares.append((score - label) ** 2)
    assert report["eval_lines"] == len(right) == 8
    assert report["eval_accuracy"] == pytest.approx(sum(right) / 8)
    assert report["eval_loss"] == pytest.approx(sum(squares) / 8, abs=1e-5)
    assert {name: part["count"] for name, part in report["by_steps"].items()} == {
        "1": 1,
        "2": 1,
        "3": 6,
    }


PAIRS = [
    {"task_id": f"t{i}", "prompt": f"problem {i}", "chosen": f"sound {i}\n", "rejected": f"wrong {i}\n", "kind": kind,
     "meta": {"dimension": "rigour", "operator": "chat"}}
    for i, kind in enumerate(["strong", "strong", "optimisation", "optimisation", "strong", "strong"])
]  # fmt: skip


def judge_config(tmp_path, server, out="run"):
    common.write_jsonl(tmp_path / "pairs.jsonl", PAIRS)
    return evaluation.Config(pairs=str(tmp_path / "pairs.jsonl"), judge=server.url, judge_model="m", temperature=0.0,
                             max_completion_length=50, batch_size=1, output_dir=str(tmp_path / out))  # fmt: skip


def test_a_judge_is_asked_in_both_orders_and_half_right_where_it_favours_a_place(
    serve, tmp_path, capsys
):
    def script(prompt, attempt):
        number, sound_first = (
            int(prompt.partition("problem ")[2][0]),
            prompt.index("sound") < prompt.index("wrong"),
        )
        right, other = ("A", "B") if sound_first else ("B", "A")
        letter = {
            0: f"Compared.\n**Verdict: {right}**",
            1: f"Verdict: {other}",
            2: "verdict: A",
            3: f"Verdict: {right}",
        }
        if number == 3 and not sound_first:
            return 200, {}, reply("Verdict: A or B")
        if number == 5:
            return 400, {}, "too long"
        return (
            200,
            {},
            reply(letter.get(number, f"Verdict: {right}\nBoth have merit, {right} has more.")),
        )

    server = serve(script)
    evaluation.main(judge_config(tmp_path, server))
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert (
        report["accuracy"] == pytest.approx((1 + 0 + 0.5 + 0.5 + 0) / 5)
        and report["low"] < 0.4 < report["high"]
    )
    assert report["pairs"] == 5  # the last has no answer and counts nowhere
    assert (report["answers"], report["missing_answers"], report["unparsable_answers"]) == (
        10,
        2,
        3,
    )
    assert report["named_first"] == pytest.approx(5 / 7)
    kinds = {name: (part["pairs"], part["accuracy"]) for name, part in report["by_kind"].items()}
    assert kinds == {"optimisation": (2, 0.5), "strong": (3, pytest.approx(1 / 3))}
    assert set(report["by_dimension"]) == {"rigour"} and set(report["by_operator"]) == {"chat"}
    assert "unparsable_answers 3" in capsys.readouterr().out
    assert {body["model"] for *_, body in server.requests} == {"m"} and len(server.requests) == 12
    assert {(body["temperature"], body["max_tokens"]) for *_, body in server.requests} == {
        (0.0, 50)
    }


def test_a_judge_that_was_cut_off_is_not_asked_again_for_what_it_has_answered(serve, tmp_path):  # noqa: F811
    refuse = [True]

    def script(prompt, attempt):
        return (
            (401, {}, "") if refuse[0] and "problem 3" in prompt else (200, {}, reply("Verdict: A"))
        )

    server = serve(script)
    with pytest.raises(InputError, match="HTTP 401"):
        evaluation.main(judge_config(tmp_path, server))
    assert not (tmp_path / "run" / "report.json").exists()
    refuse[0] = False
    evaluation.main(judge_config(tmp_path, server))
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert (
        report["accuracy"] == 0.5 and report["named_first"] == 1.0
    )  # it always names the first: no judge at all
    assert sorted(server.attempts.values()) == [1] * 11 + [2]


@pytest.mark.parametrize(
    ("answer", "letter"),
    [("Verdict: A", "A"), ("text\n\n**verdict: b.**\n", "B"), ("Verdict: [[A]]", "A"), ("A", None), ("", None),
     ("Verdict: A or B", None), ("Verdict: A\nor is it?", None), ("The verdict: A", None), ("Verdict: C", None)],
)  # fmt: skip
def test_only_a_last_line_that_is_the_verdict_alone_is_one(answer, letter):
    assert evaluation.verdict_of(answer) == letter


def rates(rng, tasks, difference, seeds=1, spread=0.0):
    """Pass rates of two arms (seeds, tasks) on tasks of different difficulty, each task and seed with its own noise."""
    difficulty = rng.uniform(0, 0.6, tasks)
    shifts = difference + spread * rng.standard_normal(seeds)
    first = difficulty + 0.1 * rng.standard_normal((seeds, tasks))
    return first, difficulty + shifts[:, None] + 0.1 * rng.standard_normal((seeds, tasks))


def test_the_interval_of_a_difference_is_that_of_paired_tasks():
    first, second = rates(np.random.default_rng(0), 200, 0.1)
    difference, low, high = evaluation.bootstrap(first, second, 0)
    gaps = (second - first)[0]
    assert difference == pytest.approx(gaps.mean())
    half = 1.96 * gaps.std() / math.sqrt(200)
    assert (low, high) == (
        pytest.approx(difference - half, abs=0.1 * half),
        pytest.approx(difference + half, abs=0.1 * half),
    )
    assert evaluation.bootstrap(first, second, 0) == (difference, low, high)


def test_the_interval_covers_the_true_difference():
    rng = np.random.default_rng(1)
    intervals = [evaluation.bootstrap(*rates(rng, 40, 0.1), trial) for trial in range(60)]
    assert sum(low <= 0.1 <= high for _, low, high in intervals) >= 52  # 57 are expected
    assert sum(low <= 0.2 <= high for _, low, high in intervals) < 20


def test_seeds_that_differ_widen_the_interval_and_equal_arms_give_none():
    rng = np.random.default_rng(2)
    same, apart = (
        evaluation.bootstrap(*rates(rng, 300, 0.1, 5, spread), 0) for spread in (0.0, 0.1)
    )
    assert apart[2] - apart[1] > 3 * (same[2] - same[1])
    first, _ = rates(rng, 50, 0)
    assert evaluation.bootstrap(first, first, 0) == (0, 0, 0)


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
    assert "difference +0.375 [" in capsys.readouterr().out


def test_what_cannot_be_evaluated_is_refused_before_work_starts(tmp_path):
    a = write_run(tmp_path / "a", {"x": "passed", "y": "failed"})
    b = write_run(tmp_path / "b", {"x": "passed"})
    out = str(tmp_path / "run")
    for flags, message in (
        ({"compare": [a, b]}, r"b/verdicts\.jsonl: its tasks are not those of .*a; y is one"),
        ({"compare": [a]}, "--compare needs two arms or more"),
        ({"compare": [a, a]}, "no two the same"),
        ({"compare": [a, str(tmp_path / "c")]}, r"c/verdicts\.jsonl: no such file"),
        ({"compare": [a, b], "prm": "x"}, "give one of --tasks, --prm, --pairs and --compare"),
        ({}, "give one of --tasks, --prm, --pairs and --compare"),
        ({"prm": "x"}, "--prm needs --data"),
        ({"pairs": "x"}, "--pairs needs --reasoning_rm, a reasoning reward model, or --judge"),
        ({"pairs": "x", "reasoning_rm": "y", "judge": "z"}, "--pairs needs --reasoning_rm"),
        (
            {"pairs": "x", "judge": "http://127.0.0.1:1/v1"},
            "--judge with an endpoint needs --judge_model",
        ),
    ):
        with pytest.raises(InputError, match=message):
            evaluation.main(evaluation.Config(output_dir=out, **flags))
    with pytest.raises(InputError, match="--output_dir is required"):
        evaluation.main(evaluation.Config(compare=[a, b]))
    assert not (tmp_path / "run").exists()
