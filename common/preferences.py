"""Preferences between two texts of a prompt: accuracy by group, and what a blind model reaches.

A benchmark of pairs may be solved without its prompts: rejected texts that a rule has written have
words, or repetitions, of their own. `blind_preferences` measures how far that goes.
"""

import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable

import torch
import torch.nn.functional as F

from common.files import null_for_nan
from common.pass_rates import pass_rate
from common.seeds import seed_of

FOLDS = 5  # of tasks
MAX_FEATURES = 2000  # the words and bigrams that most texts have
WEIGHT_DECAY = 1e-2


def features_of(text: str) -> dict[str, float]:
    """log(1 + count) of each word and bigram of a text, of its words and lines, and of the words,
    bigrams and lines that repeat one before."""
    words = re.findall(r"\w+|[^\w\s]|\n", text.lower())
    bigrams = [f"{first} {second}" for first, second in itertools.pairwise(words)]
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    counts = Counter(words + bigrams)
    for name, parts in (("words", words), ("bigrams", bigrams), ("lines", lines)):
        counts[f"<{name}>"] = len(parts)
        counts[f"<repeated {name}>"] = len(parts) - len(set(parts))
    return {name: math.log1p(count) for name, count in counts.items() if count}


def fit_blind(differences: torch.Tensor) -> torch.Tensor:
    """Weights (F,) of a Bradley-Terry model whose score is linear in the features.

    differences (N, F): features of the chosen text - features of the rejected text.
    """
    weights = torch.zeros(differences.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.softplus(-differences @ weights).mean()
        value = value + WEIGHT_DECAY / 2 * weights.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return weights.detach()


def blind_preferences(rows: list[dict], seed: int = 0) -> list[float]:
    """For each pair, whether a linear model that sees both texts and no prompt prefers `chosen`: 1,
    0, or 0.5 for a tie. Each fold of the tasks is judged by a model of the other folds' pairs; NaN
    where these have no pair."""
    sides = [(features_of(row["chosen"]), features_of(row["rejected"])) for row in rows]
    frequency = Counter(name for pair in sides for side in pair for name in side)
    names = {name: i for i, (name, _) in enumerate(frequency.most_common(MAX_FEATURES))}
    differences = torch.zeros(len(rows), len(names), dtype=torch.float64)  # (N, F)
    for difference, (chosen, rejected) in zip(differences, sides, strict=True):
        for sign, side in ((1, chosen), (-1, rejected)):
            for name in side.keys() & names.keys():
                difference[names[name]] += sign * side[name]
    folds = torch.tensor([seed_of(seed, "blind", row["task_id"]) % FOLDS for row in rows])
    preferred = torch.full((len(rows),), math.nan, dtype=torch.float64)
    for fold in range(FOLDS):
        inside = folds == fold
        if inside.any() and not inside.all():
            margins = differences[inside] @ fit_blind(differences[~inside])
            preferred[inside] = (margins.sign() + 1) / 2
    return preferred.tolist()


def accuracy_of(rows: list[dict], preferred: list[float], numbers: Iterable[int]) -> dict:
    """Accuracy on the pairs of these numbers, NaN left out: the mean over tasks and its 95 % Wilson
    interval (common.pass_rate), a task's pairs in place of its samples."""
    counts = defaultdict(lambda: [0, 0.0])  # [pairs, preferred] of a task
    for i in numbers:
        if not math.isnan(preferred[i]):
            counts[rows[i]["task_id"]][0] += 1
            counts[rows[i]["task_id"]][1] += preferred[i]
    accuracy, low, high = pass_rate(counts.values())
    pairs = sum(n for n, _ in counts.values())
    return null_for_nan({"pairs": pairs, "accuracy": accuracy, "low": low, "high": high})


def preference_report(rows: list[dict], preferred: list[float], blind: list[float]) -> dict:
    """Accuracy over all pairs and by kind, dimension and operator; `blind_accuracy` beside it.

    preferred, blind: for each pair 1, 0.5 or 0, or NaN for a pair that counts nowhere.
    """

    def row_of(numbers: list[int]) -> dict:
        row = accuracy_of(rows, preferred, numbers)
        return row | {"blind_accuracy": accuracy_of(rows, blind, numbers)["accuracy"]}

    report = row_of(list(range(len(rows))))
    for name in ("kind", "dimension", "operator"):
        groups = defaultdict(list)
        for i, row in enumerate(rows):
            groups[str(row.get(name, row.get("meta", {}).get(name)))].append(i)
        report[f"by_{name}"] = {value: row_of(groups[value]) for value in sorted(groups)}
    return report
