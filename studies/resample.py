"""New prompts for groups that pass, or fail, as a whole, for studies/dynamic_sampling.diff."""

import dataclasses
from concurrent.futures import Future

import torch
import torch.nn.functional as F

import common


def fill_batch(
    policy,
    tokenizer,
    tasks: list[dict],
    runner,
    rollout: common.Rollout,
    executions: list[Future],
    config,
    step: int,
) -> tuple[common.Rollout, list[Future], int]:
    """This rank's share of the batch: groups of which some completions pass and some fail, drawn
    anew for config.max_resample rounds at most; then, where groups are missing, the other groups.

    Returns the rollout and its executions, and how many completions all ranks have drawn.
    """
    size, share = config.num_generations, len(rollout.ids) // config.num_generations
    rollouts, drawn = [rollout], config.num_prompts
    for attempt in range(config.max_resample):
        mixed = mixed_groups(executions, size)
        (missing,) = common.all_sum(max(0, share - int(mixed.sum())))
        if not missing:
            break
        ranks = common.world_size()
        num_prompts = -(-int(missing) // ranks) * ranks  # rounded up to a multiple of the ranks
        more = dataclasses.replace(config, num_prompts=num_prompts)
        stage = f"grpo, batch {step}, attempt {attempt}"
        rollouts.append(common.sample(policy, tokenizer, tasks, more, 0, stage))
        executions = executions + common.execute(runner, rollouts[-1])
        drawn += num_prompts
    mixed = mixed_groups(executions, size).tolist()
    first = sorted(range(len(mixed)), key=lambda group: not mixed[group])[:share]
    rows = [group * size + number for group in sorted(first) for number in range(size)]
    return take(rollouts, rows), [executions[i] for i in rows], drawn * size


def mixed_groups(executions: list[Future], size: int) -> torch.Tensor:
    """Groups (N / size,) bool of which some judged completions pass and some fail."""
    verdicts = common.verdicts_of(executions)
    failed = verdicts.judged & ~verdicts.passed
    return verdicts.passed.view(-1, size).any(1) & failed.view(-1, size).any(1)


def take(rollouts: list[common.Rollout], rows: list[int]) -> common.Rollout:
    """Rows of several rollouts, counted through, as one; right-padded to the longest of all."""
    width = max(rollout.ids.shape[1] for rollout in rollouts)
    columns = {}
    for name in common.Rollout._fields:
        parts = [getattr(rollout, name) for rollout in rollouts]
        if name in ("ids", "mask", "logprobs"):
            parts = [F.pad(part, (0, width - part.shape[1])) for part in parts]
        if isinstance(parts[0], torch.Tensor):
            columns[name] = torch.cat(parts)[rows]
        elif name == "samples_a_row":
            columns[name] = min(parts)
        else:
            flat = [value for part in parts for value in part]
            columns[name] = type(parts[0])(flat[i] for i in rows if flat)
    return common.Rollout(**columns)
