"""DPO: preference optimisation from pairs of completions, without a reward model or sampling in the loop.

With h the margin (log pi / pi_ref)(chosen) - (log pi / pi_ref)(rejected) of a pair, log-probs summed over tokens:

    sigmoid   -log sigmoid(beta * h)           DPO (Rafailov et al., 2023, eq. 7); with --label_smoothing e conservative
                                               DPO: -(1 - e) log sigmoid(beta * h) - e log sigmoid(-beta * h)
    ipo       (h - 1 / (2 * beta))^2           IPO (Azar et al., 2024, eq. 17)

plus --rpo_alpha times the mean negative log-likelihood of the chosen tokens (Pang et al., 2024, eq. 1). The loss is a
sum over pairs divided by the pairs of the whole optimiser step, over all micro-batches and processes.

PRLCoder (Ye et al., EMNLP 2025) uses DPO on process supervision and gives neither its pairs nor its settings; pairs
come from `make_prm_data.py --method rank`, and beta is that of Rafailov et al. The reference is the starting policy;
its log-probs are computed once, before training, so that no second model is kept. A row that says `"complete": false`
(a step pair) ends in mid-program: it gets no EOS, and the tokens that both texts begin with belong to the prompt, where
they have no loss (in h they would cancel). A share of the tasks is held out for the metrics that begin with eval_.

    python dpo.py --data pairs.jsonl --model_name_or_path runs/sft --output_dir runs/dpo
    torchrun --standalone --nproc_per_node=2 dpo.py --data pairs.jsonl --model_name_or_path runs/sft --output_dir runs/dpo
"""

import json
import time
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

import common
from common import InputError


@dataclass
class Config:
    data: str  # pairs.jsonl
    model_name_or_path: str  # policy to start from, and the reference
    output_dir: str  # run folder; a run that was cut off goes on from its last checkpoint
    loss_type: Literal["sigmoid", "ipo"] = "sigmoid"
    beta: float = 0.1  # how close the policy stays to the reference (Rafailov et al., 2023)
    label_smoothing: float = 0.0  # sigmoid: assumed share of pairs that are the wrong way round
    rpo_alpha: float = 0.0  # weight of the negative log-likelihood of the chosen text
    max_length: int = (
        1024  # pairs with a longer row (prompt and text, in tokens) are left out and counted
    )
    eval_fraction: float = 0.1  # share of tasks held out; 0: no evaluation
    eval_steps: int = 50  # optimiser steps between evaluations
    max_steps: int = 100  # optimiser steps
    train_batch_size: int = 32  # pairs an optimiser step, over all processes
    per_device_train_batch_size: int = (
        16  # pairs a forward pass; changes memory and speed, not the result
    )
    learning_rate: float = (
        3e-5  # peak; 1e-4 lost the tiny policy's gain; for a pretrained model 1e-6 is usual
    )
    warmup_steps: int = 10
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "cosine"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    save_steps: int = 50  # optimiser steps between checkpoints
    save_total_limit: int = 1  # how many checkpoints stay
    seed: int = 0


def read_rows(path: str) -> list[dict]:
    def check(row):
        if row["chosen"] == row["rejected"]:
            raise ValueError("fields 'chosen' and 'rejected' are the same text")
        if not isinstance(row.get("complete", True), bool):
            raise ValueError("field 'complete' must be true or false")

    return common.read_jsonl(path, {**common.PROMPT_FIELDS, "chosen": str, "rejected": str}, check)


def encode_pair(tokenizer, row: dict) -> tuple[list[int], list[int], list[int]]:
    """Token ids of the prompt, of the chosen and of the rejected text.

    In a pair that is not complete the ids that both texts begin with go to the prompt. They are found among the ids,
    not by lines: a tokenizer may merge the end of a shared line with the beginning of the next one.
    """
    prompt = common.encode_prompt(tokenizer, row)
    if row.get("complete", True):
        return prompt, *(
            common.encode_completion(tokenizer, row[name]) for name in ("chosen", "rejected")
        )
    chosen, rejected = (
        tokenizer(row[name], add_special_tokens=False).input_ids for name in ("chosen", "rejected")
    )
    differ = (i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b)
    shared = next(differ, min(len(chosen), len(rejected)))
    return prompt + chosen[:shared], chosen[shared:], rejected[shared:]


def pair_logps(policy, pairs: list[tuple]) -> torch.Tensor:
    """Log-probs (2, B) of the chosen and the rejected texts of B encoded pairs, each summed over its tokens."""
    prompts, chosen, rejected = (list(column) for column in zip(*pairs, strict=True))
    ids, mask = common.pad_pairs(prompts * 2, chosen + rejected)  # (2B, L), (2B, L)
    logprobs, _ = policy.completion_logprobs(ids, mask)  # (2B, L)
    return logprobs.sum(1).view(2, len(pairs))


def dpo_loss(
    logps: torch.Tensor, reference_logps: torch.Tensor, config: Config
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss (B,) and implicit rewards beta * log(pi / pi_ref) (2, B) of pairs, from summed log-probs (2, B)."""
    log_ratio = logps - reference_logps  # (2, B)
    margin = log_ratio[0] - log_ratio[1]  # (B,)
    if config.loss_type == "ipo":
        loss = (margin - 1 / (2 * config.beta)).square()
    else:
        loss = -(1 - config.label_smoothing) * F.logsigmoid(config.beta * margin)
        loss = loss - config.label_smoothing * F.logsigmoid(-config.beta * margin)
    return loss, (config.beta * log_ratio).detach()


def score_pairs(policy, pairs: list[tuple], reference_logps: torch.Tensor, config: Config):
    """Summed loss of encoded pairs, and the sums over pairs (7,) that `metrics_of` names. reference_logps (2, B)."""
    logps = pair_logps(policy, pairs)  # (2, B)
    loss, rewards = dpo_loss(logps, reference_logps, config)  # (B,), (2, B)
    lengths = torch.tensor([max(1, len(chosen)) for _, chosen, _ in pairs], device=loss.device)
    nll = -logps[0] / lengths  # (B,)
    loss = (loss + config.rpo_alpha * nll).sum()
    sums = [loss, *rewards.sum(1), (rewards[0] > rewards[1]).sum(), *logps.sum(1), nll.sum()]
    return loss, torch.stack([value.detach().double() for value in sums])


def metrics_of(sums: list[float], num_pairs: int) -> dict:
    loss, chosen, rejected, right, logps_chosen, logps_rejected, nll = (
        value / num_pairs for value in sums
    )
    return {
        "loss": loss,
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": chosen - rejected,
        "rewards/accuracies": right,
        "logps/chosen": logps_chosen,
        "logps/rejected": logps_rejected,
        "nll_loss": nll,
    }


def batches_of(pairs: list[tuple], size: int) -> list[list[int]]:
    """Indices of pairs in micro-batches; pairs of like length share one."""
    order = sorted(range(len(pairs)), key=lambda i: sum(map(len, pairs[i])))
    return [order[start : start + size] for start in range(0, len(order), size)]


@torch.no_grad()
def reference_of(policy, pairs: list[tuple], config: Config) -> torch.Tensor:
    """Log-probs (2, N) of all pairs under the starting policy; each process computes a share of the micro-batches."""
    batches = batches_of(pairs, config.per_device_train_batch_size)
    rounds = -(-len(batches) // common.world_size())
    logps = torch.zeros(2, len(pairs), dtype=torch.float64)
    bar = common.progress_bar("reference log-probs", rounds)
    for i in range(rounds):
        number = i * common.world_size() + common.rank()
        batch = batches[
            min(number, len(batches) - 1)
        ]  # every process takes part in every forward of a sharded model
        found = pair_logps(policy, [pairs[k] for k in batch]).double().cpu()
        if number < len(batches):
            logps[:, batch] = found
        bar.update()
    bar.close()
    return torch.tensor(common.all_sum(*logps.flatten())).view(2, -1).to(common.device())


@torch.no_grad()
def evaluate(policy, pairs: list[tuple], reference_logps: torch.Tensor, config: Config) -> dict:
    """Held-out metrics; every process scores all pairs, so that sharded models step together."""
    total = torch.zeros(7, dtype=torch.float64)
    for batch in batches_of(pairs, config.per_device_train_batch_size):
        total += score_pairs(policy, [pairs[i] for i in batch], reference_logps[:, batch], config)[
            1
        ].cpu()
    metrics = metrics_of(total.tolist(), len(pairs))
    return {"eval_pairs": len(pairs)} | {f"eval_{name}": value for name, value in metrics.items()}


def main(config: Config) -> None:
    rows = read_rows(config.data)
    if not config.beta > 0 or not 0 <= config.label_smoothing < 0.5:
        raise InputError("--beta must be above 0, and --label_smoothing at least 0 and below 0.5")
    common.check_model_folder(config.model_name_or_path)
    checkpoint = common.open_run(config)
    tokenizer = common.load_tokenizer(config.model_name_or_path)
    encoded = [encode_pair(tokenizer, row) for row in rows]
    held_out_tasks = {
        name for name in {row["task_id"] for row in rows}
        if common.seed_of(config.seed, "held-out", name) % 10_000 < 10_000 * config.eval_fraction
    }  # fmt: skip
    fits = [
        i
        for i in range(len(rows))
        if len(encoded[i][0]) + max(map(len, encoded[i][1:])) <= config.max_length
    ]
    train = [encoded[i] for i in fits if rows[i]["task_id"] not in held_out_tasks]
    held_out = [encoded[i] for i in fits if rows[i]["task_id"] in held_out_tasks]
    if not train or (config.eval_fraction > 0 and not held_out):
        raise InputError(
            f"{config.data}: {len(train)} pairs to train on and {len(held_out)} held out; both are needed"
        )
    if common.rank() == 0:
        print(
            f"{len(train)} pairs to train on, {len(held_out)} held out, {len(rows) - len(fits)} left out as too long"
        )

    reference = common.shard(common.load_policy(config.model_name_or_path).eval())
    reference_logps = reference_of(reference, train + held_out, config)  # (2, N)
    train_reference, eval_reference = (
        reference_logps[:, : len(train)],
        reference_logps[:, len(train) :],
    )
    del reference  # loaded anew: an optimizer made after a forward would hold gathered parameters, not FSDP's shards
    policy = common.shard(common.load_policy(checkpoint or config.model_name_or_path).train())
    optimizer = torch.optim.AdamW(policy.parameters(), weight_decay=config.weight_decay)
    first_step = (
        common.load_optimizers(checkpoint, {"": policy}, {"": optimizer}) if checkpoint else 0
    )

    bar = common.progress_bar("dpo", config.max_steps, first_step)
    for step in range(first_step, config.max_steps):
        started = time.perf_counter()
        lr = common.lr_at(
            step,
            config.learning_rate,
            config.warmup_steps,
            config.max_steps,
            config.lr_scheduler_type,
        )
        for group in optimizer.param_groups:
            group["lr"] = lr
        mine = common.my_share(
            common.draw(len(train), config.train_batch_size, step, config.seed, "dpo pairs")
        )
        sums = torch.zeros(7, dtype=torch.float64)
        for batch in batches_of([train[i] for i in mine], config.per_device_train_batch_size):
            micro = [mine[i] for i in batch]
            loss, found = score_pairs(
                policy, [train[i] for i in micro], train_reference[:, micro], config
            )
            # FSDP averages gradients over processes; world_size makes it a sum.
            (loss * common.world_size() / config.train_batch_size).backward()
            sums += found.cpu()
        grad_norm = common.clip_gradients(policy, config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()

        metrics = {"step": step + 1} | metrics_of(common.all_sum(*sums), config.train_batch_size)
        metrics |= {"grad_norm": grad_norm, "learning_rate": lr}
        if held_out and ((step + 1) % config.eval_steps == 0 or step + 1 == config.max_steps):
            report = evaluate(policy, held_out, eval_reference, config)
            metrics |= report
        if common.rank() == 0:
            metrics["step_time"] = time.perf_counter() - started
            common.append_jsonl(f"{config.output_dir}/metrics.jsonl", [metrics])
            bar.set_postfix(
                loss=f"{metrics['loss']:.3f}",
                accuracy=f"{metrics['rewards/accuracies']:.2f}",
                refresh=False,
            )
            bar.update()
        if (step + 1) % config.save_steps == 0 and step + 1 < config.max_steps:
            common.save_checkpoint(
                config.output_dir,
                step + 1,
                {"": policy},
                {"": optimizer},
                tokenizer,
                config.save_total_limit,
            )
    bar.close()
    if common.rank() == 0 and held_out:
        text = json.dumps(common.without_nan(report), indent=2)
        print(text)
        common.write_text(f"{config.output_dir}/report.json", text + "\n")
    common.save_model(policy, tokenizer, config.output_dir)


if __name__ == "__main__":
    common.run(main, Config)
