"""Immediate rewards for similarity.diff: the similarity to the reference that is foretold."""

import torch

import common
from common import InputError
from prm_data import rows


def edit_similarity(a: list, b: list) -> float:
    """1 - d / max(len(a), len(b)), d: Levenshtein's distance of two sequences; 1 for two empty."""
    row = list(range(len(b) + 1))  # distances of a[:i] from each b[:j]
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            best = min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
            previous, row[j] = row[j], best
    return 1 - row[-1] / max(len(a), len(b), 1)


def with_references(samples: list[dict], config) -> list[dict]:
    """The samples that ended by themselves, each with its task's `reference`, without the `prefix`
    that the prompt gives. InputError for a sample of an unknown task, where no sample ended by
    itself, and where no model is named that has written the samples."""
    if config.model_name_or_path == "micro":
        raise InputError("--model_name_or_path: name the policy that wrote the samples")

    def is_reference(task: dict) -> None:
        rows.check_reference(task, "completions are compared with references")

    tasks = common.read_jsonl(config.references, common.PROMPT_FIELDS, is_reference)
    known = {
        task["task_id"]: task["solution"].removeprefix(task.get("prefix", "")) for task in tasks
    }
    found = []
    for row in samples:
        if row["task_id"] not in known:
            raise InputError(f"{config.references}: has no task {row['task_id']!r} of a sample")
        if row.get("terminated", True):
            found.append(row | {"reference": known[row["task_id"]]})
    if not found:
        raise InputError(f"{config.tasks}: every sample was cut off at the length limit")
    return found


def immediate_rewards(rows: list[tuple], config) -> list[list[float]]:
    """The similarity that an evaluator foretells after each token of each completion.

    rows: token ids of a prompt, of its completion, and the similarity of the completion. The
    evaluator starts as the policy; its loss is the squared error, mean over tokens. It depends on
    the rows and the flags alone: a run that goes on trains the same evaluator again.
    """
    evaluator = common.load_scorer(config.model_name_or_path, num_labels=1, run_config=config)
    evaluator = common.shard(evaluator.eval(), config, trained=True)
    optimizer = common.adamw(evaluator, weight_decay=0.0)
    lengths = [len(prompt) + len(completion) for prompt, completion, _ in rows]
    bar = common.progress_bar("evaluator", config.evaluator_steps, 0)
    for step in range(config.evaluator_steps):
        peak, num_steps = config.evaluator_learning_rate, config.evaluator_steps
        common.set_lr(optimizer, common.lr_at(step, peak, config.warmup_steps, num_steps))
        drawn = common.draw(len(rows), config.train_batch_size, step, config.seed, "evaluator")
        batch, loss_sum = common.my_share(drawn), 0.0
        (num_tokens,) = common.all_sum(sum(len(rows[i][1]) for i in batch))
        for micro in common.micro_batches([lengths[i] for i in batch], config):
            part = [batch[i] for i in micro]
            scores, mask = _scores(evaluator, [rows[i] for i in part])  # (B, L), (B, L)
            target = scores.new_tensor([rows[i][2] for i in part] or [0.0])  # (B,)
            loss = ((scores - target[:, None]).square() * mask).sum() / num_tokens
            (loss * common.world_size()).backward()
            loss_sum += loss.item()
        common.take_step(evaluator, optimizer, config.max_grad_norm)
        bar.set_postfix(loss=f"{common.all_sum(loss_sum)[0]:.4f}", refresh=False)
        bar.update()
    bar.close()
    rewards = [[] for _ in rows]
    with torch.no_grad():  # on every rank all rows
        for micro in common.micro_batches(lengths, config):
            scores, mask = _scores(evaluator, [rows[i] for i in micro])
            for place, i in enumerate(micro):
                rewards[i] = scores[place][mask[place]].tolist()
    return rewards


def _scores(evaluator, rows: list[tuple]) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores (B, L) of the evaluator after each token; the mask (B, L) of completions' tokens."""
    prompts, completions = ([row[side] for row in rows] for side in (0, 1))
    ids, mask = common.pad_pairs(prompts, completions)
    return common.scores_of(evaluator, ids), mask
