"""PPO for code with rewards from tests, from a line-level process reward model (PRM), or from both.

The reward of completion token t, with T the number of lines and T_m the last token of line m:

    r_t = 1[t = last] * R_UT + lambda * sum_m 1[t = T_m] * R_PRM(line m) / norm - kl_coef * log(pi_old / pi_ref)_t

PSGPO (Dai et al., 2024, eq. 3; the defaults): R_UT is 1 when all tests pass, else 0; lambda is 0.25 when they fail and
0.025 when they pass; norm is T, so that more lines do not pay; the PRM's output is clipped to [-1, 1] (ours), so that
a failing program never earns more than a passing one; `--value_init prm` starts the critic from the PRM's weights.
PRLCoder (Ye et al., 2025, eqs. 2 and 3): `--outcome_reward none --lambda_fail 1 --lambda_pass 1 --process_norm none`.
Neither paper gives its PPO settings; these are the usual ones. Different from both, by choice: the reference policy of
the KL term is the starting policy (PRLCoder prints theta_old, with which the term would hold nothing in place).

    python ppo.py --tasks train.jsonl --model_name_or_path runs/sft --output_dir runs/ppo
    python ppo.py --tasks train.jsonl --model_name_or_path runs/sft --prm runs/prm --value_init prm --output_dir runs/psgpo
    torchrun --standalone --nproc_per_node=2 ppo.py --tasks train.jsonl --model_name_or_path runs/sft --output_dir runs/ppo

A verdict that the sandbox could not reach is no reward: that sample does not count, anywhere. A completion that is cut
off at the length limit ends there: its value is not bootstrapped.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

import common
import sandbox
from common import InputError
from kernels import advantages, masking


@dataclass
class Config:
    tasks: str  # tasks.jsonl to sample prompts from
    model_name_or_path: str  # policy to start from
    output_dir: str  # run folder; a run that was cut off goes on from its last checkpoint
    outcome_reward: Literal["tests", "none"] = "tests"  # R_UT: 1 when every test passes; none: 0 (PRLCoder)
    prm: str | None = None  # line-level reward model
    process_reward: Literal["auto", "prm", "none"] = "auto"  # auto: prm where --prm is given
    lambda_fail: float = 0.25  # weight of the process reward when the tests fail (PSGPO)
    lambda_pass: float = 0.025  # ... and when they pass (PSGPO)
    process_norm: Literal["lines", "constant", "none"] = (
        "lines"  # divide by the response's own lines (PSGPO), a constant, 1
    )
    process_norm_lines: float = 8.0  # the constant
    process_clip: float = 1.0  # PRM outputs are clipped to [-x, x]; 0 for no clipping
    value_init: Literal["policy", "prm"] = (
        "policy"  # critic starts as the policy with a zero head, or as the PRM (PSGPO)
    )
    max_steps: int = 60  # rollout batches
    num_prompts: int = 16  # prompts a batch, over all processes
    num_generations: int = 4  # completions a prompt
    max_completion_length: int = 128  # tokens
    temperature: float = 1.0  # of sampling, and of every log-prob; nothing else shapes the distribution
    num_ppo_epochs: int = 1
    num_mini_batches: int = 2  # optimiser steps an epoch
    per_device_train_batch_size: int = 32  # rows a forward pass; changes memory and speed, not the result
    learning_rate: float = 2e-4  # policy; for a pretrained model 1e-6 is usual
    value_learning_rate: float = 5e-4  # critic
    warmup_steps: int = 10  # batches; the first Adam steps are destructive without
    max_grad_norm: float = 1.0
    cliprange: float = 0.2
    cliprange_value: float = 0.2
    kl_coef: float = 0.0  # 0: no reference policy is kept
    gamma: float = 1.0
    lam: float = 0.95
    whiten_advantages: bool = True  # to zero mean and unit variance over the batch
    sandbox_workers: int = 1  # processes that run programs, a training process
    sandbox_timeout: float = 3.0  # CPU seconds a program, where the task sets none
    save_steps: int = 20  # batches between checkpoints
    save_total_limit: int = 1  # how many checkpoints stay
    seed: int = 0


def compose_rewards(
    outcome: torch.Tensor, process: torch.Tensor, ends: torch.Tensor, mask: torch.Tensor, config: Config
) -> torch.Tensor:
    """Token rewards (B, T) without the KL term; see the module's docstring.

    outcome (B,): 1 when all tests pass, else 0. process (B, T): PRM score at each token, read where `ends` (B, T) is
    true. mask (B, T): the completion's tokens, right-padded. The outcome goes to the last of them.
    """
    width = mask.shape[1]
    scores = process.clamp(-config.process_clip, config.process_clip) if config.process_clip else process
    lines = ends.sum(1, keepdim=True).clamp(min=1)  # (B, 1)
    norm = {"lines": lines, "constant": config.process_norm_lines, "none": 1}[config.process_norm]
    weight = torch.where(outcome > 0, config.lambda_pass, config.lambda_fail)[:, None]  # (B, 1)
    rewards = weight * scores * ends / norm
    last = mask & (torch.arange(width, device=mask.device) == mask.sum(1, keepdim=True) - 1)
    if config.outcome_reward == "tests":
        rewards = rewards + outcome[:, None] * last
    return rewards


def policy_loss(logprobs, old_logprobs, token_advantages, mask, cliprange: float):
    """Sum over valid tokens of PPO's clipped objective, negated (Schulman et al., 2017, eq. 7); all arguments (B, T).

    Returns the loss, and per token, for the log: log-ratio, whether the clip was active.
    """
    log_ratio = torch.where(mask, logprobs - old_logprobs, 0).clamp(-20, 20)
    ratio = log_ratio.exp()
    unclipped = ratio * token_advantages
    clipped = ratio.clamp(1 - cliprange, 1 + cliprange) * token_advantages
    loss = -(torch.minimum(unclipped, clipped) * mask).sum()
    return loss, log_ratio.detach(), ((clipped < unclipped) & mask).detach()


def value_loss(values, old_values, returns, mask, cliprange_value: float):
    """Sum over valid tokens of half the squared error, the larger of the clipped and the unclipped value's; (B, T)."""
    clipped = old_values + (values - old_values).clamp(-cliprange_value, cliprange_value)
    error = torch.maximum((values - returns).square(), (clipped - returns).square())
    return 0.5 * (error * mask).sum()


def main(config: Config) -> None:
    tasks = common.read_jsonl(config.tasks, common.PROMPT_FIELDS, sandbox.check_task)
    use_prm = config.process_reward == "prm" or (config.process_reward == "auto" and config.prm is not None)
    if config.prm is None and (use_prm or config.value_init == "prm"):
        raise InputError("--process_reward prm and --value_init prm need --prm, a reward model's folder")
    if config.outcome_reward == "none" and not use_prm:
        raise InputError("--outcome_reward none without a process reward leaves nothing to learn from")
    if config.num_prompts % (config.num_mini_batches * common.world_size()):
        raise InputError("--num_prompts must be a multiple of --num_mini_batches times the number of processes")
    common.check_model_folder(config.model_name_or_path)
    common.check_model_folder(config.prm)
    checkpoint = common.open_run(config)
    policy_path = checkpoint or config.model_name_or_path
    value_path = config.prm if config.value_init == "prm" else config.model_name_or_path
    tokenizer = common.load_tokenizer(policy_path)
    policy = common.shard(common.load_policy(policy_path).eval())  # eval: no dropout, ever; gradients flow all the same
    critic = common.shard(common.load_scorer(checkpoint / "value_model" if checkpoint else value_path).eval())
    reference = common.shard(common.load_policy(config.model_name_or_path).eval()) if config.kl_coef else None
    prm = None
    if config.prm is not None:
        if common.load_tokenizer(config.prm).get_vocab() != tokenizer.get_vocab():
            raise InputError(f"{config.prm}: its tokenizer is not the policy's")
        report = Path(config.prm) / "report.json"
        if report.is_file() and json.loads(report.read_text()).get("eval_auc", 1) < 0.95 and common.rank() == 0:
            print(f"warning: the held-out AUC of {config.prm} is below 0.95; expect it to be over-optimised")
    if use_prm:
        prm = common.shard(common.load_scorer(config.prm).eval())
    models = {"": policy, "value_model": critic}
    optimizers = {name: torch.optim.AdamW(model.parameters(), weight_decay=0.0) for name, model in models.items()}
    first_step = common.load_optimizers(checkpoint, models, optimizers) if checkpoint else 0
    eos_ids = common.eos_ids(policy, tokenizer)
    table = masking.line_table(tokenizer).to(common.device())

    with sandbox.Sandbox(workers=config.sandbox_workers, timeout=config.sandbox_timeout) as runner:
        bar = common.progress_bar("ppo", config.max_steps, first_step)
        for step in range(first_step, config.max_steps):
            started = time.perf_counter()

            # Roll out num_generations completions of each of this process's prompts, and start their programs.
            drawn = common.draw(len(tasks), config.num_prompts, step, config.seed, "ppo prompts")
            mine = common.my_share([
                (tasks[i], [common.seed_of(config.seed, "ppo rollout", step, place, g) for g in range(config.num_generations)])
                for place, i in enumerate(drawn)
            ])  # fmt: skip
            rollout = common.roll_out(
                policy, tokenizer, [common.encode_prompt(tokenizer, task) for task, _ in mine], config.num_generations,
                config.max_completion_length, config.temperature, [seed for _, seeds in mine for seed in seeds],
            )  # fmt: skip
            row_tasks = [task for task, _ in mine for _ in range(config.num_generations)]
            futures = [
                runner.submit(task, common.extract_program(task, text))
                for task, text in zip(row_tasks, rollout.texts, strict=True)
            ]

            # Meanwhile, score the batch under the old policy, the critic, the reference and the PRM. The rows of a
            # micro-batch stay together in the update, since low-precision results depend on the batch they are in.
            mini_batches = []
            for k in range(config.num_mini_batches):
                rows = [i for i in range(len(row_tasks)) if i // config.num_generations % config.num_mini_batches == k]
                rows.sort(key=lambda i, r=rollout: len(r.prompts[i]) + len(r.completions[i]))
                size = config.per_device_train_batch_size
                mini_batches.append([rows[i : i + size] for i in range(0, len(rows), size)])
            old_logprobs, entropies, values, reference_logprobs, process = torch.zeros(
                5, *rollout.ids.shape, device=rollout.ids.device
            )
            with torch.no_grad():
                for rows in (rows for mini_batch in mini_batches for rows in mini_batch):
                    input_ids, on, places = common.pack(rollout, rows)  # (B, L), (B, L), (B, T)
                    logprobs, entropy = policy.completion_logprobs(input_ids, on, config.temperature)  # (B, L)
                    old_logprobs[rows], entropies[rows] = logprobs.gather(1, places), entropy.gather(1, places)
                    values[rows] = critic(input_ids=input_ids).logits.squeeze(-1).gather(1, places - 1)
                    if reference is not None:
                        logprobs, _ = reference.completion_logprobs(input_ids, on, config.temperature)
                        reference_logprobs[rows] = logprobs.gather(1, places)
                    if prm is not None:
                        process[rows] = prm(input_ids=input_ids).logits.squeeze(-1).gather(1, places)

            verdicts = [future.result() for future in futures]
            judged = torch.tensor([verdict["status"] != "harness_error" for verdict in verdicts], device=values.device)
            outcome = torch.tensor([float(verdict["status"] == "passed") for verdict in verdicts], device=values.device)
            mask = rollout.mask & judged[:, None]  # (N, T) a sample without a verdict does not count

            # Reward and advantage.
            ends = masking.line_ends(rollout.ids, rollout.mask, table)  # (N, T)
            rewards = compose_rewards(outcome, process, ends, rollout.mask, config)
            log_ratio_to_reference = torch.zeros_like(rewards)
            if reference is not None:
                log_ratio_to_reference = (old_logprobs - reference_logprobs) * mask
            shaped = rewards - config.kl_coef * log_ratio_to_reference
            token_advantages, returns = advantages.gae(shaped, values, mask, config.gamma, config.lam)
            if config.whiten_advantages:
                token_advantages = advantages.whiten(token_advantages, mask)
            explained = advantages.explained_variance(values, returns, mask)

            # Update: each mini-batch is one optimiser step, its losses divided by its tokens over all processes.
            lr = common.lr_at(step, config.learning_rate, config.warmup_steps, config.max_steps, "constant")
            value_lr = lr * config.value_learning_rate / config.learning_rate
            for name, optimizer in optimizers.items():
                for group in optimizer.param_groups:
                    group["lr"] = value_lr if name == "value_model" else lr
            sums = torch.zeros(5, dtype=torch.float64)  # policy loss, value loss, approximate KL, clipped, ratio
            grad_norm = 0.0
            for _ in range(config.num_ppo_epochs):
                for mini_batch in mini_batches:
                    (num_tokens,) = common.all_sum(sum(int(mask[rows].sum()) for rows in mini_batch))
                    num_tokens = max(num_tokens, 1.0)
                    for rows in mini_batch:
                        input_ids, on, places = common.pack(rollout, rows)
                        logprobs, _ = policy.completion_logprobs(input_ids, on, config.temperature)
                        loss, log_ratio, clipped = policy_loss(
                            logprobs.gather(1, places),
                            old_logprobs[rows],
                            token_advantages[rows],
                            mask[rows],
                            config.cliprange,
                        )
                        (loss * common.world_size() / num_tokens).backward()  # FSDP averages over processes: now a sum
                        new_values = critic(input_ids=input_ids).logits.squeeze(-1).gather(1, places - 1)
                        v_loss = value_loss(new_values, values[rows], returns[rows], mask[rows], config.cliprange_value)
                        (v_loss * common.world_size() / num_tokens).backward()
                        approximate_kl = (log_ratio.exp() - 1 - log_ratio).sum()  # Schulman's k3
                        ratio = (log_ratio.exp() * mask[rows]).sum()
                        sums += torch.tensor([loss.item(), v_loss.item(), approximate_kl, clipped.sum(), ratio])
                    grad_norm = common.clip_gradients(policy, config.max_grad_norm)
                    common.clip_gradients(critic, config.max_grad_norm)
                    for optimizer in optimizers.values():
                        optimizer.step()
                        optimizer.zero_grad()

            # Log and save.
            cut = sum(row[-1] not in eos_ids for row in rollout.completions)
            gap = ((rollout.logprobs - old_logprobs).abs() * mask).sum()
            samples, tokens, passed, reward, kl, entropy, score, lines, cut, gap, *sums = common.all_sum(
                judged.sum(), mask.sum(), (outcome * judged).sum(), (rewards * mask).sum(), log_ratio_to_reference.sum(),
                (entropies * mask).sum(), (process * ends * mask).sum(), (ends & mask).sum(), cut, gap, *sums,
            )  # fmt: skip
            errors = config.num_prompts * config.num_generations - samples
            samples, tokens, lines = max(samples, 1), max(tokens, 1), max(lines, 1)
            updates = config.num_ppo_epochs * tokens
            metrics = {
                "step": step + 1,
                "episode": (step + 1) * config.num_prompts * config.num_generations,
                "reward": reward / samples,
                "rewards/tests/mean": passed / samples,
                "rewards/prm/mean": score / lines,
                "objective/kl": kl / samples,
                "objective/entropy": entropy / tokens,
                "loss/policy_avg": sums[0] / updates,
                "loss/value_avg": sums[1] / updates,
                "policy/approxkl_avg": sums[2] / updates,
                "policy/clipfrac_avg": sums[3] / updates,
                "val/ratio": sums[4] / updates,
                "critic/vf_explained_var": float(explained),
                "completions/mean_length": tokens / samples,
                "completions/mean_lines": lines / samples,
                "completions/clipped_ratio": cut / (config.num_prompts * config.num_generations),
                "sampling/sampling_logp_difference/mean": gap / tokens,
                "harness_errors": errors,
                "grad_norm": grad_norm,
                "lr": lr,
                "step_time": time.perf_counter() - started,
            }
            if common.rank() == 0:
                common.append_jsonl(f"{config.output_dir}/metrics.jsonl", [metrics])
                rows = zip(row_tasks, rollout.texts, verdicts, rewards.sum(1).tolist(), strict=True)
                common.append_jsonl(f"{config.output_dir}/completions.jsonl", [
                    {"step": step + 1, "task_id": task["task_id"], "prompt": task["prompt"], "completion": completion,
                     "status": verdict["status"], "reward": reward} for task, completion, verdict, reward in rows
                ])  # fmt: skip
                bar.set_postfix(passed=f"{passed / samples:.2f}", reward=f"{reward / samples:.2f}", refresh=False)
                bar.update()
            if (step + 1) % config.save_steps == 0 and step + 1 < config.max_steps:
                common.save_checkpoint(
                    config.output_dir, step + 1, models, optimizers, tokenizer, config.save_total_limit
                )
        bar.close()
    common.save_model(policy, tokenizer, config.output_dir)


if __name__ == "__main__":
    common.run(main, Config)
