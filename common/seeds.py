"""Stateless randomness: a seed is a function of (run seed, purpose, step, index).

A resumed run draws what an undisturbed run would have drawn, and a
draw does not depend on the number of ranks.
"""

import hashlib
import json

import torch


def seed_of(run_seed: int, purpose: str, *index: int | str) -> int:
    """A 63-bit seed, a function of the arguments alone: a resumed run draws the same numbers."""
    text = json.dumps([run_seed, purpose, *index])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def shuffled(count: int, run_seed: int, purpose: str, *index: int) -> list[int]:
    """A permutation of range(count), a function of the arguments alone."""
    generator = torch.Generator().manual_seed(seed_of(run_seed, purpose, *index))
    return torch.randperm(count, generator=generator).tolist()


def draw(count: int, size: int, step: int, run_seed: int, purpose: str) -> list[int]:
    """Indices of a step's batch: places step * size to (step + 1) * size - 1 of an endless
    sequence of shuffled epochs over range(count)."""
    first = step * size
    last = first + size - 1
    epochs = {
        epoch: shuffled(count, run_seed, purpose, epoch)
        for epoch in range(first // count, last // count + 1)
    }
    return [epochs[i // count][i % count] for i in range(first, last + 1)]


def held_out_tasks(rows: list[dict], fraction: float, run_seed: int) -> set[str]:
    """The task_ids of about this fraction of the rows' tasks, for evaluation. Tasks are held out,
    not rows, since rows of one task share lines."""
    names = {row["task_id"] for row in rows}
    return {
        name for name in names if seed_of(run_seed, "held-out", name) % 10_000 < 10_000 * fraction
    }
