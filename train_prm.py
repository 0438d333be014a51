"""Reward models: a token classifier, read where the reward is given.

--objective regression      prm.jsonl. The line PRM of PSGPO: score at the last token of each line, mean over labelled
                            lines of (score - label)^2.
--objective classification  prm.jsonl. The line PRM in two classes: binary cross-entropy of the logit at the last token of
                            each line with (label + 1) / 2; labels in [-1, 1]. PRLCoder has two classes, but does not
                            publish its loss; the score 2 sigmoid(logit) - 1 stands in for its reward.
--objective outcome         outcome rows. The outcome reward model (ORM) of CodeRL's critic: four classes (syntax error,
                            runtime error, failed test, passed) at the last token, cross-entropy; the score is the
                            expected reward sum_c p_c r_c, r = -1, -0.6, -0.3, 1. PRLCoder compares with two ORMs that it
                            does not describe; this one and the ranking ORM stand in.
--objective ranking         Bradley-Terry, -log sigmoid(score(preferred) - score(rejected)), at the last token.
                            pairs.jsonl: the reasoning reward model of ReCode; its score is the logit.
                            Outcome rows, known by the field `status` of the first row: the ranking ORM. Each step pairs
                            passing with failing programs of one task; its score is 2 sigmoid(logit) - 1.
                            The loss leaves the scores' offset free: at the end the head's bias is shifted so that the
                            mean over the preferred and the rejected training texts is 0.
--objective score           pairs.jsonl. The baseline that ReCode compares ranking with, regression on a rating of each
                            reasoning alone: (score - rating)^2 at the last token, mean over the two texts of each pair.
                            The ratings are `chosen_rating` and `rejected_rating` in [0, 1], in all rows or in none; a
                            file without them rates chosen texts 1 and rejected ones 0. ReCode's ratings are a language
                            model's. The score is the logit; grpo.py --process_map clip takes it as it is.

Outcome rows have task_id, prompt, completion and status, a verdict's: what make_prm_data.py --outcomes_file and eval.py
(verdicts.jsonl) write. The ORM reads the completion with its EOS, as in reinforcement learning; a completion that was
cut off (`terminated` false) has none. How scores follow from logits is kept in config.score_activation and read by
common.scores_of.

A held-out share of the tasks (never of the rows: rows of one task share lines) is scored while training and at the
end: report.json, see metrics.py.

    python train_prm.py --data prm.jsonl --model_name_or_path runs/sft --objective regression --output_dir runs/prm
    python train_prm.py --data outcomes.jsonl --model_name_or_path runs/sft --objective outcome --output_dir runs/orm
    python train_prm.py --data pairs.jsonl --model_name_or_path runs/sft --objective score --output_dir runs/rm-score
    torchrun --standalone --nproc_per_node=2 train_prm.py --data prm.jsonl --model_name_or_path runs/sft --output_dir runs/prm
"""

import json
import random
import time
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

import common
import metrics
import sandbox
from common import InputError
from kernels import masking

OUTCOMES = list(common.OUTCOME_REWARDS)
PAIRED = ("ranking", "score")  # objectives whose steps draw pairs of texts


@dataclass
class Config:
    data: str  # prm.jsonl, pairs.jsonl or outcome rows, see --objective
    output_dir: str  # run folder; a run that was cut off goes on from its last checkpoint
    model_name_or_path: str = (
        "micro"  # policy to start from (new head at zero); "micro": a new tiny model and tokenizer
    )
    objective: Literal["regression", "classification", "outcome", "ranking", "score"] = "regression"
    score_pooling: Literal["last", "lines"] = (
        "last"  # pairs.jsonl: the score at a text's last token, or the mean over
    )
    # those at its lines' ends, where a model that has learned labelled lines knows most
    vocab_size: int = 768  # micro: size of the new tokenizer
    hidden_size: int = 128  # micro: width of the new model
    num_hidden_layers: int = 3  # micro: depth of the new model
    max_length: int = 1024  # longer rows (prompt and text, in tokens) are left out and counted
    eval_fraction: float = 0.1  # share of tasks held out
    eval_steps: int = 100  # optimiser steps between evaluations
    max_steps: int = 600  # optimiser steps
    train_batch_size: int = 64  # rows (or pairs) an optimiser step, over all processes
    per_device_train_batch_size: int = (
        32  # rows (or pairs) a forward pass; changes memory and speed, not the result
    )
    learning_rate: float = (
        5e-4  # peak; 2e-3 unlearned the tiny policy first; for a pretrained model 1e-5 is usual
    )
    warmup_steps: int = 40
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "cosine"
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    save_steps: int = 100  # optimiser steps between checkpoints
    save_total_limit: int = 1  # how many checkpoints stay
    seed: int = 0


def check_classification_row(row: dict) -> None:
    metrics.check_prm_row(row)
    for index, label in enumerate(row["labels"]):
        if label is not None and not -1 <= label <= 1:
            raise ValueError(
                f"field 'labels': item {index} must lie in [-1, 1] for --objective classification"
            )


def check_outcome_row(row: dict) -> None:
    if row["status"] not in sandbox.OUTCOMES:
        raise ValueError(
            f"field 'status' must be one of {', '.join(sandbox.OUTCOMES)}, got {row['status']!r}"
        )
    if not isinstance(row.get("terminated", True), bool):
        raise ValueError("field 'terminated' must be true or false")


def check_rated_row(row: dict) -> None:
    for field in ("chosen_rating", "rejected_rating"):
        rating = row.get(field)
        if not isinstance(rating, int | float) or isinstance(rating, bool) or not 0 <= rating <= 1:
            raise ValueError(
                f"field {field!r} must be a number in [0, 1], as other rows have ratings"
            )


def read_pairs(config: Config) -> list[dict]:
    """The two texts of each row of pairs.jsonl, a group of its own; with a `rating` for --objective score."""
    rows = common.read_jsonl(config.data, {**common.PROMPT_FIELDS, "chosen": str, "rejected": str})
    rated = config.objective == "score" and any(
        "chosen_rating" in row or "rejected_rating" in row for row in rows
    )
    if rated:
        rows = common.read_jsonl(config.data, common.PROMPT_FIELDS, check_rated_row)
    return [
        row | {"text": row[side], "eos": False, "group": number, "preferred": side == "chosen",
               "rating": float(row[f"{side}_rating"] if rated else side == "chosen")}
        for number, row in enumerate(rows) for side in ("chosen", "rejected")
    ]  # fmt: skip


def read_examples(config: Config) -> list[dict]:
    """One example a text: the fields of its row, `text`, `eos` (an EOS follows it), and what the objective needs.

    That is `labels`, one a line; `outcome`, an index of OUTCOMES; or, for ranking and score, `group` and `preferred`
    (bool): any preferred text of a group makes a pair with any other. Outcome rows without a verdict are left out.
    """
    if config.objective in ("regression", "classification"):
        check = (
            metrics.check_prm_row if config.objective == "regression" else check_classification_row
        )
        rows = common.read_jsonl(config.data, metrics.PRM_FIELDS, check)
        return [row | {"text": "".join(row["completions"]), "eos": False} for row in rows]
    if config.objective == "score":
        return read_pairs(config)
    if (
        config.objective == "ranking"
        and "status" not in common.read_jsonl(config.data, common.PROMPT_FIELDS)[0]
    ):
        return read_pairs(config)
    fields = {**common.PROMPT_FIELDS, "completion": str, "status": str}
    rows = common.read_jsonl(config.data, fields, check_outcome_row)
    examples = [
        row | {"text": row["completion"], "eos": row.get("terminated", True), "group": row["task_id"],
               "outcome": OUTCOMES.index(outcome), "preferred": outcome == "passed"}
        for row in rows if (outcome := sandbox.outcome(row["status"])) is not None
    ]  # fmt: skip
    if not examples:
        raise InputError(f"{config.data}: no row has a verdict")
    return examples


def encode(tokenizer, examples: list[dict]) -> None:
    """Adds to each example its token ids: `prompt_ids` and `text_ids`."""
    for row in examples:
        row["prompt_ids"] = common.encode_prompt(tokenizer, row)
        plain = tokenizer(row["text"], add_special_tokens=False).input_ids
        row["text_ids"] = [*plain, tokenizer.eos_token_id] if row["eos"] else plain


def length_of(row: dict) -> int:
    return len(row["prompt_ids"]) + len(row["text_ids"])


def units_of(config: Config, examples: list[dict]) -> list[tuple[list[dict], ...]]:
    """What a step draws: examples, or, for ranking and score, groups as (preferred examples, rejected examples)."""
    if config.objective not in PAIRED:
        return [([row],) for row in examples]
    groups = {}
    for row in examples:
        groups.setdefault(row["group"], ([], []))[0 if row["preferred"] else 1].append(row)
    return [group for group in groups.values() if all(group)]


def draw_unit(unit: tuple[list[dict], ...], seed: int, step: int, place: int) -> tuple[dict, ...]:
    """One example of each of the unit's lists."""
    return tuple(
        column[common.seed_of(seed, "reward model texts", step, place, number) % len(column)]
        for number, column in enumerate(unit)
    )


def logits_at(model, rows: list[dict], table=None, score_pooling: str = "last") -> torch.Tensor:
    """Logits (B, P, C) at the last token of each text (P = 1), or, given the line table, of each line (P lines; the entry
    of a line that the row does not have is undefined), or the mean over the lines (P = 1, score_pooling "lines")."""
    ids, mask = common.pad_pairs(
        [row["prompt_ids"] for row in rows], [row["text_ids"] for row in rows]
    )  # (B, L)
    if score_pooling == "lines":
        return masking.mean_over_lines(model(input_ids=ids).logits.float(), ids, mask, table)[
            :, None
        ]
    if table is None:
        places = torch.tensor([[length_of(row) - 1] for row in rows], device=ids.device)  # (B, 1)
    else:
        num_lines = max(len(row["labels"]) for row in rows)
        places = masking.line_end_positions(ids, mask, table, num_lines).clamp(min=0)  # (B, P)
    logits = model(input_ids=ids).logits.float()  # (B, L, C)
    return logits.gather(1, places[..., None].expand(-1, -1, logits.shape[2]))


def loss_terms(objective: str, logits: torch.Tensor, rows: list[dict]) -> torch.Tensor:
    """The terms (N,) whose mean is the loss, one a labelled line, text or pair; logits (B, P, C) as logits_at gives.

    For ranking and score the rows are the preferred texts and then, in the same order, the rejected ones.
    """
    if objective == "ranking":
        preferred, rejected = logits[:, 0, 0].chunk(2)  # (N,), (N,)
        return -F.logsigmoid(preferred - rejected)
    if objective == "score":
        ratings = torch.tensor([row["rating"] for row in rows], device=logits.device)  # (2 N,)
        return torch.stack((logits[:, 0, 0] - ratings).square().chunk(2)).mean(0)
    if objective == "outcome":
        outcomes = torch.tensor([row["outcome"] for row in rows], device=logits.device)
        return F.cross_entropy(logits[:, 0], outcomes, reduction="none")
    labels = common.pad([[float("nan") if x is None else x for x in row["labels"]] for row in rows],
                        value=float("nan"), dtype=torch.float32)  # (B, P)  # fmt: skip
    known = ~labels.isnan()
    scores, labels = logits.squeeze(-1)[known], labels[known]  # (N,), (N,)
    if objective == "classification":
        return F.binary_cross_entropy_with_logits(scores, (labels + 1) / 2, reduction="none")
    return (scores - labels).square()


@torch.no_grad()
def logits_of_all(model, config: Config, examples: list[dict], table) -> list[torch.Tensor]:
    """Logits (P, C) of each example; every process scores all of them, so that sharded models step together."""
    logits = [None] * len(examples)
    order = sorted(range(len(examples)), key=lambda i: len(examples[i]["text_ids"]))
    for start in range(0, len(order), config.per_device_train_batch_size):
        micro = order[start : start + config.per_device_train_batch_size]
        for i, row in zip(
            micro,
            logits_at(model, [examples[i] for i in micro], table, config.score_pooling).cpu(),
            strict=True,
        ):
            logits[i] = row
    return logits


def evaluate(model, config: Config, examples: list[dict], table) -> dict:
    """Report on held-out examples; see metrics.py. Scores are what common.scores_of gives in reinforcement learning."""
    logits = logits_of_all(model, config, examples, table)
    scores = [
        common.scores_of_logits(x, model.config.score_activation) for x in logits
    ]  # each (P,)
    if config.objective in ("regression", "classification"):
        terms = [loss_terms(config.objective, x[None, : len(row["labels"])], [row])
                 for x, row in zip(logits, examples, strict=True)]  # fmt: skip
        report = metrics.line_report(examples, [x.tolist() for x in scores])
        return report | {"eval_loss": float(torch.cat(terms).mean())}
    logits, scores = torch.stack(logits), torch.cat(scores)  # (N, 1, C), (N,)
    if config.objective == "outcome":
        num_lines = [len(row["text"].splitlines()) for row in examples]
        outcomes = torch.tensor([row["outcome"] for row in examples])
        report = metrics.outcome_report(logits[:, 0], scores, outcomes, num_lines)
        return {"eval_loss": float(loss_terms("outcome", logits, examples).mean()), **report}
    groups = units_of(config, [row | {"number": number} for number, row in enumerate(examples)])
    pairs = [(a, b) for preferred, rejected in groups for a in preferred for b in rejected]
    first, second = [a["number"] for a, _ in pairs], [b["number"] for _, b in pairs]
    preferred = torch.tensor([row["preferred"] for row in examples])
    texts = [a for a, _ in pairs] + [b for _, b in pairs]
    kinds, dimensions = (
        [a.get("kind") for a, _ in pairs],
        [a.get("meta", {}).get("dimension") for a, _ in pairs],
    )
    return {
        "eval_loss": float(loss_terms(config.objective, logits[first + second], texts).mean()),
        **metrics.pair_report((logits[first] - logits[second]).flatten(), kinds, dimensions),
        "eval_auc": metrics.auc(scores, preferred),
        "histogram": metrics.histogram(scores, preferred),
    }


def head_bias(model) -> torch.nn.Parameter:
    """The bias of the head, in which the offset of a ranking model's scores is stored."""
    for name, parameter in model.named_parameters():
        if name in ("score.bias", "classifier.bias"):
            return parameter
    raise InputError("--objective ranking needs a model whose head has a bias")


@torch.no_grad()
def centre(model, config: Config, units: list[tuple[list[dict], ...]], table) -> None:
    """Shifts the head's bias so that the mean score of the preferred and of the rejected texts have the mean 0; 2,000
    groups, drawn at random where there are more, tell it well enough."""
    means = []
    if len(units) > 2000:
        units = random.Random(common.seed_of(config.seed, "centre")).sample(units, 2000)
    for column in (0, 1):
        texts = [row for unit in units for row in unit[column]]
        means.append(torch.stack(logits_of_all(model, config, texts, table)).mean().item())
    common.reshard(model)
    head_bias(model).sub_(sum(means) / 2)


def main(config: Config) -> None:
    examples = read_examples(config)
    if config.score_pooling == "lines" and (
        config.objective not in PAIRED or "status" in examples[0]
    ):
        raise InputError(
            "--score_pooling lines is for the texts of pairs.jsonl, --objective ranking or score"
        )
    common.check_model_folder(config.model_name_or_path)
    checkpoint = common.open_run(config)
    source = checkpoint or config.model_name_or_path
    num_labels = len(OUTCOMES) if config.objective == "outcome" else 1
    if source == "micro":
        corpus = [
            text for row in examples for text in (row["prompt"].rstrip("\n") + "\n", row["text"])
        ]
        tokenizer = common.new_tokenizer(corpus, config.vocab_size)
        model = common.new_model(
            tokenizer, config.hidden_size, config.num_hidden_layers, config.seed, num_labels
        )
    else:
        tokenizer = common.load_tokenizer(source)
        model = common.load_scorer(source, num_labels)
    model.config.score_activation = {
        "regression": "none",
        "classification": "sigmoid_signed",
        "outcome": "expected_outcome",
        "ranking": "sigmoid_signed"
        if "status" in examples[0]
        else "none",  # grpo.py takes the sigmoid itself
        "score": "none",
    }[config.objective]
    model.config.score_pooling = config.score_pooling
    if config.objective == "outcome":
        model.config.id2label = dict(enumerate(OUTCOMES))
        model.config.label2id = {name: number for number, name in enumerate(OUTCOMES)}
    if config.objective == "ranking":
        head_bias(model)
    model = common.shard(model.train())
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=config.weight_decay)
    first_step = (
        common.load_optimizers(checkpoint, {"": model}, {"": optimizer}) if checkpoint else 0
    )

    encode(tokenizer, examples)
    table = None  # where scores are read: at the last token, or, with the line table, at the lines' ends
    if config.objective in ("regression", "classification"):
        table = common.line_table(tokenizer)
        metrics.check_lines_have_tokens(
            config.data, examples, [row["text_ids"] for row in examples], table
        )
    elif config.score_pooling == "lines":
        table = common.line_table(tokenizer)
    held_out_tasks = {
        name for name in {row["task_id"] for row in examples}
        if common.seed_of(config.seed, "held-out", name) % 10_000 < 10_000 * config.eval_fraction
    }  # fmt: skip
    fits = [row for row in examples if length_of(row) <= config.max_length]
    train = units_of(config, [row for row in fits if row["task_id"] not in held_out_tasks])
    held_out = units_of(config, [row for row in fits if row["task_id"] in held_out_tasks])
    what = (
        "rows" if config.objective not in PAIRED else "groups with a preferred and a rejected text"
    )
    if not train or not held_out:
        raise InputError(
            f"{config.data}: {len(train)} {what} to train on and {len(held_out)} held out; both are needed"
        )
    eval_examples = [row for unit in held_out for column in unit for row in column]
    if common.rank() == 0:
        too_long = len(examples) - len(fits)
        print(
            f"{len(train)} {what} to train on, {len(held_out)} held out, {too_long} texts left out as too long"
        )

    bar = common.progress_bar("train_prm", config.max_steps, first_step)
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
        drawn = common.draw(
            len(train), config.train_batch_size, step, config.seed, "reward model rows"
        )
        drawn = [draw_unit(train[i], config.seed, step, place) for place, i in enumerate(drawn)]
        batch = common.my_share(drawn)  # of (example,) or (preferred, rejected)
        batch.sort(
            key=lambda unit: sum(map(length_of, unit))
        )  # rows of like length share a forward pass
        counts = [
            sum(label is not None for label in unit[0].get("labels", [1])) for unit in batch
        ]  # 1 a text or pair
        (num_terms,) = common.all_sum(sum(counts))

        loss_sum = 0.0
        for start in range(0, len(batch), config.per_device_train_batch_size):
            micro = batch[start : start + config.per_device_train_batch_size]
            rows = [row for column in zip(*micro, strict=True) for row in column]
            logits = logits_at(model, rows, table, config.score_pooling)
            loss = loss_terms(config.objective, logits, rows).sum() / num_terms
            (
                loss * common.world_size()
            ).backward()  # FSDP averages gradients over processes; this makes it a sum
            loss_sum += loss.item()
        grad_norm = common.clip_gradients(model, config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()

        (loss,) = common.all_sum(loss_sum)
        log = {"step": step + 1, "loss": loss, "grad_norm": grad_norm, "learning_rate": lr}
        if step + 1 == config.max_steps and config.objective == "ranking":
            centre(model, config, train, table)
        if (step + 1) % config.eval_steps == 0 or step + 1 == config.max_steps:
            report = evaluate(model, config, eval_examples, table)
            log |= {
                name: value for name, value in report.items() if not isinstance(value, dict | list)
            }
        if common.rank() == 0:
            log["step_time"] = time.perf_counter() - started
            common.append_jsonl(f"{config.output_dir}/metrics.jsonl", [log])
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()
        if (step + 1) % config.save_steps == 0 and step + 1 < config.max_steps:
            common.save_checkpoint(
                config.output_dir,
                step + 1,
                {"": model},
                {"": optimizer},
                tokenizer,
                config.save_total_limit,
            )
    bar.close()
    if common.rank() == 0:
        metrics.print_report(report)
        common.write_text(
            f"{config.output_dir}/report.json", json.dumps(report, indent=2, allow_nan=False) + "\n"
        )
    common.save_model(model, tokenizer, config.output_dir)


if __name__ == "__main__":
    common.run(main, Config)
