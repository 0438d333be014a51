"""What a language model is worth as a teacher, beside the rules on the syntax tree.

    python reproduce/teacher_quality.py --teacher MODEL --tasks tasks/mbpp/train.jsonl \\
        --output_dir runs/teacher
    python reproduce/teacher_quality.py --teacher http://127.0.0.1:8000/v1 --teacher_model NAME ...

Code: statements of reference programs are drawn at random, and the teacher is asked for a mutation
and a refactoring of each. A mutation should fail the task's tests, a refactoring should pass them.
The rules change the same statements.
Reasonings: the teacher writes a plan for some of the same tasks, and rewrites each plan for the
better and for the worse in ReCode's three dimensions. Pairs are those of --method contrast; the
rules need reference plans, which such tasks lack.

Prints tables, and writes every answer, with what became of it, to examples.md in the order asked.
Answers are kept in answers.jsonl; a run that was cut off goes on from there.
"""

import random
import sys
from collections import Counter
from dataclasses import dataclass
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

INTENTS = ("mutate", "refactor")
PLAN = """{problem}

Explain in three to six short numbered steps, one a line, how a program solves this problem. Write \
no code, and nothing before or after the steps."""


@dataclass
class Config:
    teacher: str  # a model folder or hub name, or the URL of an endpoint
    tasks: InputFile  # tasks.jsonl with reference solutions
    output_dir: OutputDir
    teacher_model: str | None = None  # the endpoint's name for its model
    teacher_temperature: float = 0.8
    teacher_max_new_tokens: PositiveInt = 200  # tokens of an answer
    teacher_concurrency: PositiveInt = 8  # requests at a time; of a local model prompts a batch
    teacher_timeout: PositiveFloat = 120.0  # seconds of a request
    num_statements: PositiveInt = 40  # statements that are rewritten
    num_plans: NonNegativeInt = 8  # plans that are rewritten, of the first statements' tasks
    max_variants_per_line: PositiveInt = 8  # the rules' versions of a statement
    sandbox_workers: PositiveInt = 1
    seed: int = 0


def draw(tasks: list[dict], config: Config) -> list[list]:
    """Drawn statements: of each the (task, unit, intent, prompt) of the two intents."""
    statements = []
    for task in tasks:
        asked = [(task, *rest) for rest in prompts_of(task, "line", INTENTS, 1)]
        statements += [asked[i : i + 2] for i in range(0, len(asked), 2)]
    return random.Random(config.seed).sample(
        statements, min(config.num_statements, len(statements))
    )


def judge(changes: list[tuple[dict, object]], config: Config) -> list[str]:
    """Of each (task, variant or reason) the verdict of the tests, or the reason."""
    with sandbox.Sandbox(workers=config.sandbox_workers, timeout=3.0) as runner:
        futures = [
            change
            if isinstance(change, str)
            else runner.submit(task, change.apply(task["solution"]))
            for task, change in changes
        ]
        return [f if isinstance(f, str) else f.result()["status"] for f in futures]


def code(teacher: chat.Teacher, statements: list[list], config: Config) -> list[str]:
    """The table of code; returns the examples."""
    asked = [one for pair in statements for one in pair]
    answers = teacher.ask([prompt for *_, prompt in asked], "code")
    known, made, ruled = {}, [], []
    for (task, unit, intent, _), answer in zip(asked, answers, strict=True):
        seen = known.setdefault(task["task_id"], [meaning(task["solution"])])
        made.append((task, variant_of(task["solution"], unit, intent, answer, seen)))
    for (task, unit, *_), _ in statements:
        limit = {"max_per_line": config.max_variants_per_line}
        variants = ast_variants(task["solution"], seed=config.seed, **limit)
        ruled += [(task, v) for v in variants if (v.start, v.end) == (unit.start, unit.end)]
    statuses, by_rules = judge(made, config), judge(ruled, config)
    reasons, lines = ("missing", "unparsable", "unchanged", "duplicate"), []
    for intent in INTENTS:
        chat_ = Counter(s for one, s in zip(asked, statuses, strict=True) if one[2] == intent)
        rule_ = Counter(s for (_, v), s in zip(ruled, by_rules, strict=True) if v.intent == intent)
        for name, found in (("model", chat_), ("rules", rule_)):
            run = sum(found.values()) - sum(found[reason] for reason in reasons)
            good = found["passed"] if intent == "refactor" else run - found["passed"]
            cells = [str(found.total()), *(str(found[reason]) for reason in reasons), str(run)]
            share = f"{good} ({good / run:.3f})" if run else "0"
            lines.append([intent, name, *cells, share])
    header = ["intent", "teacher", "answers", *reasons, "changed programs", "as intended"]
    tables.print_table(header, lines)
    examples = []
    for (task, unit, intent, _), answer, status in zip(asked, answers, statuses, strict=True):
        old = "".join(task["solution"].splitlines(keepends=True)[unit.start - 1 : unit.end])
        examples.append(f"{task['task_id']}, {intent}: {status}\n\n{old.rstrip()}\n\n{answer}\n")
    return examples


def reasonings(teacher: chat.Teacher, tasks: list[dict]) -> list[str]:
    """The tables of reasonings; returns the examples."""
    plans = teacher.ask([PLAN.format(problem=task["prompt"].strip()) for task in tasks], "plans")
    bases = [
        (task, chat_reasoning.framed(plan)) for task, plan in zip(tasks, plans, strict=True) if plan
    ]
    versions = chat_reasoning.rewrite(teacher, bases, contrast.DIMENSIONS, 1)
    counts, examples, pairs = {}, [], []
    for (task, base), version in zip(bases, versions, strict=True):
        examples.append(f"{task['task_id']}, plan\n{base}")
        pairs += contrast.pairs_of(task, base, version, list(contrast.KINDS))
        for dimension, (better, worse) in version.items():
            texts = {"optimised": better, "degraded": worse[0][1] if worse else None}
            for name, text in texts.items():
                found = counts.setdefault((dimension, name), Counter())
                found.update(["asked"] + ["read"] * bool(text))
                found["changed"] += bool(text) and text != base
                found["kept"] += bool(text) and text != base and contrast.matched(base, text, 0.15)
                examples.append(f"{task['task_id']}, {dimension}, {name}\n{text}")
    names = ["asked", "read", "changed", "kept"]
    cells = [[*key, *(str(found[name]) for name in names)] for key, found in counts.items()]
    tables.print_table(["dimension", "version", *names], cells)
    contrast.print_table(
        pairs, [p for p in pairs if contrast.matched(p["chosen"], p["rejected"], 0.15)]
    )
    return examples


def main(config: Config) -> None:
    tasks = common.read_jsonl(
        config.tasks, {}, lambda row: rows.check_reference(row, "the teacher rewrites it")
    )
    statements, folder = draw(tasks, config), Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    teacher = chat.Teacher(
        config.teacher,
        folder / "answers.jsonl",
        config.teacher_model,
        config.teacher_temperature,
        config.teacher_max_new_tokens,
        config.teacher_concurrency,
        timeout=config.teacher_timeout,
        seed=config.seed,
    )
    examples = code(teacher, statements, config)
    first = {pair[0][0]["task_id"]: pair[0][0] for pair in statements}.values()
    if config.num_plans:
        examples += reasonings(teacher, [*first][: config.num_plans])
    common.write_text(folder / "examples.md", "\n---\n\n".join(examples))
    print({name: teacher.tokens[name] for name in ("prompt_tokens", "completion_tokens")})


if __name__ == "__main__":
    common.run(main, Config)
