"""Pairs for the reasoning reward model, by contrastive reasoning process learning (CRPL).

--method contrast ReCode (Fan et al., 2025): a base reasoning is rewritten to be better (optimised)
                  and worse (degraded) along three dimensions: factual accuracy, logical rigour,
                  logical coherence. Three kinds of pair, `chosen` before `rejected`:

                      optimisation   optimised > base
                      degradation    base > degraded
                      strong         optimised > degraded, of the same base and dimension

                  A reward model learns length and form at once where they tell the two apart. So a
                  pair is kept only when both texts have the same number of lines, the same tags and
                  list marks, and lengths that differ by at most 15 % of the longer one, in
                  characters (--match_length; ours: ReCode mentions no matching). What is dropped is
                  counted, and so is how often the longer text is the chosen one.

Base reasonings are those of policy samples (--samples), or else of the rows' own `completion`, and
besides them the reference plan of a task that has one (`meta.plan`, a line a step). Two teachers:

--teacher rules   for tasks with a reference plan (teachers/reasoning_rules.py). Optimised: the
                  lines that are wrong in one dimension are the reference's again. Degraded: one or
                  two lines are changed by one of the OPERATORS. Which lines of a plan are right is
                  known exactly, so a rewriting counts only when it has more (fewer) right lines.
--teacher URL     or a model folder: a language model is asked (teachers/chat_reasoning.py). Nobody
                  checks what the model did: --match_length is for that, and the benchmark that
                  --from_verdicts makes.

                  --lines_file writes the same reasonings as prm.jsonl besides, +1 for each right
                  line and -1 for others. A ranking loss alone hardly teaches a small model what
                  binds a line to its place in the problem (swapped lines, numbers). Trained on
                  these labels first, and then on the pairs, the model learns both. With them come
                  --num_scrambled reference plans a task in which half of the lines are changed, by
                  the rules that keep a line's form (SCRAMBLERS): many labels a row of what is hard
                  to tell.

--from_verdicts   makes a benchmark instead, as LCB-RB (ReCode): from verdicts.jsonl of eval.py,
                  pairs of a sound and an unsound reasoning for the same problem. Sound: every plan
                  line is right and the program passes. Unsound: some line is wrong and the program
                  fails. So reasoning and execution agree on both sides. Without a reference plan
                  the verdict alone decides, where LCB-RB had a language model and people look.

    python make_prm_data.py --method contrast --tasks train.jsonl --samples samples.jsonl \\
        --output_file pairs.jsonl --lines_file lines.jsonl
    python train_prm.py --data lines.jsonl --model_name_or_path runs/sft --output_dir runs/lines
    python train_prm.py --objective ranking --data pairs.jsonl --model_name_or_path runs/lines \\
        --output_dir runs/rm
    python make_prm_data.py --method contrast --tasks test.jsonl --from_verdicts verdicts.jsonl \\
        --output_file bench.jsonl
"""

import random
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import common
from common import InputError, InputFile, NonNegativeFloat, NonNegativeInt, OutputFile, PositiveInt
from prm_data import rows
from teachers import chat, chat_reasoning, reasoning_rules
from teachers.reasoning_rules import (
    DIMENSIONS,
    first_fault,
    opening_of,
    plan_accuracy,
    plan_lines,
    scrambled,
)

KINDS = ("optimisation", "degradation", "strong")


@dataclass
class Config:
    tasks: InputFile  # tasks.jsonl
    output_file: OutputFile  # pairs.jsonl
    # rules: prm.jsonl of the same reasonings with the exact label of each line
    lines_file: OutputFile | None = None
    num_scrambled: NonNegativeInt = 16  # lines_file: scrambled reference plans a task besides
    method: Literal["contrast"] = "contrast"
    # samples.jsonl or verdicts.jsonl of a policy whose reasoning is the base
    samples: InputFile | None = None
    # verdicts.jsonl: a benchmark of sound and unsound samples, nothing is rewritten
    from_verdicts: InputFile | None = None
    teacher: str = "rules"  # who rewrites: rules; or an endpoint's URL, a model folder or hub name
    teacher_model: str | None = None  # which model of the endpoint
    teacher_temperature: NonNegativeFloat = 0.8
    max_new_tokens: PositiveInt = 1024  # of one answer
    concurrency: PositiveInt = 8  # requests at the same time, or prompts a batch of a local teacher
    kinds: list[Literal["optimisation", "degradation", "strong"]] = field(
        default_factory=lambda: list(KINDS)
    )
    dimensions: list[Literal["factual", "rigour", "coherence"]] = field(
        default_factory=lambda: list(DIMENSIONS)
    )
    num_bases: NonNegativeInt = 2  # policy samples a task to rewrite, the first ones that differ
    reference_bases: bool = True  # reference plans are rewritten besides
    num_degraded: NonNegativeInt = 2  # degraded versions of a base a dimension
    num_pairs: PositiveInt = 1  # --from_verdicts: pairs a task at most
    # lengths differ by this share of the longer one at most, lines and tags are alike; none: off
    match_length: NonNegativeFloat | None = 0.15
    seed: int = 0


def form_of(text: str) -> tuple:
    """What must be alike in a pair: the number of lines, the tags, the list marks and headings."""
    marks = r"</?\w+>|^\s*(?:[-*#]+|\d+[.)])"
    return text.count("\n"), re.findall(marks, re.sub(r"\d+", "0", text), re.MULTILINE)


def matched(chosen: str, rejected: str, match_length: float | None) -> bool:
    """Whether length and form do not tell the two texts apart."""
    if match_length is None:
        return True
    longer = max(len(chosen), len(rejected))  # whichever is chosen: the measure is symmetric
    near = abs(len(chosen) - len(rejected)) <= match_length * longer
    return near and form_of(chosen) == form_of(rejected)


def read_bases(tasks: list[dict], config: Config) -> list[tuple[dict, str]]:
    """(task, base reasoning) of every task: policy samples or demonstrations, and reference plans.

    A reasoning is kept as it stands between the think tags, with Python's line ends, and one
    newline at each end. InputError where a sample belongs to no task.
    """
    by_task = defaultdict(list)
    if config.samples is None:
        for task in tasks:
            by_task[task["task_id"]].append(common.reasoning_of(task.get("completion") or ""))
    else:
        check = partial(common.check_known_task, tasks={task["task_id"] for task in tasks})
        for row in common.read_jsonl(config.samples, {"task_id": str, "completion": str}, check):
            by_task[row["task_id"]].append(common.reasoning_of(common.judged_text(row)))
    bases = []
    for task in tasks:
        found = [text for text in by_task[task["task_id"]] if text and text.strip()]
        texts = list(dict.fromkeys(found))[: config.num_bases]
        if config.reference_bases and task.get("meta", {}).get("plan"):
            texts.append(common.framed("\n".join(task["meta"]["plan"])))
        bases += [(task, text) for text in dict.fromkeys(texts)]
    return bases


def pairs_of(task: dict, base: str, versions: dict, kinds: list[str]) -> list[dict]:
    """The pairs of one base, of the kinds asked for; see the module's docstring."""
    pairs = []
    for dimension, (better, worse) in versions.items():
        candidates = [("optimisation", "optimise", better, base)] if better else []
        candidates += [("degradation", name, base, text) for name, text in worse]
        candidates += [("strong", name, better, text) for name, text in worse if better]
        for kind, operator, chosen, rejected in candidates:
            if kind in kinds and chosen != rejected:
                pairs.append(row_of(task, chosen, rejected, kind, dimension, operator))
    return pairs


def row_of(
    task: dict, chosen: str, rejected: str, kind: str, dimension: str, operator: str
) -> dict:
    """One row of pairs.jsonl; with a reference plan, ratings for train_prm.py --objective score."""
    row, plan = rows.pair_row(task, chosen, rejected, kind), task.get("meta", {}).get("plan")
    if plan:
        row["chosen_rating"] = plan_accuracy(plan, chosen)
        row["rejected_rating"] = plan_accuracy(plan, rejected)
    row["meta"] = {"dimension": dimension, "operator": operator, "steps": rows.steps_of(task)}
    return row


def line_rows(bases: list[tuple[dict, str]], versions: list[dict], config: Config) -> list[dict]:
    """Rows of prm.jsonl: each reasoning of a task once.

    A line is labelled by whether it is the reference's line of the same number.
    """
    texts = defaultdict(dict)  # by task, {text: task}, each once, in order
    for (task, base), by_dimension in zip(bases, versions, strict=True):
        found = texts[task["task_id"]]
        found[base] = task
        for better, worse in by_dimension.values():
            found |= {text: task for text in (better, *(text for _, text in worse)) if text}
    for task in {task["task_id"]: task for task, _ in bases}.values():
        rng = random.Random(common.seed_of(config.seed, "contrast scrambled", task["task_id"]))
        plans = [scrambled(task["meta"]["plan"], rng) for _ in range(config.num_scrambled)]
        texts[task["task_id"]] |= {common.framed("\n".join(lines)): task for lines in plans}
    labelled = []
    for text, task in (pair for found in texts.values() for pair in found.items()):
        lines, reference, labels = rows.lines_of(text), iter(task["meta"]["plan"]), []
        for line in lines:
            if not line.strip():  # a blank line is no step
                labels.append(None)
            else:
                labels.append(1.0 if line.strip() == next(reference, None) else -1.0)
        meta = {"steps": rows.steps_of(task)}
        labelled.append(rows.line_row(task, lines, labels, "contrast", meta))
    return labelled


def pairs_from_verdicts(tasks: list[dict], config: Config) -> list[dict]:
    """Every pair of a sound and an unsound reasoning of one task; see the module's docstring.

    InputError where a sample belongs to no task.
    """
    fields = {"task_id": str, "completion": str, "status": str}
    by_task = defaultdict(lambda: ({}, {}))  # sound and unsound texts, each once, in order
    plans = {task["task_id"]: task.get("meta", {}).get("plan") for task in tasks}
    check = partial(common.check_known_task, tasks=plans)
    for row in common.read_jsonl(config.from_verdicts, fields, check):
        text, plan = common.reasoning_of(common.judged_text(row)), plans.get(row["task_id"])
        if not (text and text.strip()) or row["status"] == "harness_error":
            continue
        passed = row["status"] == "passed"
        if plan is None or passed == (plan_accuracy(plan, text) == 1):
            by_task[row["task_id"]][not passed][text] = None
    known = {opening_of(line) for plan in plans.values() for line in plan or []}
    pairs = []
    for task in tasks:
        sound, unsound = by_task[task["task_id"]]
        for rejected in unsound:
            fault = first_fault(plan_lines(rejected), plans[task["task_id"]], known)
            pairs += [
                row_of(task, chosen, rejected, "verdict", fault, "policy") for chosen in sound
            ]
    return pairs


def print_table(made: list[dict], kept: list[dict]) -> None:
    """Pairs by kind and dimension, and how far length alone tells chosen from rejected."""
    print(f"{'kind':<13} {'dimension':<10} {'made':>7} {'kept':>7} {'longer is chosen':>17}")
    made_by, kept_by = defaultdict(list), defaultdict(list)
    for pairs, by_cell in (made, made_by), (kept, kept_by):
        for row in pairs:
            by_cell[row["kind"], str(row["meta"]["dimension"])].append(row)
    cells = sorted(made_by)
    made_by["all", ""], kept_by["all", ""] = made, kept
    for kind, dimension in [*cells, ("all", "")]:
        num_made, here = len(made_by[kind, dimension]), kept_by[kind, dimension]
        differences = [len(row["chosen"]) - len(row["rejected"]) for row in here]
        longer = [difference > 0 for difference in differences if difference]
        share = f"{sum(longer) / len(longer):.3f}" if longer else ""
        print(f"{kind:<13} {dimension:<10} {num_made:>7} {len(here):>7} {share:>17}")


def drawn_pairs(pairs: list[dict], config: Config) -> list[dict]:
    """--num_pairs of each task at most, drawn at random."""
    shuffled, numbers, drawn = [*pairs], Counter(), []
    random.Random(common.seed_of(config.seed, "contrast verdicts")).shuffle(shuffled)
    for row in shuffled:
        numbers[row["task_id"]] += 1
        if numbers[row["task_id"]] <= config.num_pairs:
            drawn.append(row)
    return drawn


def teacher_of(config: Config) -> chat.Teacher:
    return chat.Teacher(
        config.teacher,
        f"{config.output_file}.teacher",
        config.teacher_model,
        config.teacher_temperature,
        config.max_new_tokens,
        config.concurrency,
        seed=config.seed,
    )


def main(config: Config) -> None:
    rules = config.from_verdicts is None and config.teacher == "rules"

    def check(row):
        plan = row.get("meta", {}).get("plan")
        if plan is None and rules:
            raise ValueError(
                "field 'meta' must hold 'plan', the reference's plan lines: "
                "--teacher rules starts from it"
            )
        is_plan = isinstance(plan, list) and plan and all(isinstance(line, str) for line in plan)
        if plan is not None and not is_plan:
            raise ValueError("field 'meta': 'plan' must be a list of str")
        for line in plan or []:  # a reasoning's lines are compared without blank ones, stripped
            if line != line.strip() or len(rows.lines_of(line)) != 1:
                raise ValueError(f"field 'meta': 'plan': not one line without margins: {line!r}")
        if not isinstance(row.get("completion", ""), str | None):
            raise ValueError("field 'completion' must be str")

    if config.lines_file is not None and not rules:
        raise InputError(
            "--lines_file needs --teacher rules: nobody else knows which lines are right"
        )
    rows.check_teacher(config, "rules")
    if config.samples is not None and config.from_verdicts is not None:
        raise InputError("give either --samples or --from_verdicts")
    tasks = common.read_jsonl(config.tasks, common.PROMPT_FIELDS, check)
    rows.check_unique(tasks, config.tasks)
    if rows.is_complete(config, config.lines_file):
        return
    missing, lines = 0, {}  # answers that did not come; rows by the file's name
    if config.from_verdicts is not None:
        made = pairs_from_verdicts(tasks, config)
    else:
        bases = read_bases(tasks, config)
        asked = config.dimensions, config.num_degraded
        if rules:
            versions = reasoning_rules.rewrite(bases, *asked, config.seed)
        else:
            teacher = teacher_of(config)
            versions = chat_reasoning.rewrite(teacher, bases, *asked)
            missing = getattr(teacher, "missing", 0)
        made = []
        for (task, base), version in zip(bases, versions, strict=True):
            made += pairs_of(task, base, version, config.kinds)
        if config.lines_file is not None:
            lines[config.lines_file] = line_rows(bases, versions, config)
    kept = [row for row in made if matched(row["chosen"], row["rejected"], config.match_length)]
    print_table(made, kept)
    if config.from_verdicts is not None:
        kept = drawn_pairs(kept, config)
    if not kept:
        raise InputError(f"{config.tasks}: no pair is left")
    tasks_left = len({row["task_id"] for row in kept})
    print(
        f"{len(kept)} pairs from {tasks_left} of {len(tasks)} tasks; "
        f"{len(made) - len(kept)} left out"
    )
    rows.write_result(config, kept, missing, lines)
