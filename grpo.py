"""GRPO for code: advantages relative to the other completions of the same prompt, and execution that gates a reward
for the reasoning.

The reward of a completion (ReCode, Fan et al., 2025, eq. 1), each term switched on by what it needs:

    R = R_out                                  R_out = 1 when every test passes, else 0
    R = R_fmt + R_out + gate * R_proc          with --reasoning_rm

R_fmt is 1 for an answer of the form <think>...</think><answer>...</answer>, else 0. R_proc in [0, 1] is the sigmoid of
the reasoning reward model's score of the text between the think tags (ReCode does not say how its score is mapped),
0 without such a text. `--gate hard` counts it only where R_out = 1, `--gate none` always (the linear sum that the
paper warns of).

The advantage is (R - mean) / (std + 1e-4) over the completions of a prompt, the same for each of its tokens. No KL
term and a higher upper clip range, as in ReCode; its values are not published, DAPO's 0.2 and 0.28 stand in. The loss
is a mean over the tokens of the optimiser step (DAPO). It is close to 0 in the first update of a batch, where all
ratios are 1 and the advantages cancel: that is no sign of trouble.

    python grpo.py --tasks train.jsonl --model_name_or_path runs/sft --output_dir runs/grpo
    python grpo.py --tasks train.jsonl --model_name_or_path runs/sft --reasoning_rm runs/rm --gate hard --output_dir runs/recode
    torchrun --standalone --nproc_per_node=2 grpo.py --tasks train.jsonl --model_name_or_path runs/sft --output_dir runs/grpo

A verdict that the sandbox could not reach is no reward: that sample does not count, in its group or anywhere.
"""

import re
import time
from dataclasses import dataclass
from typing import Literal

import torch

import common
import sandbox
from common import InputError
from kernels import advantages


@dataclass
class Config:
    tasks: str  # tasks.jsonl to sample prompts from
    model_name_or_path: str  # policy to start from
    output_dir: str  # run folder; a run that was cut off goes on from its last checkpoint
    reasoning_rm: str | None = None  # reasoning reward model (train_prm.py --objective ranking)
    gate: Literal["hard", "none"] = "hard"  # R_proc counts where the tests pass (ReCode), or always
    scale_rewards: Literal["std", "none", "leave_one_out"] = "std"  # GRPO; mean only (Dr. GRPO); RLOO
    max_steps: int = 60  # rollout batches
    num_prompts: int = 16  # prompts a batch, over all processes
    num_generations: int = 8  # completions a prompt: the group
    max_completion_length: int = 128  # tokens
    temperature: float = 1.0  # of sampling, and of every log-prob; nothing else shapes the distribution
    num_iterations: int = 1  # passes over a batch
    num_mini_batches: int = 2  # optimiser steps a pass
    per_device_train_batch_size: int = 32  # rows a forward pass; changes memory and speed, not the result
    learning_rate: float = 2e-4  # for a pretrained model 1e-6 is usual
    warmup_steps: int = 10  # batches; the first Adam steps are destructive without
    max_grad_norm: float = 1.0
    epsilon: float = 0.2  # clip range below 1
    epsilon_high: float = 0.28  # clip range above 1 (clip-higher)
    sandbox_workers: int = 1  # processes that run programs, a training process
    sandbox_timeout: float = 3.0  # CPU seconds a program, where the task sets none
    save_steps: int = 20  # batches between checkpoints
    save_total_limit: int = 1  # how many checkpoints stay
    seed: int = 0


FORMAT = re.compile(r"\s*<think>(.*?)</think>\s*<answer>.*?</answer>\s*", re.DOTALL)


def reasoning_of(text: str) -> str | None:
    """The text between the think tags of a completion in the think and answer format; None for any other."""
    match = FORMAT.fullmatch(text)
    if match is None or any(text.count(tag) != 1 for tag in ("<think>", "</think>", "<answer>", "</answer>")):
        return None
    return match.group(1)


def compose_rewards(outcome: torch.Tensor, well_formed: torch.Tensor, process: torch.Tensor, gate: str) -> torch.Tensor:
    """R_fmt + R_out + gate * R_proc (ReCode, eq. 1), each argument (N,): 0 or 1, 0 or 1, in [0, 1]."""
    return well_formed + outcome + (process * (outcome == 1) if gate == "hard" else process)


@torch.no_grad()
def score_reasoning(model, tokenizer, tasks: list[dict], texts: list[str | None], batch_size: int) -> torch.Tensor:
    """R_proc (N,): sigmoid of the reward model's score at the last token of each reasoning; 0 where there is none."""
    rows = [
        common.encode_prompt(tokenizer, task) + tokenizer(text or "", add_special_tokens=False).input_ids
        for task, text in zip(tasks, texts, strict=True)
    ]
    scores = torch.zeros(len(rows), device=common.device())
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for start in range(0, len(order), batch_size):
        micro = order[start : start + batch_size]
        logits = model(input_ids=common.pad([rows[i] for i in micro])).logits.squeeze(-1).float()  # (B, L)
        last = torch.tensor([[len(rows[i]) - 1] for i in micro], device=logits.device)
        scores[micro] = logits.gather(1, last).squeeze(1).sigmoid()
    return scores * torch.tensor([text is not None for text in texts], device=scores.device)


def policy_loss(logprobs, old_logprobs, token_advantages, mask, epsilon: float, epsilon_high: float):
    """Sum over valid tokens of the clipped objective, negated (GRPO, eq. 3; clip-higher as in DAPO); arguments (B, T).

    Returns the loss, and per token, for the log: log-ratio, whether the clip was active.
    """
    log_ratio = torch.where(mask, logprobs - old_logprobs, 0).clamp(-20, 20)
    ratio = log_ratio.exp()
    unclipped = ratio * token_advantages
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon_high) * token_advantages
    loss = -(torch.minimum(unclipped, clipped) * mask).sum()
    return loss, log_ratio.detach(), ((clipped < unclipped) & mask).detach()


def main(config: Config) -> None:
    tasks = common.read_jsonl(config.tasks, common.PROMPT_FIELDS, sandbox.check_task)
    if config.num_prompts % (config.num_mini_batches * common.world_size()):
        raise InputError("--num_prompts must be a multiple of --num_mini_batches times the number of processes")
    common.check_model_folder(config.model_name_or_path)
    common.check_model_folder(config.reasoning_rm)
    checkpoint = common.open_run(config)
    policy_path = checkpoint or config.model_name_or_path
    tokenizer = common.load_tokenizer(policy_path)
    policy = common.shard(common.load_policy(policy_path).eval())  # eval: no dropout, ever; gradients flow all the same
    judge, judge_tokenizer = None, None
    if config.reasoning_rm is not None:
        judge = common.shard(common.load_scorer(config.reasoning_rm).eval())
        judge_tokenizer = common.load_tokenizer(config.reasoning_rm)  # it reads text, so it need not be the policy's
    models = {"": policy}
    optimizers = {"": torch.optim.AdamW(policy.parameters(), weight_decay=0.0)}
    first_step = common.load_optimizers(checkpoint, models, optimizers) if checkpoint else 0
    eos_ids = common.eos_ids(policy, tokenizer)

    with sandbox.Sandbox(workers=config.sandbox_workers, timeout=config.sandbox_timeout) as runner:
        bar = common.progress_bar("grpo", config.max_steps, first_step)
        for step in range(first_step, config.max_steps):
            started = time.perf_counter()

            # Roll out num_generations completions of each of this process's prompts, and start their programs.
            drawn = common.draw(len(tasks), config.num_prompts, step, config.seed, "grpo prompts")
            mine = common.my_share([
                (tasks[i], [common.seed_of(config.seed, "grpo rollout", step, place, g) for g in range(config.num_generations)])
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

            # Meanwhile, score the batch under the old policy and the reasoning reward model. The rows of a micro-batch
            # stay together in the update, since low-precision results depend on the batch they are in.
            mini_batches = []
            for k in range(config.num_mini_batches):
                rows = [i for i in range(len(row_tasks)) if i // config.num_generations % config.num_mini_batches == k]
                rows.sort(key=lambda i, r=rollout: len(r.prompts[i]) + len(r.completions[i]))
                size = config.per_device_train_batch_size
                mini_batches.append([rows[i : i + size] for i in range(0, len(rows), size)])
            old_logprobs, entropies = torch.zeros(2, *rollout.ids.shape, device=rollout.ids.device)
            with torch.no_grad():
                for rows in (rows for mini_batch in mini_batches for rows in mini_batch):
                    input_ids, on, places = common.pack(rollout, rows)  # (B, L), (B, L), (B, T)
                    logprobs, entropy = policy.completion_logprobs(input_ids, on, config.temperature)  # (B, L)
                    old_logprobs[rows], entropies[rows] = logprobs.gather(1, places), entropy.gather(1, places)
            reasoning = [reasoning_of(text) for text in rollout.texts]
            well_formed, process = torch.zeros(2, len(row_tasks), device=rollout.ids.device)
            if judge is not None:
                well_formed = torch.tensor([float(text is not None) for text in reasoning], device=rollout.ids.device)
                process = score_reasoning(
                    judge, judge_tokenizer, row_tasks, reasoning, config.per_device_train_batch_size
                )

            verdicts = [future.result() for future in futures]
            judged = torch.tensor(
                [verdict["status"] != "harness_error" for verdict in verdicts], device=rollout.ids.device
            )
            outcome = torch.tensor(
                [float(verdict["status"] == "passed") for verdict in verdicts], device=rollout.ids.device
            )
            mask = rollout.mask & judged[:, None]  # (N, T) a sample without a verdict does not count

            # Reward and advantage.
            rewards = compose_rewards(outcome, well_formed, process, config.gate)  # (N,)
            groups = torch.arange(len(row_tasks), device=rewards.device) // config.num_generations  # (N,)
            rewards = rewards.masked_fill(~judged, float("nan"))
            sample_advantages = advantages.group_advantages(rewards, groups, config.scale_rewards)  # (N,)
            token_advantages = sample_advantages[:, None] * mask  # (N, T)

            # Update: each mini-batch is one optimiser step, its losses divided by its tokens over all processes.
            lr = common.lr_at(step, config.learning_rate, config.warmup_steps, config.max_steps, "constant")
            for group in optimizers[""].param_groups:
                group["lr"] = lr
            sums = torch.zeros(3, dtype=torch.float64)  # policy loss, clipped, ratio
            grad_norm = 0.0
            for _ in range(config.num_iterations):
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
                            config.epsilon,
                            config.epsilon_high,
                        )
                        (loss * common.world_size() / num_tokens).backward()  # FSDP averages over processes: now a sum
                        ratio = (log_ratio.exp() * mask[rows]).sum()
                        sums += torch.tensor([loss.item(), clipped.sum(), ratio])
                    grad_norm = common.clip_gradients(policy, config.max_grad_norm)
                    optimizers[""].step()
                    optimizers[""].zero_grad()

            # Log and save.
            cut = sum(row[-1] not in eos_ids for row in rollout.completions)
            gap = ((rollout.logprobs - old_logprobs).abs() * mask).sum()
            given = rewards.nan_to_num(0)  # a sample without a verdict adds nothing to the sums
            by_group = rewards.view(-1, config.num_generations)
            equal = (by_group.nan_to_num(-torch.inf).amax(1) <= by_group.nan_to_num(torch.inf).amin(1)).sum()
            samples, tokens, passed, reward, squares, fmt, proc, entropy, equal, cut, gap, *sums = common.all_sum(
                judged.sum(), mask.sum(), (outcome * judged).sum(), given.sum(), given.double().square().sum(),
                (well_formed * judged).sum(), (process * judged).sum(), (entropies * mask).sum(), equal, cut, gap, *sums,
            )  # fmt: skip
            asked = config.num_prompts * config.num_generations
            errors, samples, tokens = asked - samples, max(samples, 1), max(tokens, 1)
            updates = config.num_iterations * tokens
            metrics = {
                "step": step + 1,
                "episode": (step + 1) * asked,
                "reward": reward / samples,
                "reward_std": max(0.0, squares / samples - (reward / samples) ** 2) ** 0.5,
                "frac_reward_zero_std": equal / config.num_prompts,
                "rewards/tests/mean": passed / samples,
                "rewards/format/mean": fmt / samples,
                "rewards/reasoning/mean": proc / samples,
                "entropy": entropy / tokens,
                "loss": sums[0] / updates,
                "clip_ratio/region_mean": sums[1] / updates,
                "val/ratio": sums[2] / updates,
                "completions/mean_length": tokens / samples,
                "completions/clipped_ratio": cut / asked,
                "sampling/sampling_logp_difference/mean": gap / tokens,
                "harness_errors": errors,
                "grad_norm": grad_norm,
                "learning_rate": lr,
                "step_time": time.perf_counter() - started,
            }
            if common.rank() == 0:
                common.append_jsonl(f"{config.output_dir}/metrics.jsonl", [metrics])
                rows = zip(row_tasks, rollout.texts, verdicts, given.tolist(), strict=True)
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
