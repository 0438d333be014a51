"""Reward models: a token classifier with one output, read where the reward is given.

--objective regression   the line PRM of PRLCoder and PSGPO: prm.jsonl; score read at the last token of each line,
                         mean over labelled lines of (score - label)^2 (PSGPO, section on PRM training). PRLCoder does
                         not publish its loss; labels +1 and -1 with a squared loss stand in for its two classes.
--objective ranking      the reasoning reward model of ReCode: pairs.jsonl; score read at the last token of the text,
                         Bradley-Terry loss -log sigmoid(score(chosen) - score(rejected)) (ReCode, reward model training).

A held-out share of the tasks (never of the rows: rows of one task share lines) is scored at the end and while
training. For the PRM: accuracy of the sign and area under the ROC curve, over all labelled lines and over the changed
lines alone, next to the majority baseline.

    python train_prm.py --data prm.jsonl --model_name_or_path runs/sft --objective regression --output_dir runs/prm
    torchrun --standalone --nproc_per_node=2 train_prm.py --data prm.jsonl --model_name_or_path runs/sft --output_dir runs/prm
"""

import json
import time
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

import common
from common import InputError
from kernels import masking


@dataclass
class Config:
    data: str  # prm.jsonl (regression) or pairs.jsonl (ranking)
    output_dir: str  # run folder; a run that was cut off goes on from its last checkpoint
    model_name_or_path: str = (
        "micro"  # policy to start from (new head at zero); "micro": a new tiny model and tokenizer
    )
    objective: Literal["regression", "ranking"] = "regression"
    vocab_size: int = 768  # micro: size of the new tokenizer
    hidden_size: int = 128  # micro: width of the new model
    num_hidden_layers: int = 3  # micro: depth of the new model
    max_length: int = 1024  # longer rows (prompt and text, in tokens) are left out and counted
    eval_fraction: float = 0.1  # share of tasks held out
    eval_steps: int = 100  # optimiser steps between evaluations
    max_steps: int = 600  # optimiser steps
    train_batch_size: int = 64  # rows (or pairs) an optimiser step, over all processes
    per_device_train_batch_size: int = 32  # rows (or pairs) a forward pass; changes memory and speed, not the result
    learning_rate: float = 5e-4  # peak; 2e-3 unlearned the tiny policy first; for a pretrained model 1e-5 is usual
    warmup_steps: int = 40
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "cosine"
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    save_steps: int = 100  # optimiser steps between checkpoints
    save_total_limit: int = 1  # how many checkpoints stay
    seed: int = 0


def check_prm_row(row: dict) -> None:
    """Raises ValueError where lines and labels of a prm.jsonl row do not fit together."""
    lines, labels = row["completions"], row["labels"]
    if len(lines) != len(labels):
        raise ValueError(f"field 'labels' has {len(labels)} labels for the {len(lines)} lines of field 'completions'")
    for index, line in enumerate(lines):
        ends = isinstance(line, str) and line.endswith("\n")
        if not isinstance(line, str) or "\n" in line[:-1] or not line or (not ends and index < len(lines) - 1):
            raise ValueError(f"field 'completions': item {index} must be one line of text with its newline")
        if not (
            labels[index] is None or (isinstance(labels[index], int | float) and not isinstance(labels[index], bool))
        ):
            raise ValueError(f"field 'labels': item {index} must be a number or null")
    if all(label is None for label in labels):
        raise ValueError("field 'labels' has no label: every line is null")


def read_rows(config: Config) -> list[dict]:
    fields = {**common.PROMPT_FIELDS, "completions": list, "labels": list}
    if config.objective == "ranking":
        return common.read_jsonl(config.data, {**common.PROMPT_FIELDS, "chosen": str, "rejected": str})
    return common.read_jsonl(config.data, fields, check_prm_row)


def texts_of(row: dict) -> list[str]:
    return [row["chosen"], row["rejected"]] if "chosen" in row else ["".join(row["completions"])]


def score_lines(model, prompts: list[list[int]], texts: list[list[int]], num_lines: int, table) -> torch.Tensor:
    """Scores (B, num_lines) at the last token of each line; an entry with no such line is undefined (see the labels)."""
    ids, mask = common.pad_pairs(prompts, texts)  # (B, L), (B, L)
    ends = masking.line_end_positions(ids, mask, table, num_lines)  # (B, num_lines)
    scores = model(input_ids=ids).logits.squeeze(-1).float()  # (B, L)
    return scores.gather(1, ends.clamp(min=0))


def score_last(model, prompts: list[list[int]], texts: list[list[int]]) -> torch.Tensor:
    """Scores (B,) at the last token of each row."""
    rows = [p + t for p, t in zip(prompts, texts, strict=True)]
    scores = model(input_ids=common.pad(rows)).logits.squeeze(-1).float()  # (B, L)
    return scores.gather(1, torch.tensor([[len(row) - 1] for row in rows], device=scores.device)).squeeze(1)


def auc(scores: torch.Tensor, positive: torch.Tensor) -> float:
    """Area under the ROC curve: P(score of a positive > of a negative), ties half (Mann-Whitney). NaN for one class."""
    _, inverse, counts = scores.double().unique(return_inverse=True, return_counts=True)
    mean_rank = (counts.cumsum(0) - (counts - 1) / 2)[inverse]  # ranks from 1, the mean rank among equal scores
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        return float("nan")
    return float((mean_rank[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def evaluate_lines(scores: torch.Tensor, labels: torch.Tensor, changed: torch.Tensor) -> dict:
    """Report over labelled held-out lines, each argument (N,): squared error, accuracy, AUC, the majority's accuracy."""
    report = {"eval_loss": float((scores - labels).square().mean())}
    for name, chosen in (("", torch.ones_like(changed)), ("changed_", changed)):
        positive = labels[chosen] > 0
        right = (scores[chosen] > 0) == positive
        share = positive.double().mean().item() if len(positive) else float("nan")
        report |= {
            f"eval_{name}lines": len(positive),
            f"eval_{name}accuracy": right.double().mean().item() if len(positive) else float("nan"),
            f"eval_{name}majority": max(share, 1 - share),
            f"eval_{name}auc": auc(scores[chosen], positive),
        }
    return report


def check_lines_have_tokens(config: Config, rows: list[dict], encoded: list[tuple], table) -> None:
    """Raises InputError where a labelled line ends in no token: the tokenizer does not keep newlines."""
    for start in range(0, len(rows), 256):
        texts = [encoded[i][1] for i in range(start, min(start + 256, len(rows)))]
        mask = common.pad([[1] * len(text) for text in texts]).bool()
        width = max(len(row["labels"]) for row in rows[start : start + 256])
        ends = masking.line_end_positions(common.pad(texts), mask, table, width).tolist()
        for number, (row, places) in enumerate(zip(rows[start : start + 256], ends, strict=True), start + 1):
            for line, (label, place) in enumerate(zip(row["labels"], places, strict=False)):
                if label is not None and place < 0:
                    raise InputError(f"{config.data}:{number}: line {line} of field 'completions' ends in no token; "
                                     "does this tokenizer keep newlines?")  # fmt: skip


@torch.no_grad()
def evaluate(model, config: Config, rows: list[dict], encoded: list[tuple], table) -> dict:
    """Held-out report; every process scores all rows, so that sharded models step together."""
    outputs, labels, changed = [], [], []
    order = sorted(range(len(rows)), key=lambda i: len(encoded[i][1]))
    for start in range(0, len(order), config.per_device_train_batch_size):
        micro = order[start : start + config.per_device_train_batch_size]
        prompts = [encoded[i][0] for i in micro]
        if config.objective == "ranking":
            margin = score_last(model, prompts, [encoded[i][1] for i in micro])
            margin = margin - score_last(model, prompts, [encoded[i][2] for i in micro])
            outputs += margin.tolist()
            continue
        width = max(len(rows[i]["labels"]) for i in micro)
        scores = score_lines(model, prompts, [encoded[i][1] for i in micro], width, table).tolist()
        for i, row_scores in zip(micro, scores, strict=True):
            for index, label in enumerate(rows[i]["labels"]):
                if label is not None:
                    outputs.append(row_scores[index])
                    labels.append(float(label))
                    changed.append(index in rows[i].get("meta", {}).get("changed", []))
    outputs = torch.tensor(outputs)
    if config.objective == "ranking":
        return {
            "eval_loss": float(-F.logsigmoid(outputs).mean()),
            "eval_pairs": len(outputs),
            "eval_accuracy": float((outputs > 0).double().mean()),
        }
    return evaluate_lines(outputs, torch.tensor(labels), torch.tensor(changed, dtype=torch.bool))


def main(config: Config) -> None:
    rows = read_rows(config)
    common.check_model_folder(config.model_name_or_path)
    checkpoint = common.open_run(config)
    source = checkpoint or config.model_name_or_path
    if source == "micro":
        corpus = [text for row in rows for text in (row["prompt"].rstrip("\n") + "\n", *texts_of(row))]
        tokenizer = common.new_tokenizer(corpus, config.vocab_size)
        model = common.new_model(tokenizer, config.hidden_size, config.num_hidden_layers, config.seed, num_labels=1)
    else:
        tokenizer = common.load_tokenizer(source)
        model = common.load_scorer(source)
    model = common.shard(model.train())
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=config.weight_decay)
    first_step = common.load_optimizers(checkpoint, {"": model}, {"": optimizer}) if checkpoint else 0
    table = masking.line_table(tokenizer).to(common.device())

    encoded = []  # (prompt ids, text ids) or, for pairs, (prompt ids, chosen ids, rejected ids)
    for row in rows:
        texts = [tokenizer(text, add_special_tokens=False).input_ids for text in texts_of(row)]
        encoded.append((common.encode_prompt(tokenizer, row), *texts))
    if config.objective == "regression":
        check_lines_have_tokens(config, rows, encoded, table)
    held_out_tasks = {
        name for name in {row["task_id"] for row in rows}
        if common.seed_of(config.seed, "held-out", name) % 10_000 < 10_000 * config.eval_fraction
    }  # fmt: skip
    fits = [i for i in range(len(rows)) if len(encoded[i][0]) + max(map(len, encoded[i][1:])) <= config.max_length]
    train = [i for i in fits if rows[i]["task_id"] not in held_out_tasks]
    held_out = [i for i in fits if rows[i]["task_id"] in held_out_tasks]
    if not train or not held_out:
        raise InputError(f"{config.data}: {len(train)} rows to train on and {len(held_out)} held out; both are needed")
    eval_rows, eval_encoded = [rows[i] for i in held_out], [encoded[i] for i in held_out]
    if common.rank() == 0:
        print(f"{len(train)} rows to train on, {len(held_out)} held out, {len(rows) - len(fits)} left out as too long")

    bar = common.progress_bar("train_prm", config.max_steps, first_step)
    for step in range(first_step, config.max_steps):
        started = time.perf_counter()
        lr = common.lr_at(step, config.learning_rate, config.warmup_steps, config.max_steps, config.lr_scheduler_type)
        for group in optimizer.param_groups:
            group["lr"] = lr
        drawn = common.draw(len(train), config.train_batch_size, step, config.seed, "reward model rows")
        batch = common.my_share([train[i] for i in drawn])
        batch.sort(key=lambda i: sum(map(len, encoded[i])))  # rows of like length share a forward pass
        counts = [1 if config.objective == "ranking" else sum(x is not None for x in rows[i]["labels"]) for i in batch]
        (num_terms,) = common.all_sum(sum(counts))

        loss_sum = 0.0
        for start in range(0, len(batch), config.per_device_train_batch_size):
            micro = batch[start : start + config.per_device_train_batch_size]
            prompts = [encoded[i][0] for i in micro]
            if config.objective == "ranking":
                both = score_last(model, prompts * 2, [encoded[i][1] for i in micro] + [encoded[i][2] for i in micro])
                chosen, rejected = both.chunk(2)  # (B,), (B,)
                loss = -F.logsigmoid(chosen - rejected).sum() / num_terms
            else:
                labels = common.pad([[float("nan") if x is None else x for x in rows[i]["labels"]] for i in micro],
                                    value=float("nan"), dtype=torch.float32)  # (B, lines)  # fmt: skip
                scores = score_lines(model, prompts, [encoded[i][1] for i in micro], labels.shape[1], table)
                known = ~labels.isnan()
                loss = (scores[known] - labels[known]).square().sum() / num_terms
            (loss * common.world_size()).backward()  # FSDP averages gradients over processes; this makes it a sum
            loss_sum += loss.item()
        grad_norm = common.clip_gradients(model, config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()

        (loss,) = common.all_sum(loss_sum)
        metrics = {"step": step + 1, "loss": loss, "grad_norm": grad_norm, "learning_rate": lr}
        if (step + 1) % config.eval_steps == 0 or step + 1 == config.max_steps:
            report = evaluate(model, config, eval_rows, eval_encoded, table)
            metrics |= report
        if common.rank() == 0:
            metrics["step_time"] = time.perf_counter() - started
            common.append_jsonl(f"{config.output_dir}/metrics.jsonl", [metrics])
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()
        if (step + 1) % config.save_steps == 0 and step + 1 < config.max_steps:
            common.save_checkpoint(
                config.output_dir, step + 1, {"": model}, {"": optimizer}, tokenizer, config.save_total_limit
            )
    bar.close()
    if common.rank() == 0:
        text = json.dumps(common.without_nan(report), indent=2)
        print(text)
        common.write_text(f"{config.output_dir}/report.json", text + "\n")
    common.save_model(model, tokenizer, config.output_dir)


if __name__ == "__main__":
    common.run(main, Config)
