"""Writes tasks.jsonl files: the embedded micro benchmark, or a public benchmark file in the project's one schema.

Micro benchmark. A task is a list of n English phrases, one a line; its program applies one list operation a line:

    keep only values from 3 up           def f(xs):
    now rotate the list left by 2            xs = [x for x in xs if x >= 3]
                                             xs = xs[2:] + xs[:2]
                                             return xs

A task is kept only when every step changes at least half of the test inputs and every near miss of every line fails a
test, so that the tests see each wrong line. Train and test differ by composition: a sequence of operations belongs to
one split alone, decided by its hash.

The supervised stage learns from a teacher with misconceptions (sft.jsonl): some phrases are taken wrongly most of the
time, always in the same way, so that greedy decoding is wrong too and reinforcement learning has something to find.
The references (train.jsonl, test.jsonl) are right. All programs run here are this script's own.

With `--plans true` a demonstration reasons before it answers: <think>, a line that says what each line of the program
does, </think>, and the program between <answer> and </answer>. A plan line states its step in words of its own (PLANS),
so that the reference plan of every row, `meta.plan`, decides exactly which lines of a sampled plan are right. Where the
teacher falls for a misconception its plan says so, in agreement with its program; besides, some plan lines are vague
and some state another step than the program's, which makes reasoning good or bad at equal correctness.

    python make_tasks.py --source micro --output_dir tasks/micro      # sft.jsonl, train.jsonl, test.jsonl
    python make_tasks.py --source mbpp --input mbpp.jsonl --output_dir tasks/mbpp
    python make_tasks.py --source mbpp --input mbpp.jsonl --plus MbppPlus.jsonl.gz --output_dir tasks/mbpp
    python make_tasks.py --source humaneval --input HumanEval.jsonl.gz --output_dir tasks/humaneval
    python make_tasks.py --source humanevalplus --input HumanEvalPlus.jsonl.gz --output_dir tasks/humanevalplus
    python make_tasks.py --source mbppplus --input MbppPlus.jsonl.gz --output_dir tasks/mbppplus
    python make_tasks.py --source gsm8k --input test.jsonl --output_dir tasks/gsm8k
    python make_tasks.py --source gsm8k --input train.jsonl --think true --output_dir tasks/gsm8k

With `--think true` the prompts of a public benchmark ask for reasoning between think tags and the answer between answer
tags, the form that grpo.py rewards; HumanEval's code, which a completion else goes on with, becomes part of the question.
GSM8K alone has reasoning to learn from: its rows carry it as a `completion` in that form, and its lines as `meta.plan`,
without the marks <<48/2=24>> for a calculator, which no stage has.

HumanEval+ and MBPP+ (Liu et al., 2023, arXiv 2305.01210) hold inputs without outputs. One test is one input: the sandbox's
judge runs the benchmark's reference on it, which is trusted as all tests are, and compares by evalplus' rules.

--plus gives the tasks of MBPP that MBPP+ covers more tests: the first inputs of MBPP+, in its order. MBPP's own program
must pass them within a second; a task where it fails (some of these programs are wrong) keeps its three tests.
"""

import ast
import gzip
import json
import random
import re
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import common
import sandbox
from common import InputError


@dataclass
class Config:
    source: Literal[
        "micro", "mbpp", "humaneval", "mbppplus", "humanevalplus", "gsm8k"
    ]  # what to make tasks from
    output_dir: str  # one JSONL file a split is written here
    input: str | None = (
        None  # the published benchmark file (.jsonl, .jsonl.gz or .json); not for micro
    )
    plus: str | None = (
        None  # mbpp: file of MBPP+, whose inputs strengthen the tests of the tasks that it covers
    )
    max_plus_inputs: int = 20  # mbpp with --plus: added tests a task
    sandbox_workers: int = (
        1  # mbpp with --plus: processes that run MBPP's programs against the added tests
    )
    num_sft_tasks: int = 6000  # micro: demonstrations of the teacher
    num_train_tasks: int = 1500  # micro: tasks for labels and reinforcement learning
    num_test_tasks: int = (
        700  # micro: held-out tasks, from compositions that occur in no other split
    )
    min_steps: int = 2  # micro: shortest program of sft.jsonl and test.jsonl
    max_steps: int = 8  # micro: longest program
    train_min_steps: int = 5  # micro: shortest program of train.jsonl
    misconceptions: float = (
        0.35  # micro: share of (operation, phrase) pairs that the teacher takes wrongly
    )
    misconception_rate: float = 0.6  # micro: how often it does so, on those
    noise: float = 0.04  # micro: how often it slips on any line
    comment_rate: float = 0.0  # micro: how often a line of a demonstration has a comment above it
    plans: bool = False  # micro: demonstrations write a plan between think tags before the program
    vague_rate: float = 0.2  # micro: share of the teacher's plan lines that say nothing
    unaligned_rate: float = 0.1  # micro: share that state another step than the line of the program
    think: bool = False  # not micro: prompts ask for reasoning between think tags before the answer
    seed: int = 0


# One operation a row: the line of code, two phrases, near misses (the first is the teacher's misconception), range of k.
# {k} is the operation's number and {j} is k + 1.
OPERATIONS = [
    ("[x for x in xs if x >= {k}]", ["keep only values from {k} up", "drop everything below {k}"],
     ["[x for x in xs if x > {k}]", "[x for x in xs if x <= {k}]", "[x for x in xs if x < {k}]"], (-4, 6)),
    ("[x for x in xs if x < {k}]", ["keep only values below {k}", "discard values of {k} or more"],
     ["[x for x in xs if x <= {k}]", "[x for x in xs if x > {k}]", "[x for x in xs if x >= {k}]"], (3, 12)),
    ("[x for x in xs if x % 2 == 0]", ["keep only even values", "throw away odd values"],
     ["[x for x in xs if x % 2 == 1]"], (1, 1)),
    ("[x for x in xs if x % 2 == 1]", ["keep only odd values", "throw away even values"],
     ["[x for x in xs if x % 2 == 0]"], (1, 1)),
    ("[x + {k} for x in xs]", ["increase every value by {k}", "add {k} to each value"],
     ["[x - {k} for x in xs]", "[x + {j} for x in xs]"], (1, 9)),
    ("[x - {k} for x in xs]", ["decrease every value by {k}", "subtract {k} from each value"],
     ["[{k} - x for x in xs]", "[x + {k} for x in xs]", "[x - {j} for x in xs]"], (1, 9)),
    ("[x * {k} for x in xs]", ["multiply every value by {k}", "scale all values {k} times"],
     ["[x + {k} for x in xs]", "[x * {j} for x in xs]"], (2, 4)),
    ("[-x for x in xs]", ["flip the sign of every value", "negate all values"],
     ["[abs(x) for x in xs]", "[-abs(x) for x in xs]"], (1, 1)),
    ("[abs(x) for x in xs]", ["make every value positive", "drop all minus signs"],
     ["[-x for x in xs]", "[-abs(x) for x in xs]"], (1, 1)),
    ("[x // {k} for x in xs]", ["divide every value by {k}", "shrink all values {k} times"],
     ["[x % {k} for x in xs]", "[x // {j} for x in xs]"], (2, 4)),
    ("[x % {k} for x in xs]", ["take every value modulo {k}", "wrap all values at {k}"],
     ["[x // {k} for x in xs]", "[x % {j} for x in xs]"], (5, 9)),
    ("[min(x, {k}) for x in xs]", ["cap every value at {k}", "replace numbers above {k} by {k}"],
     ["[max(x, {k}) for x in xs]", "[min(x, {j}) for x in xs]"], (2, 9)),
    ("[max(x, {k}) for x in xs]", ["raise every value to at least {k}", "replace numbers below {k} by {k}"],
     ["[min(x, {k}) for x in xs]", "[max(x, {j}) for x in xs]"], (-2, 7)),
    ("xs[{k}:] + xs[:{k}]", ["rotate the list left by {k}", "move the first {k} elements to the end"],
     ["xs[-{k}:] + xs[:-{k}]", "xs[{j}:] + xs[:{j}]"], (1, 4)),
    ("xs[-{k}:] + xs[:-{k}]", ["rotate the list right by {k}", "move the last {k} elements to the front"],
     ["xs[{k}:] + xs[:{k}]", "xs[-{j}:] + xs[:-{j}]"], (1, 4)),
    ("xs[{k}:]", ["skip the first {k} elements", "cut {k} elements off the front"],
     ["xs[:-{k}]", "xs[{j}:]", "xs[:{k}]"], (1, 3)),
    ("xs[:-{k}]", ["skip the last {k} elements", "cut {k} elements off the end"],
     ["xs[{k}:]", "xs[:-{j}]", "xs[-{k}:]"], (1, 3)),
    ("xs[::-1]", ["reverse the list", "turn the list around"], ["sorted(xs, reverse=True)"], (1, 1)),
    ("sorted(xs)", ["sort the list", "put the values in ascending order"], ["sorted(xs, reverse=True)", "xs[::-1]"], (1, 1)),
    ("sorted(xs, reverse=True)", ["sort from high to low", "put the values in descending order"],
     ["sorted(xs)", "xs[::-1]"], (1, 1)),
    ("xs + [{k}]", ["add {k} at the end of the list", "append the number {k}"], ["[{k}] + xs", "xs + [{j}]"], (0, 9)),
    ("[{k}] + xs", ["add {k} at the front of the list", "prepend the number {k}"], ["xs + [{k}]", "[{j}] + xs"], (0, 9)),
    ("xs + [sum(xs)]", ["append the sum of the list", "put the total at the end"],
     ["xs + [len(xs)]", "[sum(xs)] + xs"], (1, 1)),
    ("[len(xs)] + xs", ["prepend the length of the list", "put the count at the front"],
     ["xs + [len(xs)]", "[sum(xs)] + xs"], (1, 1)),
    ("xs + [max(xs, default=0)]", ["append the largest value", "put the maximum at the end"],
     ["xs + [min(xs, default=0)]", "[max(xs, default=0)] + xs"], (1, 1)),
    ("[min(xs, default=0)] + xs", ["prepend the smallest value", "put the minimum at the front"],
     ["[max(xs, default=0)] + xs", "xs + [min(xs, default=0)]"], (1, 1)),
    ("list(dict.fromkeys(xs))", ["remove repeated values", "keep the first of equal values"],
     ["sorted(set(xs))", "[x for x in xs if xs.count(x) == 1]"], (1, 1)),
]  # fmt: skip
# What a plan says of each line of code, in words that no prompt uses.
PLANS = {
    "[x for x in xs if x >= {k}]": "retain numbers that are at least {k}",
    "[x for x in xs if x > {k}]": "retain numbers that are greater than {k}",
    "[x for x in xs if x <= {k}]": "retain numbers that are at most {k}",
    "[x for x in xs if x < {k}]": "retain numbers that are less than {k}",
    "[x for x in xs if x % 2 == 0]": "retain numbers that are even",
    "[x for x in xs if x % 2 == 1]": "retain numbers that are odd",
    "[x + {k} for x in xs]": "each number gets larger by {k}",
    "[x - {k} for x in xs]": "each number gets smaller by {k}",
    "[{k} - x for x in xs]": "each number is taken away from {k}",
    "[x * {k} for x in xs]": "each number is the product with {k}",
    "[x // {k} for x in xs]": "each number is the quotient by {k}",
    "[x % {k} for x in xs]": "each number is the remainder by {k}",
    "[-x for x in xs]": "each number gets the opposite sign",
    "[abs(x) for x in xs]": "each number gets a plus sign",
    "[-abs(x) for x in xs]": "each number gets a minus sign",
    "[min(x, {k}) for x in xs]": "each number is limited to at most {k}",
    "[max(x, {k}) for x in xs]": "each number is limited to at least {k}",
    "xs[{k}:] + xs[:{k}]": "shift all places to the left by {k}",
    "xs[-{k}:] + xs[:-{k}]": "shift all places to the right by {k}",
    "xs[{k}:]": "delete from the head this many: {k}",
    "xs[:-{k}]": "delete from the tail this many: {k}",
    "xs[:{k}]": "retain from the head this many: {k}",
    "xs[-{k}:]": "retain from the tail this many: {k}",
    "xs[::-1]": "arrange in the opposite order",
    "sorted(xs)": "arrange in rising order",
    "sorted(xs, reverse=True)": "arrange in falling order",
    "xs + [{k}]": "insert at the tail the constant {k}",
    "[{k}] + xs": "insert at the head the constant {k}",
    "xs + [sum(xs)]": "insert at the tail what all numbers add up to",
    "[sum(xs)] + xs": "insert at the head what all numbers add up to",
    "xs + [len(xs)]": "insert at the tail how many numbers there are",
    "[len(xs)] + xs": "insert at the head how many numbers there are",
    "xs + [max(xs, default=0)]": "insert at the tail the highest number",
    "[max(xs, default=0)] + xs": "insert at the head the highest number",
    "xs + [min(xs, default=0)]": "insert at the tail the lowest number",
    "[min(xs, default=0)] + xs": "insert at the head the lowest number",
    "list(dict.fromkeys(xs))": "retain each number once in the given order",
    "sorted(set(xs))": "retain each number once in rising order",
    "[x for x in xs if xs.count(x) == 1]": "retain numbers that occur only once",
}
VAGUE = ["handle this step", "do what is asked here", "apply the next operation to the numbers"]
COMMENTS = ["    # the next step\n", "    # as asked\n", "    # see the line below\n"]
CONNECTIVES = ["", "", "now ", "then ", "next "]
EDGE_CASES = [[], [3], [0, 0, -1]]


@dataclass(frozen=True)
class Step:
    """One line of a micro program: which operation, its number k, which of its phrases."""

    operation: int
    k: int
    phrase: int

    def fill(self, template: str) -> str:
        return template.format(k=self.k, j=self.k + 1)

    def line(self) -> str:
        return self.fill(OPERATIONS[self.operation][0])

    def misses(self) -> list[str]:
        return [self.fill(template) for template in OPERATIONS[self.operation][2]]

    def plans(self) -> dict[str, str]:
        """What a plan says of this step's line and of each of its near misses, by line; the right one is first."""
        templates = [OPERATIONS[self.operation][0], *OPERATIONS[self.operation][2]]
        return {
            self.fill(t): PLANS[t.replace("{j}", "{k}")].format(k=self.k + ("{j}" in t))
            for t in templates
        }


COMPILED: dict[str, object] = {}


def apply_line(line: str, xs: list[int]) -> list[int]:
    """The value of one grammar line on xs; each distinct line is compiled once."""
    if line not in COMPILED:
        COMPILED[line] = eval(f"lambda xs: {line}")
    return COMPILED[line](xs)


def random_steps(rng: random.Random, count: int) -> list[Step]:
    steps = []
    for _ in range(count):
        operation = rng.randrange(len(OPERATIONS))
        steps.append(Step(operation, rng.randint(*OPERATIONS[operation][3]), rng.randrange(2)))
    return steps


def run_steps(steps: list[Step], inputs: list[list[int]]) -> list[list[list[int]]] | None:
    """The states after each step, one list per input; None for a dull task (see the module's docstring)."""
    states = [inputs]
    for step in steps:
        before = states[-1]
        after = [apply_line(step.line(), xs) for xs in before]
        if 2 * sum(a != b for a, b in zip(after, before, strict=True)) < len(inputs):
            return None
        if statistics.median(len(xs) for xs in after) < 4 or any(
            abs(x) > 2000 for xs in after for x in xs
        ):
            return None
        states.append(after)
    return states


def every_miss_fails(steps: list[Step], states: list[list[list[int]]]) -> bool:
    """Whether each near miss of each line, alone, changes the output of at least one test."""
    for index, step in enumerate(steps):
        for miss in step.misses():
            for xs, output in zip(states[index], states[-1], strict=True):
                for line in [miss, *(later.line() for later in steps[index + 1 :])]:
                    xs = apply_line(line, xs)
                if xs != output:
                    break
            else:
                return False
    return True


def program_of(lines: list[str]) -> str:
    return "def f(xs):\n" + "".join(f"    xs = {line}\n" for line in lines) + "    return xs\n"


def commented(rng: random.Random, program: str, rate: float) -> str:
    """The program with a comment above some of the lines of its body."""
    first, *body = program.splitlines(keepends=True)
    return first + "".join(
        (rng.choice(COMMENTS) if rng.random() < rate else "") + line for line in body
    )


def prompt_of(rng: random.Random, steps: list[Step]) -> str:
    phrases = [step.fill(OPERATIONS[step.operation][1][step.phrase]) for step in steps]
    return (
        "\n".join(
            (rng.choice(CONNECTIVES) if i else "") + phrase for i, phrase in enumerate(phrases)
        )
        + "\n"
    )


def demonstration_of(
    rng: random.Random, steps: list[Step], lines: list[str], config: Config
) -> str:
    """The teacher's completion with a plan for its program `lines`: true to them, vague, or unaligned, line by line."""
    plan = []
    for step, line in zip(steps, lines, strict=True):
        chance, plans = rng.random(), step.plans()
        if chance < config.vague_rate:
            plan.append(rng.choice(VAGUE))
        elif chance < config.vague_rate + config.unaligned_rate:
            plan.append(rng.choice([plans[other] for other in plans if other != line]))
        else:
            plan.append(plans[line])
    return "\n".join(["<think>", *plan, "</think>", "<answer>", program_of(lines) + "</answer>\n"])


def is_test_composition(steps: list[Step]) -> bool:
    """Splits by the sequence of operations: 15 % of the sequences occur in the test split alone."""
    return common.seed_of(0, "composition", *(step.operation for step in steps)) % 100 < 15


def make_micro(config: Config) -> dict[str, list[dict]]:
    rng = random.Random(common.seed_of(config.seed, "micro"))
    pairs = [(operation, phrase) for operation in range(len(OPERATIONS)) for phrase in range(2)]
    biased = set(rng.sample(pairs, round(config.misconceptions * len(pairs))))
    wanted = {
        "sft": config.num_sft_tasks,
        "train": config.num_train_tasks,
        "test": config.num_test_tasks,
    }
    shortest = {"sft": config.min_steps, "train": config.train_min_steps, "test": config.min_steps}
    splits, seen = {}, set()
    for split, number in wanted.items():
        rows = splits[split] = []
        bar = common.progress_bar(f"{split} tasks", number)
        while len(rows) < number:
            steps = random_steps(
                rng, shortest[split] + len(rows) % (config.max_steps - shortest[split] + 1)
            )
            if is_test_composition(steps) != (split == "test"):
                continue
            inputs = [
                [rng.randint(-12, 20) for _ in range(rng.randint(7, 14))] for _ in range(10)
            ] + EDGE_CASES
            states = run_steps(steps, inputs)
            if states is None or (split != "sft" and not every_miss_fails(steps, states)):
                continue
            prompt = prompt_of(rng, steps)
            if prompt in seen:
                continue
            seen.add(prompt)
            row = {
                "task_id": f"micro/{split}/{len(rows)}", "prompt": prompt, "entry_point": "f",
                "solution": program_of([step.line() for step in steps]), "setup": "", "style": "call",
                "tests": [{"args": [xs], "output": output} for xs, output in zip(inputs, states[-1], strict=True)],
                "timeout": None, "meta": {"steps": len(steps), "split": split},
            }  # fmt: skip
            if (
                split == "train"
            ):  # what the teacher would write where it misreads a line, biased pair or not
                row["meta"]["misconceptions"] = [f"    xs = {step.misses()[0]}" for step in steps]
            if config.plans:
                row["meta"]["plan"] = [next(iter(step.plans().values())) for step in steps]
            if split == "sft":
                lines = []
                for step in steps:
                    wrong = rng.random()
                    if (
                        step.operation,
                        step.phrase,
                    ) in biased and wrong < config.misconception_rate:
                        lines.append(step.misses()[0])
                    else:
                        lines.append(
                            rng.choice(step.misses()) if wrong > 1 - config.noise else step.line()
                        )
                row["completion"] = program_of(lines)
                if (
                    config.comment_rate
                ):  # here and below draws of its own, so that the programs are those without
                    comment_rng = random.Random(common.seed_of(config.seed, "comments", len(rows)))
                    row["completion"] = commented(
                        comment_rng, row["completion"], config.comment_rate
                    )
                if config.plans:
                    plan_rng = random.Random(common.seed_of(config.seed, "plans", len(rows)))
                    row["completion"] = demonstration_of(plan_rng, steps, lines, config)
            rows.append(row)
            bar.update()
        bar.close()
    return splits


def read_benchmark(path: str | None, fields: dict) -> list[dict]:
    """Rows of a published file (.jsonl, .jsonl.gz, or one JSON list); InputError names the file, line and field."""
    if path is None:
        raise InputError("--input is required: the published benchmark file")
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    try:
        with (gzip.open if path.endswith(".gz") else open)(
            path, "rt", encoding="utf-8", newline=""
        ) as file:
            text = file.read()
        rows = (
            json.loads(text)
            if path.endswith(".json")
            else [json.loads(line) for line in text.split("\n") if line]
        )
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable benchmark file: {error}") from None
    for number, row in enumerate(rows, 1):
        for field, kind in fields.items():
            if not isinstance(row, dict) or not isinstance(row.get(field), kind):
                raise InputError(f"{path}:{number}: field {field!r} must be {kind.__name__}")
    return rows


def called_function(code: str, tests: list[str]) -> str | None:
    """The function of `code` that the tests call: the entry point that MBPP does not name."""
    defined = {
        node.name
        for node in ast.parse(code).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    for test in tests:
        for node in ast.walk(ast.parse(test)):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in defined
            ):
                return node.func.id
    return None


def make_mbpp(config: Config) -> dict[str, list[dict]]:
    """MBPP, full (mbpp.jsonl) or sanitized (sanitized-mbpp.json), in its published splits by task id."""
    splits = {"prompt": [], "test": [], "validation": [], "train": []}
    for row in read_benchmark(config.input, {"task_id": int, "code": str, "test_list": list}):
        text = row.get("text") or row.get("prompt")
        if not isinstance(text, str):
            raise InputError(f"{config.input}: task {row['task_id']}: field 'text' must be str")
        code = (
            common.unix(row["code"]).rstrip("\n") + "\n"
        )  # 972 of the 974 programs have CRLF line ends
        tests = [common.unix(test) for test in row["test_list"]]
        setup = row.get("test_setup_code", "") + "\n".join(row.get("test_imports", []))
        number = row["task_id"]
        split = (
            "prompt"
            if number <= 10
            else "test"
            if number <= 510
            else "validation"
            if number <= 600
            else "train"
        )
        splits[split].append({
            "task_id": f"mbpp/{number}",
            "prompt": f"You are an expert Python programmer, and here is your task: {text.strip()} "
            "Your code should pass these tests:\n\n" + "\n".join(tests) + "\n",
            "entry_point": called_function(code, tests), "solution": code, "setup": common.unix(setup),
            "style": "assert", "tests": tests, "timeout": 10, "meta": {"split": split},
        })  # fmt: skip
    splits = {split: rows for split, rows in splits.items() if rows}
    if config.plus:
        strengthen([task for rows in splits.values() for task in rows], config)
    return splits


def make_humaneval(config: Config) -> dict[str, list[dict]]:
    """HumanEval: the completion goes on where the prompt, which is code, ends (`prefix`)."""
    rows = []
    fields = {
        "task_id": str,
        "prompt": str,
        "entry_point": str,
        "canonical_solution": str,
        "test": str,
    }
    for row in read_benchmark(config.input, fields):
        rows.append({
            "task_id": row["task_id"], "prompt": row["prompt"], "prefix": row["prompt"],
            "entry_point": row["entry_point"], "solution": row["prompt"] + row["canonical_solution"],
            "setup": sandbox.prompt_helpers(row["prompt"], row["entry_point"]),
            "style": "assert", "tests": [f"{row['test']}\ncheck({row['entry_point']})"], "timeout": 3,
            "meta": {"split": "test"},
        })  # fmt: skip
    return {"test": rows}


# Arguments of MBPP+ that are tuples, which its file writes as lists, by task: the container at each depth of an argument,
# "t" a tuple, "l" a list; one for all arguments, or one for each. evalplus decides by task too.
TUPLES = {
    f"Mbpp/{number}": levels.split(",")
    for levels, numbers in {
        "t": "2 116 132 222 261 273 394 421 424 429 470 560 579 596 616 630 720 726 740 744 763 809",
        "lt": "63 64 70 75 94 120 237 272 299 409 413 473 614 722 753 780",
        "tt": "259 278 445 615",
        "t" * 20: "580 791",
        "t,": "250 405 446 808",
        ",t": "106 750",
    }.items()
    for number in numbers.split()
}
WRITTEN_AS_TEXT = {
    "Mbpp/124": [float, complex],
    "Mbpp/252": [complex],
}  # types of arguments that have no JSON
SET = "set(result) == set(expected)"
MATCH = "(result if isinstance(result, bool) else result is not None) == (expected is not None)"  # re.Match or None
RULES = {  # when a result is right, where equality with the reference's, within a tolerance, is not what evalplus asks
    **dict.fromkeys([f"Mbpp/{number}" for number in (2, 7, 111, 140, 232, 579, 769)], SET),
    **dict.fromkeys([f"Mbpp/{number}" for number in (737, 787, 794)], MATCH),
    # Digits compared from the right, or from the left; the pyramid's height, or its slant height.
    "Mbpp/558": "result == expected or result == sum(abs(int(x) - int(y)) for x, y in zip(*"
    "(str(n).zfill(max(len(str(n)) for n in arguments)) for n in arguments)))",
    "Mbpp/581": "result == expected or "
    "result == round(arguments[0] ** 2 + 2 * arguments[0] * math.hypot(arguments[0] / 2, arguments[1]))",
    "HumanEval/32": "abs(sum(c * math.pow(result, i) for i, c in enumerate(arguments[0]))) <= atol",  # any root
}
AGREES = """
import copy
import math
from math import inf, nan

program = {"__name__": "reference"}
exec(source, program)

def close(a, b, atol):
    if a == b or type(a) is not type(b):
        return a == b
    if isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(close(x, y, atol) for x, y in zip(a, b))
    return atol > 0 and isinstance(b, (int, float, complex)) and (abs(a - b) <= atol + 1e-7 * abs(b) < inf or a != a and b != b)

def tolerance(expected):
    values = expected if isinstance(expected, (list, tuple)) and expected else [expected]
    return atol or (1e-6 if all(isinstance(x, float) for x in values) else 0)

def agrees(candidate, *arguments):
    result = candidate(*copy.deepcopy(arguments))
    expected = program[entry_point](*copy.deepcopy(arguments))
    return RULE
"""


def with_tuples(value, levels: str):
    """The value with its lists as tuples at the depths where `levels` says "t"."""
    if isinstance(value, dict):
        return {key: with_tuples(item, levels[1:]) for key, item in value.items()}
    if not isinstance(value, list):
        return value
    items = [with_tuples(item, levels[1:]) for item in value]
    return tuple(items) if levels.startswith("t") else items


def plus_arguments(task_id: str, inputs: list) -> list[str]:
    """Inputs of a task of HumanEval+ or MBPP+ as the source of a call's arguments, without repetitions."""
    levels, kinds = TUPLES.get(task_id, [""]), WRITTEN_AS_TEXT.get(task_id)
    texts = []
    for arguments in inputs:
        if task_id == "Mbpp/255" and arguments[1] > 70:
            continue  # five inputs whose results hold 6 to 128 million values: the sandbox lets no more than 4 pass
        if kinds:
            arguments = [kind(value) for kind, value in zip(kinds, arguments, strict=True)]
        depths = levels if len(levels) > 1 else levels * len(arguments)
        texts.append(
            ", ".join(
                repr(with_tuples(v, depth)) for v, depth in zip(arguments, depths, strict=True)
            )
        )
    return list(dict.fromkeys(texts))


def plus_setup(row: dict, source: str) -> str:
    """Source of `agrees`, which compares a function with the reference by evalplus' rules. Two of them are tightened: a
    tolerance does not outlast the input whose result asked for it, and NaN agrees with NaN."""
    given = f"source = {source!r}\nentry_point = {row['entry_point']!r}\natol = {row['atol']!r}\n"
    rule = RULES.get(row["task_id"], "close(result, expected, tolerance(expected))")
    return given + AGREES.replace("RULE", rule)


def read_plus(path: str | None) -> list[dict]:
    fields = {
        "task_id": str,
        "prompt": str,
        "entry_point": str,
        "canonical_solution": str,
        "base_input": list,
    }
    rows = read_benchmark(path, fields)
    for number, row in enumerate(rows, 1):
        row["plus_input"] = row.get("plus_input") or []  # Mbpp/793 has an empty object
        for field, kinds in (("plus_input", list), ("atol", int | float)):
            if not isinstance(row.get(field), kinds):
                raise InputError(f"{path}:{number}: field {field!r} must be {kinds}")
    return rows


def make_plus(config: Config) -> dict[str, list[dict]]:
    """HumanEval+ or MBPP+, one test an input; ids, prompts and order as evalplus reads them."""
    rows = []
    for row in read_plus(config.input):
        code = (
            config.source == "humanevalplus"
        )  # the completion goes on where the prompt ends; MBPP+ has a docstring
        source = (
            row["prompt"] + row["canonical_solution"]
            if code
            else row["canonical_solution"].strip("\n") + "\n"
        )
        rows.append({
            "task_id": row["task_id"], "prompt": row["prompt"], **({"prefix": row["prompt"]} if code else {}),
            "entry_point": row["entry_point"], "solution": source, "setup": plus_setup(row, source), "style": "assert",
            "tests": [f"assert agrees({row['entry_point']}, {text})"
                      for text in plus_arguments(row["task_id"], row["base_input"] + row["plus_input"])],
            "timeout": 30, "meta": {"split": "test"},  # twice the slowest reference, Mbpp/599
        })  # fmt: skip
    return {"test": rows}


def strengthen(tasks: list[dict], config: Config) -> None:
    """Add inputs of MBPP+ to the tests of the MBPP tasks whose own program passes them; `meta.plus_tests` counts them."""
    if config.max_plus_inputs < 1:
        raise InputError("--max_plus_inputs must be at least 1")
    covered = {row["task_id"].lower(): row for row in read_plus(config.plus)}
    pairs = []
    for task in tasks:
        row = covered.get(task["task_id"])
        texts = (
            plus_arguments(row["task_id"], row["plus_input"])[: config.max_plus_inputs]
            if row
            else []
        )
        if texts:
            added = [f"assert agrees({task['entry_point']}, {text})" for text in texts]
            setup = plus_setup(row, row["canonical_solution"]) + task["setup"]
            pairs.append((task, {"setup": setup, "tests": task["tests"] + added}))
    with sandbox.Sandbox(workers=config.sandbox_workers) as runner:
        # A second at most, for the reference as well: whoever labels mutations runs these tests hundreds of times.
        verdicts = runner.judge(
            [(task | stronger | {"timeout": 1}, task["solution"]) for task, stronger in pairs]
        )
    wrong = []
    for (task, stronger), verdict in zip(pairs, verdicts, strict=True):
        if verdict["status"] == "passed":
            task["meta"]["plus_tests"] = len(stronger["tests"]) - len(task["tests"])
            task.update(stronger)
        else:
            wrong.append(task["task_id"])
    print(
        f"{len(pairs)} of {len(tasks)} tasks are covered by MBPP+, {len(pairs) - len(wrong)} have its tests now"
    )
    if wrong:
        print(
            f"{len(wrong)} keep their own alone, since their program fails the others: {' '.join(wrong)}"
        )


def make_gsm8k(config: Config) -> dict[str, list[dict]]:
    """GSM8K (Cobbe et al., 2021), the split that the file is named after: nothing is executed, the final answer counts."""
    split, rows = Path(config.input or "").name.split(".")[0], []
    for number, row in enumerate(read_benchmark(config.input, {"question": str, "answer": str}), 1):
        _, mark, answer = row["answer"].rpartition("####")
        if not mark or not answer.strip():
            raise InputError(
                f"{config.input}:{number}: field 'answer' must end in '#### ' and the final answer"
            )
        rows.append({
            "task_id": f"gsm8k/{split}/{number - 1}",
            "prompt": f"{row['question'].strip()}\nEnd with a line of #### and the final answer.\n", "entry_point": None,
            "solution": row["answer"], "setup": "", "style": "answer", "tests": [{"answer": answer.strip()}],
            "timeout": None, "meta": {"split": split},
        })  # fmt: skip
    return {split: rows}


def ask_to_think(task: dict) -> None:
    """Makes a task ask for <think> and <answer>; one with a reference rationale gets `completion` and `meta.plan`."""
    code, answer = task.pop("prefix", None), task["style"] == "answer"
    question = f"Complete this program:\n\n{code}" if code else task["prompt"]
    task["prompt"] = (
        f"{question.rstrip()}\n\nWrite your reasoning between <think> and </think>, and after it the "
        f"{'answer' if answer else 'whole program'} between <answer> and </answer>.\n"
    )
    if answer:
        rationale, mark, number = re.sub(r"<<.*?>>", "", task["solution"]).rpartition("####")
        plan = task["meta"]["plan"] = [
            line.strip() for line in rationale.split("\n") if line.strip()
        ]
        task["completion"] = "\n".join(
            ["<think>", *plan, "</think>", "<answer>", mark + number, "</answer>\n"]
        )


MAKERS = {"micro": make_micro, "mbpp": make_mbpp, "humaneval": make_humaneval, "gsm8k": make_gsm8k}
MAKERS |= {"humanevalplus": make_plus, "mbppplus": make_plus}


def main(config: Config) -> None:
    if (
        config.source == "micro"
        and not 1 <= config.min_steps <= config.train_min_steps <= config.max_steps
    ):
        raise InputError("--min_steps <= --train_min_steps <= --max_steps must hold")
    if config.think and config.source == "micro":
        raise InputError("--think is for public benchmarks; --source micro has --plans")
    splits = MAKERS[config.source](config)
    if config.think:
        for task in (task for rows in splits.values() for task in rows):
            ask_to_think(task)
    for split, rows in splits.items():
        common.write_jsonl(Path(config.output_dir) / f"{split}.jsonl", rows)
        print(f"{Path(config.output_dir) / split}.jsonl: {len(rows)} tasks")


if __name__ == "__main__":
    common.run(main, Config)
