"""Evaluation of reward models: on labelled lines, on pairs of reasonings, as rankers of samples.

`--prm` and `--data` evaluate a line reward model on the rows of a prm.jsonl (PRLCoder's Figure 4),
with no policy and no sandbox: common.line_report.

`--pairs` evaluates on pairs of reasonings, as LCB-RB does (ReCode): the share of pairs in which the
chosen text is preferred, over all pairs, by kind, by dimension and by operator. The 95 % intervals
are those of pass rates (common.pass_rate), a task's pairs in place of its samples. Beside each
number stands what a linear model reaches that never sees the prompt (common.blind_preferences): a
reward model at that level need not have read the problem.

    --reasoning_rm  A reasoning reward model prefers the text with the higher score; a tie is wrong.
    --judge         A language model is asked which text is sounder: ReCode's zero-shot baseline.
                    Its prompt is not published; JUDGE is ours. A judge may favour a position, so
                    each question is asked twice: the chosen text first, the rejected text first. A
                    pair counts 1, 0.5 or 0, by how many of the two answers name the chosen text. An
                    answer whose last line is not the verdict alone names no text. A pair without
                    both answers (the endpoint gave none) counts nowhere. The report has the counts
                    of both. judge.jsonl keeps each answer as it comes: an evaluation that was cut
                    off pays for no answer twice.

`--samples` evaluates rankers of a task's samples (best of n): pass@1 of the sample that a ranker
chooses, beside a random choice (the mean) and an oracle (pass@n). Among equals one is drawn: the
chance that it passes counts. Samples without a verdict are left out.

    --prm           The scores of the program's lines, reduced to one: --reduce.
    --orm           The score after the completion's last token.
    --agreement     Programs with the same outputs on the tests' inputs form a cluster; the largest
                    is chosen (as AlphaCode, Li et al., 2022). No expected output is used.

    python eval_prm.py --prm runs/prm --data prm.jsonl --output_dir runs/eval-prm
    python eval_prm.py --samples runs/eval/verdicts.jsonl --tasks test.jsonl --prm runs/prm \\
        --orm runs/orm --agreement --output_dir runs/best-of-n
    python eval_prm.py --pairs pairs.jsonl --reasoning_rm runs/rm --output_dir runs/eval-rm
    python eval_prm.py --pairs pairs.jsonl --judge http://127.0.0.1:8000/v1 --judge_model NAME \\
        --max_completion_length 1024 --temperature 0 --output_dir runs/eval-judge
"""

import json
import math
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import common
import sandbox
from common import InputError, InputFile, NonNegativeFloat, OutputDir, PositiveFloat, PositiveInt
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
    output_dir: OutputDir  # of the results; an evaluation that was cut off goes on
    prm: str | None = None  # a line reward model to evaluate ...
    data: InputFile | None = None  # ... on these labelled rows, a prm.jsonl
    fence: bool = False  # their programs stand in a code fence, as in train_prm.py
    pairs: InputFile | None = None  # or pairs of reasonings, on which to evaluate ...
    reasoning_rm: str | None = None  # ... this reasoning reward model,
    judge: str | None = None  # ... or this language model: URL of a chat endpoint, folder, hub name
    samples: InputFile | None = None  # or a verdicts.jsonl of eval.py, to rank by --prm, or by ...
    tasks: InputFile | None = None  # (the samples' tasks.jsonl)
    orm: str | None = None  # ... this outcome reward model,
    agreement: bool = False  # ... or the agreement of outputs; several rankers make one table
    reduce: list[Literal["min", "mean", "last", "product"]] = field(  # of the scores of lines
        default_factory=lambda: ["min", "mean", "last", "product"]
    )
    n: PositiveInt | None = None  # samples a task, the first ones; none: all
    score_prose: bool = False  # lines around the program have scores too
    sandbox_workers: PositiveInt = 1  # processes that run programs
    sandbox_timeout: PositiveFloat = 3.0  # CPU seconds a program, where the task sets none
    packages: list[str] = field(default_factory=list)  # that programs may import, as numpy
    judge_model: str | None = None  # which model of the endpoint
    temperature: NonNegativeFloat = 1.0  # of the judge; 0: greedy
    max_completion_length: PositiveInt = 128  # tokens of a judge's answer
    # auto: as the reward model's config.json says, or by the chat template, if there is one
    prompt_format: Literal["auto", "chat", "plain"] = "auto"
    batch_size: PositiveInt = 64  # rows a forward pass; questions to the judge at a time
    max_tokens_per_forward: PositiveInt = 16384  # padded tokens a forward pass: memory and speed
    bf16: bool | None = None  # models in bfloat16; default: on CUDA
    seed: int = 0


def load_model(config: Config, path: str) -> tuple:
    """A reward model and its tokenizer; --prompt_format overrides the model's own format."""
    model = common.replicate(common.load_scorer(path, run_config=config).eval(), config)
    if config.prompt_format != "auto":
        model.config.update({"prompt_format": config.prompt_format, "system_prompt": None})
    return model, common.load_tokenizer(path)


def load_prm(config: Config) -> tuple:
    """A line reward model and its tokenizer."""
    model, tokenizer = load_model(config, config.prm)
    if model.config.num_labels != 1:
        raise InputError(f"{config.prm}: an outcome reward model has no scores of lines")
    common.check_line_tokens(config.prm, model, tokenizer)
    return model, tokenizer


def limits_of(config: Config, path: str) -> dict:
    """What a forward pass of the model from path may have: arguments of common.score_texts."""
    most = config.max_tokens_per_forward
    return {"batch_size": config.batch_size, "max_tokens": most, "path": path}


def evaluate_prm(config: Config, rows: list[dict]) -> dict:
    """Report of a line reward model on labelled rows."""
    texts, limits = [row["text"] for row in rows], limits_of(config, config.prm)
    scores = common.score_text_lines(*load_prm(config), rows, texts, title="rows", **limits)
    report = common.line_report(rows, scores)
    common.print_report(report)
    return report


def read_samples(config: Config, tasks: dict[str, dict]) -> list[dict]:
    """The first --n samples of each task, each with `text` and `program`."""

    def check(row):
        common.check_known_task(row, tasks)
        if not isinstance(row.get("completion", row.get("solution")), str):
            raise ValueError("field 'completion' or 'solution' must be str")

    counts, samples = defaultdict(int), []
    for row in common.read_jsonl(config.samples, {"task_id": str, "status": str}, check):
        counts[row["task_id"]] += 1
        if config.n is not None and counts[row["task_id"]] > config.n:
            continue
        task, program = tasks[row["task_id"]], row.get("solution")
        given = task.get("prefix", "")  # the prompt ends with it
        text = row["completion"] if "completion" in row else program.removeprefix(given)
        text = row.get("opening", "") + text  # what a chat template opened
        if program is None:
            program = common.extract_program(task, text)
        samples.append(row | {"text": text, "program": program})
    if max(counts.values()) < (config.n or 1):
        raise InputError(f"{config.samples}: no task has {config.n} samples (--n)")
    if all(row["status"] == "harness_error" for row in samples):
        raise InputError(f"{config.samples}: no sample has a verdict")
    return samples


def rank_samples(config: Config, tasks: dict[str, dict], samples: list[dict]) -> dict:
    """Report of rankers on the samples that have a verdict: common.best_of_n_report."""
    rankers, found = {}, len(samples)
    samples = [row for row in samples if row["status"] != "harness_error"]
    unjudged = found - len(samples)
    asked, texts = [tasks[row["task_id"]] for row in samples], [row["text"] for row in samples]
    if config.prm is not None:
        limits = limits_of(config, config.prm)
        lines = common.score_text_lines(*load_prm(config), asked, texts, title="prm", **limits)
        if not config.score_prose:
            programs = [row["program"] for row in samples]
            lines = common.of_program_lines(lines, programs, texts)
        for how in config.reduce:
            rankers[f"prm {how}"] = [common.reduce_lines(row, how) for row in lines]
    if config.orm is not None:
        model, tokenizer = load_model(config, config.orm)
        ended = [row.get("terminated", True) for row in samples]
        limits = limits_of(config, config.orm)
        scores = common.score_texts(model, tokenizer, asked, texts, ended=ended, **limits)
        rankers["orm"] = scores.tolist()
    if config.agreement:
        limits = {"workers": config.sandbox_workers, "timeout": config.sandbox_timeout}
        with sandbox.Sandbox(**limits, packages=config.packages) as runner:
            rankers["agreement"], failures = common.agreement_of(runner, tasks, samples)
        unjudged += failures
    report = common.best_of_n_report(samples, rankers) | {"unjudged": unjudged}
    count = (
        report["n"] if report["n"] == report["least_n"] else f"{report['least_n']}-{report['n']}"
    )
    print(f"{report['tasks']} tasks, {count} samples a task with a verdict")
    print(f"{'choice':<14} {'pass@1':<22} gain over random")
    for name, row in report["rankers"].items():
        gain = (
            "{gain:+.3f} [{gain_low:+.3f}, {gain_high:+.3f}]".format(**row) if "gain" in row else ""
        )
        print(f"{name:<14} {common.format_interval(row, 'pass@1'):<22} {gain}")
    return report


def preferred_by_model(config: Config, rows: list[dict]) -> list[float]:
    """1 for each pair whose chosen text has the higher score, else 0."""
    model, tokenizer = load_model(config, config.reasoning_rm)
    limits = limits_of(config, config.reasoning_rm)
    chosen, rejected = (
        common.score_texts(model, tokenizer, rows, [row[side] for row in rows], **limits)
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

    blind = common.blind_preferences(rows, config.seed)
    report = common.preference_report(rows, preferred, blind) | answers
    groups = {name: report[f"by_{name}"] for name in ("kind", "dimension", "operator")}
    for name, group in (groups | {"all": {"": report}}).items():
        for value, row in group.items():
            interval = common.format_interval(row, "accuracy")
            without = common.format_number(row["blind_accuracy"])
            print(f"{name:>10} {value:<16} {interval}  {row['pairs']} pairs  blind {without}")
    if answers:
        print(common.format_numbers(answers))
    return report


def main(config: Config) -> None:
    if common.world_size() > 1:
        raise InputError("eval_prm.py runs in one process")
    if config.samples is not None:
        if config.tasks is None or config.data is not None or config.pairs is not None:
            raise InputError("--samples needs --tasks, and goes with neither --data nor --pairs")
        if config.prm is None and config.orm is None and not config.agreement:
            raise InputError("--samples needs a ranker: --prm, --orm or --agreement")
        tasks = common.read_jsonl(config.tasks, common.PROMPT_FIELDS, sandbox.check_task)
        if config.agreement:
            common.check_packages(config, tasks)
        tasks = {task["task_id"]: task for task in tasks}
        rows = read_samples(config, tasks)
    elif config.orm is not None or config.agreement:
        raise InputError("--orm and --agreement rank --samples")
    elif (config.prm is None) == (config.pairs is None):
        raise InputError("give either --prm or --pairs, or --samples")
    elif config.prm is not None:
        if config.data is None:
            raise InputError("--prm needs --data, labelled rows, or --samples")
        rows = common.read_labelled_lines(config.data, fence=config.fence)
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
        if not endpoint:
            common.check_model("policy", config.judge)
    common.check_model("prm", config.prm)
    common.check_model("orm", config.orm)
    common.check_model("reasoning_rm", config.reasoning_rm)
    if common.open_run(config, complete="report.json") is not None:
        raise InputError(f"{config.output_dir}: holds checkpoints; choose another --output_dir")
    common.begin_run(config)
    if config.samples:
        report = rank_samples(config, tasks, rows)
    else:
        report = evaluate_pairs(config, rows) if config.pairs else evaluate_prm(config, rows)
    common.write_text(Path(config.output_dir) / "report.json", json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    common.run(main, Config)
