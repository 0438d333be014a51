"""Line labels of a policy's rollouts while ppo.py trains it: for the oracle, and for a PRM that goes on learning.

Labels are tensors (N, T) beside a rollout's ids: the label of a line stands at the token in which the line ends, NaN
everywhere else and where a line has none. They come from references (prm_data/gold.py) or from the policy's own
completions (prm_data/search.py); the flags are those of ppo.py.
"""

import json
from collections import Counter
from concurrent.futures import Future
from pathlib import Path

import torch

import common
import sandbox
from kernels import masking
from prm_data import gold, search


def at_line_ends(
    labels: list[list[float | None]], rollout: common.Rollout, table: masking.LineTable
) -> torch.Tensor:
    """Labels of the lines of each completion, None for none, as a tensor (N, T)."""
    width = max(map(len, labels), default=0)
    places = masking.line_end_positions(
        rollout.ids, rollout.mask, table, width
    ).tolist()  # (N, lines), -1 beyond
    at_ends = torch.full(rollout.ids.shape, torch.nan)
    for i, row in enumerate(labels):
        for place, label in zip(places[i], row, strict=False):
            if place >= 0 and label is not None:
                at_ends[i, place] = label
    return at_ends.to(rollout.ids.device)


def start_gold(
    runner: sandbox.Sandbox, tasks: list[dict], texts: list[str], cache: dict
) -> list[list]:
    """Starts what has to run for the exact labels of N completions; handles for gold_labels. cache: see gold.submit."""
    programs = [common.extract_program(task, text) for task, text in zip(tasks, texts, strict=True)]
    return [
        gold.submit(runner, task, program, cache)
        for task, program in zip(tasks, programs, strict=True)
    ]


def num_executions(handles: list[list]) -> int:
    """Different executions that the labels need; some may have run already, for earlier ones."""
    return len({id(handle) for row in handles for handle in row if isinstance(handle, Future)})


def line_labels(task: dict, text: str, labels: list[float | None]) -> list[float | None]:
    """Labels of a completion's lines from those of its program's: the program may begin with a prefix that the task
    gives, and the text may go beyond the program on both sides."""
    program = common.extract_program(task, text)
    body = program.removeprefix(task.get("prefix", ""))
    given, before = program[: len(program) - len(body)], text[: text.find(body)]
    return [None] * common.unix(before).count("\n") + labels[common.unix(given).count("\n") :]


def gold_labels(
    handles: list[list], tasks: list[dict], rollout: common.Rollout, table: masking.LineTable
) -> torch.Tensor:
    """Exact labels (N, T), once they have run."""
    rows = zip(tasks, rollout.texts, handles, strict=True)
    return at_line_ends(
        [line_labels(task, text, gold.labels(row)) for task, text, row in rows], rollout, table
    )


def latest_rollouts(config, tasks: list[dict]) -> list[dict]:
    """The last --prm_refresh_window judged rollouts in the log: `task`, the completion's `ids` and `text`, `passed`."""
    by_name = {task["task_id"]: task for task in tasks}
    rows = map(json.loads, common.whole_lines(Path(config.output_dir) / "completions.jsonl"))
    return [
        {
            "task": by_name[row["task_id"]],
            "ids": row["completion_ids"],
            "text": row["completion"],
            "passed": row["status"] == "passed",
        }
        for row in rows
        if row["status"] != "harness_error"
    ][-config.prm_refresh_window :]


def refresh(
    prm,
    optimizer,
    window: list[dict],
    policy,
    tokenizer,
    table,
    runner,
    cache: dict,
    step: int,
    config,
) -> tuple[float, Counter]:
    """Goes on training a PRM on rollouts drawn from `window` (latest_rollouts) and labelled now, as train_prm.py does:
    the mean over labelled lines of (score - label)^2.

    Returns the mean loss over the steps, and what the labels cost: completions, executions.
    """
    size = config.prm_refresh_steps * config.prm_refresh_batch_size
    rows = [
        window[i] for i in common.shuffled(len(window), config.seed, "prm refresh", step)[:size]
    ]
    tasks, ids, texts = ([row[name] for row in rows] for name in ("task", "ids", "text"))
    prompts = [common.encode_prompt(tokenizer, task) for task in tasks]
    mask = common.pad([[1] * len(row) for row in ids]).bool()  # (N, T)
    rollout = common.Rollout(prompts, ids, texts, common.pad(ids), mask, logprobs=None)
    if config.prm_refresh_labels == "gold":
        handles = start_gold(runner, tasks, texts, cache)
        labels, cost = (
            gold_labels(handles, tasks, rollout, table),
            Counter(executions=num_executions(handles)),
        )
    else:
        found, cost = search.label_responses(
            policy, tokenizer, table, runner, tasks, prompts, ids, [row["passed"] for row in rows],
            [common.seed_of(config.seed, "prm refresh labels", step, i) for i in range(len(rows))],
            config.prm_refresh_num_completions, temperature=config.temperature,
            max_completion_length=config.max_completion_length,
        )  # fmt: skip
        masked = config.prm_refresh_labels == "search_masked"
        found = [x.labels(mask_after_first_error=masked) or [] for x in found]
        labels = at_line_ends(found, rollout, table)  # (N, T)

    losses = []
    for k in range(config.prm_refresh_steps):
        batch = common.draw(
            len(rows), config.prm_refresh_batch_size, k, config.seed, f"prm refresh batch {step}"
        )
        num_labels = (~labels[batch].isnan()).sum().clamp(min=1)
        loss_sum = 0.0
        for start in range(0, len(batch), config.per_device_train_batch_size):
            micro = batch[start : start + config.per_device_train_batch_size]
            input_ids, _, places = common.pack(rollout, micro)
            scores = common.scores_of(prm, input_ids).gather(1, places)  # (B, T)
            known = ~labels[micro].isnan()
            loss = (scores[known] - labels[micro][known]).square().sum() / num_labels
            loss.backward()
            loss_sum += loss.item()
        common.clip_gradients(prm, config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss_sum)
    return sum(losses) / len(losses), cost
