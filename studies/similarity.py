"""How much a completion is like the reference, for similarity.diff."""

import torch

import common
from prm_data import rows


def check_task(task: dict) -> None:
    """Raises ValueError for a task that cannot be judged or has no reference."""
    rows.check_reference(task, "completions are compared with references")


def edit_similarity(a: list, b: list) -> float:
    """1 - d / max(len(a), len(b)), d: Levenshtein's distance of two sequences; 1 for two empty."""
    row = list(range(len(b) + 1))  # distances of a[:i] from each b[:j]
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            best = min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
            previous, row[j] = row[j], best
    return 1 - row[-1] / max(len(a), len(b), 1)


def of_rollout(rollout: common.Rollout, tokenizer) -> torch.Tensor:
    """Edit similarity (N,) of each completion's tokens and those of its task's reference."""
    found = [
        edit_similarity(ids, common.encode_completion(tokenizer, task["solution"]))
        for task, ids in zip(rollout.tasks, rollout.completions, strict=True)
    ]
    return torch.tensor(found, device=rollout.ids.device)
