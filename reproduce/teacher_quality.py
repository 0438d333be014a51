"""What a language model is worth as a teacher, beside the rules on the syntax tree.

    python reproduce/teacher_quality.py --teacher MODEL --tasks tasks/mbpp/train.jsonl \\
        --output_dir runs/teacher
    python reproduce/teacher_quality.py --teacher http://127.0.0.1:8000/v1 --teacher_model NAME ...

Code: the teacher is asked for a mutation and a refactoring of statements drawn at random from the
references. A mutation should fail the task's tests, a refactoring should pass them. The rules
change the same statements, each in up to 8 ways.
Reasonings: the teacher writes plans for the same tasks, and rewrites each for the better and for
the worse in ReCode's three dimensions. The rules need reference plans, which such tasks lack.
Prints tables, and writes each answer, with what became of it, to examples.md in the order asked. A
run that was cut off goes on from answers.jsonl.
"""

import random
import re
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

# Before the folder of this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tables

import common
import sandbox
from common import InputFile, NonNegativeInt, OutputDir, PositiveFloat, PositiveInt
from prm_data import contrast, rows
from teachers import chat, chat_reasoning
from teachers.ast_variants import ast_variants
from teachers.chat_variants import meaning, prompts_of, variant_of
from teachers.program import source_lines

INTENTS = ("mutate", "refactor")
USELESS = ("missing", "unparsable", "unchanged", "duplicate", "harness_error")  # no verdict
PLAN = """{problem}

Explain in three to six short numbered steps, one a line, how a program solves this problem. Write \
no code, and nothing before or after the steps."""


@dataclass
class Config:
    teacher: str  # a model folder or hub name, or the URL of an endpoint
    tasks: InputFile  # tasks.jsonl with reference solutions
    output_dir: OutputDir
    teacher_model: str | None = None  # the endpoint's name for its model
    teacher_max_new_tokens: PositiveInt = 200  # tokens of an answer
    teacher_concurrency: PositiveInt = 8  # requests at a time; of a local model prompts a batch
    teacher_timeout: PositiveFloat = 120.0  # seconds of a request
    num_statements: PositiveInt = 40  # statements that are rewritten
    num_plans: NonNegativeInt = 8  # plans that are rewritten, of the first statements' tasks
    seed: int = 0


def draw(tasks: list[dict], config: Config) -> list[list]:
    """Drawn statements: of each the (task, unit, intent, prompt) of the two intents."""
    pairs = []
    for task in tasks:
        asked = [(task, *rest) for rest in prompts_of(task, "line", INTENTS, 1)]
        pairs += [asked[i : i + 2] for i in range(0, len(asked), 2)]
    return random.Random(config.seed).sample(pairs, min(config.num_statements, len(pairs)))


def code(teacher: chat.Teacher, statements: list[list], seed: int) -> list[str]:
    """Prints the table of code; returns the examples."""
    asked = [one for pair in statements for one in pair]
    answers = teacher.ask([prompt for *_, prompt in asked], "code")
    known, changes = {}, []  # (task, unit, intent, teacher, variant or why there is none)
    for (task, unit, intent, _), answer in zip(asked, answers, strict=True):
        seen = known.setdefault(task["task_id"], [meaning(task["solution"])])
        made = variant_of(task["solution"], unit, intent, answer, seen)
        changes.append((task, unit, intent, "model", made))
    for (task, unit, *_), _ in statements:
        for variant in ast_variants(task["solution"], seed=seed, max_per_line=8):
            if (variant.start, variant.end) == (unit.start, unit.end):
                changes.append((task, unit, variant.intent, "rules", variant))
    with sandbox.Sandbox(timeout=3.0) as runner:
        results = [
            made if isinstance(made, str) else runner.submit(task, made.apply(task["solution"]))
            for task, *_, made in changes
        ]
        outcomes = [one if isinstance(one, str) else one.result()["status"] for one in results]
    lines = []
    for row in [(intent, name) for intent in INTENTS for name in ("model", "rules")]:
        found = [
            (task["task_id"], unit.start, outcome)
            for (task, unit, *kind, _), outcome in zip(changes, outcomes, strict=True)
            if tuple(kind) == row
        ]
        useless = [sum(one[2] == reason for one in found) for reason in USELESS]
        ran = [one for one in found if one[2] not in USELESS]
        good = sum((outcome == "passed") == (row[0] == "refactor") for *_, outcome in ran)
        numbers = [len(found), *useless, len(ran), len({one[:2] for one in ran}), good]
        lines.append([*row, *map(str, numbers)])
    names = ["answers", *USELESS, "programs", "of statements", "as intended"]
    tables.print_table(["intent", "teacher", *names], lines)
    examples = []
    for (task, unit, intent, _), answer, outcome in zip(asked, answers, outcomes, strict=False):
        old = "".join(source_lines(task["solution"])[unit.start - 1 : unit.end])
        examples.append(f"{task['task_id']}, {intent}: {outcome}\n\n{old}\n{answer}\n")
    return examples


def reasonings(teacher: chat.Teacher, tasks: list[dict]) -> list[str]:
    """Prints the table of pairs: "made" are those that differ. Returns the examples."""
    plans = teacher.ask([PLAN.format(problem=task["prompt"].strip()) for task in tasks], "plans")
    steps = [re.findall(r"^\d+\..*\.$", plan or "", re.M) for plan in plans]  # prose, code are cut
    bases = [
        (task, common.framed("\n".join(own))) for task, own in zip(tasks, steps, strict=True) if own
    ]
    versions = chat_reasoning.rewrite(teacher, bases, contrast.DIMENSIONS, 1)
    examples, pairs = [], []
    for (task, base), version in zip(bases, versions, strict=True):
        examples.append(f"{task['task_id']}, plan\n{base}")
        pairs += contrast.pairs_of(task, base, version, list(contrast.KINDS))
        for dimension, (better, worse) in version.items():
            examples.append(f"{task['task_id']}, {dimension}, optimised\n{better}")
            examples += [f"{task['task_id']}, {dimension}, degraded\n{text}" for _, text in worse]
    kept = [pair for pair in pairs if contrast.matched(pair["chosen"], pair["rejected"], 0.15)]
    print(f"\n{len(bases)} plans; so many pairs of each kind and dimension could be made\n")
    contrast.print_table(pairs, kept)
    return examples


def main(config: Config) -> None:
    check = partial(rows.check_reference, reason="the teacher rewrites it")
    tasks = common.read_jsonl(config.tasks, {}, check)
    statements, folder = draw(tasks, config), Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    teacher = chat.Teacher(
        config.teacher,
        folder / "answers.jsonl",
        config.teacher_model,
        max_new_tokens=config.teacher_max_new_tokens,
        concurrency=config.teacher_concurrency,
        timeout=config.teacher_timeout,
        seed=config.seed,
    )
    examples = code(teacher, statements, config.seed)
    first = {pair[0][0]["task_id"]: pair[0][0] for pair in statements}.values()
    if config.num_plans:
        examples += reasonings(teacher, [*first][: config.num_plans])
    common.write_text(folder / "examples.md", "\n---\n\n".join(examples))
    print(f"{teacher.missing} prompts without an answer; {dict(teacher.tokens)}")


if __name__ == "__main__":
    common.run(main, Config)
