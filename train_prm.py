"""Reward models: a token classifier, read where reinforcement learning gives the reward.

--objective regression      prm.jsonl. The line PRM of PSGPO: the score at the last token of each
    line; (score - label)^2, mean over labelled lines.
--objective classification  prm.jsonl. The line PRM in two classes: binary cross-entropy of the
    logit at the last token of each line with (label + 1) / 2, labels in [-1, 1]. PRLCoder has two
    classes and does not publish its loss; our score is 2 sigmoid(logit) - 1.
--objective outcome         Outcome rows. The outcome reward model (ORM) of CodeRL's critic: cross-
    entropy over four classes (syntax error, runtime error, failed test, passed) at the last token.
    The score is the expected reward sum_c p_c r_c, r = -1, -0.6, -0.3, 1. PRLCoder compares with
    two ORMs that it does not describe; this ORM and the ranking ORM stand in for them.
--objective ranking         Bradley-Terry at the last token: -log sigmoid(score(preferred) -
    score(rejected)). On pairs.jsonl: the reasoning reward model of ReCode; the score is the logit.
    On outcome rows (the first row has a `status`): the ranking ORM, whose pairs are a passing and a
    failing program of one task; the score is 2 sigmoid(logit) - 1. The loss leaves the offset of
    the scores free: see `centre`.
--objective score           pairs.jsonl. ReCode's baseline to ranking, regression on a rating of
    each text: (score - rating)^2 at the last token, mean over the two texts of a pair. The ratings
    are the fields `chosen_rating` and `rejected_rating` in [0, 1], in all rows or in no row;
    without them chosen texts have 1, rejected texts 0. The score is the logit.

Outcome rows have task_id, prompt, completion and status: the verdicts.jsonl of eval.py, or the
--outcomes_file of make_prm_data.py. The ORM reads a completion with its EOS; a completion that was
cut off (`terminated` false) has no EOS. A share of the tasks is held out and scored: report.json.

    python train_prm.py --data prm.jsonl --model_name_or_path runs/sft --output_dir runs/prm
    python train_prm.py --data outcomes.jsonl --objective outcome ... --output_dir runs/orm
    torchrun --standalone --nproc_per_node=2 train_prm.py --data pairs.jsonl --objective ranking ...
"""

import json
import random
import time
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

OUTCOMES = list(common.OUTCOME_REWARDS)  # the classes of an outcome reward model
LINE_WISE = ("regression", "classification")  # objectives with a score at the end of each line
PAIRED = ("ranking", "score")  # objectives whose steps draw pairs of texts


@dataclass
class Config:
    data: InputFile  # prm.jsonl, pairs.jsonl or outcome rows, see --objective
    output_dir: OutputDir  # run folder; a run that was cut off goes on from its last checkpoint
    model_name_or_path: str = "micro"  # policy to start from (new head at 0); "micro": all is new
    objective: Literal["regression", "classification", "outcome", "ranking", "score"] = "regression"
    score_pooling: Literal["last", "lines"] = "last"  # pairs.jsonl: at the end; mean at line ends
    fence: bool = False  # programs stand in a ```python fence, whose lines have no label
    vocab_size: PositiveInt = 768  # micro: size of the new tokenizer
    hidden_size: PositiveInt = 128  # micro: width of the new model
    num_hidden_layers: PositiveInt = 3  # micro: depth of the new model
    prompt_format: Literal["auto", "chat", "plain"] = "auto"  # auto: chat template, if there is one
    system_prompt: str | None = None  # chat: the turn before the user's
    max_length: PositiveInt = 1024  # tokens of a row; longer rows are left out and counted
    eval_fraction: UnitFloat = 0.1  # share of tasks held out
    eval_steps: PositiveInt = 100  # optimiser steps between evaluations
    max_steps: PositiveInt = 600  # optimiser steps
    train_batch_size: PositiveInt = 64  # rows (or pairs) an optimiser step, over all processes
    per_device_train_batch_size: PositiveInt = 32  # rows (or pairs) a forward pass: memory, speed
    max_tokens_per_forward: PositiveInt = 16384  # padded tokens a forward pass: memory and speed
    learning_rate: PositiveFloat = 5e-4  # peak; pretrained models: 1e-5
    warmup_steps: NonNegativeInt = 40
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "cosine"
    weight_decay: NonNegativeFloat = 0.01
    max_grad_norm: PositiveFloat = 1.0
    bf16: bool | None = None  # compute in bfloat16, weights in float32; default: on CUDA
    gradient_checkpointing: bool = False  # less memory: backward computes activations again
    torch_compile: bool = False  # faster on a GPU, after a minute of compilation; needs gcc
    save_steps: PositiveInt = 100  # optimiser steps between checkpoints
    save_total_limit: NonNegativeInt = 2  # how many checkpoints stay; 0: all
    seed: int = 0


def units_of(config: Config, examples: list[dict]) -> list[tuple[list[dict], ...]]:
    """What a step draws: examples; or, for pairs, groups as (preferred texts, rejected texts)."""
    if config.objective not in PAIRED:
        return [([row],) for row in examples]
    groups = {}
    for row in examples:
        preferred, rejected = groups.setdefault(row["group"], ([], []))
        (preferred if row["preferred"] else rejected).append(row)
    return [group for group in groups.values() if all(group)]


def draw_unit(unit: tuple[list[dict], ...], seed: int, step: int, index: int) -> tuple[dict, ...]:
    """An example of each of the unit's lists; index: of the unit in the step's batch."""
    return tuple(
        column[common.seed_of(seed, "reward model texts", step, index, number) % len(column)]
        for number, column in enumerate(unit)
    )


def loss_terms(objective: str, logits: torch.Tensor, rows: list[dict]) -> torch.Tensor:
    """The terms (N,) whose mean is the loss, one a labelled line, a text or a pair; logits
    (B, P, C) of `logits_at`. Of pairs, the rows are the preferred texts and then, in the same
    order, the rejected texts."""
    if objective == "ranking":
        preferred, rejected = logits[:, 0, 0].chunk(2)  # (N,), (N,)
        return -F.logsigmoid(preferred - rejected)
    if objective == "score":
        ratings = torch.tensor([row["rating"] for row in rows], device=logits.device)  # (2 N,)
        return torch.stack((logits[:, 0, 0] - ratings).square().chunk(2)).mean(0)
    if objective == "outcome":
        outcomes = [row["outcome"] for row in rows]  # none on a rank without rows
        outcomes = torch.tensor(outcomes, dtype=torch.long, device=logits.device)  # (N,)
        return F.cross_entropy(logits[:, 0], outcomes, reduction="none")
    labels = [[torch.nan if x is None else x for x in row["labels"]] for row in rows]
    labels = common.pad(labels, torch.nan, torch.float32).to(logits.device)  # (B, P)
    known = ~labels.isnan()
    scores, labels = logits.squeeze(-1)[known], labels[known]  # (N,), (N,)
    if objective == "classification":
        return F.binary_cross_entropy_with_logits(scores, (labels + 1) / 2, reduction="none")
    return (scores - labels).square()


@torch.no_grad()
def logits_of_all(model, config: Config, examples: list[dict], table) -> list[torch.Tensor]:
    """Logits (P, C) of each example. Every process scores all of them, so that sharded models step
    together."""
    logits = [None] * len(examples)
    lengths = [len(row["text_ids"]) for row in examples]
    padded = [common.example_length(row) for row in examples]
    for micro in common.micro_batches(lengths, config, padded):
        rows = [examples[i] for i in micro]
        read = common.logits_at(model, rows, table, config.score_pooling).cpu()  # (B, P, C)
        for i, row in zip(micro, read, strict=True):
            logits[i] = row
    return logits


def evaluate(model, config: Config, examples: list[dict], table) -> dict:
    """Report on held-out examples (common/reports.py), by the scores of common.scores_of."""
    logits = logits_of_all(model, config, examples, table)
    activation = model.config.score_activation
    scores = [common.scores_of_logits(row, activation) for row in logits]  # each (P,)
    if config.objective in LINE_WISE:
        terms = [
            loss_terms(config.objective, row_logits[None, : len(row["labels"])], [row])
            for row_logits, row in zip(logits, examples, strict=True)
        ]
        report = common.line_report(examples, [row.tolist() for row in scores])
        return {"eval_loss": float(torch.cat(terms).mean()), **report}
    logits, scores = torch.stack(logits), torch.cat(scores)  # (N, 1, C), (N,)
    if config.objective == "outcome":
        loss = float(loss_terms("outcome", logits, examples).mean())
        outcomes = torch.tensor([row["outcome"] for row in examples])
        num_lines = [len(row["text"].splitlines()) for row in examples]
        report = common.outcome_report(logits[:, 0], scores, outcomes, num_lines)
        return {"eval_loss": loss, **report}
    groups = units_of(config, [row | {"index": i} for i, row in enumerate(examples)])
    pairs = [(a, b) for preferred, rejected in groups for a in preferred for b in rejected]
    preferred, rejected = ([row["index"] for row in column] for column in zip(*pairs, strict=True))
    rows = [examples[i] for i in preferred + rejected]
    loss = float(loss_terms(config.objective, logits[preferred + rejected], rows).mean())
    margins = (logits[preferred] - logits[rejected]).flatten()  # (pairs,)
    kinds = [a.get("kind") for a, _ in pairs]
    dimensions = [a.get("meta", {}).get("dimension") for a, _ in pairs]
    is_preferred = torch.tensor([row["preferred"] for row in examples])
    return {
        "eval_loss": loss,
        **common.pair_report(margins, kinds, dimensions),
        "eval_auc": common.auc(scores, is_preferred),
        "histogram": common.histogram(scores, is_preferred),
    }


def head_bias(model) -> torch.nn.Parameter:
    """The bias of the head; InputError for a head without one."""
    bias = common.head_of(model).bias
    if bias is None:
        raise InputError("--objective ranking needs a model whose head has a bias")
    return bias


@torch.no_grad()
def centre(model, config: Config, units: list[tuple[list[dict], ...]], table) -> None:
    """Shifts the head's bias by -(m + n) / 2, where m is the mean logit of the preferred texts and
    n the mean logit of the rejected texts; the mean of m and n becomes 0. Of more than 2,000
    groups (units), 2,000 drawn at random give m and n."""
    if len(units) > 2000:
        units = random.Random(common.seed_of(config.seed, "centre")).sample(units, 2000)
    means = []
    for column in (0, 1):
        texts = [row for unit in units for row in unit[column]]
        logits = torch.stack(logits_of_all(model, config, texts, table))  # (N, 1, 1)
        means.append(logits.mean().item())
    common.reshard(model)
    head_bias(model).sub_(sum(means) / 2)


def load_model(config: Config, start, examples: list[dict]) -> tuple:
    """The model to train and its tokenizer, from a folder or hub name, or new ones ("micro")."""
    num_labels = len(OUTCOMES) if config.objective == "outcome" else 1
    if start == "micro":
        texts = [x for row in examples for x in (row["prompt"].rstrip("\n") + "\n", row["text"])]
        tokenizer = common.new_tokenizer(texts, config.vocab_size)
        size = config.hidden_size, config.num_hidden_layers
        model = common.new_model(tokenizer, *size, config.seed, num_labels)
    else:
        tokenizer = common.load_tokenizer(start)
        model = common.load_scorer(start, num_labels, run_config=config)
    model.config.score_activation = {
        "classification": "sigmoid_signed",
        "outcome": "expected_outcome",
        "ranking": "sigmoid_signed" if "status" in examples[0] else "none",
    }.get(config.objective, "none")
    model.config.score_pooling = config.score_pooling
    whole = "orm" if "status" in examples[0] else "reasoning_rm"
    model.config.reward_model_kind = "prm" if config.objective in LINE_WISE else whole
    is_chat = common.prompt_format_of(config).is_chat(tokenizer)
    model.config.prompt_format = "chat" if is_chat else "plain"  # what reads scores prompts alike
    model.config.system_prompt = config.system_prompt
    if config.objective == "outcome":
        model.config.id2label = dict(enumerate(OUTCOMES))
        model.config.label2id = {name: number for number, name in enumerate(OUTCOMES)}
    if config.objective == "ranking":
        head_bias(model)
    return common.shard(model.train(), config, trained=True), tokenizer


def main(config: Config) -> None:
    examples = common.read_examples(config)
    pairs = config.objective in PAIRED and "status" not in examples[0]
    if config.score_pooling == "lines" and not pairs:
        raise InputError("--score_pooling lines is for pairs.jsonl, --objective ranking or score")
    if config.model_name_or_path != "micro":
        common.check_model("backbone", config.model_name_or_path, config.max_length)
    common.check_batch(config.train_batch_size)
    checkpoint = common.open_run(config)
    model, tokenizer = load_model(config, checkpoint or config.model_name_or_path, examples)
    optimizer = common.adamw(model, config.weight_decay)
    models, optimizers = {"reward_model": model}, {"reward_model": optimizer}
    first_step = common.load_optimizers(checkpoint, models, optimizers) if checkpoint else 0

    common.encode_examples(tokenizer, examples, common.prompt_format_of(model.config))
    table = None  # scores are read at the last token; with a line table at the lines' ends
    if config.objective in LINE_WISE or config.score_pooling == "lines":
        table = common.line_table(tokenizer)
    if config.objective in LINE_WISE:
        common.check_lines_have_tokens(config.data, examples, table)
        common.cut_changed_programs(examples, table)
    held_out_tasks = common.held_out_tasks(examples, config.eval_fraction, config.seed)
    fits = [row for row in examples if common.example_length(row) <= config.max_length]
    train = units_of(config, [row for row in fits if row["task_id"] not in held_out_tasks])
    held_out = units_of(config, [row for row in fits if row["task_id"] in held_out_tasks])
    kind = "groups with a preferred and a rejected text" if config.objective in PAIRED else "rows"
    counts = f"{len(train)} {kind} to train on"
    if not train or not held_out:
        raise InputError(f"{config.data}: {counts} and {len(held_out)} held out; both are needed")
    held_out_examples = [row for unit in held_out for column in unit for row in column]
    if common.rank() == 0:
        too_long = len(examples) - len(fits)
        print(f"{counts}, {len(held_out)} held out, {too_long} texts left out as too long")

    common.begin_run(config, checkpoint)
    bar = common.progress_bar("train_prm", config.max_steps, first_step)
    for step in range(first_step, config.max_steps):
        started = time.perf_counter()
        peak, schedule = config.learning_rate, config.lr_scheduler_type
        lr = common.lr_at(step, peak, config.warmup_steps, config.max_steps, schedule)
        common.set_lr(optimizer, lr)
        size, seed = config.train_batch_size, config.seed
        drawn = common.draw(len(train), size, step, seed, "reward model rows")
        drawn = [draw_unit(train[i], seed, step, index) for index, i in enumerate(drawn)]
        batch = common.my_share(drawn)  # of (example,) or (preferred, rejected)
        # A text or a pair is one term.
        labels = [unit[0]["labels"] if config.objective in LINE_WISE else [1] for unit in batch]
        (num_terms,) = common.all_sum(sum(x is not None for row in labels for x in row))

        # A loss is a sum over terms, divided by the terms of all processes. FSDP averages
        # gradients: times world_size is their sum.
        loss_sum, lengths = 0.0, [sum(map(common.example_length, unit)) for unit in batch]
        padded = [len(unit) * max(map(common.example_length, unit)) for unit in batch]
        for micro in common.micro_batches(lengths, config, padded):
            columns = zip(*(batch[i] for i in micro), strict=True)
            rows = [row for column in columns for row in column]
            logits = common.logits_at(model, rows, table, config.score_pooling)
            loss = loss_terms(config.objective, logits, rows).sum() / num_terms
            (loss * common.world_size()).backward()
            loss_sum += loss.item()
        grad_norm = common.take_step(model, optimizer, config.max_grad_norm)

        (loss,) = common.all_sum(loss_sum)
        row = {"step": step + 1, "loss": loss, "grad_norm": grad_norm, "learning_rate": lr}
        last = step + 1 == config.max_steps
        if last and config.objective == "ranking":
            centre(model, config, train, table)
        if last or (step + 1) % config.eval_steps == 0:
            report = evaluate(model, config, held_out_examples, table)
            row |= {k: value for k, value in report.items() if not isinstance(value, dict | list)}
        row["step_time"] = time.perf_counter() - started
        common.log_row(config, bar, row, loss=f"{loss:.3f}")
        if (step + 1) % config.save_steps == 0 and not last:
            common.save_checkpoint(config, step + 1, models, optimizers, tokenizer)
    bar.close()
    if common.rank() == 0:
        common.print_report(report)
        text = json.dumps(report, indent=2, allow_nan=False)
        common.write_text(f"{config.output_dir}/report.json", text + "\n")
    common.save_model(model, tokenizer, config.output_dir)


if __name__ == "__main__":
    common.run(main, Config)
