"""Supervised fine-tuning: the policy that every later stage starts from.

Minimises the mean negative log-likelihood of the completion's tokens, EOS included, given the prompt; the prompt has
no loss. A row's `completion` is learned where it has one, else its reference `solution`. The mean is over the tokens
of the whole optimiser step, over all micro-batches and processes: no mean of means.

`--model_name_or_path micro` trains a tokenizer on the rows and starts a small Llama from random weights; anything else
is a local folder or a hub name.

    python sft.py --tasks tasks/micro/sft.jsonl --output_dir runs/sft
    torchrun --standalone --nproc_per_node=2 sft.py --tasks tasks/micro/sft.jsonl --output_dir runs/sft
"""

import time
from dataclasses import dataclass
from typing import Literal

import torch

import common
from common import InputError


@dataclass
class Config:
    tasks: str  # tasks.jsonl, or rows of prompt and completion
    output_dir: str  # run folder; a run that was cut off goes on from its last checkpoint
    model_name_or_path: str = (
        "micro"  # "micro": a new tiny model and tokenizer; else a folder or hub name
    )
    vocab_size: int = 768  # micro: size of the new tokenizer
    hidden_size: int = 128  # micro: width of the new model
    num_hidden_layers: int = 3  # micro: depth of the new model
    max_length: int = (
        1024  # longer rows (prompt and completion, in tokens) are left out and counted
    )
    max_steps: int = 600  # optimiser steps
    train_batch_size: int = 64  # rows an optimiser step, over all processes
    per_device_train_batch_size: int = (
        32  # rows a forward pass; changes memory and speed, not the result
    )
    learning_rate: float = 2e-3  # peak; for a pretrained model 1e-5 is usual
    warmup_steps: int = 50
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "cosine"
    weight_decay: float = 0.05
    max_grad_norm: float = 1.0
    save_steps: int = 100  # optimiser steps between checkpoints
    save_total_limit: int = 1  # how many checkpoints stay
    seed: int = 0


def read_rows(path: str) -> list[dict]:
    """Rows with a prompt and a text to learn."""

    def check(row):
        text = row.get("completion", row.get("solution"))
        if not isinstance(text, str) or not text:
            raise ValueError("field 'completion' or 'solution' must be a non-empty str")

    return common.read_jsonl(path, common.PROMPT_FIELDS, check)


def main(config: Config) -> None:
    rows = read_rows(config.tasks)
    common.check_model_folder(config.model_name_or_path)
    checkpoint = common.open_run(config)
    texts = [
        row["completion"]
        if "completion" in row
        else row["solution"].removeprefix(row.get("prefix", ""))
        for row in rows
    ]
    source = checkpoint or config.model_name_or_path
    if source == "micro":
        prompts = [row["prompt"].rstrip("\n") + "\n" for row in rows]
        tokenizer = common.new_tokenizer(prompts + texts, config.vocab_size)
        policy = common.new_model(
            tokenizer, config.hidden_size, config.num_hidden_layers, config.seed
        )
    else:
        tokenizer = common.load_tokenizer(source)
        policy = common.load_policy(source)
    policy = common.shard(policy.train())
    optimizer = torch.optim.AdamW(policy.parameters(), weight_decay=config.weight_decay)
    first_step = (
        common.load_optimizers(checkpoint, {"": policy}, {"": optimizer}) if checkpoint else 0
    )

    prompts = [common.encode_prompt(tokenizer, row) for row in rows]
    completions = [common.encode_completion(tokenizer, text) for text in texts]
    kept = [
        i for i in range(len(rows)) if len(prompts[i]) + len(completions[i]) <= config.max_length
    ]
    if not kept:
        raise InputError(
            f"{config.tasks}: every row is longer than --max_length {config.max_length} tokens"
        )
    if common.rank() == 0:
        print(
            f"{len(kept)} rows, {len(rows) - len(kept)} left out as too long; {policy.num_parameters():,} parameters"
        )

    bar = common.progress_bar("sft", config.max_steps, first_step)
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
        drawn = common.draw(len(kept), config.train_batch_size, step, config.seed, "sft rows")
        batch = common.my_share([kept[i] for i in drawn])
        batch.sort(
            key=lambda i: len(prompts[i]) + len(completions[i])
        )  # rows of like length share a forward pass
        (num_tokens,) = common.all_sum(sum(len(completions[i]) for i in batch))

        loss_sum = 0.0
        for start in range(0, len(batch), config.per_device_train_batch_size):
            micro = batch[start : start + config.per_device_train_batch_size]
            ids, mask = common.pad_pairs(
                [prompts[i] for i in micro], [completions[i] for i in micro]
            )  # (B, L), (B, L)
            logprobs, _ = policy.completion_logprobs(ids, mask)  # (B, L)
            loss = -logprobs.sum() / num_tokens
            (
                loss * common.world_size()
            ).backward()  # FSDP averages gradients over processes; this makes it a sum
            loss_sum += loss.item()
        grad_norm = common.clip_gradients(policy, config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()

        (loss,) = common.all_sum(loss_sum)
        if common.rank() == 0:
            metrics = {"step": step + 1, "loss": loss, "grad_norm": grad_norm, "learning_rate": lr}
            metrics |= {"num_tokens": int(num_tokens), "step_time": time.perf_counter() - started}
            common.append_jsonl(f"{config.output_dir}/metrics.jsonl", [metrics])
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
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
    common.save_model(policy, tokenizer, config.output_dir)


if __name__ == "__main__":
    common.run(main, Config)
