"""A PRM that goes on learning from the policy's rollouts, for studies/prm_refresh.diff."""

import json
from pathlib import Path

import common
from studies import exact


def judged_rollouts(rollout: common.Rollout, verdicts: common.Verdicts) -> list[dict]:
    """The batch's judged rollouts: `task`, the completion's `ids` and `text`."""
    rows = zip(rollout.tasks, rollout.completions, rollout.texts, verdicts.judged, strict=True)
    return [{"task": task, "ids": ids, "text": text} for task, ids, text, judged in rows if judged]


def logged_rollouts(output_dir: str, tasks: list[dict]) -> list[dict]:
    """`judged_rollouts` of all batches so far, from completions.jsonl; none in a new run."""
    path = Path(output_dir) / "completions.jsonl"
    if not path.is_file():
        return []
    by_id = {task["task_id"]: task for task in tasks}
    rows = [json.loads(line) for line in common.whole_lines(path)]
    return [
        {
            "task": by_id[row["task_id"]],
            "ids": row["completion_ids"],
            "text": row["completion"],
        }
        for row in rows
        if row["status"] != "harness_error"
    ]


def refresh(
    prm, optimizer, window: list[dict], tokenizer, runner, cache: dict, step: int, config
) -> tuple[float, int]:
    """Trains the PRM for config.prm_refresh_steps steps, as train_prm.py --objective regression
    does: the mean over labelled lines of (score - label)^2, with exact labels of rollouts that are
    drawn from `window`.

    Returns the mean loss over the steps, and the number of programs that the labels need.
    """
    size = config.prm_refresh_steps * config.prm_refresh_batch_size
    drawn = common.shuffled(len(window), config.seed, "prm refresh", step)[:size]
    rows = [window[i] for i in drawn]
    tasks, ids, texts = ([row[name] for row in rows] for name in ("task", "ids", "text"))
    prompt_format = common.prompt_format_of(config)
    prompts = [common.encode_prompt(tokenizer, task, prompt_format) for task in tasks]
    mask = common.pad([[1] * len(row) for row in ids]).bool()  # (N, T)
    openings = tuple(common.opening_of(tokenizer, prompt) for prompt in prompts)
    rollout = common.Rollout(prompts, ids, texts, common.pad(ids), mask, None)
    rollout = rollout._replace(tasks=tuple(tasks), openings=openings)
    pending = exact.start(runner, rollout, cache)
    labels = exact.labels_of(pending, rollout, common.line_table(tokenizer))  # (N, T)

    losses = []
    for k in range(config.prm_refresh_steps):
        purpose = f"prm refresh batch {step}"
        batch = common.draw(len(rows), config.prm_refresh_batch_size, k, config.seed, purpose)
        num_labels = (~labels[batch].isnan()).sum().clamp(min=1)
        loss_sum = 0.0
        for start in range(0, len(batch), config.per_device_train_batch_size):
            micro = batch[start : start + config.per_device_train_batch_size]
            inputs, at, _ = common.pad_rollout(rollout, micro, prm)
            scores = common.scores_of(prm, **inputs).flatten()[at]  # (B, T)
            known = ~labels[micro].isnan()
            loss = (scores[known] - labels[micro][known]).square().sum() / num_labels
            loss.backward()
            loss_sum += loss.item()
        common.take_step(prm, optimizer, config.max_grad_norm)
        losses.append(loss_sum)
    return sum(losses) / len(losses), exact.num_executions(pending)
