"""GRPO for code: advantages relative to the other completions of the same prompt, and execution that gates a reward
for the reasoning.

The reward of a completion (ReCode, Fan et al., 2025, eq. 1), each term switched on by what it needs:

    R = R_out                                      R_out = 1 when every test passes, else 0
    R = R_fmt + R_out + gate * weight * R_proc     with --reasoning_rm

R_fmt is 1 for an answer of the form <think>...</think><answer>...</answer>, else 0. R_proc in [0, 1] comes from the
reasoning reward model's score s of the text between the think tags, 0 without such a text. ReCode does not say how its
score is mapped; `--process_map` has sigmoid(s - c), clip(s - c, 0, 1), and the score's place between the lowest and the
highest of the group; c is --process_center. `--gate`:

    hard         1 where R_out = 1, else 0 (ReCode)
    soft         passed / total, which also takes the place of R_out (ReCode's ablation)
    threshold    1 where passed / total >= --gate_threshold
    format       1 where R_fmt = 1
    none         1: the linear sum that the paper warns of; the same as format, as an answer without form has no R_proc

The advantage is (R - mean) / (std + 1e-4) over the completions of a prompt, the same for each of its tokens. No KL
term and a higher upper clip range, as in ReCode; its values are not published, DAPO's 0.2 and 0.28 stand in. The loss
is a mean over the tokens of the optimiser step (DAPO). It is close to 0 in the first update of a batch, where all
ratios are 1 and the advantages cancel: that is no sign of trouble.

Switches, each off by default: `--beta` adds beta * ratio * k3 per token, the estimator whose gradient is that of the
reverse KL to the starting policy; groups without an advantage feel it too. `--loss_type grpo` is the mean over
sequences of their token means, dr_grpo the sum over tokens by sequences * max_completion_length (Liu et al., 2025).
`--importance_sampling_level sequence` takes the ratio of whole sequences, their geometric mean (GSPO, Zheng et al.,
2025, eq. 7; its clip range is near 3e-4). `--dynamic_sampling true` replaces groups of equal rewards by new prompts
(DAPO, Yu et al., 2025, eq. 11); all samples count as episodes, and `--max_resample` rounds at most are made, after
which the batch is filled with such groups. Which prompts it resamples depends on the number of processes.

    python grpo.py --tasks train.jsonl --model_name_or_path runs/sft --output_dir runs/grpo
    python grpo.py --tasks train.jsonl --model_name_or_path runs/sft --reasoning_rm runs/rm --gate hard --output_dir runs/recode
    torchrun --standalone --nproc_per_node=2 grpo.py --tasks train.jsonl --model_name_or_path runs/sft --output_dir runs/grpo

A verdict that the sandbox could not reach is no reward: that sample does not count, in its group or anywhere.
"""

import json
import math
import time
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F

import common
import sandbox
from common import InputError, reasoning_of
from kernels import advantages


@dataclass
class Config:
    tasks: str  # tasks.jsonl to sample prompts from
    model_name_or_path: str  # policy to start from
    output_dir: str  # run folder; a run that was cut off goes on from its last checkpoint
    reasoning_rm: str | None = (
        None  # reasoning reward model (train_prm.py --objective ranking or score)
    )
    gate: Literal["hard", "soft", "threshold", "format", "none"] = (
        "hard"  # where R_proc counts; see above
    )
    gate_threshold: float = 0.5  # of --gate threshold
    process_weight: float = 1.0  # weight of R_proc (ReCode: 1)
    process_map: Literal["sigmoid", "minmax_group", "clip"] = (
        "sigmoid"  # how the raw score becomes R_proc
    )
    process_center: float = (
        0.0  # c; 0: train_prm.py has put 0 between the chosen and the rejected texts already
    )
    scale_rewards: Literal["std", "none", "leave_one_out"] = (
        "std"  # GRPO; mean only (Dr. GRPO); RLOO
    )
    max_steps: int = 60  # rollout batches
    num_prompts: int = 16  # prompts a batch, over all processes
    num_generations: int = 8  # completions a prompt: the group
    max_completion_length: int = 128  # tokens
    temperature: float = (
        1.0  # of sampling, and of every log-prob; nothing else shapes the distribution
    )
    num_iterations: int = 1  # passes over a batch
    num_mini_batches: int = 2  # optimiser steps a pass
    per_device_train_batch_size: int = (
        32  # rows a forward pass; changes memory and speed, not the result
    )
    learning_rate: float = 2e-4  # for a pretrained model 1e-6 is usual
    warmup_steps: int = 10  # batches; the first Adam steps are destructive without
    max_grad_norm: float = 1.0
    epsilon: float = 0.2  # clip range below 1
    epsilon_high: float = 0.28  # clip range above 1 (clip-higher)
    beta: float = 0.0  # weight of the KL term; 0: no reference policy is kept
    loss_type: Literal["dapo", "grpo", "dr_grpo"] = (
        "dapo"  # what the loss is a mean over; see above
    )
    importance_sampling_level: Literal["token", "sequence"] = "token"  # sequence: GSPO
    dynamic_sampling: bool = False  # replace groups of equal rewards by new prompts
    max_resample: int = 3  # rounds of new prompts a batch
    mask_truncated_completions: bool = (
        False  # no loss on completions that were cut off at the length limit
    )
    overlong_penalty: int = (
        0  # DAPO: the reward falls by up to 1 over the last so many tokens that are allowed
    )
    sandbox_workers: int = 1  # processes that run programs, a training process
    sandbox_timeout: float = 3.0  # CPU seconds a program, where the task sets none
    save_steps: int = 20  # batches between checkpoints
    save_total_limit: int = 1  # how many checkpoints stay
    seed: int = 0


def compose_rewards(
    outcome, pass_rate, well_formed, process, gate: str, gate_threshold: float = 0.5
) -> torch.Tensor:
    """R_fmt + R_out + gate * R_proc (ReCode, eq. 1) from (N,) each: 0 or 1, passed / total, 0 or 1, weighted R_proc."""
    if gate == "soft":
        return well_formed + pass_rate + pass_rate * process
    if gate == "none":
        return well_formed + outcome + process
    counts = {
        "hard": outcome == 1,
        "threshold": pass_rate >= gate_threshold,
        "format": well_formed == 1,
    }
    return well_formed + outcome + process * counts[gate]


def map_scores(
    scores: torch.Tensor, process_map: str, center: float, group_size: int
) -> torch.Tensor:
    """R_proc (N,) in [0, 1] from raw scores (N,), 0 where a score is NaN (no reasoning).

    minmax_group: (s - lowest) / (highest - lowest) of the group's scores, 0.5 where they are all equal.
    """
    if process_map == "minmax_group":
        groups = scores.view(-1, group_size)
        low = groups.nan_to_num(torch.inf).amin(1, keepdim=True)
        high = groups.nan_to_num(-torch.inf).amax(1, keepdim=True)
        mapped = torch.where(
            high > low, (groups - low) / (high - low), torch.where(groups.isnan(), groups, 0.5)
        ).flatten()
    else:
        mapped = (
            (scores - center).sigmoid()
            if process_map == "sigmoid"
            else (scores - center).clamp(0, 1)
        )
    return mapped.nan_to_num(0.0)


def equal_rewards(rewards: torch.Tensor, group_size: int) -> torch.Tensor:
    """Groups without an advantage: rewards (N,), NaN for none -> (N / group_size,) bool."""
    groups = rewards.view(-1, group_size)
    return groups.nan_to_num(-torch.inf).amax(1) <= groups.nan_to_num(torch.inf).amin(1)


def policy_loss(
    logprobs,
    old_logprobs,
    token_advantages,
    mask,
    epsilon,
    epsilon_high,
    level="token",
    weights=None,
):
    """Weighted sum over valid tokens of the clipped objective, negated (GRPO, eq. 3; clip-higher as in DAPO).

    Arguments (B, T); weights default to 1 a token. level "sequence": every token's ratio is that of its sequence,
    exp(mean log-ratio) (GSPO, eq. 7). Returns the loss, and per token, for the log: log-ratio, whether the clip was
    active.
    """
    log_ratio = torch.where(mask, logprobs - old_logprobs, 0).clamp(-20, 20)
    if level == "sequence":
        log_ratio = (
            log_ratio.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
        ).expand_as(mask)
    ratio = log_ratio.exp()
    unclipped = ratio * token_advantages
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon_high) * token_advantages
    loss = -(
        torch.minimum(unclipped, clipped) * (mask if weights is None else mask * weights)
    ).sum()
    return loss, log_ratio.detach(), ((clipped < unclipped) & mask).detach()


def loss_weights(
    mask: torch.Tensor, loss_type: str, max_length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (N, T) of the tokens' terms, and what each sequence adds to the number (N,) that their sum is divided by.

    mask (N, T). dapo: mean over tokens; grpo: mean over sequences of token means; dr_grpo: sum over tokens by sequences
    times max_length. A sequence without a valid token counts nowhere.
    """
    lengths = mask.sum(1)
    if loss_type == "dapo":
        return mask.float(), lengths
    weights = mask / lengths[:, None].clamp(min=1) if loss_type == "grpo" else mask.float()
    return weights, (lengths > 0) * (1 if loss_type == "grpo" else max_length)


def kl_to_reference(logprobs, old_logprobs, ref_logprobs, mask):
    """Per token (B, T): ratio * k3, k3 = exp(ref - new) - (ref - new) - 1, whose mean has the reverse KL's value and
    gradient under samples of the old policy (k3: Schulman, 2020); 0 where masked. The ratio is always the token's."""
    log_ratio = torch.where(mask, logprobs - old_logprobs, 0).clamp(-20, 20)
    gap = torch.where(mask, ref_logprobs - logprobs, 0).clamp(-20, 20)
    return log_ratio.exp() * (gap.exp() - gap - 1)


def join(rollouts: list[common.Rollout]) -> common.Rollout:
    """Several rollouts as one, right-padded to the longest completion of all."""
    if len(rollouts) == 1:
        return rollouts[0]
    width = max(rollout.ids.shape[1] for rollout in rollouts)
    lists = [[row for rollout in rollouts for row in rollout[k]] for k in range(3)]
    tensors = [
        torch.cat([F.pad(rollout[k], (0, width - rollout[k].shape[1])) for rollout in rollouts])
        for k in range(3, 6)
    ]
    return common.Rollout(*lists, *tensors)


class Grades(NamedTuple):
    """What a batch of N completions earns, each (N,)."""

    verdicts: list[dict]
    judged: torch.Tensor  # bool: the sandbox came to a verdict
    outcome: torch.Tensor  # R_out
    well_formed: torch.Tensor  # R_fmt
    process: torch.Tensor  # R_proc
    rewards: torch.Tensor  # NaN where not judged


def grade(
    config: Config, rollout: common.Rollout, futures: list, raw_scores: torch.Tensor | None
) -> Grades:
    """Waits for the verdicts and composes the rewards; raw_scores (N,) is None without a reasoning reward model."""
    verdicts, device = [future.result() for future in futures], rollout.ids.device
    judged = torch.tensor(
        [verdict["status"] != "harness_error" for verdict in verdicts], device=device
    )
    outcome = torch.tensor(
        [float(verdict["status"] == "passed") for verdict in verdicts], device=device
    )
    shares = [verdict.get("passed", 0) / max(verdict.get("total", 0), 1) for verdict in verdicts]
    pass_rate = torch.tensor(shares, device=device).maximum(outcome)
    well_formed, process = torch.zeros(2, len(verdicts), device=device)
    if raw_scores is not None:
        well_formed = 1.0 - raw_scores.isnan().float()
        process = map_scores(
            raw_scores, config.process_map, config.process_center, config.num_generations
        )
    rewards = compose_rewards(
        outcome,
        pass_rate,
        well_formed,
        config.process_weight * process,
        config.gate,
        config.gate_threshold,
    )
    if config.overlong_penalty:  # DAPO, eq. 13
        lengths = torch.tensor([float(len(row)) for row in rollout.completions], device=device)
        allowed = config.max_completion_length - config.overlong_penalty
        rewards = rewards + ((allowed - lengths) / config.overlong_penalty).clamp(-1, 0)
    return Grades(
        verdicts, judged, outcome, well_formed, process, rewards.masked_fill(~judged, float("nan"))
    )


def main(config: Config) -> None:
    tasks = common.read_jsonl(config.tasks, common.PROMPT_FIELDS, sandbox.check_task)
    if config.num_prompts % (config.num_mini_batches * common.world_size()):
        raise InputError(
            "--num_prompts must be a multiple of --num_mini_batches times the number of processes"
        )
    if not 0 <= config.overlong_penalty < config.max_completion_length:
        raise InputError("--overlong_penalty must be from 0 to below --max_completion_length")
    common.check_model_folder(config.model_name_or_path)
    common.check_model_folder(config.reasoning_rm)
    checkpoint = common.open_run(config)
    policy_path = checkpoint or config.model_name_or_path
    tokenizer = common.load_tokenizer(policy_path)
    policy = common.shard(
        common.load_policy(policy_path).eval()
    )  # eval: no dropout, ever; gradients flow all the same
    reference = (
        common.shard(common.load_policy(config.model_name_or_path).eval()) if config.beta else None
    )
    judge, judge_tokenizer = None, None
    if config.reasoning_rm is not None:
        judge = common.shard(common.load_scorer(config.reasoning_rm).eval())
        judge_tokenizer = common.load_tokenizer(
            config.reasoning_rm
        )  # it reads text, so it need not be the policy's
    models = {"": policy}
    optimizers = {"": torch.optim.AdamW(policy.parameters(), weight_decay=0.0)}
    first_step = common.load_optimizers(checkpoint, models, optimizers) if checkpoint else 0
    eos_ids, group_size = common.eos_ids(policy, tokenizer), config.num_generations
    episode = 0  # samples so far
    if checkpoint and common.rank() == 0:
        episode = json.loads(common.whole_lines(f"{config.output_dir}/metrics.jsonl")[-1])[
            "episode"
        ]

    with sandbox.Sandbox(workers=config.sandbox_workers, timeout=config.sandbox_timeout) as runner:
        bar = common.progress_bar("grpo", config.max_steps, first_step)
        for step in range(first_step, config.max_steps):
            started = time.perf_counter()

            # Roll out num_generations completions of each of this process's prompts, start their programs, and score
            # their reasoning. Dynamic sampling goes on with new prompts for the groups that turn out to have no advantage.
            rollouts, row_tasks, futures, raw_scores = [], [], [], []
            drawn = common.draw(len(tasks), config.num_prompts, step, config.seed, "grpo prompts")
            for attempt in range(1 + config.max_resample * config.dynamic_sampling):
                purpose = f"grpo rollout {attempt}" if attempt else "grpo rollout"
                mine = common.my_share([
                    (tasks[i], [common.seed_of(config.seed, purpose, step, place, g) for g in range(group_size)])
                    for place, i in enumerate(drawn)
                ])  # fmt: skip
                rollouts.append(common.roll_out(
                    policy, tokenizer, [common.encode_prompt(tokenizer, task) for task, _ in mine], group_size,
                    config.max_completion_length, config.temperature, [seed for _, seeds in mine for seed in seeds],
                ))  # fmt: skip
                new_tasks, texts = (
                    [task for task, _ in mine for _ in range(group_size)],
                    rollouts[-1].texts,
                )
                row_tasks += new_tasks
                futures += [
                    runner.submit(task, common.extract_program(task, text))
                    for task, text in zip(new_tasks, texts, strict=True)
                ]
                if judge is not None:
                    reasoning = [reasoning_of(text) for text in texts]
                    size = config.per_device_train_batch_size
                    scores = common.score_texts(
                        judge, judge_tokenizer, new_tasks, [text or "" for text in reasoning], size
                    )
                    absent = torch.tensor(
                        [text is None for text in reasoning], device=scores.device
                    )
                    raw_scores.append(scores.masked_fill(absent, float("nan")))  # (N,)
                if not config.dynamic_sampling:
                    break
                rewards = grade(
                    config, join(rollouts), futures, torch.cat(raw_scores) if raw_scores else None
                ).rewards
                uneven = (~equal_rewards(rewards, group_size)).nonzero().flatten().tolist()
                share = config.num_prompts // common.world_size()
                (missing,) = common.all_sum(max(0, share - len(uneven)))
                if not missing:
                    break
                size = -(-int(missing) // common.world_size()) * common.world_size()
                drawn = common.draw(
                    len(tasks), size, 0, config.seed, f"grpo prompts {step} {attempt + 1}"
                )
            rollout = join(rollouts)
            groups = torch.arange(len(row_tasks), device=rollout.ids.device) // group_size  # (N,)
            used = list(
                range(len(row_tasks) // group_size)
            )  # groups to learn from, uneven ones first
            if config.dynamic_sampling:
                used = sorted((uneven + [g for g in used if g not in uneven])[:share])

            # Meanwhile, score the batch under the old policy. The rows of a micro-batch stay together in the update,
            # since low-precision results depend on the batch they are in.
            mini_batches = []
            for k in range(config.num_mini_batches):
                mine = used[k :: config.num_mini_batches]
                rows = [
                    i for group in mine for i in range(group * group_size, (group + 1) * group_size)
                ]
                rows.sort(key=lambda i, r=rollout: len(r.prompts[i]) + len(r.completions[i]))
                size = config.per_device_train_batch_size
                mini_batches.append([rows[i : i + size] for i in range(0, len(rows), size)])
            old_logprobs, entropies, ref_logprobs = torch.zeros(
                3, *rollout.ids.shape, device=rollout.ids.device
            )
            with torch.no_grad():
                for rows in (rows for mini_batch in mini_batches for rows in mini_batch):
                    input_ids, on, places = common.pack(rollout, rows)  # (B, L), (B, L), (B, T)
                    logprobs, entropy = policy.completion_logprobs(
                        input_ids, on, config.temperature
                    )  # (B, L)
                    old_logprobs[rows], entropies[rows] = (
                        logprobs.gather(1, places),
                        entropy.gather(1, places),
                    )
                    if reference is not None:
                        logprobs, _ = reference.completion_logprobs(
                            input_ids, on, config.temperature
                        )
                        ref_logprobs[rows] = logprobs.gather(1, places)

            # Reward and advantage.
            grades = grade(config, rollout, futures, torch.cat(raw_scores) if raw_scores else None)
            judged, rewards = grades.judged, grades.rewards  # (N,), (N,)
            sample_advantages = advantages.group_advantages(
                rewards, groups, config.scale_rewards
            )  # (N,)
            cut = torch.tensor(
                [row[-1] not in eos_ids for row in rollout.completions], device=judged.device
            )  # (N,)
            mask = (
                rollout.mask & judged[:, None]
            )  # (N, T) a sample without a verdict does not count
            learned = (
                mask & torch.isin(groups, torch.tensor(used, device=judged.device))[:, None]
            )  # (N, T) has a loss
            if config.mask_truncated_completions:
                learned = learned & ~cut[:, None]
            token_advantages = sample_advantages[:, None] * learned  # (N, T)
            weights, counts = loss_weights(
                learned, config.loss_type, config.max_completion_length
            )  # (N, T), (N,)

            # Update: each mini-batch is one optimiser step, its losses divided by its counts over all processes.
            lr = common.lr_at(
                step, config.learning_rate, config.warmup_steps, config.max_steps, "constant"
            )
            for group in optimizers[""].param_groups:
                group["lr"] = lr
            sums = torch.zeros(4, dtype=torch.float64)  # loss, clipped, ratio, KL
            grad_norm, terms = 0.0, 0.0
            for _ in range(config.num_iterations):
                for mini_batch in mini_batches:
                    (count,) = common.all_sum(sum(int(counts[rows].sum()) for rows in mini_batch))
                    count = max(count, 1.0)
                    terms += count
                    for rows in mini_batch:
                        input_ids, on, places = common.pack(rollout, rows)
                        logprobs, _ = policy.completion_logprobs(input_ids, on, config.temperature)
                        logprobs = logprobs.gather(1, places)  # (B, T)
                        loss, log_ratio, clipped = policy_loss(
                            logprobs, old_logprobs[rows], token_advantages[rows], learned[rows], config.epsilon,
                            config.epsilon_high, config.importance_sampling_level, weights[rows],
                        )  # fmt: skip
                        kl = 0.0
                        if reference is not None:
                            kl = kl_to_reference(
                                logprobs, old_logprobs[rows], ref_logprobs[rows], learned[rows]
                            )
                            loss = loss + config.beta * (kl * weights[rows]).sum()
                            kl = float((kl.detach() * learned[rows]).sum())
                        (
                            loss * common.world_size() / count
                        ).backward()  # FSDP averages over processes: now a sum
                        ratio = (log_ratio.exp() * learned[rows]).sum()
                        sums += torch.tensor([loss.item(), clipped.sum(), ratio, kl])
                    grad_norm = common.clip_gradients(policy, config.max_grad_norm)
                    optimizers[""].step()
                    optimizers[""].zero_grad()

            # Log and save. Rewards, lengths and groups are those of all samples, loss and ratios those learned from.
            gap = ((rollout.logprobs - old_logprobs).abs() * learned).sum()
            given = rewards.nan_to_num(0)  # a sample without a verdict adds nothing to the sums
            equal = equal_rewards(rewards, group_size).sum()
            passed, failed = grades.outcome * judged, (1 - grades.outcome) * judged  # (N,)
            any_pass, any_fail = (x.bool().view(-1, group_size).any(1) for x in (passed, failed))
            (asked, samples, tokens, learned_tokens, passes, reward, squares, fmt, proc, proc_passed, entropy, equal, all_pass,
             all_fail, cut, gap, *sums) = common.all_sum(
                len(row_tasks), judged.sum(), mask.sum(), learned.sum(), passed.sum(), given.sum(),
                given.double().square().sum(), (grades.well_formed * judged).sum(), (grades.process * judged).sum(),
                (grades.process * passed).sum(), (entropies * learned).sum(), equal, (any_pass & ~any_fail).sum(),
                (any_fail & ~any_pass).sum(), cut.sum(), gap, *sums,
            )  # fmt: skip
            episode += int(asked)
            errors, failures = asked - samples, samples - passes
            samples, tokens, learned_tokens = (
                max(samples, 1),
                max(tokens, 1),
                max(learned_tokens, 1),
            )
            updates = config.num_iterations * learned_tokens
            metrics = {
                "step": step + 1,
                "episode": episode,
                "reward": reward / samples,
                "reward_std": max(0.0, squares / samples - (reward / samples) ** 2) ** 0.5,
                "frac_reward_zero_std": equal * group_size / asked,
                "frac_all_pass": all_pass * group_size / asked,
                "frac_all_fail": all_fail * group_size / asked,
                "rewards/tests/mean": passes / samples,
                "rewards/format/mean": fmt / samples,
                "rewards/reasoning/mean": proc / samples,
                "rewards/reasoning/passed": proc_passed / passes if passes else math.nan,
                "rewards/reasoning/failed": (proc - proc_passed) / failures
                if failures
                else math.nan,
                "entropy": entropy / learned_tokens,
                "loss": sums[0] / terms,
                "kl": sums[3] / updates,
                "clip_ratio/region_mean": sums[1] / updates,
                "val/ratio": sums[2] / updates,
                "completions/mean_length": tokens / samples,
                "completions/clipped_ratio": cut / asked,
                "sampling/sampling_logp_difference/mean": gap / learned_tokens,
                "harness_errors": errors,
                "grad_norm": grad_norm,
                "learning_rate": lr,
                "step_time": time.perf_counter() - started,
            }
            if common.rank() == 0:
                common.append_jsonl(f"{config.output_dir}/metrics.jsonl", [metrics])
                rows = zip(row_tasks, rollout.texts, grades.verdicts, given.tolist(), strict=True)
                common.append_jsonl(f"{config.output_dir}/completions.jsonl", [
                    {"step": step + 1, "task_id": task["task_id"], "prompt": task["prompt"], "completion": completion,
                     "status": verdict["status"], "reward": reward} for task, completion, verdict, reward in rows
                ])  # fmt: skip
                bar.set_postfix(
                    passed=f"{passes / samples:.2f}",
                    reward=f"{reward / samples:.2f}",
                    refresh=False,
                )
                bar.update()
            if (step + 1) % config.save_steps == 0 and step + 1 < config.max_steps:
                common.save_checkpoint(
                    config.output_dir,
                    step + 1,
                    models,
                    optimizers,
                    tokenizer,
                    config.save_total_limit,
                )
        bar.close()
    common.save_model(policy, tokenizer, config.output_dir)


if __name__ == "__main__":
    common.run(main, Config)
