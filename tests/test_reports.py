"""Pass rates, intervals and reward-model reports against hand-computed values and naive loops."""

import itertools
import json
import math
import random

import numpy as np
import pytest
import torch

import common
from common import InputError
from kernels import masking


def test_pass_at_k_is_the_chance_that_a_draw_of_k_holds_a_passing_sample():
    for n in range(1, 8):
        for c in range(n + 1):
            for k in range(1, n + 1):
                draws = list(itertools.combinations(range(n), k))
                share = sum(any(i < c for i in draw) for draw in draws) / len(draws)
                assert common.pass_at_k(n, c, k) == pytest.approx(share)
    assert math.isnan(common.pass_at_k(3, 1, 4))


def test_the_interval_is_wilson_s_for_one_sample_a_task():
    p, low, high = common.pass_rate([(1, 1)] * 30 + [(1, 0)] * 70)
    assert p == pytest.approx(0.3)
    assert (low, high) == (
        pytest.approx(0.219, abs=2e-3),
        pytest.approx(0.396, abs=2e-3),
    )  # Wilson: 0.2189, 0.3958


def test_samples_of_one_task_that_agree_do_not_narrow_the_interval():
    one = common.pass_rate([(1, i % 2) for i in range(100)])
    same = common.pass_rate([(20, 20 * (i % 2)) for i in range(100)])
    spread = common.pass_rate([(20, 10 + i % 2) for i in range(100)])
    assert same[2] - same[1] == pytest.approx(one[2] - one[1], abs=1e-3)
    assert spread[2] - spread[1] < 0.5 * (one[2] - one[1])


@pytest.mark.parametrize("c", [0, 4])
def test_the_interval_has_a_width_where_every_task_gives_the_same(c):
    p, low, high = common.pass_rate([(4, c)] * 20)
    assert p == c / 4 and 0.1 < high - low < 0.2


def rates(rng, tasks, difference, seeds=1, spread=0.0):
    """Pass rates of two arms (seeds, tasks): tasks differ, each task and seed has its own noise."""
    difficulty = rng.uniform(0, 0.6, tasks)
    shifts = difference + spread * rng.standard_normal(seeds)
    first = difficulty + 0.1 * rng.standard_normal((seeds, tasks))
    return first, difficulty + shifts[:, None] + 0.1 * rng.standard_normal((seeds, tasks))


def test_the_interval_of_a_difference_is_that_of_paired_tasks():
    first, second = rates(np.random.default_rng(0), 200, 0.1)
    difference, low, high = common.bootstrap(first, second, 0)
    gaps = (second - first)[0]
    assert difference == pytest.approx(gaps.mean())
    half = 1.96 * gaps.std() / math.sqrt(200)
    assert (low, high) == (
        pytest.approx(difference - half, abs=0.1 * half),
        pytest.approx(difference + half, abs=0.1 * half),
    )
    assert common.bootstrap(first, second, 0) == (difference, low, high)


def test_the_interval_covers_the_true_difference():
    rng = np.random.default_rng(1)
    intervals = [common.bootstrap(*rates(rng, 40, 0.1), trial) for trial in range(60)]
    assert sum(low <= 0.1 <= high for _, low, high in intervals) >= 52  # 57 are expected
    assert sum(low <= 0.2 <= high for _, low, high in intervals) < 20


def test_seeds_that_differ_widen_the_interval_and_equal_arms_give_none():
    rng = np.random.default_rng(2)
    same, apart = (common.bootstrap(*rates(rng, 300, 0.1, 5, spread), 0) for spread in (0.0, 0.1))
    assert apart[2] - apart[1] > 3 * (same[2] - same[1])
    first, _ = rates(rng, 50, 0)
    assert common.bootstrap(first, first, 0) == (0, 0, 0)


def test_seeds_are_paired_and_the_interval_is_student_s():
    first = np.array([[0.1, 0.3], [0.5, 0.7]])
    second = first + np.array([[0.1], [0.2]])
    difference, low, high, method = common.paired_difference(first, second, 0)
    assert difference == pytest.approx(0.15) and method == "Student's t over 2 paired seeds"
    half = 12.7062 * 0.1 / math.sqrt(2) / math.sqrt(2)  # t at one degree, deviation / sqrt(seeds)
    assert (low, high) == (pytest.approx(0.15 - half), pytest.approx(0.15 + half))
    swapped = common.paired_difference(first, second[::-1], 0)
    assert swapped[0] == pytest.approx(0.15) and swapped[2] - swapped[1] > 3 * (high - low)


def test_without_pairs_of_seeds_the_interval_is_a_bootstrap_and_says_so():
    first, second = rates(np.random.default_rng(3), 50, 0.1, 3)
    one = common.paired_difference(first[:1], second[:1], 7)
    assert one == (*common.bootstrap(first[:1], second[:1], 7), "bootstrap over tasks, one seed")
    uneven = common.paired_difference(first, second[:2], 7)
    assert uneven[:3] == common.bootstrap(first, second[:2], 7) and "not paired" in uneven[3]


@pytest.mark.parametrize("seeds", [2, 5])
def test_the_interval_over_paired_seeds_covers_what_seeds_share_and_what_they_do_not(seeds):
    rng, covered = np.random.default_rng(4), 0
    for _ in range(400):
        shared = 0.2 * rng.standard_normal((seeds, 1))  # of a seed, in both arms
        first, second = rates(rng, 30, 0.1, seeds, 0.05)
        _, low, high, _ = common.paired_difference(first + shared, second + shared, 0)
        covered += low <= 0.1 <= high
    assert 365 <= covered <= 394  # 380 are expected


def naive_auc(scores, positive):
    pairs = [
        (s, t)
        for (s, p), (t, q) in itertools.product(zip(scores, positive, strict=True), repeat=2)
        if p and not q
    ]
    return sum((s > t) + 0.5 * (s == t) for s, t in pairs) / len(pairs)


def random_scores(rng, n):
    positive = [True, False] + [rng.random() < 0.4 for _ in range(n - 2)]
    return [rng.randint(-6, 6) / 5 for _ in range(n)], positive


def test_auc_is_the_share_of_ordered_pairs_and_ties_count_half():
    rng = random.Random(0)
    for _ in range(50):
        scores, positive = random_scores(rng, rng.randint(2, 30))
        assert common.auc(torch.tensor(scores), torch.tensor(positive)) == pytest.approx(
            naive_auc(scores, positive)
        )
    assert common.auc(torch.tensor([1.0, 2.0]), torch.tensor([True, True])) is None


def test_precision_recall_and_f1_are_those_of_the_counts():
    rng = random.Random(1)
    for _ in range(30):
        scores, positive = random_scores(rng, 25)
        report = common.binary_report(torch.tensor(scores), torch.tensor(positive))
        hits = [(s > 0, p) for s, p in zip(scores, positive, strict=True)]
        tp, said, real = hits.count((True, True)), sum(s for s, _ in hits), sum(p for _, p in hits)
        assert report["accuracy"] == pytest.approx(sum(s == p for s, p in hits) / 25)
        assert report["majority"] == pytest.approx(max(real, 25 - real) / 25)
        assert report["precision"] == (pytest.approx(tp / said) if said else None)
        assert report["recall"] == pytest.approx(tp / real)
        if tp:
            precision, recall = tp / said, tp / real
            assert report["f1"] == pytest.approx(2 * precision * recall / (precision + recall))
        assert report["confusion"] == {
            "true_positive": tp,
            "false_positive": said - tp,
            "false_negative": real - tp,
            "true_negative": 25 - said - real + tp,
        }


def test_calibration_and_histogram_count_each_score_in_its_bin():
    rng = random.Random(2)
    scores, (_, positive) = [rng.uniform(-1.3, 1.3) for _ in range(200)], random_scores(rng, 200)
    report = common.calibration(torch.tensor(scores), torch.tensor(positive))
    gap = 0.0
    for b, row in enumerate(report["bins"]):
        inside = [(min(max((s + 1) / 2, 0), 1), p) for s, p in zip(scores, positive, strict=True)]
        inside = [(q, p) for q, p in inside if min(int(q * 10), 9) == b]
        assert row["count"] == len(inside)
        if inside:
            assert row["probability"] == pytest.approx(
                sum(q for q, _ in inside) / len(inside), abs=1e-6
            )
            assert row["positive"] == pytest.approx(sum(p for _, p in inside) / len(inside))
            gap += abs(sum(q - p for q, p in inside))
    assert report["expected_calibration_error"] == pytest.approx(gap / 200, abs=1e-6)
    # -5 and -1 fall in the first of four bins, 1 and 7 in the last, an edge in the bin above it
    counts = common.histogram(
        torch.tensor([-5.0, -1, -0.5, 0, 0.49, 1, 7]), torch.tensor([1, 0, 1, 0, 1, 0, 1]) > 0, 4
    )
    assert counts == {
        "edges": [-1, -0.5, 0, 0.5, 1],
        "positive": [1, 1, 1, 1],
        "negative": [1, 0, 1, 1],
    }


def row(labels, changed=(), steps=None):
    return {
        "task_id": "t",
        "prompt": "p",
        "completions": ["x\n"] * len(labels),
        "labels": labels,
        "meta": {"changed": list(changed)} | ({"steps": steps} if steps else {}),
    }


def test_the_line_report_compares_with_the_majority_over_all_and_over_changed_lines():
    rows = [row([1, 1, 1], [2]), row([-1, None, -1], [0, 2])]
    report = common.line_report(rows, [[0.9, 0.8, -0.1], [0.2, 9.0, -0.5]])
    assert report["eval_accuracy"] == pytest.approx(3 / 5) and report[
        "eval_majority"
    ] == pytest.approx(3 / 5)
    assert report["eval_changed_accuracy"] == pytest.approx(1 / 3)
    assert report["eval_changed_majority"] == pytest.approx(2 / 3)
    assert report["eval_auc"] == pytest.approx(5 / 6) and report[
        "eval_changed_auc"
    ] == pytest.approx(1 / 2)
    squares = [0.1**2, 0.2**2, 1.1**2, 1.2**2, 0.5**2]
    assert (
        report["eval_squared_error"] == pytest.approx(sum(squares) / 5)
        and report["eval_lines"] == 5
    )
    assert report["by_steps"] == {}


def test_lines_are_told_apart_by_position_length_steps_and_the_first_error():
    rows = [
        row([1, -1, -1, 1], steps=2),
        row([1, -1], steps=10),
        row([1, None, 0, 1], steps=2),
        row([1] * 12, steps=3),
    ]
    scores = [[1, 0.5, -1, -1], [1, -1], [-1, 5, 5, 1], [1] * 12]
    report = common.line_report(rows, scores)
    assert report["eval_lines"] == 20  # neither the line without a label nor the neutral one
    assert {name: part["count"] for name, part in report["by_position"].items()} == (
        {"1": 4, "2": 3, "3": 2, "4": 3} | {str(i): 1 for i in range(5, 11)} | {"11+": 2}
    )
    assert list(report["by_position"]) == [*map(str, range(1, 11)), "11+"]
    assert (
        report["by_position"]["1"]["accuracy"] == 3 / 4
        and report["by_position"]["2"]["accuracy"] == 2 / 3
    )
    assert {name: part["count"] for name, part in report["by_num_lines"].items()} == {
        "0-3": 2,
        "4-5": 6,
        "11-15": 12,
    }
    assert [(name, part["count"]) for name, part in report["by_steps"].items()] == [
        ("2", 6),
        ("3", 12),
        ("10", 2),
    ]
    assert report["to_first_error"]["count"] == 2 + 2 + 2 + 12
    assert report["to_first_error"]["accuracy"] == pytest.approx(16 / 18)
    assert (
        report["first_error_found"] == 1 / 2
    )  # of the first two rows: the one calls line 1 right, the other finds it
    json.dumps(report, allow_nan=False)


def test_a_report_of_one_class_or_of_neutral_lines_alone_has_no_nan():
    for rows, scores in (([row([1, 1])], [[0.5, -0.5]]), ([row([0, None])], [[0.5, 0.5]])):
        report = common.line_report(rows, scores)
        json.dumps(report, allow_nan=False)
        assert report["eval_auc"] is None
        common.print_report(report)


def test_where_no_label_is_below_0_a_label_of_0_is_wrong_and_half_divides_labels_and_scores():
    report = common.line_report([row([1, 0.6, 0, None, 0], [2])], [[0.9, 0.5, 0.8, 0, 0.9]])
    assert report["eval_lines"] == 4 and report["eval_accuracy"] == 1 / 4
    assert report["eval_auc"] == pytest.approx(1.5 / 4)
    assert report["eval_changed_lines"] == 1 and report["eval_changed_accuracy"] == 0
    squares = [0.1**2, 0.1**2, 0.8**2, 0.9**2]
    assert report["eval_squared_error"] == pytest.approx(sum(squares) / 4)
    assert report["first_error_found"] == 0  # the second line is the first that scores half or less
    assert report["to_first_error"]["count"] == 3
    found = common.line_report([row([1, 1, 0])], [[0.9, 0.8, 0.2]])
    assert found["first_error_found"] == found["eval_accuracy"] == found["eval_auc"] == 1
    assert found["eval_ece"] == pytest.approx((0.1 + 0.2 + 0.2) / 3)  # 0.9, 0.8, 0.2 as chances
    hard = common.line_report([row([1, 0, -1])], [[0.9, 0.3, 0.2]])
    assert hard["eval_lines"] == 2 and hard["eval_accuracy"] == 0.5


def test_the_outcome_report_counts_true_against_predicted_classes():
    torch.manual_seed(0)
    logits, outcomes = torch.randn(60, 4), torch.randint(4, (60,))
    scores = common.scores_of_logits(logits, "expected_outcome")
    report = common.outcome_report(logits, scores, outcomes, [i % 9 for i in range(60)])
    predicted = logits.argmax(1).tolist()
    pairs = list(zip(outcomes.tolist(), predicted, strict=True))
    assert report["confusion"] == [[pairs.count((t, p)) for p in range(4)] for t in range(4)]
    assert report["eval_accuracy"] == pytest.approx(sum(t == p for t, p in pairs) / 60)
    assert report["recall"]["passed"] == pytest.approx(
        pairs.count((3, 3)) / sum(t == 3 for t, _ in pairs)
    )
    assert report["precision"]["syntax_error"] == pytest.approx(
        pairs.count((0, 0)) / predicted.count(0)
    )
    assert report["eval_auc"] == pytest.approx(
        naive_auc(scores.tolist(), [t == 3 for t, _ in pairs])
    )
    assert sum(part["count"] for part in report["by_num_lines"].values()) == 60


def test_pairs_are_told_apart_by_kind_and_dimension():
    margins = torch.tensor([1.0, -1.0, 0.0, 2.0])
    report = common.pair_report(
        margins, ["strong", "strong", "degradation", "degradation"], [None, None, "logic", None]
    )
    assert (
        report["eval_accuracy"] == 0.5 and report["eval_pairs"] == 4
    )  # a tie does not prefer the chosen
    assert report["by_kind"] == {
        "degradation": {"count": 2, "accuracy": 0.5},
        "strong": {"count": 2, "accuracy": 0.5},
    }
    assert report["by_dimension"]["logic"] == {"count": 1, "accuracy": 0.0}
    assert common.pair_report(margins, [None] * 4, [None] * 4)["by_kind"] == {}


def test_a_tokenizer_that_loses_newlines_is_refused():
    tokenizer = common.new_tokenizer(["a = 1\nb = 2\n"] * 5, 300)
    table = masking.line_table(tokenizer)
    kept, lost = tokenizer("a = 1\nb = 2\n").input_ids, tokenizer("a = 1 b = 2 ").input_ids

    def encoded(*texts):
        return [row([1, -1]) | {"text_ids": text} for text in texts]

    common.check_lines_have_tokens("prm.jsonl", encoded(kept, kept), table)
    with pytest.raises(
        InputError, match=r"prm\.jsonl:2: line 1 of field 'completions' ends in no token"
    ):
        common.check_lines_have_tokens("prm.jsonl", encoded(kept, lost), table)
