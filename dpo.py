"""DPO: preference optimisation on pairs of completions, with no reward model and no sampling.

Of a pair, h = log(pi / pi_ref)(chosen) - log(pi / pi_ref)(rejected), log-probs summed over tokens:

    sigmoid   -log sigmoid(beta h)       DPO (Rafailov et al., 2023, eq. 7); --label_smoothing e:
              -(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h)    (conservative DPO)
    ipo       (h - 1 / (2 beta))^2       IPO (Azar et al., 2024, eq. 17); there h has means over the
              tokens of each text, as the authors train it (and TRL): a sum grows with the length,
              its target 1 / (2 beta) does not

plus --rpo_alpha times the mean negative log-likelihood of the chosen tokens (Pang et al., 2024,
eq. 1). The loss is a sum over pairs, divided by the pairs of the whole optimiser step.

PRLCoder (Ye et al., 2025) uses DPO on process supervision, and gives neither its pairs nor its
settings: the pairs are those of `make_prm_data.py --method rank`, beta is that of Rafailov et al.
pi_ref is the starting policy. Its log-probs are computed once, before training, so that no second
model is kept. A share of the tasks is held out, for the metrics whose names begin with eval_.

A row with `"complete": false` (a step pair) ends in mid-program: its texts get no EOS, and the
tokens that both begin with belong to the prompt, where they have no loss (in h they would cancel).
Where a chat template opens the thinking ("<think>"), a text without thinking closes it first.

    python dpo.py --data pairs.jsonl --model_name_or_path runs/sft --output_dir runs/dpo
    torchrun --standalone --nproc_per_node=2 dpo.py --data pairs.jsonl ...
"""

import gc
import json
import time
from collections import Counter
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

import common
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


@dataclass
class Config:
    data: InputFile  # pairs.jsonl
    model_name_or_path: str  # policy to start from, and the reference
    output_dir: OutputDir  # run folder; a run that was cut off goes on from its last checkpoint
    loss_type: Literal["sigmoid", "ipo"] = "sigmoid"
    beta: PositiveFloat = 0.1  # how close to the reference (Rafailov et al., 2023)
    label_smoothing: UnitFloat = 0.0  # sigmoid: assumed share of pairs that are the wrong way round
    rpo_alpha: NonNegativeFloat = 0.0  # weight of the negative log-likelihood of the chosen text
    prompt_format: Literal["auto", "chat", "plain"] = "auto"  # auto: chat template, if there is one
    system_prompt: str | None = None  # chat: the turn before the user's
    max_length: PositiveInt = 1024  # tokens of a text; longer pairs are left out, and counted
    eval_fraction: UnitFloat = 0.1  # share of tasks held out; 0: no evaluation
    eval_steps: PositiveInt = 50  # optimiser steps between evaluations
    max_steps: PositiveInt = 100  # optimiser steps
    train_batch_size: PositiveInt = 32  # pairs an optimiser step, over all processes
    per_device_train_batch_size: PositiveInt = 16  # pairs a forward pass: memory and speed
    max_tokens_per_forward: PositiveInt = 16384  # padded tokens a forward pass: memory and speed
    learning_rate: PositiveFloat = 3e-5  # peak; pretrained models: 1e-6
    warmup_steps: NonNegativeInt = 10
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "cosine"
    weight_decay: NonNegativeFloat = 0.0
    max_grad_norm: PositiveFloat = 1.0
    bf16: bool | None = None  # compute in bfloat16, weights in float32; default: on CUDA
    gradient_checkpointing: bool = False  # less memory: backward computes activations again
    torch_compile: bool = False  # faster on a GPU, after a minute of compilation; needs gcc
    save_steps: PositiveInt = 50  # optimiser steps between checkpoints
    save_total_limit: NonNegativeInt = 2  # how many checkpoints stay; 0: all
    seed: int = 0


def check_row(row: dict) -> None:
    if row["chosen"] == row["rejected"]:
        raise ValueError("fields 'chosen' and 'rejected' are the same text")
    if not isinstance(row.get("complete", True), bool):
        raise ValueError("field 'complete' must be true or false")


def encode_pair(
    tokenizer, row: dict, prompt_format=common.AUTO_FORMAT
) -> tuple[list[int], list[int], list[int]]:
    """Token ids of the prompt, the chosen and the rejected text.

    In a pair that is not complete, the ids that both texts begin with go to the prompt. The shared
    part is found among the ids, not by lines: a tokenizer may merge the end of a shared line with
    the beginning of the next one.
    """
    prompt = common.encode_prompt(tokenizer, row, prompt_format)
    opening = common.opening_of(tokenizer, prompt)
    texts = [
        common.after_opening(row[side], opening, row.get("prefix"))
        for side in ("chosen", "rejected")
    ]
    if row.get("complete", True):
        return prompt, *(common.encode_completion(tokenizer, text) for text in texts)
    chosen, rejected = (common.encode_text(tokenizer, text) for text in texts)
    differ = (i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b)
    shared = next(differ, min(len(chosen), len(rejected)))
    return prompt + chosen[:shared], chosen[shared:], rejected[shared:]


def pair_logps(policy, pairs: list[tuple]) -> torch.Tensor:
    """Log-probs (2, B) of the chosen and the rejected texts of B encoded pairs, token sums."""
    prompts, chosen, rejected = ([pair[part] for pair in pairs] for part in range(3))
    ids, mask = common.pad_pairs(prompts * 2, chosen + rejected)  # (2B, L), (2B, L)
    logprobs, _ = policy.completion_logprobs(ids, mask)  # (2B, L)
    return logprobs.sum(1)[: 2 * len(pairs)].view(2, len(pairs))


def dpo_loss(logps, reference_logps, lengths, config: Config) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses (B,) of pairs and their implicit rewards beta log(pi / pi_ref) (2, B), of IPO with its
    means over tokens; from summed log-probs (2, B) and the texts' lengths in tokens (2, B). See the
    module's docstring."""
    log_ratio = logps - reference_logps  # (2, B)
    if config.loss_type == "ipo":
        log_ratio = log_ratio / lengths
        loss = (log_ratio[0] - log_ratio[1] - 1 / (2 * config.beta)).square()
    else:
        h = log_ratio[0] - log_ratio[1]  # (B,)
        loss = -(1 - config.label_smoothing) * F.logsigmoid(config.beta * h)
        loss = loss - config.label_smoothing * F.logsigmoid(-config.beta * h)
    return loss, (config.beta * log_ratio).detach()


def score_pairs(policy, pairs: list[tuple], reference_logps, config: Config) -> tuple:
    """Summed loss of B encoded pairs; for the log, sums over the pairs. reference_logps (2, B)."""
    logps = pair_logps(policy, pairs)  # (2, B)
    lengths = [[max(1, len(pair[part])) for pair in pairs] for part in (1, 2)]
    lengths = torch.tensor(lengths, device=logps.device)  # (2, B)
    losses, rewards = dpo_loss(logps, reference_logps, lengths, config)  # (B,), (2, B)
    nll = -logps[0] / lengths[0]  # (B,)
    loss = (losses + config.rpo_alpha * nll).sum()
    chosen, rejected = rewards.sum(1).tolist()
    logps_chosen, logps_rejected = logps.sum(1).tolist()
    return loss, {
        "loss": loss.item(),
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/accuracies": (rewards[0] > rewards[1]).sum().item(),
        "logps/chosen": logps_chosen,
        "logps/rejected": logps_rejected,
        "nll_loss": nll.sum().item(),
    }


def means_of(sums: dict[str, float], num_pairs: int) -> dict[str, float]:
    """Means over pairs from sums over pairs, with the margin between the rewards."""
    means = {}
    for name, total in sums.items():
        means[name] = total / num_pairs
        if name == "rewards/rejected":
            means["rewards/margins"] = means["rewards/chosen"] - means["rewards/rejected"]
    return means


def batches_of(pairs: list[tuple], config: Config) -> list[list[int]]:
    """Indices of pairs in micro-batches."""
    lengths = [sum(map(len, pair)) for pair in pairs]
    padded = [2 * (len(prompt) + max(len(a), len(b))) for prompt, a, b in pairs]
    return common.micro_batches(lengths, config, padded)


@torch.no_grad()
def reference_of(policy, pairs: list[tuple], config: Config) -> torch.Tensor:
    """Log-probs (2, N) of all pairs under the starting policy. Each process computes those of a
    share of the micro-batches."""
    batches = batches_of(pairs, config)
    rounds = -(-len(batches) // common.world_size())
    logps = torch.zeros(2, len(pairs), dtype=torch.float64)
    bar = common.progress_bar("reference log-probs", rounds)
    for first in range(0, rounds * common.world_size(), common.world_size()):
        number = first + common.rank()
        batch = batches[number] if number < len(batches) else []  # all ranks step together
        logps[:, batch] = pair_logps(policy, [pairs[i] for i in batch]).double().cpu()
        bar.update()
    bar.close()
    return torch.tensor(common.all_sum(*logps.flatten())).view(2, -1).to(common.device())


@torch.no_grad()
def evaluate(policy, pairs: list[tuple], reference_logps: torch.Tensor, config: Config) -> dict:
    """Held-out metrics. Every process scores all pairs, so that sharded models step together."""
    stats = Counter()
    for micro in batches_of(pairs, config):
        logps = reference_logps[:, micro]
        _, sums = score_pairs(policy, [pairs[i] for i in micro], logps, config)
        stats.update(sums)
    means = means_of(stats, len(pairs))
    return {"eval_pairs": len(pairs)} | {f"eval_{name}": value for name, value in means.items()}


def main(config: Config) -> None:
    rows = common.read_jsonl(config.data, common.PAIR_FIELDS, check_row)
    if config.label_smoothing >= 0.5 or (config.label_smoothing and config.loss_type == "ipo"):
        raise InputError("--label_smoothing must be below 0.5, and 0 with --loss_type ipo")
    common.check_model("policy", config.model_name_or_path, config.max_length)
    common.check_batch(config.train_batch_size)
    checkpoint = common.open_run(config)
    tokenizer = common.load_tokenizer(config.model_name_or_path)
    held_out_tasks = common.held_out_tasks(rows, config.eval_fraction, config.seed)
    train, held_out, too_long = [], [], 0
    for row in rows:
        prompt, chosen, rejected = encode_pair(tokenizer, row, common.prompt_format_of(config))
        if len(prompt) + max(len(chosen), len(rejected)) > config.max_length:
            too_long += 1
        else:
            part = held_out if row["task_id"] in held_out_tasks else train
            part.append((prompt, chosen, rejected))
    counts = f"{len(train)} pairs to train on"
    if not train or (config.eval_fraction > 0 and not held_out):
        raise InputError(f"{config.data}: {counts} and {len(held_out)} held out; both are needed")
    if common.rank() == 0:
        print(f"{counts}, {len(held_out)} held out, {too_long} left out as too long")

    reference = common.load_policy(config.model_name_or_path, config).eval()
    reference = common.shard(reference, config)
    reference_logps = reference_of(reference, train + held_out, config)  # (2, N)
    train_logps, held_out_logps = reference_logps.split((len(train), len(held_out)), dim=1)
    # The policy is loaded anew: an optimizer made after a forward would hold gathered parameters,
    # not FSDP's shards.
    del reference
    gc.collect()  # a sharded model refers to itself: it would stay in memory beside the policy
    policy = common.load_policy(checkpoint or config.model_name_or_path, config).train()
    policy = common.shard(policy, config, trained=True)
    optimizer = common.adamw(policy, config.weight_decay)
    models, optimizers = {"policy": policy}, {"policy": optimizer}
    first_step = common.load_optimizers(checkpoint, models, optimizers) if checkpoint else 0

    common.begin_run(config, checkpoint)
    bar = common.progress_bar("dpo", config.max_steps, first_step)
    for step in range(first_step, config.max_steps):
        started = time.perf_counter()
        peak, schedule = config.learning_rate, config.lr_scheduler_type
        lr = common.lr_at(step, peak, config.warmup_steps, config.max_steps, schedule)
        common.set_lr(optimizer, lr)
        drawn = common.draw(len(train), config.train_batch_size, step, config.seed, "dpo pairs")
        mine = common.my_share(drawn)
        pairs, logps, stats = [train[i] for i in mine], train_logps[:, mine], Counter()
        # A loss is a sum over pairs, divided by the pairs of all processes. FSDP averages
        # gradients: times world_size is their sum.
        for micro in batches_of(pairs, config):
            loss, sums = score_pairs(policy, [pairs[i] for i in micro], logps[:, micro], config)
            (loss * common.world_size() / config.train_batch_size).backward()
            stats.update(sums)
        grad_norm = common.take_step(policy, optimizer, config.max_grad_norm)

        sums = dict(zip(stats, common.all_sum(*stats.values()), strict=True))
        row = {"step": step + 1} | means_of(sums, config.train_batch_size)
        row |= {"grad_norm": grad_norm, "learning_rate": lr}
        if held_out and ((step + 1) % config.eval_steps == 0 or step + 1 == config.max_steps):
            report = evaluate(policy, held_out, held_out_logps, config)
            row |= report
        row["step_time"] = time.perf_counter() - started
        loss, accuracy = f"{row['loss']:.3f}", f"{row['rewards/accuracies']:.2f}"
        common.log_row(config, bar, row, loss=loss, accuracy=accuracy)
        if (step + 1) % config.save_steps == 0 and step + 1 < config.max_steps:
            common.save_checkpoint(config, step + 1, models, optimizers, tokenizer)
    bar.close()
    if common.rank() == 0 and held_out:
        text = json.dumps(common.null_for_nan(report), indent=2)
        print(text)
        common.write_text(f"{config.output_dir}/report.json", text + "\n")
    common.save_model(policy, tokenizer, config.output_dir)


if __name__ == "__main__":
    common.run(main, Config)
