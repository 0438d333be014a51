"""Exact line labels of a policy's rollouts, for studies of ppo.py.

An exact label comes from executing a line in its place in the reference program, and is of one of
two kinds: in place or by prefix (prm_data/gold.py, --labels). Labels are tensors (N, T) beside a
rollout's ids: the label of a line stands at the token in which the line ends, NaN stands everywhere
else and where a line has no label.
"""

from concurrent.futures import Future

import torch

import common
import sandbox
from kernels import masking
from prm_data import gold
from prm_data.rows import check_reference


def check_task(task: dict) -> None:
    """Raises ValueError for a task that cannot be judged or has no reference."""
    check_reference(task, "exact labels compare with references")


def start(runner: sandbox.Sandbox, rollout: common.Rollout, cache: dict) -> list[list]:
    """Starts what has to run for the labels of N completions, for `labels_of`.

    cache: a dict that the caller keeps; a line that is in the cache does not run again.
    """
    return [
        gold.submit(runner, task, program, cache)
        for task, program in zip(rollout.tasks, rollout.programs(), strict=True)
    ]


def num_executions(pending: list[list]) -> int:
    """Different executions that the labels need, also those that have run before, for others."""
    return len({id(entry) for row in pending for entry in row if isinstance(entry, Future)})


def labels_of(
    pending: list[list],
    rollout: common.Rollout,
    line_table: masking.LineTable,
    kind: str = "in_place",
) -> torch.Tensor:
    """Waits for what `start` has started; labels (N, T) of a kind, "in_place" or "prefix"."""
    rows, programs = [], rollout.programs()
    columns = zip(rollout.tasks, programs, rollout.texts, pending, strict=True)
    for task, program, text, entries in columns:
        labels = gold.labels(entries)
        if kind == "prefix":
            labels = gold.prefix_labels(task, program, labels)
        rows.append(labels_of_text(program, text, labels))
    return at_line_ends(rows, rollout, line_table)


def labels_of_text(program: str, text: str, labels: list[float | None]) -> list[float | None]:
    """Labels of a completion's lines from the labels of its program's lines.

    Lines around the program have no label (common.program_lines).
    """
    lines = common.program_lines(program, text)
    return [None if line is None else labels[line] for line in lines]


def at_line_ends(
    labels: list[list[float | None]], rollout: common.Rollout, line_table: masking.LineTable
) -> torch.Tensor:
    """Labels of the lines of each completion as a tensor (N, T); None becomes NaN."""
    num_lines = max(map(len, labels), default=0)
    ends = masking.line_end_positions(rollout.ids, rollout.mask, line_table, num_lines).tolist()
    at_ends = torch.full(rollout.ids.shape, torch.nan)
    for i, row in enumerate(labels):
        for end, label in zip(ends[i], row, strict=False):
            if end >= 0 and label is not None:
                at_ends[i, end] = label
    return at_ends.to(rollout.ids.device)
