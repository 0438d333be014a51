"""Reports: how good the scores of a reward model are.

Scores are those that reinforcement learning reads (common.scores_of): above 0 is good. As a
probability a score s is (s + 1) / 2, cut to [0, 1]. A label above 0 is positive, a label below 0 is
negative; a line labelled 0 (neutral, PSGPO) counts in the squared error alone. Labels that differ,
with no one below 0, are shares (`labels_are_shares`). A number that is not defined, such as the AUC
where one class is missing, is None: JSON has no NaN.
"""

import re

import torch

from common.reward_models import OUTCOME_REWARDS


def ratio(part: float, whole: float) -> float | None:
    """part / whole; None where the whole is 0."""
    return float(part) / float(whole) if whole else None


def mean(values: torch.Tensor) -> float | None:
    """Mean of values (N,) in float64; None without any."""
    return ratio(values.double().sum(), len(values))


def bucket(count: int, bounds=(3, 5, 7, 10, 15, 25)) -> str:
    """The bucket of a count, such as a program's number of lines: "0-3", "4-5", ..., "26+"."""
    low = 0
    for high in bounds:
        if count <= high:
            return f"{low}-{high}"
        low = high + 1
    return f"{low}+"


def leading_number(name: str) -> int:
    """The number that a name such as "4-5" or "26+" starts with; 0 without one."""
    return int((re.match(r"\d+", name) or [0])[0])


def auc(scores: torch.Tensor, positive: torch.Tensor) -> float | None:
    """Area under the ROC curve: P(score of a positive > score of a negative), a tie counts half
    (Mann-Whitney). scores (N,), positive (N,) bool."""
    _, inverse, counts = scores.double().unique(return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0) - (counts - 1) / 2)[inverse]  # (N,) from 1, ties share their mean
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    least = num_positive * (num_positive + 1) / 2  # the sum of ranks if every positive came first
    return ratio(ranks[positive].sum() - least, num_positive * num_negative)


def majority(classes: torch.Tensor) -> float | None:
    """Accuracy of always naming the most frequent class; classes (N,)."""
    if len(classes) == 0:
        return None
    return ratio(classes.unique(return_counts=True)[1].max(), len(classes))


def binary_report(scores: torch.Tensor, positive: torch.Tensor) -> dict:
    """Accuracy of the scores' sign, next to the majority's accuracy, with AUC, precision, recall,
    F1 and counts. scores (N,), positive (N,) bool."""
    predicted = scores > 0
    tp, fp = int((predicted & positive).sum()), int((predicted & ~positive).sum())
    fn, tn = int((~predicted & positive).sum()), int((~predicted & ~positive).sum())
    return {
        "count": len(scores),
        "accuracy": ratio(tp + tn, len(scores)),
        "majority": majority(positive),
        "auc": auc(scores, positive),
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, tp + fn),
        "f1": ratio(2 * tp, 2 * tp + fp + fn),
        "confusion": {
            "true_positive": tp,
            "false_positive": fp,
            "false_negative": fn,
            "true_negative": tn,
        },
    }


def calibration(scores: torch.Tensor, positive: torch.Tensor, num_bins: int = 10) -> dict:
    """Expected calibration error (Guo et al., 2017, eq. 3) and its bins.

    scores (N,), positive (N,) bool. A bin has the count of its scores, their mean as a probability
    and the share of positives. The error is the mean over all N of |probability - share|.
    """
    probability = ((scores.double() + 1) / 2).clamp(0, 1)
    index = (probability * num_bins).long().clamp(max=num_bins - 1)
    bins, error = [], 0.0
    for number in range(num_bins):
        inside = index == number
        predicted, actual = mean(probability[inside]), mean(positive[inside])
        edges = {"low": number / num_bins, "high": (number + 1) / num_bins}
        count = int(inside.sum())
        bins.append(edges | {"count": count, "probability": predicted, "positive": actual})
        if count:
            error += count * abs(predicted - actual)
    return {"expected_calibration_error": ratio(error, len(scores)), "bins": bins}


def histogram(scores: torch.Tensor, positive: torch.Tensor, num_bins: int = 20) -> dict:
    """Counts of scores of each class in equal bins over [-1, 1]. A score outside falls in the
    nearest bin. scores (N,), positive (N,) bool."""
    index = ((scores.double() + 1) / 2 * num_bins).floor().long().clamp(0, num_bins - 1)
    return {
        "edges": [round(-1 + 2 * number / num_bins, 6) for number in range(num_bins + 1)],
        "positive": index[positive].bincount(minlength=num_bins).tolist(),
        "negative": index[~positive].bincount(minlength=num_bins).tolist(),
    }


def by_group(names: list[str], report, *columns: torch.Tensor) -> dict:
    """report(*columns) of the rows of each name. names: N, one a row; columns: each (N, ...).
    The names come in the order of the numbers that they start with."""
    groups = {}
    for name in sorted(set(names), key=lambda name: (leading_number(name), name)):
        inside = torch.tensor([own == name for own in names])
        groups[name] = report(*(column[inside] for column in columns))
    return groups


def labels_are_shares(rows: list[dict]) -> bool:
    """Whether labels of prm.jsonl are shares in [0, 1], where 0 is wrong and not neutral: `--labels
    soft` of a search, or right and wrong as 1 and 0."""
    labels = {label for row in rows for label in row["labels"] if label is not None}
    return len(labels) > 1 and min(labels) >= 0


def line_report(rows: list[dict], scores: list[list[float]]) -> dict:
    """Report of a line PRM on rows of prm.jsonl, given a score for each of their lines.

    `eval_squared_error` is the mean over labelled lines. Where labels are shares, 2 x - 1 stands
    below for a label or score x, and 2 x - 1 = 0 is negative. Accuracy, AUC, calibration and
    histogram are over lines with a positive or negative label. Accuracy and AUC come again over the
    lines of `meta.changed`; over the lines up to and including the first negative one; by position
    of the line (from 1), by the program's number of lines, by `meta.steps`. `position_auc` is what
    the line's place alone gives: an earlier line is right. `first_error_found` is the share of rows
    with a negative line in which the first score of 0 or less, among the positive and negative
    lines, is that of the first negative line.
    """
    lines, squares, found = [], [], []  # lines: those with a positive or negative label
    shares = labels_are_shares(rows)
    for row, row_scores in zip(rows, scores, strict=True):
        labels, meta = row["labels"], row.get("meta", {})
        labelled = [i for i, label in enumerate(labels) if label is not None]
        squares += [(row_scores[i] - labels[i]) ** 2 for i in labelled]
        if shares:
            labels = [None if label is None else 2 * label - 1 for label in labels]
            row_scores = [2 * score - 1 for score in row_scores]
        signed = [i for i in labelled if shares or labels[i] != 0]
        first_error = next((i for i in signed if labels[i] <= 0), None)
        if first_error is not None:
            found.append(first_error == next((i for i in signed if row_scores[i] <= 0), None))
        for i in signed:
            line = {
                "score": row_scores[i],
                "positive": labels[i] > 0,
                "changed": i in meta.get("changed", []),
                "to_first_error": first_error is None or i <= first_error,
                "place": i,
                "position": str(i + 1) if i < 10 else "11+",
                "num_lines": bucket(len(labels)),
                "steps": str(meta.get("steps")),
            }
            lines.append(line)
    score = torch.tensor([line["score"] for line in lines])  # (N,)
    place = torch.tensor([-line["place"] for line in lines])  # (N,)
    positive, changed, early = (
        torch.tensor([line[name] for line in lines], dtype=torch.bool)  # (N,)
        for name in ("positive", "changed", "to_first_error")
    )
    position, num_lines, steps = (
        [line[name] for line in lines] for name in ("position", "num_lines", "steps")
    )
    whole = binary_report(score, positive)
    alone = binary_report(score[changed], positive[changed])
    fit = calibration(score, positive)
    has_steps = set(steps) - {"None"}
    return {
        "eval_squared_error": mean(torch.tensor(squares)),
        "eval_lines": whole.pop("count"),
        **{f"eval_{name}": value for name, value in whole.items() if name != "confusion"},
        "eval_position_auc": auc(place, positive),
        "eval_ece": fit["expected_calibration_error"],
        "eval_changed_lines": alone["count"],
        **{f"eval_changed_{name}": alone[name] for name in ("accuracy", "majority", "auc")},
        "first_error_found": mean(torch.tensor(found)),
        "to_first_error": binary_report(score[early], positive[early])
        | {"position_auc": auc(place[early], positive[early])},
        "confusion": whole["confusion"],
        "calibration": fit,
        "histogram": histogram(score, positive),
        "by_position": by_group(position, binary_report, score, positive),
        "by_num_lines": by_group(num_lines, binary_report, score, positive),
        "by_steps": by_group(steps, binary_report, score, positive) if has_steps else {},
    }


def outcome_report(
    logits: torch.Tensor, scores: torch.Tensor, outcomes: torch.Tensor, num_lines: list[int]
) -> dict:
    """Report of an outcome classifier.

    logits (N, 4); scores (N,), the expected rewards; outcomes (N,), the true classes. `confusion`
    counts true (rows) against predicted classes. The AUC is of the score, passed against the rest.
    """
    classes, predicted = list(OUTCOME_REWARDS), logits.argmax(-1)
    passed = outcomes == classes.index("passed")

    def part(predicted, outcomes, scores, passed):
        return {
            "count": len(outcomes),
            "accuracy": mean(predicted == outcomes),
            "majority": majority(outcomes),
            "auc": auc(scores, passed),
        }

    columns = predicted, outcomes, scores, passed
    whole = part(*columns)
    size = len(classes)
    counts = (outcomes * size + predicted).bincount(minlength=size**2).view(size, size)
    return {
        "eval_texts": whole.pop("count"),
        **{f"eval_{name}": value for name, value in whole.items()},
        "classes": classes,
        "confusion": counts.tolist(),
        "recall": {name: ratio(counts[i, i], counts[i].sum()) for i, name in enumerate(classes)},
        "precision": {
            name: ratio(counts[i, i], counts[:, i].sum()) for i, name in enumerate(classes)
        },
        "histogram": histogram(scores, passed),
        "by_num_lines": by_group([bucket(n) for n in num_lines], part, *columns),
    }


def pair_report(
    margins: torch.Tensor, kinds: list[str | None], dimensions: list[str | None]
) -> dict:
    """Accuracy on N pairs, over all, and by kind and by dimension where the pairs have them.
    margins (N,): score of the preferred text - score of the rejected text; a tie is wrong."""

    def part(margins):
        return {"count": len(margins), "accuracy": mean(margins > 0)}

    report = {"eval_pairs": len(margins), "eval_accuracy": mean(margins > 0)}
    for name, values in (("by_kind", kinds), ("by_dimension", dimensions)):
        names = [str(value) for value in values]
        report[name] = by_group(names, part, margins) if any(values) else {}
    return report


def format_number(value: float | int | str | None) -> str:
    if value is None:
        return "none"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def format_numbers(row: dict) -> str:
    """The row's plain values as "name value  name value"; what a figure needs is left out."""
    plain = {name: value for name, value in row.items() if not isinstance(value, dict | list)}
    return "  ".join(f"{name} {format_number(value)}" for name, value in plain.items())


def format_interval(row: dict, name: str) -> str:
    """row[name] and its interval as "0.500 [0.400, 0.600]"."""
    value, low, high = (format_number(row[key]) for key in (name, "low", "high"))
    return f"{value} [{low}, {high}]"


def print_report(report: dict) -> None:
    """A reward model's report: the plain numbers on one line, then a line a group."""
    print(format_numbers(report))
    groups = {name: value for name, value in report.items() if name.startswith("by_")}
    if "to_first_error" in report:
        groups = {"to_first_error": {"": report["to_first_error"]}} | groups
    for title, group in groups.items():
        for name, row in group.items():
            print(f"{title:>14} {name:>6}  {format_numbers(row)}")


def is_over_optimised(history: list[dict]) -> bool:
    """Whether, of the last 10 batches, the later 5 have a higher PRM score and a lower pass rate.
    history: rows of metrics.jsonl."""
    scores = [row["rewards/prm/mean"] or 0.0 for row in history]
    passes = [row["rewards/tests/mean"] or 0.0 for row in history]
    rise = sum(scores[-5:]) - sum(scores[-10:-5])
    return len(history) >= 10 and rise > 0 and sum(passes[-5:]) < sum(passes[-10:-5])
