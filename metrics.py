"""What train_prm.py and eval.py share about reward models: the check of prm.jsonl, and the numbers of their reports.

Scores are those that reinforcement learning reads (common.scores_of): above 0 is good. As a probability a score s is
(s + 1) / 2, cut to [0, 1]. A label above 0 is positive, below 0 negative; lines labelled 0 (neutral, PSGPO) count in
the squared error alone. A number that is not defined, such as the AUC where one class is missing, is None: JSON has no
NaN.
"""

import re

import torch

import common
from common import InputError
from kernels import masking

PRM_FIELDS = {**common.PROMPT_FIELDS, "completions": list, "labels": list}


def check_prm_row(row: dict) -> None:
    """Raises ValueError where lines and labels of a prm.jsonl row do not fit together."""
    lines, labels = row["completions"], row["labels"]
    if len(lines) != len(labels):
        raise ValueError(
            f"field 'labels' has {len(labels)} labels for the {len(lines)} lines of field 'completions'"
        )
    for index, line in enumerate(lines):
        ends = isinstance(line, str) and line.endswith("\n")
        if (
            not isinstance(line, str)
            or "\n" in line[:-1]
            or not line
            or (not ends and index < len(lines) - 1)
        ):
            raise ValueError(
                f"field 'completions': item {index} must be one line of text with its newline"
            )
        if not (
            labels[index] is None
            or (isinstance(labels[index], int | float) and not isinstance(labels[index], bool))
        ):
            raise ValueError(f"field 'labels': item {index} must be a number or null")
    if all(label is None for label in labels):
        raise ValueError("field 'labels' has no label: every line is null")


def check_lines_have_tokens(path: str, rows: list[dict], texts: list[list[int]], table) -> None:
    """Raises InputError where a labelled line ends in no token: the tokenizer does not keep newlines."""
    for start in range(0, len(rows), 256):
        part = texts[start : start + 256]
        mask = common.pad([[1] * len(text) for text in part]).bool()
        width = max(len(row["labels"]) for row in rows[start : start + 256])
        ends = masking.line_end_positions(common.pad(part), mask, table, width).tolist()
        for number, (row, places) in enumerate(
            zip(rows[start : start + 256], ends, strict=True), start + 1
        ):
            for line, (label, place) in enumerate(zip(row["labels"], places, strict=False)):
                if label is not None and place < 0:
                    raise InputError(f"{path}:{number}: line {line} of field 'completions' ends in no token; "
                                     "does this tokenizer keep newlines?")  # fmt: skip


def ratio(part: float, whole: float) -> float | None:
    return float(part) / float(whole) if whole else None


def mean(values: torch.Tensor) -> float | None:
    return ratio(values.double().sum(), len(values))


def bucket(count: int, bounds=(3, 5, 7, 10, 15, 25)) -> str:
    """The bucket of a count from 0, such as a program's number of lines: "0-3", "4-5", ..., "26+"."""
    low = 0
    for high in bounds:
        if count <= high:
            return f"{low}-{high}"
        low = high + 1
    return f"{low}+"


def auc(scores: torch.Tensor, positive: torch.Tensor) -> float | None:
    """Area under the ROC curve: P(score of a positive > of a negative), ties half (Mann-Whitney)."""
    _, inverse, counts = scores.double().unique(return_inverse=True, return_counts=True)
    mean_rank = (counts.cumsum(0) - (counts - 1) / 2)[
        inverse
    ]  # ranks from 1, the mean rank among equal scores
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    return ratio(
        mean_rank[positive].sum() - n_positive * (n_positive + 1) / 2, n_positive * n_negative
    )


def majority(classes: torch.Tensor) -> float | None:
    """Accuracy of always naming the most frequent class; classes (N,)."""
    return (
        ratio(classes.unique(return_counts=True)[1].max(), len(classes)) if len(classes) else None
    )


def binary_report(scores: torch.Tensor, positive: torch.Tensor) -> dict:
    """Accuracy of the sign and what belongs to it, scores (N,), positive (N,) bool; next to the majority's accuracy."""
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
    """Per bin of the score as a probability: count, its mean and the share of positives; and the expected calibration
    error, the mean over all N of the gap between the two (Guo et al., 2017, eq. 3)."""
    probability = ((scores.double() + 1) / 2).clamp(0, 1)
    index = (probability * num_bins).long().clamp(max=num_bins - 1)
    bins, gap = [], 0.0
    for number in range(num_bins):
        inside = index == number
        predicted, actual = mean(probability[inside]), mean(positive[inside])
        bins.append({"low": number / num_bins, "high": (number + 1) / num_bins, "count": int(inside.sum()),
                     "probability": predicted, "positive": actual})  # fmt: skip
        if predicted is not None:
            gap += int(inside.sum()) * abs(predicted - actual)
    return {"expected_calibration_error": ratio(gap, len(scores)), "bins": bins}


def histogram(scores: torch.Tensor, positive: torch.Tensor, num_bins: int = 20) -> dict:
    """Counts of scores per class in equal bins over [-1, 1]; a score outside falls in the nearest bin."""
    index = ((scores.double() + 1) / 2 * num_bins).floor().long().clamp(0, num_bins - 1)
    return {
        "edges": [round(-1 + 2 * number / num_bins, 6) for number in range(num_bins + 1)],
        "positive": index[positive].bincount(minlength=num_bins).tolist(),
        "negative": index[~positive].bincount(minlength=num_bins).tolist(),
    }


def by_group(names: list[str], report, *columns: torch.Tensor) -> dict:
    """report(*columns) of the rows of each name, names in the order of the numbers that they start with."""
    order = sorted(set(names), key=lambda name: (int((re.match(r"\d+", name) or [0])[0]), name))
    groups = {name: torch.tensor([own == name for own in names]) for name in order}
    return {
        name: report(*(column[chosen] for column in columns)) for name, chosen in groups.items()
    }


def line_report(rows: list[dict], scores: list[list[float]]) -> dict:
    """Report of a line PRM on rows of prm.jsonl, given a score for each of their lines.

    `eval_loss` is the mean squared error over labelled lines. Accuracy, AUC, calibration and histogram are over lines
    with a positive or negative label; again over the lines of `meta.changed`, by position of the line (from 1), by the
    program's number of lines, by `meta.steps`, and over the lines up to and including the first negative one.
    `first_error_found` is the share, among the rows with a negative line, whose first line with a score of 0 or less,
    among those labelled, is the first negative one.
    """
    flat, square, found = (
        [],
        [],
        [],
    )  # flat: score, label, changed, position, number of lines, steps, before the error
    for row, row_scores in zip(rows, scores, strict=True):
        labels, meta = row["labels"], row.get("meta", {})
        signed = [i for i, label in enumerate(labels) if label]
        square += [
            (row_scores[i] - label) ** 2 for i, label in enumerate(labels) if label is not None
        ]
        first = next((i for i in signed if labels[i] < 0), None)
        if first is not None:
            found.append(first == next((i for i in signed if row_scores[i] <= 0), None))
        flat += [
            (row_scores[i], labels[i], i in meta.get("changed", []), str(i + 1) if i < 10 else "11+", bucket(len(labels)),
             str(meta.get("steps")), first is None or i <= first) for i in signed
        ]  # fmt: skip
    columns = list(zip(*flat, strict=True)) or [()] * 7
    score, positive = torch.tensor(columns[0]), torch.tensor(columns[1]) > 0
    changed, early = (
        torch.tensor(columns[2], dtype=torch.bool),
        torch.tensor(columns[6], dtype=torch.bool),
    )
    everything, alone = (
        binary_report(score, positive),
        binary_report(score[changed], positive[changed]),
    )
    fit = calibration(score, positive)
    return {
        "eval_loss": mean(torch.tensor(square)),
        "eval_lines": everything.pop("count"),
        **{f"eval_{name}": value for name, value in everything.items() if name != "confusion"},
        "eval_ece": fit["expected_calibration_error"],
        "eval_changed_lines": alone["count"],
        **{f"eval_changed_{name}": alone[name] for name in ("accuracy", "majority", "auc")},
        "first_error_found": mean(torch.tensor(found)),
        "to_first_error": binary_report(score[early], positive[early]),
        "confusion": everything["confusion"],
        "calibration": fit,
        "histogram": histogram(score, positive),
        "by_position": by_group(columns[3], binary_report, score, positive),
        "by_num_lines": by_group(columns[4], binary_report, score, positive),
        "by_steps": by_group(columns[5], binary_report, score, positive)
        if set(columns[5]) - {"None"}
        else {},
    }


def outcome_report(
    logits: torch.Tensor, scores: torch.Tensor, outcomes: torch.Tensor, num_lines: list[int]
) -> dict:
    """Report of an outcome classifier: logits (N, 4), scores (N,) the expected rewards, outcomes (N,) the true classes.

    `confusion` counts true (rows) against predicted classes; the AUC is of the score, for passed against the rest.
    """
    names, predicted = list(common.OUTCOME_REWARDS), logits.argmax(-1)
    passed = outcomes == names.index("passed")

    def part(predicted, outcomes, scores, passed):
        return {"count": len(outcomes), "accuracy": mean(predicted == outcomes), "majority": majority(outcomes),
                "auc": auc(scores, passed)}  # fmt: skip

    counts = (
        (outcomes * len(names) + predicted).bincount(minlength=len(names) ** 2).view(len(names), -1)
    )
    everything = part(predicted, outcomes, scores, passed)
    return {
        "eval_texts": everything.pop("count"),
        **{f"eval_{name}": value for name, value in everything.items()},
        "classes": names,
        "confusion": counts.tolist(),
        "recall": {name: ratio(counts[i, i], counts[i].sum()) for i, name in enumerate(names)},
        "precision": {
            name: ratio(counts[i, i], counts[:, i].sum()) for i, name in enumerate(names)
        },
        "histogram": histogram(scores, passed),
        "by_num_lines": by_group(
            [bucket(n) for n in num_lines], part, predicted, outcomes, scores, passed
        ),
    }


def pair_report(
    margins: torch.Tensor, kinds: list[str | None], dimensions: list[str | None]
) -> dict:
    """Accuracy of pairs: margins (N,) are score(preferred) - score(rejected), a tie is wrong; by kind and by dimension
    where the pairs have one."""

    def part(margins):
        return {"count": len(margins), "accuracy": mean(margins > 0)}

    groups = {name: by_group([str(value) for value in values], part, margins) if any(values) else {}
              for name, values in (("by_kind", kinds), ("by_dimension", dimensions))}  # fmt: skip
    return {"eval_pairs": len(margins), "eval_accuracy": mean(margins > 0), **groups}


def text_of(value) -> str:
    return "none" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def print_report(report: dict) -> None:
    """The plain numbers on one line; then a line a group; what a figure needs stays in the file."""
    print(
        "  ".join(
            f"{name} {text_of(value)}"
            for name, value in report.items()
            if not isinstance(value, dict | list)
        )
    )
    groups = (
        {"to_first_error": {"": report["to_first_error"]}} if "to_first_error" in report else {}
    )
    for title, group in (
        groups | {name: value for name, value in report.items() if name.startswith("by_")}
    ).items():
        for name, numbers in group.items():
            values = (
                f"{key} {text_of(value)}"
                for key, value in numbers.items()
                if not isinstance(value, dict)
            )
            print(f"{title:>14} {name:>6}", *values, sep="  ")
