"""Supervised fine-tuning: the policy that every later stage starts from.

The loss is the negative log-likelihood of a completion's tokens, EOS included, given the prompt:
its sum over the tokens of an optimiser step, divided by their number, over all micro-batches and
processes. The prompt has no loss. A row's completion is its field `completion`; without that field
it is the reference `solution`. Where a chat template opens the thinking ("<think>"), a completion
goes on from there, and one without thinking closes it first.

`--model_name_or_path micro` trains a tokenizer on the rows, and starts a small Llama from random
weights. Any other value is a local folder or a hub name.

    python sft.py --tasks tasks/micro/sft.jsonl --output_dir runs/sft
    torchrun --standalone --nproc_per_node=2 sft.py --tasks sft.jsonl --output_dir runs/sft
"""

import time
from dataclasses import dataclass
from typing import Literal

import common
from common import (
    InputError,
    InputFile,
    NonNegativeFloat,
    NonNegativeInt,
    OutputDir,
    PositiveFloat,
    PositiveInt,
)


@dataclass
class Config:
    tasks: InputFile  # tasks.jsonl, or rows of prompt and completion
    output_dir: OutputDir  # run folder; a run that was cut off goes on from its last checkpoint
    model_name_or_path: str = "micro"  # "micro": new tiny model and tokenizer; or folder, hub name
    vocab_size: PositiveInt = 768  # micro: size of the new tokenizer
    hidden_size: PositiveInt = 128  # micro: width of the new model
    num_hidden_layers: PositiveInt = 3  # micro: depth of the new model
    prompt_format: Literal["auto", "chat", "plain"] = "auto"  # auto: chat template, if there is one
    system_prompt: str | None = None  # chat: the turn before the user's
    max_length: PositiveInt = 1024  # tokens of a row; longer rows are left out and counted
    max_steps: PositiveInt = 600  # optimiser steps
    train_batch_size: PositiveInt = 64  # rows an optimiser step, over all processes
    per_device_train_batch_size: PositiveInt = 32  # rows a forward pass: memory and speed
    max_tokens_per_forward: PositiveInt = 16384  # padded tokens a forward pass: memory and speed
    learning_rate: PositiveFloat = 2e-3  # peak; for a pretrained model 1e-5 is usual
    warmup_steps: NonNegativeInt = 50
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "cosine"
    weight_decay: NonNegativeFloat = 0.05
    max_grad_norm: PositiveFloat = 1.0
    bf16: bool | None = None  # compute in bfloat16, weights in float32; default: on CUDA
    gradient_checkpointing: bool = False  # less memory: backward computes activations again
    torch_compile: bool = False  # faster on a GPU, after a minute of compilation; needs gcc
    save_steps: PositiveInt = 100  # optimiser steps between checkpoints
    save_total_limit: NonNegativeInt = 2  # how many checkpoints stay; 0: all
    seed: int = 0


def read_rows(path: str) -> list[dict]:
    """Rows with a prompt and a completion; the completion of a task with `prefix` goes on after the
    prefix."""

    def check(row):
        text = row.get("completion", row.get("solution"))
        if not isinstance(text, str) or not text:
            raise ValueError("field 'completion' or 'solution' must be a non-empty str")

    rows = common.read_jsonl(path, common.PROMPT_FIELDS, check)
    for row in rows:
        if "completion" not in row:
            row["completion"] = row["solution"].removeprefix(row.get("prefix", ""))
    return rows


def main(config: Config) -> None:
    rows = read_rows(config.tasks)
    if config.model_name_or_path != "micro":
        common.check_model("policy", config.model_name_or_path, config.max_length)
    common.check_batch(config.train_batch_size)
    checkpoint = common.open_run(config)
    start = checkpoint or config.model_name_or_path
    if start == "micro":
        texts = [row["prompt"].rstrip("\n") + "\n" for row in rows]
        texts += [row["completion"] for row in rows]
        tokenizer = common.new_tokenizer(texts, config.vocab_size)
        size = config.hidden_size, config.num_hidden_layers
        policy = common.new_model(tokenizer, *size, config.seed)
    else:
        tokenizer = common.load_tokenizer(start)
        policy = common.load_policy(start, config)
    policy = common.shard(policy.train(), config, trained=True)
    optimizer = common.adamw(policy, config.weight_decay)
    models, optimizers = {"policy": policy}, {"policy": optimizer}
    first_step = common.load_optimizers(checkpoint, models, optimizers) if checkpoint else 0

    prompt_format = common.prompt_format_of(config)
    prompts = [common.encode_prompt(tokenizer, row, prompt_format) for row in rows]
    openings = [common.opening_of(tokenizer, prompt) for prompt in prompts]
    completions = [
        common.after_opening(row["completion"], opening, row.get("prefix"))
        for row, opening in zip(rows, openings, strict=True)
    ]
    completions = [common.encode_completion(tokenizer, text) for text in completions]
    pairs = list(zip(prompts, completions, strict=True))  # token ids
    train = [pair for pair in pairs if sum(map(len, pair)) <= config.max_length]
    too_long = len(rows) - len(train)
    if not train:
        raise InputError(
            f"{config.tasks}: every row is longer than --max_length {config.max_length} tokens"
        )
    if common.rank() == 0:
        parameters = f"{policy.num_parameters():,} parameters"
        print(f"{len(train)} rows, {too_long} left out as too long; {parameters}")

    common.begin_run(config, checkpoint)
    bar = common.progress_bar("sft", config.max_steps, first_step)
    for step in range(first_step, config.max_steps):
        started = time.perf_counter()
        peak, schedule = config.learning_rate, config.lr_scheduler_type
        lr = common.lr_at(step, peak, config.warmup_steps, config.max_steps, schedule)
        common.set_lr(optimizer, lr)
        drawn = common.draw(len(train), config.train_batch_size, step, config.seed, "sft rows")
        batch = [train[i] for i in common.my_share(drawn)]
        (num_tokens,) = common.all_sum(sum(len(completion) for _, completion in batch))

        # A loss is a sum over tokens, divided by the tokens of all processes. FSDP averages
        # gradients: times world_size is their sum.
        loss_sum, lengths = 0.0, [sum(map(len, pair)) for pair in batch]
        for micro in common.micro_batches(lengths, config):
            prompts, completions = ([batch[i][part] for i in micro] for part in (0, 1))
            ids, mask = common.pad_pairs(prompts, completions)  # (B, L), (B, L)
            logprobs, _ = policy.completion_logprobs(ids, mask)  # (B, L)
            loss = -logprobs.sum() / num_tokens
            (loss * common.world_size()).backward()
            loss_sum += loss.item()
        grad_norm = common.take_step(policy, optimizer, config.max_grad_norm)

        (loss,) = common.all_sum(loss_sum)
        row = {"step": step + 1, "loss": loss, "grad_norm": grad_norm, "learning_rate": lr}
        row |= {"num_tokens": int(num_tokens), "step_time": time.perf_counter() - started}
        common.log_row(config, bar, row, loss=f"{loss:.3f}")
        if (step + 1) % config.save_steps == 0 and step + 1 < config.max_steps:
            common.save_checkpoint(config, step + 1, models, optimizers, tokenizer)
    bar.close()
    common.save_model(policy, tokenizer, config.output_dir)


if __name__ == "__main__":
    common.run(main, Config)
