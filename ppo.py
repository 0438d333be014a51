"""PPO for code: rewards from tests, from a line-level process reward model (PRM), or from both.

The reward of completion token t, with M lines and t_m the last token of line m:

    r_t = 1[t = last] R_O + lambda sum_m 1[t = t_m] R_PRM(line m) / norm
          - kl_coef log(pi_old / pi_ref)_t

PSGPO (Dai et al., 2024, eq. 3; the defaults): R_O = 1 when all tests pass, else 0. lambda = 0.25
when the tests fail, 0.025 when they pass. norm = M: more lines do not pay. Ours: R_PRM is clipped
to [-1, 1]: a failing program never earns more than a passing one. `--value_init prm` starts the
critic as the PRM (PSGPO), scaled to a R_PRM + b by least squares on the first returns (ours).
PRLCoder (Ye et al., 2025, eqs. 1 to 3) compares a PRM with outcome reward models (ORM), without
test results: `--outcome_reward none --prm A --lambda_fail 1 --process_norm none`, and
`--outcome_reward orm --orm A`. Without test results, lambda_fail is the weight of every sample.
Neither paper publishes its PPO settings; the defaults are the usual ones. By choice, pi_ref is the
starting policy. (A KL term to theta_old, which PRLCoder prints, lets the policy drift from there.)

A reward model may have any tokenizer (common/scoring.py). Lines are the program's: prose and fences
around it have no reward and are not in M (see --score_prose).

A sample without a verdict (a failure of the sandbox) counts nowhere.
A completion that is cut off at the length limit is at its end there: no value is bootstrapped.

    python ppo.py --tasks train.jsonl --model_name_or_path runs/sft --output_dir runs/ppo
    torchrun --standalone --nproc_per_node=2 ppo.py --prm runs/prm --value_init prm ...
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
    UnitFloat,
)
from kernels.advantages import explained_variance, gae, whiten


@dataclass
class Config:
    tasks: InputFile  # tasks.jsonl to sample prompts from
    model_name_or_path: str  # policy to start from
    output_dir: OutputDir  # run folder; a run that was cut off goes on from its last checkpoint
    outcome_reward: Literal["tests", "orm", "none"] = "tests"  # R_O: tests; --orm's score; 0
    orm: str | None = None  # outcome reward model, read at the completion's last token
    prm: str | None = None  # line-level reward model, read at the last token of each line
    lambda_fail: NonNegativeFloat = 0.25  # lambda when the tests fail (PSGPO); of all (orm, none)
    lambda_pass: NonNegativeFloat = 0.025  # lambda when the tests pass (PSGPO)
    process_norm: Literal["lines", "scored_lines", "constant", "none"] = "lines"  # norm: M; the
    # lines with a score (0 would lift a failing program's mean); a constant; 1 (PRLCoder)
    process_norm_lines: PositiveFloat = 8.0  # the constant of --process_norm constant
    process_clip: NonNegativeFloat = 1.0  # R_PRM is clipped to [-x, x]; 0: no clipping
    score_prose: bool = False  # lines around the program (prose, fences, tags) have scores too
    neutral_comments: bool = False  # comments, blank lines and docstrings have no score
    value_init: Literal["none", "policy", "prm"] = "policy"  # the critic's start: the policy
    # with a random head (TRL); the policy with a head of zeros; the PRM, head and all (PSGPO)
    max_steps: PositiveInt = 60  # rollout batches
    num_prompts: PositiveInt = 16  # prompts a batch, over all processes
    prompt_format: Literal["auto", "chat", "plain"] = "auto"  # auto: chat template, if there is one
    system_prompt: str | None = None  # chat: the turn before the user's
    num_generations: PositiveInt = 4  # completions a prompt
    max_completion_length: PositiveInt = 128  # tokens
    temperature: PositiveFloat = 1.0  # of sampling and all log-probs; no top-p, top-k, penalty
    rollout_batch_size: PositiveInt = 512  # samples decoded at a time: bounds the KV cache
    num_ppo_epochs: PositiveInt = 1  # passes over a batch
    num_mini_batches: PositiveInt = 2  # optimiser steps a pass
    per_device_train_batch_size: PositiveInt = 32  # samples a forward pass: memory and speed
    max_tokens_per_forward: PositiveInt = 16384  # padded tokens a forward pass: memory and speed
    learning_rate: PositiveFloat = 2e-4  # for a pretrained model 1e-6 is usual
    value_learning_rate: PositiveFloat = 5e-4  # of the critic
    warmup_steps: NonNegativeInt = 10  # batches; without them the first Adam steps are destructive
    max_grad_norm: PositiveFloat = 1.0
    bf16: bool | None = None  # compute in bfloat16, weights in float32; default: on CUDA
    gradient_checkpointing: bool = False  # less memory: backward computes activations again
    torch_compile: bool = False  # faster on a GPU, after a minute of compilation; needs gcc
    cliprange: NonNegativeFloat = 0.2  # the ratio counts from 1 - x to 1 + x (PPO)
    cliprange_value: NonNegativeFloat = 0.2  # how far a value may move in a batch; 0: no limit
    kl_coef: NonNegativeFloat = 0.0  # weight of the KL term in the reward; 0: no reference
    gamma: UnitFloat = 1.0  # discount
    lam: UnitFloat = 0.95  # lambda of GAE
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
    if config.value_init == "prm" and config.prm is None:
        raise InputError("--value_init prm needs --prm, a reward model's folder")
    if config.outcome_reward == "none" and not (config.prm and config.lambda_fail):
        raise InputError("--outcome_reward none needs --prm and --lambda_fail: no other reward")
    if (config.outcome_reward == "orm") != (config.orm is not None):
        raise InputError("--outcome_reward orm and --orm go together")
    if config.process_norm == "scored_lines" and not config.neutral_comments:
        raise InputError("--process_norm scored_lines needs --neutral_comments")
    weighted = config.lambda_fail or (config.outcome_reward == "tests" and config.lambda_pass)
    if config.prm and not (weighted or config.value_init == "prm"):
        raise InputError("--prm has no use without --lambda_fail (with tests: or --lambda_pass)")


def compose_rewards(
    outcome: torch.Tensor,  # (N,) R_O
    passed: torch.Tensor,  # (N,) bool: all tests pass
    scores: torch.Tensor,  # (N, T) R_PRM, read at line ends
    line_ends: torch.Tensor,  # (N, T) bool: tokens in which a line ends
    code_ends: torch.Tensor,  # (N, T) bool: tokens in which a line of code ends, not one of comment
    mask: torch.Tensor,  # (N, T) bool: the completions' tokens
    config: Config,
) -> torch.Tensor:
    """Token rewards (N, T) without the KL term; see the module's docstring."""
    scored = code_ends if config.neutral_comments else line_ends  # (N, T)
    if config.process_clip:
        scores = scores.clamp(-config.process_clip, config.process_clip)
    norm = {
        "lines": line_ends.sum(1, keepdim=True).clamp(min=1),  # (N, 1)
        "scored_lines": scored.sum(1, keepdim=True).clamp(min=1),  # (N, 1)
        "constant": config.process_norm_lines,
        "none": 1,
    }[config.process_norm]
    known = passed & (config.outcome_reward == "tests")  # False where the reward ignores the tests
    weight = torch.where(known, config.lambda_pass, config.lambda_fail)[:, None]  # (N, 1)
    token = torch.arange(mask.shape[1], device=mask.device)
    last = mask & (token == mask.sum(1, keepdim=True) - 1)  # (N, T)
    return weight * scores * scored / norm + outcome[:, None] * last


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


def value_loss(values, old_values, returns, mask, cliprange: float):
    """Sum over valid tokens of max((V - G)^2, (clip(V, V_old +- cliprange) - G)^2)/2; G: return."""
    limit = cliprange or torch.inf
    clipped = old_values + (values - old_values).clamp(-limit, limit)
    error = torch.maximum((values - returns).square(), (clipped - returns).square())
    return 0.5 * (error * mask).sum()


def main(config: Config) -> None:
    check_flags(config)
    tasks = common.read_jsonl(config.tasks, common.PROMPT_FIELDS, sandbox.check_task)
    common.check_packages(config, tasks)
    paths = {"policy": config.model_name_or_path, "prm": config.prm, "orm": config.orm}
    for kind, path in paths.items():
        common.check_model(kind, path, config.max_completion_length, tasks, config)
    checkpoint = common.open_run(config)
    start = checkpoint or config.model_name_or_path
    tokenizer = common.load_tokenizer(start)
    # eval: no dropout; gradients flow
    policy = common.shard(common.load_policy(start, config).eval(), config, trained=True)
    reference = None
    if config.kl_coef:
        reference = common.load_policy(config.model_name_or_path, config).eval()
        reference = common.shard(reference, config)
    prm = common.load_reward_model(config.prm, tokenizer, config, config.value_init == "prm")
    orm = common.load_reward_model(config.orm, tokenizer, config)
    critic = common.shard(common.load_critic(config, checkpoint).eval(), config, trained=True)
    models = {"policy": policy, "critic": critic}
    optimizers = {name: common.adamw(model, weight_decay=0.0) for name, model in models.items()}
    first_step = common.load_optimizers(checkpoint, models, optimizers) if checkpoint else 0
    common.check_sampling(policy)
    common.begin_run(config, checkpoint)
    line_table = common.line_table(tokenizer)

    limits = {"workers": config.sandbox_workers, "timeout": config.sandbox_timeout}
    with sandbox.Sandbox(**limits, packages=config.packages) as runner:
        bar = common.progress_bar("ppo", config.max_steps, first_step)
        for step in range(first_step, config.max_steps):
            started = time.perf_counter()

            # Rollout: N completions of T tokens; their programs start in the sandbox at once.
            rollout = common.sample(policy, tokenizer, tasks, config, step, "ppo")
            executions = common.execute(runner, rollout)
            batches = common.mini_batches(rollout, config)
            optimiser_steps = batches * config.num_ppo_epochs

            # Score, while the programs run: what the models say of each token (N, T). The batch's
            # first optimiser step takes log pi_old from its own forward pass: there pi = pi_old.
            reuse = 0 if reference else 1  # the KL in the reward is of all samples
            old_logprobs, entropies = common.score_policy(
                policy, rollout, batches[reuse:], config.temperature
            )
            ref_logprobs = old_logprobs
            if reference:
                ref_logprobs, _ = common.score_policy(
                    reference, rollout, batches, config.temperature
                )
            values = common.score_critic(critic, rollout, batches)
            line_ends, code_ends = common.line_ends(rollout, line_table, config.score_prose)
            prm_scores = common.score_lines(prm, rollout, batches, line_table, config)
            orm_scores = common.score_outcomes(orm, rollout, batches, config)  # (N,)

            # Reward, once there are verdicts: see compose_rewards.
            verdicts = common.verdicts_of(executions)
            judged, passed = verdicts.judged, verdicts.passed  # (N,), (N,)
            mask = rollout.mask & judged[:, None]  # (N, T) a sample without a verdict has no token
            outcome = orm_scores if orm else passed.float() * (config.outcome_reward == "tests")
            rewards = compose_rewards(
                outcome, passed, prm_scores, line_ends, code_ends, rollout.mask, config
            )
            kl = (old_logprobs - ref_logprobs) * mask  # (N, T)
            shaped_rewards = rewards - config.kl_coef * kl

            # Advantage (GAE, Schulman et al., 2016, eq. 16), whitened over the batch.
            _, monte_carlo = gae(shaped_rewards, 0 * values, mask, config.gamma, lam=1.0)
            if config.value_init == "prm" and step == 0:
                values = common.fit_critic(critic, values, monte_carlo, mask)
            advantages, returns = gae(shaped_rewards, values, mask, config.gamma, config.lam)
            advantages = whiten(advantages, mask)  # (N, T)

            # Update: one optimiser step a mini-batch. A loss is a sum over tokens, divided by the
            # tokens of all processes. FSDP averages gradients over processes: times world_size it
            # is their sum.
            lr = common.lr_at(step, config.learning_rate, config.warmup_steps, config.max_steps)
            value_lr = lr * config.value_learning_rate / config.learning_rate
            common.set_lr(optimizers["policy"], lr)
            common.set_lr(optimizers["critic"], value_lr)
            clip_range, stats = (config.cliprange, config.cliprange), Counter()
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
                    (loss * common.world_size() / num_tokens).backward()
                    new_values = common.values_of(critic, rollout, rows)
                    v_loss = value_loss(
                        new_values, values[rows], returns[rows], mask[rows], config.cliprange_value
                    )
                    (v_loss * common.world_size() / num_tokens).backward()
                    stats["loss"] += loss.item()
                    stats["value_loss"] += v_loss.item()
                    stats["kl"] += (log_ratio.exp() - 1 - log_ratio).sum().item()  # k3
                    stats["clipped"] += clipped.sum().item()
                    stats["ratio"] += (log_ratio.exp() * mask[rows]).sum().item()
                max_norm = config.max_grad_norm
                grad_norm = common.take_step(policy, optimizers["policy"], max_norm)
                common.take_step(critic, optimizers["critic"], max_norm)

            # Log: of a pair (sum, count), sum / count over all processes; of a tensor, its sum.
            samples, tokens, lines = judged.sum(), mask.sum(), (line_ends & mask).sum()
            updates = len(optimiser_steps) // len(batches) * tokens
            logprob_difference = ((rollout.logprobs - old_logprobs).abs() * mask).sum()
            metrics = {
                "episode": (step + 1) * config.num_prompts * config.num_generations,
                "reward": ((rewards * mask).sum(), samples),
                "rewards/tests/mean": (passed.sum(), samples),
                "rewards/prm/mean": ((prm_scores * line_ends * mask).sum(), lines),
                "objective/kl": (kl.sum(), samples),
                "objective/entropy": ((entropies * mask).sum(), tokens),
                "loss/policy_avg": (stats["loss"], updates),
                "loss/value_avg": (stats["value_loss"], updates),
                "policy/approxkl_avg": (stats["kl"], updates),
                "policy/clipfrac_avg": (stats["clipped"], updates),
                "val/ratio": (stats["ratio"], updates),
                "critic/vf_explained_var": float(explained_variance(values, monte_carlo, mask)),
                "completions/mean_length": (tokens, samples),
                "completions/mean_lines": (lines, samples),
                "completions/comment_ratio": ((line_ends & ~code_ends & mask).sum(), lines),
                "completions/clipped_ratio": ((~rollout.terminated).sum(), len(judged)),
                "sampling/sampling_logp_difference/mean": (logprob_difference, tokens),
                "harness_errors": (~judged).sum(),
                "grad_norm": grad_norm,
                "lr": lr,
                "step_time": time.perf_counter() - started,
            }
            metrics |= {"rewards/orm/mean": ((outcome * judged).sum(), samples)} if orm else {}
            columns = {"reward": (rewards * mask).sum(1).tolist()}
            common.log(config, bar, step, metrics, rollout, verdicts, columns)
            if (step + 1) % config.save_steps == 0 and step + 1 < config.max_steps:
                common.save_checkpoint(config, step + 1, models, optimizers, tokenizer)
        bar.close()
    common.save_model(policy, tokenizer, config.output_dir)


if __name__ == "__main__":
    common.run(main, Config)
