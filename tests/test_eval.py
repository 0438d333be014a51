"""Evaluation: the estimator, the interval, and the samples that are refused."""

import itertools
import math

import pytest

import common
import eval as evaluation
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
    assert (low, high) == (pytest.approx(0.219, abs=2e-3), pytest.approx(0.396, abs=2e-3))  # Wilson: 0.2189, 0.3958


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
    verdicts = [{"task_id": "a", "status": "passed"}, {"task_id": "a", "status": "harness_error"},
                {"task_id": "b", "status": "failed"}, {"task_id": "c", "status": "passed"}]  # fmt: skip
    report = evaluation.report_of(TASKS, verdicts, [1])
    assert report["pass@1"] == pytest.approx(2 / 3)
    assert report["by_steps"]["2"]["pass@1"] == pytest.approx(0.5) and report["by_steps"]["3"]["tasks"] == 1
    assert report["status"] == {"passed": 2, "harness_error": 1, "failed": 1}


def test_samples_of_unknown_or_missing_tasks_are_refused(tmp_path):
    path = tmp_path / "samples.jsonl"
    common.write_jsonl(path, [{"task_id": "a", "completion": "x"}, {"task_id": "z", "completion": "x"}])
    with pytest.raises(InputError, match=r":2: field 'task_id': no task 'z'"):
        evaluation.read_samples(path, TASKS)
    common.write_jsonl(path, [{"task_id": "a", "completion": "x"}, {"task_id": "b", "solution": "y"}])
    with pytest.raises(InputError, match="1 tasks have no sample, c among them"):
        evaluation.read_samples(path, TASKS)
    common.write_jsonl(path, [{"task_id": "a"}])
    with pytest.raises(InputError, match=r":1: field 'solution' or 'completion' must be str"):
        evaluation.read_samples(path, TASKS)


def test_samples_are_numbered_by_task_and_completions_become_programs(tmp_path):
    rows = [{"task_id": name, "completion": "```python\nx = 1\n```"} for name in "aabc"]
    common.write_jsonl(tmp_path / "samples.jsonl", rows)
    read = evaluation.read_samples(tmp_path / "samples.jsonl", TASKS)
    assert [row["sample"] for row in read] == [0, 1, 0, 0] and {row["solution"] for row in read} == {"x = 1\n"}
