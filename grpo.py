"""GRPO for code: rewards relative to a prompt's other completions, reasoning gated by execution.

The reward of a completion (ReCode, Fan et al., 2025, eq. 1):

    R = R_out                                    R_out = 1 when all tests pass, else 0
    R = R_fmt + R_out + gate * weight * R_proc   with --reasoning_rm; weight is --process_weight

R_fmt = 1 for an answer of the form <think>...</think><answer>...</answer>, else 0. R_proc =
sigmoid(s - c) for this form, else 0: s is the reasoning reward model's score of the text between
the think tags, c is --process_center. ReCode does not publish its map; the sigmoid is ours.

    --gate hard    gate = 1 where R_out = 1, else 0 (ReCode)
    --gate soft    gate = passed / total, which also takes the place of R_out (ReCode's ablation)
    --gate none    gate = 1: the linear sum that the paper warns of

The advantage of every token is (R - mean) / (std + 1e-4) over a prompt's judged samples. ReCode
has no KL term, and an upper clip range that is higher but unpublished: DAPO's 0.2 and 0.28 stand
in. The loss is a mean over tokens (DAPO). In a batch's first update ratios are 1, and the loss is
minus the mean advantage of a token: a loss near 0 is no sign of trouble.

A sample without a verdict (a failure of the sandbox) counts nowhere.

    python grpo.py --tasks train.jsonl --model_name_or_path runs/sft --output_dir runs/grpo
    torchrun --standalone --nproc_per_node=2 grpo.py --reasoning_rm runs/rm --gate hard ...
"""

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import torch

import common
import sandbox
from common import (
    InputError,
    InputFile,
    NonNegativeFloat,
    NonNegativeInt,
    OutputDir,
    PositiveFloat,
    PositiveInt,
)
from kernels.advantages import group_advantages


@dataclass
class Config:
    tasks: InputFile  # tasks.jsonl to sample prompts from
    model_name_or_path: str  # policy to start from
    output_dir: OutputDir  # run folder; a run that was cut off goes on from its last checkpoint
    reasoning_rm: str | None = None  # reasoning reward model (train_prm.py --objective ranking)
    gate: Literal["hard", "soft", "none"] = "hard"  # where R_proc counts; see above
    process_weight: NonNegativeFloat = 1.0  # weight of R_proc (ReCode)
    process_center: float = 0.0  # c; train_prm.py puts 0 between the chosen and the rejected texts
    scale_rewards: Literal["std", "none", "leave_one_out"] = "std"  # GRPO; Dr. GRPO; RLOO
    max_steps: PositiveInt = 60  # rollout batches
    num_prompts: PositiveInt = 16  # prompts a batch, over all processes
    prompt_format: Literal["auto", "chat", "plain"] = "auto"  # auto: chat template, if there is one
    system_prompt: str | None = None  # chat: the turn before the user's
    num_generations: common.GroupSize = 8  # completions a prompt: the group
    max_completion_length: PositiveInt = 128  # tokens
    temperature: PositiveFloat = 1.0  # of sampling and all log-probs; no top-p, top-k, penalty
    rollout_batch_size: PositiveInt = 512  # samples decoded at a time: bounds the KV cache
    num_iterations: PositiveInt = 1  # passes over a batch
    num_mini_batches: PositiveInt = 2  # optimiser steps a pass
    per_device_train_batch_size: PositiveInt = 32  # samples a forward pass: memory and speed
    max_tokens_per_forward: PositiveInt = 16384  # padded tokens a forward pass: memory and speed
    learning_rate: PositiveFloat = 2e-4  # for a pretrained model 1e-6 is usual
    warmup_steps: NonNegativeInt = 10  # batches; without them the first Adam steps are destructive
    max_grad_norm: PositiveFloat = 1.0
    bf16: bool | None = None  # compute in bfloat16, weights in float32; default: on CUDA
    gradient_checkpointing: bool = False  # less memory: backward computes activations again
    torch_compile: bool = False  # faster on a GPU, after a minute of compilation; needs gcc
    epsilon: NonNegativeFloat = 0.2  # clip range below 1
    epsilon_high: NonNegativeFloat = 0.28  # clip range above 1 (DAPO's clip-higher)
    beta: NonNegativeFloat = 0.0  # weight of the KL term in the loss; 0: no reference policy
    sandbox_workers: PositiveInt = 1  # processes that run programs, a training process
    sandbox_timeout: PositiveFloat = 3.0  # CPU seconds a program, where the task sets none
    packages: list[str] = field(default_factory=list)  # that programs may import, as numpy
    save_steps: PositiveInt = 20  # batches between checkpoints
    save_total_limit: NonNegativeInt = 2  # how many checkpoints stay; 0: all
    seed: int = 0


def check_flags(config: Config) -> None:
    """Raises InputError where flags do not fit together."""
    if config.rollout_batch_size < config.num_generations:
        raise InputError("--rollout_batch_size must be at least --num_generations")
    if config.num_prompts % (config.num_mini_batches * common.world_size()):
        raise InputError(
            "--num_prompts must be a multiple of --num_mini_batches times the processes"
        )


def compose_rewards(
    passed: torch.Tensor,  # (N,) bool: R_out = 1
    pass_rate: torch.Tensor,  # (N,) passed / total
    well_formed: torch.Tensor,  # (N,) R_fmt
    process: torch.Tensor,  # (N,) R_proc
    config: Config,
) -> torch.Tensor:
    """Rewards (N,); see the module's docstring."""
    process = config.process_weight * process
    if config.gate == "soft":
        return well_formed + pass_rate + pass_rate * process
    gate = passed.float() if config.gate == "hard" else 1.0
    return well_formed + passed + gate * process


def policy_loss(logprobs, old_logprobs, advantages, mask, low: float, high: float):
    """Sum over valid tokens of -min(r A, clip(r, 1 - low, 1 + high) A), where r = pi / pi_old.

    PPO (Schulman et al., 2017, eq. 7) with low = high; clip-higher (DAPO, eq. 10) with low < high.
    The tensors are (B, T). Returns the loss, a scalar; and for the log the log-ratios, and where
    the clip was active, both (B, T).
    """
    log_ratio = torch.where(mask, logprobs - old_logprobs, 0).clamp(-20, 20)
    ratio = log_ratio.exp()
    unclipped = ratio * advantages
    clipped = ratio.clamp(1 - low, 1 + high) * advantages
    loss = -(torch.minimum(unclipped, clipped) * mask).sum()
    return loss, log_ratio.detach(), ((clipped < unclipped) & mask).detach()


def kl_term(logprobs, old_logprobs, ref_logprobs, mask):
    """r k3 of each token (B, T): k3 = exp(d) - d - 1, d = log(pi_ref / pi) (Schulman, 2020). With
    r = pi / pi_old, the mean over pi_old's samples has KL(pi || pi_ref)'s value and gradient."""
    log_ratio = torch.where(mask, logprobs - old_logprobs, 0).clamp(-20, 20)
    difference = torch.where(mask, ref_logprobs - logprobs, 0).clamp(-20, 20)
    return log_ratio.exp() * (difference.exp() - difference - 1)


def main(config: Config) -> None:
    check_flags(config)
    tasks = common.read_jsonl(config.tasks, common.PROMPT_FIELDS, sandbox.check_task)
    common.check_packages(config, tasks)
    paths = {"policy": config.model_name_or_path, "reasoning_rm": config.reasoning_rm}
    for kind, path in paths.items():
        common.check_model(kind, path, config.max_completion_length, tasks, config)
    checkpoint = common.open_run(config)
    start = checkpoint or config.model_name_or_path
    tokenizer = common.load_tokenizer(start)
    # eval: no dropout; gradients flow
    policy = common.shard(common.load_policy(start, config).eval(), config, trained=True)
    reference = None
    if config.beta:
        reference = common.load_policy(config.model_name_or_path, config).eval()
        reference = common.shard(reference, config)
    reward_model, rm_tokenizer = common.load_reasoning_rm(config.reasoning_rm, config)
    models = {"policy": policy}
    optimizers = {name: common.adamw(model, weight_decay=0.0) for name, model in models.items()}
    first_step = common.load_optimizers(checkpoint, models, optimizers) if checkpoint else 0
    common.check_sampling(policy)
    common.begin_run(config, checkpoint)

    limits = {"workers": config.sandbox_workers, "timeout": config.sandbox_timeout}
    with sandbox.Sandbox(**limits, packages=config.packages) as runner:
        bar = common.progress_bar("grpo", config.max_steps, first_step)
        for step in range(first_step, config.max_steps):
            started = time.perf_counter()

            # Rollout: N completions of T tokens; their programs start in the sandbox at once.
            rollout = common.sample(policy, tokenizer, tasks, config, step, "grpo")
            executions = common.execute(runner, rollout)
            batches = common.mini_batches(rollout, config)
            optimiser_steps = batches * config.num_iterations

            # Score, while the programs run: what the models say of each token (N, T). The batch's
            # first optimiser step takes log pi_old from its own forward pass: there pi = pi_old.
            reuse = 1
            old_logprobs, entropies = common.score_policy(
                policy, rollout, batches[reuse:], config.temperature
            )
            ref_logprobs = old_logprobs
            if reference:
                ref_logprobs, _ = common.score_policy(
                    reference, rollout, batches, config.temperature
                )
            scores = common.score_reasoning(reward_model, rm_tokenizer, rollout, config)  # (N,)

            # Reward, once there are verdicts: see compose_rewards.
            verdicts = common.verdicts_of(executions)
            judged, passed = verdicts.judged, verdicts.passed  # (N,), (N,)
            mask = rollout.mask & judged[:, None]  # (N, T) a sample without a verdict has no token
            well_formed = (~scores.isnan()).float()  # (N,)
            process = (scores - config.process_center).sigmoid().nan_to_num(0.0)  # (N,)
            rewards = compose_rewards(passed, verdicts.pass_rate, well_formed, process, config)

            # Advantage (GRPO): the reward relative to its group, the same for each token.
            group = torch.arange(len(rewards), device=rewards.device) // config.num_generations
            given = rewards.masked_fill(~judged, torch.nan)  # (N,)
            relative = group_advantages(given, group, config.scale_rewards)  # (N,)
            advantages = relative[:, None] * mask  # (N, T)

            # Update: one optimiser step a mini-batch. A loss is a sum over tokens, divided by the
            # tokens of all processes. FSDP averages gradients over processes: times world_size it
            # is their sum.
            lr = common.lr_at(step, config.learning_rate, config.warmup_steps, config.max_steps)
            common.set_lr(optimizers["policy"], lr)
            clip_range, stats = (config.epsilon, config.epsilon_high), Counter()
            for number, mini_batch in enumerate(optimiser_steps):
                (num_tokens,) = common.all_sum(sum(mask[rows].sum() for rows in mini_batch))
                num_tokens = max(num_tokens, 1)
                for rows in mini_batch:
                    logprobs, entropy = common.logprobs_of(
                        policy, rollout, rows, config.temperature
                    )
                    if number < reuse:
                        old_logprobs[rows], entropies[rows] = logprobs.detach(), entropy.detach()
                    loss, log_ratio, clipped = policy_loss(
                        logprobs, old_logprobs[rows], advantages[rows], mask[rows], *clip_range
                    )
                    if reference:
                        kl = kl_term(logprobs, old_logprobs[rows], ref_logprobs[rows], mask[rows])
                        loss = loss + config.beta * kl.sum()
                        stats["kl"] += kl.sum().item()
                    (loss * common.world_size() / num_tokens).backward()
                    stats["loss"] += loss.item()
                    stats["clipped"] += clipped.sum().item()
                    stats["ratio"] += (log_ratio.exp() * mask[rows]).sum().item()
                max_norm = config.max_grad_norm
                grad_norm = common.take_step(policy, optimizers["policy"], max_norm)

            # Log: of a pair (sum, count), sum / count over all processes; of a tensor, its sum.
            samples, tokens = judged.sum(), mask.sum()
            updates = len(optimiser_steps) // len(batches) * tokens
            logprob_difference = ((rollout.logprobs - old_logprobs).abs() * mask).sum()
            failed, size = judged & ~passed, config.num_generations
            some_pass = passed.view(-1, size).any(1)  # (groups,)
            some_fail = failed.view(-1, size).any(1)  # (groups,)
            no_advantage = (relative.view(-1, size) == 0).all(1)  # (groups,)
            metrics = {
                "episode": (step + 1) * config.num_prompts * config.num_generations,
                "reward": ((rewards * judged).sum(), samples),
                "reward_std": common.all_std(rewards, judged),
                "frac_reward_zero_std": (no_advantage.sum(), len(some_pass)),
                "frac_all_pass": ((some_pass & ~some_fail).sum(), len(some_pass)),
                "frac_all_fail": ((some_fail & ~some_pass).sum(), len(some_pass)),
                "rewards/tests/mean": (passed.sum(), samples),
                "rewards/format/mean": ((well_formed * judged).sum(), samples),
                "rewards/reasoning/mean": ((process * judged).sum(), samples),
                "rewards/reasoning/passed": ((process * passed).sum(), passed.sum()),
                "rewards/reasoning/failed": ((process * failed).sum(), failed.sum()),
                "entropy": ((entropies * mask).sum(), tokens),
                "loss": (stats["loss"], updates),
                "kl": (stats["kl"], updates),
                "clip_ratio/region_mean": (stats["clipped"], updates),
                "val/ratio": (stats["ratio"], updates),
                "completions/mean_length": (tokens, samples),
                "completions/clipped_ratio": ((~rollout.terminated).sum(), len(judged)),
                "sampling/sampling_logp_difference/mean": (logprob_difference, tokens),
                "harness_errors": (~judged).sum(),
                "grad_norm": grad_norm,
                "learning_rate": lr,
                "step_time": time.perf_counter() - started,
            }
            columns = {"reward": (rewards * judged).tolist()}
            common.log(config, bar, step, metrics, rollout, verdicts, columns)
            if (step + 1) % config.save_steps == 0 and step + 1 < config.max_steps:
                common.save_checkpoint(config, step + 1, models, optimizers, tokenizer)
        bar.close()
    common.save_model(policy, tokenizer, config.output_dir)


if __name__ == "__main__":
    common.run(main, Config)
