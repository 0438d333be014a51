"""Reward-model reports against hand-computed values and naive loops."""

import itertools
import json
import random

import pytest
import torch

import common
import metrics
from common import InputError
from kernels import masking


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
        assert metrics.auc(torch.tensor(scores), torch.tensor(positive)) == pytest.approx(
            naive_auc(scores, positive)
        )
    assert metrics.auc(torch.tensor([1.0, 2.0]), torch.tensor([True, True])) is None


def test_precision_recall_and_f1_are_those_of_the_counts():
    rng = random.Random(1)
    for _ in range(30):
        scores, positive = random_scores(rng, 25)
        report = metrics.binary_report(torch.tensor(scores), torch.tensor(positive))
        hits = [(s > 0, p) for s, p in zip(scores, positive, strict=True)]
        tp, said, real = hits.count((True, True)), sum(s for s, _ in hits), sum(p for _, p in hits)
        assert report["accuracy"] == pytest.approx(sum(s == p for s, p in hits) / 25)
        assert report["majority"] == pytest.approx(max(real, 25 - real) / 25)
        assert report["precision"] == (pytest.approx(tp / said) if said else None)
        assert report["recall"] == pytest.approx(tp / real)
        if tp:
            precision, recall = tp / said, tp / real
            assert report["f1"] == pytest.approx(2 * precision * recall / (precision + recall))
        assert report["confusion"] == {"true_positive": tp, "false_positive": said - tp, "false_negative": real - tp,
                                       "true_negative": 25 - said - real + tp}  # fmt: skip


def test_calibration_and_histogram_count_each_score_in_its_bin():
    rng = random.Random(2)
    scores, (_, positive) = [rng.uniform(-1.3, 1.3) for _ in range(200)], random_scores(rng, 200)
    report = metrics.calibration(torch.tensor(scores), torch.tensor(positive))
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
    counts = metrics.histogram(
        torch.tensor([-5.0, -1, -0.5, 0, 0.49, 1, 7]), torch.tensor([1, 0, 1, 0, 1, 0, 1]) > 0, 4
    )
    assert counts == {
        "edges": [-1, -0.5, 0, 0.5, 1],
        "positive": [1, 1, 1, 1],
        "negative": [1, 0, 1, 1],
    }


def row(labels, changed=(), steps=None):
    return {"task_id": "t", "prompt": "p", "completions": ["x\n"] * len(labels), "labels": labels,
            "meta": {"changed": list(changed)} | ({"steps": steps} if steps else {})}  # fmt: skip


def test_the_line_report_compares_with_the_majority_over_all_and_over_changed_lines():
    rows = [row([1, 1, 1], [2]), row([-1, None, -1], [0, 2])]
    report = metrics.line_report(rows, [[0.9, 0.8, -0.1], [0.2, 9.0, -0.5]])
    assert report["eval_accuracy"] == pytest.approx(3 / 5) and report[
        "eval_majority"
    ] == pytest.approx(3 / 5)
    assert report["eval_changed_accuracy"] == pytest.approx(1 / 3)
    assert report["eval_changed_majority"] == pytest.approx(2 / 3)
    assert report["eval_auc"] == pytest.approx(5 / 6) and report[
        "eval_changed_auc"
    ] == pytest.approx(1 / 2)
    squares = [0.1**2, 0.2**2, 1.1**2, 1.2**2, 0.5**2]
    assert report["eval_loss"] == pytest.approx(sum(squares) / 5) and report["eval_lines"] == 5
    assert report["by_steps"] == {}


def test_lines_are_told_apart_by_position_length_steps_and_the_first_error():
    rows = [
        row([1, -1, -1, 1], steps=2),
        row([1, -1], steps=10),
        row([1, None, 0, 1], steps=2),
        row([1] * 12, steps=3),
    ]
    scores = [[1, 0.5, -1, -1], [1, -1], [-1, 5, 5, 1], [1] * 12]
    report = metrics.line_report(rows, scores)
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
        report = metrics.line_report(rows, scores)
        json.dumps(report, allow_nan=False)
        assert report["eval_auc"] is None
        metrics.print_report(report)


def test_the_outcome_report_counts_true_against_predicted_classes():
    torch.manual_seed(0)
    logits, outcomes = torch.randn(60, 4), torch.randint(4, (60,))
    scores = common.scores_of_logits(logits, "expected_outcome")
    report = metrics.outcome_report(logits, scores, outcomes, [i % 9 for i in range(60)])
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
    report = metrics.pair_report(
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
    assert metrics.pair_report(margins, [None] * 4, [None] * 4)["by_kind"] == {}


def test_a_tokenizer_that_loses_newlines_is_refused():
    tokenizer = common.new_tokenizer(["a = 1\nb = 2\n"] * 5, 300)
    table = masking.line_table(tokenizer)
    rows = [row([1, -1])] * 2
    kept, lost = tokenizer("a = 1\nb = 2\n").input_ids, tokenizer("a = 1 b = 2 ").input_ids
    metrics.check_lines_have_tokens("prm.jsonl", rows, [kept, kept], table)
    with pytest.raises(
        InputError, match=r"prm\.jsonl:2: line 1 of field 'completions' ends in no token"
    ):
        metrics.check_lines_have_tokens("prm.jsonl", rows, [kept, lost], table)
