"""The embedded benchmark: phrases, one a line, and programs of one list operation a line.

    keep only values from 3 up           def f(xs):
    now rotate the list left by 2            xs = [x for x in xs if x >= 3]
                                             xs = xs[2:] + xs[:2]
                                             return xs

    python make_tasks.py --source micro --output_dir tasks/micro    # sft, train, validation, test

The operations are those of micro_operations.py. All programs that run here are this file's own.

A task is kept only when every step changes at least half of the test inputs, and when every near
miss of every line fails a test. So the tests see each wrong line. The splits differ by composition:
what training sees and what it does not see (validation, test) have no sequence of operations in
common, nor have validation and test. Settings are chosen on validation; test is read at the end.

sft.jsonl holds the demonstrations of a teacher with misconceptions: some phrases are taken wrongly
most of the time, always in the same way. Greedy decoding is then wrong too, and reinforcement
learning has something to find. The references of train.jsonl and test.jsonl are right.

With --plans true a demonstration reasons before it answers: <think>, a line that says what each
line of the program does, </think>, and the program between <answer> and </answer>. A plan line
states its step in words of its own (micro_operations.PLANS). The reference plan of every row,
`meta.plan`, decides exactly which lines of a sampled plan are right. Where the teacher falls for a
misconception, its plan agrees with its program. Besides, some plan lines are vague, and some state
another step than the program's: reasoning is good or bad at equal correctness.
"""

import random
import statistics
from dataclasses import dataclass
from functools import cache
from typing import Literal

import common
from benchmarks import files
from benchmarks.micro_operations import (
    COMMENT_LINES,
    CONNECTIVES,
    OPERATIONS,
    VAGUE_PLAN_LINES,
    Step,
)
from common import InputError, OutputDir, PositiveInt, UnitFloat


@dataclass
class Config:
    output_dir: OutputDir  # sft, train, validation and test.jsonl are written here
    source: Literal["micro"] = "micro"
    num_sft_tasks: PositiveInt = 6000  # demonstrations of the teacher
    num_train_tasks: PositiveInt = 1500  # tasks for labels and reinforcement learning
    num_test_tasks: PositiveInt = 700  # held-out tasks, compositions that no other split has
    num_validation_tasks: PositiveInt = 350  # to choose settings on; compositions of no other split
    # A step is one operation of a program, one line of its body; here no step of training is meant.
    min_steps: PositiveInt = 2  # shortest program of sft, validation and test.jsonl
    max_steps: PositiveInt = 8  # longest program
    train_min_steps: PositiveInt = 5  # shortest program of train.jsonl
    misconceptions: UnitFloat = 0.35  # share of (operation, phrase) pairs that the teacher misreads
    misconception_rate: UnitFloat = 0.6  # how often the teacher misreads such a pair
    noise: UnitFloat = 0.04  # how often the teacher slips on any line
    comment_rate: UnitFloat = 0.0  # how often a line of a demonstration has a comment above it
    plans: bool = False  # demonstrations write a plan between think tags before the program
    vague_rate: UnitFloat = 0.2  # plans: share of the teacher's plan lines that say nothing
    unaligned_rate: UnitFloat = 0.1  # plans: share that state another step than the program's line
    seed: int = 0


EDGE_CASES = [[], [3], [0, 0, -1]]
MAX_DRAWS = 200_000  # for one task; a task of 8 steps takes some hundreds


@cache
def function_of(code: str):
    """The operation that a line of code states, as a function of xs."""
    return eval(f"lambda xs: {code}")


def apply_line(code: str, xs: list[int]) -> list[int]:
    """The value of one line of code on xs."""
    return function_of(code)(xs)


def random_steps(rng: random.Random, count: int) -> list[Step]:
    steps = []
    for _ in range(count):
        operation = rng.randrange(len(OPERATIONS))
        steps.append(Step(operation, rng.randint(*OPERATIONS[operation].k), rng.randrange(2)))
    return steps


def random_inputs(rng: random.Random) -> list[list[int]]:
    """Ten random lists, and the edge cases."""
    lists = [[rng.randint(-12, 20) for _ in range(rng.randint(7, 14))] for _ in range(10)]
    return lists + EDGE_CASES


def run_steps(steps: list[Step], inputs: list[list[int]]) -> list[list[list[int]]] | None:
    """The states after each step, the inputs first, one list an input; None for a dull task.

    Dull is a step that leaves more than half of the inputs as they are, or after which lists are
    short or values large.
    """
    states = [inputs]
    for step in steps:
        before = states[-1]
        after = [apply_line(step.code(), xs) for xs in before]
        if 2 * sum(a != b for a, b in zip(after, before, strict=True)) < len(inputs):
            return None
        if statistics.median(map(len, after)) < 4 or any(abs(x) > 2000 for xs in after for x in xs):
            return None
        states.append(after)
    return states


def every_miss_fails(steps: list[Step], states: list[list[list[int]]]) -> bool:
    """Whether each near miss of each line, alone, changes the output of at least one test."""
    for index, step in enumerate(steps):
        rest = [later.code() for later in steps[index + 1 :]]
        for miss in step.near_misses():
            for xs, output in zip(states[index], states[-1], strict=True):
                for code in (miss, *rest):
                    xs = apply_line(code, xs)
                if xs != output:
                    break
            else:
                return False
    return True


def composition_of(steps: list[Step]) -> tuple[int, ...]:
    return tuple(step.operation for step in steps)


def is_held_out(steps: list[Step]) -> bool:
    """Splits by the sequence of operations: 15 % of the sequences occur in no training split."""
    return common.seed_of(0, "composition", *composition_of(steps)) % 100 < 15


def sample_steps(rng: random.Random, count: int, split: str) -> tuple[list[Step], list] | None:
    """`count` steps with their states on fresh inputs; None where the draw does not fit the split.

    Demonstrations need no tests that see every near miss.
    """
    steps = random_steps(rng, count)
    if is_held_out(steps) != (split in ("validation", "test")):
        return None
    states = run_steps(steps, random_inputs(rng))
    if states is None or (split != "sft" and not every_miss_fails(steps, states)):
        return None
    return steps, states


def prompt_of(rng: random.Random, steps: list[Step]) -> str:
    lines = [
        (rng.choice(CONNECTIVES) if i else "") + step.request() for i, step in enumerate(steps)
    ]
    return "\n".join(lines) + "\n"


def body_line(code: str) -> str:
    return f"    xs = {code}"


def program_of(codes: list[str]) -> str:
    return "\n".join(["def f(xs):", *map(body_line, codes), "    return xs\n"])


def task_of(steps: list[Step], states: list, prompt: str, split: str, number: int) -> dict:
    """The row of tasks.jsonl."""
    tests = [
        {"args": [xs], "output": output} for xs, output in zip(states[0], states[-1], strict=True)
    ]
    return {
        "task_id": f"micro/{split}/{number}",
        "prompt": prompt,
        "entry_point": "f",
        "solution": program_of([step.code() for step in steps]),
        "setup": "",
        "style": "call",
        "tests": tests,
        "timeout": None,
        "meta": {"steps": len(steps), "split": split},
    }


def teacher_codes(
    rng: random.Random, steps: list[Step], misread: set[tuple[int, int]], config: Config
) -> list[str]:
    """The lines that the teacher writes. misread: its misconceptions, (operation, phrase) pairs."""
    codes = []
    for step in steps:
        chance = rng.random()
        if (step.operation, step.phrase) in misread and chance < config.misconception_rate:
            codes.append(step.near_misses()[0])
        elif chance > 1 - config.noise:
            codes.append(rng.choice(step.near_misses()))
        else:
            codes.append(step.code())
    return codes


def with_comments(rng: random.Random, program: str, rate: float) -> str:
    """The program with a comment above some of the lines of its body."""
    text, *body = program.splitlines(keepends=True)
    for line in body:
        text += rng.choice(COMMENT_LINES) if rng.random() < rate else ""
        text += line
    return text


def with_plan(rng: random.Random, steps: list[Step], codes: list[str], config: Config) -> str:
    """The teacher's completion with a plan: each line true to its code, vague, or unaligned."""
    plan = []
    for step, code in zip(steps, codes, strict=True):
        chance, plans = rng.random(), step.plans()
        if chance < config.vague_rate:
            plan.append(rng.choice(VAGUE_PLAN_LINES))
        elif chance < config.vague_rate + config.unaligned_rate:
            plan.append(rng.choice([plans[other] for other in plans if other != code]))
        else:
            plan.append(plans[code])
    return "\n".join(["<think>", *plan, "</think>", "<answer>", program_of(codes) + "</answer>\n"])


def make(config: Config) -> dict[str, list[dict]]:
    """The splits sft, train, test and validation; the same flags give the same rows.

    InputError where no task of a length is left, as where the test split has all compositions.
    """
    rng = random.Random(common.seed_of(config.seed, "micro"))
    pairs = [(operation, phrase) for operation in range(len(OPERATIONS)) for phrase in range(2)]
    misread = set(rng.sample(pairs, round(config.misconceptions * len(pairs))))
    sizes = {  # split: (number of tasks, shortest program)
        "sft": (config.num_sft_tasks, config.min_steps),
        "train": (config.num_train_tasks, config.train_min_steps),
        "test": (config.num_test_tasks, config.min_steps),
        "validation": (config.num_validation_tasks, config.min_steps),
    }
    splits, prompts, tested = {}, set(), set()  # tested: compositions of the test split
    for split, (num_tasks, shortest) in sizes.items():
        rows = splits[split] = []
        bar = common.progress_bar(f"{split} tasks", num_tasks)
        if split == "validation":  # its own generator: the other splits are the same without it
            rng = random.Random(common.seed_of(config.seed, "micro validation"))
        draws = 0  # since the last task
        while len(rows) < num_tasks:
            number = len(rows)
            length = shortest + number % (config.max_steps - shortest + 1)
            draws += 1
            if draws > MAX_DRAWS:
                raise InputError(f"no more tasks of {length} steps for {split}.jsonl: ask for less")
            sample = sample_steps(rng, length, split)
            if sample is None:
                continue
            steps, states = sample
            composition = composition_of(steps)
            if split == "validation" and composition in tested:
                continue
            prompt = prompt_of(rng, steps)
            if prompt in prompts:
                continue
            prompts.add(prompt)
            if split == "test":
                tested.add(composition)
            draws = 0
            row = task_of(steps, states, prompt, split, number)
            if split == "train":  # what each line is where the teacher misreads it
                row["meta"]["misconceptions"] = [body_line(s.near_misses()[0]) for s in steps]
            if config.plans:
                row["meta"]["plan"] = [step.plans()[step.code()] for step in steps]
            if split == "sft":
                codes = teacher_codes(rng, steps, misread, config)
                row["completion"] = program_of(codes)
                # Comments and plans have their own generators: the programs are the same without.
                if config.comment_rate:
                    own = random.Random(common.seed_of(config.seed, "comments", number))
                    row["completion"] = with_comments(own, row["completion"], config.comment_rate)
                if config.plans:
                    own = random.Random(common.seed_of(config.seed, "plans", number))
                    row["completion"] = with_plan(own, steps, codes, config)
            rows.append(row)
            bar.update()
        bar.close()
    return splits


def main(config: Config) -> None:
    if not 1 <= config.min_steps <= config.train_min_steps <= config.max_steps:
        raise InputError("--min_steps <= --train_min_steps <= --max_steps must hold")
    files.write_splits(make(config), config.output_dir)
