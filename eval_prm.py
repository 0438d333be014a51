"""Evaluation of reward models: a line PRM on labelled rows, or preferences between reasonings.

`--prm` evaluates a line reward model on the rows of a prm.jsonl (PRLCoder's Figure 4), with no
policy and no sandbox: common.line_report.

`--pairs` evaluates on pairs of reasonings, as LCB-RB does (ReCode): the share of pairs in which the
chosen text is preferred, over all pairs, by kind, by dimension and by operator. The 95 % intervals
are those of pass rates (common.pass_rate), a task's pairs in place of its samples.

    --reasoning_rm  A reasoning reward model prefers the text with the higher score; a tie is wrong.
    --judge         A language model is asked which text is sounder: ReCode's zero-shot baseline.
                    Its prompt is not published; JUDGE is ours. A judge may favour a position, so
                    each question is asked twice: the chosen text first, the rejected text first. A
                    pair counts 1, 0.5 or 0, by how many of the two answers name the chosen text. An
                    answer whose last line is not the verdict alone names no text. A pair without
                    both answers (the endpoint gave none) counts nowhere. The report has the counts
                    of both. judge.jsonl keeps each answer as it comes: an evaluation that was cut
                    off pays for no answer twice.

    python eval_prm.py --prm runs/prm --data prm.jsonl --output_dir runs/eval-prm
    python eval_prm.py --pairs pairs.jsonl --reasoning_rm runs/rm --output_dir runs/eval-rm
    python eval_prm.py --pairs pairs.jsonl --judge http://127.0.0.1:8000/v1 --judge_model NAME \\
        --max_completion_length 1024 --temperature 0 --output_dir runs/eval-judge
"""

import json
import math
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

import common
from common import InputError
from teachers import chat

JUDGE = """Here is a programming problem, and two reasonings that are meant to lead to its solution.

<problem>
{problem}
</problem>

<reasoning_a>
{a}
</reasoning_a>

<reasoning_b>
{b}
</reasoning_b>

Which of the two is the sounder reasoning: true in what it states, rigorous, coherent, and leading \
to a right solution?
You may compare them first. End with a line that holds your verdict alone, "Verdict: A" or \
"Verdict: B".
"""
VERDICT = re.compile(r"\W*verdict\W+([AB])\W*", re.IGNORECASE)


@dataclass
class Config:
    output_dir: str  # folder of the results; an evaluation that was cut off goes on
    prm: str | None = None  # a line reward model to evaluate ...
    data: str | None = None  # ... on these labelled rows, a prm.jsonl
    pairs: str | None = None  # or pairs of reasonings, on which to evaluate ...
    reasoning_rm: str | None = None  # ... this reasoning reward model,
    judge: str | None = None  # ... or this language model: URL of a chat endpoint, folder, hub name
    judge_model: str | None = None  # which model of the endpoint
    temperature: float = 1.0  # of the judge; 0: greedy
    max_completion_length: int = 128  # tokens of a judge's answer
    # auto: as the reward model's config.json says, or by the chat template, if there is one
    prompt_format: Literal["auto", "chat", "plain"] = "auto"
    batch_size: int = 64  # rows a forward pass; questions to the judge at a time
    seed: int = 0


def load_model(config: Config, path: str) -> tuple:
    """A reward model and its tokenizer; --prompt_format overrides the model's own format."""
    model = common.load_scorer(path).to(common.device()).eval()
    if config.prompt_format != "auto":
        model.config.update({"prompt_format": config.prompt_format, "system_prompt": None})
    return model, common.load_tokenizer(path)


@torch.no_grad()
def evaluate_prm(config: Config, rows: list[dict]) -> dict:
    """Report of a line reward model on labelled rows."""
    model, tokenizer = load_model(config, config.prm)
    if model.config.num_labels != 1:
        raise InputError(f"{config.prm}: an outcome reward model has no scores of lines")
    table = common.line_table(tokenizer)
    common.encode_examples(tokenizer, rows, common.prompt_format_of(model.config))
    common.check_lines_have_tokens(config.data, rows, table)
    activation = getattr(model.config, "score_activation", "none")
    lengths = [common.example_length(row) for row in rows]
    scores = [[] for _ in rows]
    bar = common.progress_bar("rows", len(rows))
    for micro in common.batches_by_length(lengths, config.batch_size):
        logits = common.logits_at(model, [rows[i] for i in micro], table)  # (B, lines, 1)
        line_scores = common.scores_of_logits(logits, activation).tolist()  # (B, lines)
        for i, row_scores in zip(micro, line_scores, strict=True):
            scores[i] = row_scores[: len(rows[i]["labels"])]
        bar.update(len(micro))
    bar.close()
    report = common.line_report(rows, scores)
    common.print_report(report)
    return report


def preferred_by_model(config: Config, rows: list[dict]) -> list[float]:
    """1 for each pair whose chosen text has the higher score, else 0."""
    model, tokenizer = load_model(config, config.reasoning_rm)
    chosen, rejected = (
        common.score_texts(model, tokenizer, rows, [row[side] for row in rows], config.batch_size)
        for side in ("chosen", "rejected")
    )
    return (chosen > rejected).float().tolist()


def verdict_of(answer: str) -> str | None:
    """The letter in the last line of a judge's answer; None without a verdict alone."""
    match = VERDICT.fullmatch((answer.strip().splitlines() or [""])[-1])
    return match and match.group(1).upper()


def preferred_by_judge(config: Config, rows: list[dict]) -> tuple[list[float], dict]:
    """1, 0.5 or 0 for each pair, NaN without both answers; and the counts of the answers."""
    teacher = chat.Teacher(
        config.judge,
        Path(config.output_dir) / "judge.jsonl",
        config.judge_model,
        config.temperature,
        config.max_completion_length,
        config.batch_size,
        seed=config.seed,
    )
    prompts = [
        JUDGE.format(problem=row["prompt"].strip(), a=row[first].strip(), b=row[second].strip())
        for row in rows
        for first, second in (("chosen", "rejected"), ("rejected", "chosen"))
    ]
    answers = teacher.ask(prompts, "judged")
    letters = [None if answer is None else verdict_of(answer) for answer in answers]
    preferred = []
    for i in range(0, len(answers), 2):  # the chosen text is A, then B
        both = None not in answers[i : i + 2]
        right = (letters[i] == "A") + (letters[i + 1] == "B")
        preferred.append(right / 2 if both else math.nan)
    missing, first, second = answers.count(None), letters.count("A"), letters.count("B")
    return preferred, {
        "answers": len(answers) - missing,
        "missing_answers": missing,
        "unparsable_answers": letters.count(None) - missing,
        "named_first": common.ratio(first, first + second),
    }


def evaluate_pairs(config: Config, rows: list[dict]) -> dict:
    """Report of a reasoning reward model or of a judge on pairs.jsonl: accuracies, intervals."""
    if config.judge is None:
        preferred, answers = preferred_by_model(config, rows), {}
    else:
        preferred, answers = preferred_by_judge(config, rows)

    def accuracy_of(numbers) -> dict:
        """Accuracy on the pairs of these numbers."""
        counts = defaultdict(lambda: [0, 0.0])  # [pairs, preferred] of a task
        for i in numbers:
            if not math.isnan(preferred[i]):
                counts[rows[i]["task_id"]][0] += 1
                counts[rows[i]["task_id"]][1] += preferred[i]
        accuracy, low, high = common.pass_rate(counts.values())
        pairs = sum(n for n, _ in counts.values())
        return common.null_for_nan({"pairs": pairs, "accuracy": accuracy, "low": low, "high": high})

    def print_row(name, value, row):
        interval = common.format_interval(row, "accuracy")
        print(f"{name:>10} {value:<16} {interval}  {row['pairs']} pairs")

    report = accuracy_of(range(len(rows))) | answers
    for name in ("kind", "dimension", "operator"):
        values = [str(row.get(name, row.get("meta", {}).get(name))) for row in rows]
        report[f"by_{name}"] = {}
        for value in sorted(set(values)):
            row = accuracy_of(i for i, own in enumerate(values) if own == value)
            report[f"by_{name}"][value] = row
            print_row(name, value, row)
    print_row("all", "", report)
    if answers:
        print(common.format_numbers(answers))
    return report


def main(config: Config) -> None:
    if common.world_size() > 1:
        raise InputError("eval_prm.py runs in one process")
    if (config.prm is None) == (config.pairs is None):
        raise InputError("give either --prm or --pairs")
    if config.prm is not None:
        if config.data is None:
            raise InputError("--prm needs --data, labelled rows")
        rows = common.read_labelled_lines(config.data)
    else:
        if (config.reasoning_rm is None) == (config.judge is None):
            raise InputError(
                "--pairs needs --reasoning_rm, a reasoning reward model, or --judge, a language "
                "model"
            )
        endpoint = config.judge is not None and config.judge.startswith(("http://", "https://"))
        if endpoint and not config.judge_model:
            raise InputError("--judge with an endpoint needs --judge_model, the name of a model")
        rows = common.read_jsonl(config.pairs, common.PAIR_FIELDS)
    for path in (config.prm, config.reasoning_rm, config.judge):
        common.check_model_folder(path)
    if common.open_run(config, complete="report.json") is not None:
        raise InputError(f"{config.output_dir}: holds checkpoints; choose another --output_dir")
    report = evaluate_pairs(config, rows) if config.pairs else evaluate_prm(config, rows)
    common.write_text(Path(config.output_dir) / "report.json", json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    common.run(main, Config)
