"""HumanEval+ and MBPP+ (Liu et al., 2023, arXiv 2305.01210): inputs without outputs, one test each.

    python make_tasks.py --source humanevalplus --input HumanEvalPlus.jsonl.gz \\
        --output_dir tasks/humanevalplus
    python make_tasks.py --source mbppplus --input MbppPlus.jsonl.gz --output_dir tasks/mbppplus

The sandbox's judge runs the benchmark's reference on each input, trusted as all tests are, and
compares by evalplus' rules. Ids, prompts and order are those that evalplus reads.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from benchmarks import files
from common import InputError, InputFile, OutputDir


@dataclass
class Config:
    source: Literal["humanevalplus", "mbppplus"]
    output_dir: OutputDir  # one JSONL file a split is written here
    input: InputFile  # the published file, HumanEvalPlus.jsonl.gz or MbppPlus.jsonl.gz
    tests: Literal["plus", "base"] = "plus"  # base: the inputs of HumanEval or MBPP alone
    think: bool = False  # prompts ask for reasoning between think tags before the program


# MBPP+ writes tuples as lists. The tasks whose arguments hold tuples, as in evalplus, by the
# containers of an argument from the outside in: "t" a tuple, "l" a list. Between commas: one
# pattern for each argument; without a comma: one pattern for all arguments.
TASKS_BY_CONTAINERS = {
    "t": "2 116 132 222 261 273 394 421 424 429 470 560 579 596 616 630 720 726 740 744 763 809",
    "lt": "63 64 70 75 94 120 237 272 299 409 413 473 614 722 753 780",
    "tt": "259 278 445 615",
    "t" * 20: "580 791",
    "t,": "250 405 446 808",
    ",t": "106 750",
}
CONTAINERS = {
    f"Mbpp/{number}": containers.split(",")
    for containers, numbers in TASKS_BY_CONTAINERS.items()
    for number in numbers.split()
}
# Types of arguments that JSON lacks and the file writes as text.
WRITTEN_AS_TEXT = {"Mbpp/124": [float, complex], "Mbpp/252": [complex]}

SAME_SET = "set(result) == set(expected)"
# The result is a re.Match or None.
SAME_MATCH = (
    "(result if isinstance(result, bool) else result is not None) == (expected is not None)"
)
# When a result is right, for the tasks in which evalplus asks for something other than equality
# with the reference's result within a tolerance.
RULES = {
    **dict.fromkeys([f"Mbpp/{number}" for number in (2, 7, 111, 140, 232, 579, 769)], SAME_SET),
    **dict.fromkeys([f"Mbpp/{number}" for number in (737, 787, 794)], SAME_MATCH),
    # Digits compared from the right, or from the left.
    "Mbpp/558": "result == expected or result == sum(abs(int(x) - int(y)) for x, y in zip(*"
    "(str(n).zfill(max(len(str(n)) for n in arguments)) for n in arguments)))",
    # The pyramid's height, or its slant height.
    "Mbpp/581": "result == expected or result == round(arguments[0] ** 2 "
    "+ 2 * arguments[0] * math.hypot(arguments[0] / 2, arguments[1]))",
    # Any root of the polynomial.
    "HumanEval/32": "abs(sum(c * math.pow(result, i) for i, c in enumerate(arguments[0]))) <= atol",
}
# Source of `agrees`; RULE stands for a rule of RULES, or for `close`.
AGREES = """
import marshal
import math
from math import inf, nan

program = {}

def reference(arguments):
    if not program:
        program["__name__"] = "reference"
        exec(source, program)
    return program[entry_point](*copy(arguments))

def copy(arguments):
    return marshal.loads(marshal.dumps(arguments))

def close(a, b, atol):
    if a == b or type(a) is not type(b):
        return a == b
    if isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(close(x, y, atol) for x, y in zip(a, b))
    return atol > 0 and isinstance(b, (int, float, complex)) and \
(abs(a - b) <= atol + 1e-7 * abs(b) < inf or a != a and b != b)

def tolerance(expected):
    values = expected if isinstance(expected, (list, tuple)) and expected else [expected]
    return atol or (1e-6 if all(isinstance(x, float) for x in values) else 0)

def agrees(candidate, *arguments):
    if "expected" not in __memory__:
        __memory__["expected"] = reference(arguments)
    expected = __memory__["expected"]
    result = candidate(*GIVEN)
    return RULE
"""


def with_tuples(value, containers: str):
    """The value with its lists as tuples at the depths where `containers` says "t"."""
    if isinstance(value, dict):
        return {key: with_tuples(item, containers[1:]) for key, item in value.items()}
    if not isinstance(value, list):
        return value
    items = [with_tuples(item, containers[1:]) for item in value]
    return tuple(items) if containers.startswith("t") else items


def plus_arguments(task_id: str, inputs: list) -> list[str]:
    """Inputs of a task as the source of a call's arguments, without repetitions."""
    containers, kinds = CONTAINERS.get(task_id, [""]), WRITTEN_AS_TEXT.get(task_id)
    sources = []
    for arguments in inputs:
        # Five inputs whose results hold 6 to 128 million values; the sandbox passes on 4 million.
        if task_id == "Mbpp/255" and arguments[1] > 70:
            continue
        if kinds:
            arguments = [kind(value) for kind, value in zip(kinds, arguments, strict=True)]
        each = containers if len(containers) > 1 else containers * len(arguments)
        values = [with_tuples(v, depths) for v, depths in zip(arguments, each, strict=True)]
        sources.append(", ".join(map(repr, values)))
    return list(dict.fromkeys(sources))


def plus_tests(entry_point: str, arguments: list[str]) -> list[str]:
    """One test an input; `plus_setup` defines `agrees`."""
    return [f"assert agrees({entry_point}, {source})" for source in arguments]


def plus_setup(row: dict, reference: str) -> str:
    """Source of `agrees`, which compares a function with the reference by evalplus' rules.

    Three rules differ. A tolerance does not outlast the input whose result asked for it. NaN agrees
    with NaN. Within a list, numbers that differ must have one type, as 1 and 1.0000001 have not.
    """
    rule = RULES.get(row["task_id"], "close(result, expected, tolerance(expected))")
    given = "copy(arguments)" if "arguments" in rule else "arguments"
    return (
        f"source = {reference!r}\nentry_point = {row['entry_point']!r}\natol = {row['atol']!r}\n"
        + AGREES.replace("RULE", rule).replace("GIVEN", given)
    )


def read_plus(path: str) -> list[dict]:
    """Rows of a published file of evalplus; InputError names file, row and field."""
    texts = ("task_id", "prompt", "entry_point", "canonical_solution")
    rows = files.read_benchmark(path, {**dict.fromkeys(texts, str), "base_input": list})
    for number, row in enumerate(rows, 1):
        row["plus_input"] = row.get("plus_input") or []  # Mbpp/793 has an empty object
        for field, kinds in (("plus_input", list), ("atol", int | float)):
            if not isinstance(row.get(field), kinds):
                raise InputError(f"{path}:{number}: field {field!r} must be {kinds}")
    return rows


def mbpp_split(number: int) -> str:
    """The published split of a task id of MBPP."""
    for split, last in (("prompt", 10), ("test", 510), ("validation", 600)):
        if number <= last:
            return split
    return "train"


def warn_of_training_tasks(names: list[str]) -> None:
    """Prints how many of these tasks of MBPP+ lie in MBPP's splits for training."""
    splits = Counter(mbpp_split(int(name.split("/")[1])) for name in names)
    if splits["train"] or splits["validation"]:
        print(
            f"warning: {splits['train']} tasks of MBPP+ are in MBPP's train split, "
            f"{splits['validation']} in its validation split: make_tasks.py --source mbpp "
            "--exclude MbppPlus.jsonl.gz leaves them out of training"
        )


def make(config: Config) -> dict[str, list[dict]]:
    """The test split, the only one. A completion of HumanEval+ goes on where the prompt ends."""
    tasks = []
    for row in read_plus(config.input):
        if config.source == "humanevalplus":
            prefix, reference = {"prefix": row["prompt"]}, row["prompt"] + row["canonical_solution"]
        else:  # the prompt is a docstring
            prefix, reference = {}, row["canonical_solution"].strip("\n") + "\n"
        inputs = row["base_input"] + (row["plus_input"] if config.tests == "plus" else [])
        arguments = plus_arguments(row["task_id"], inputs)
        base = plus_arguments(row["task_id"], row["base_input"])  # these come first
        tasks.append(
            {
                "task_id": row["task_id"],
                "prompt": row["prompt"],
                **prefix,
                "entry_point": row["entry_point"],
                "solution": reference,
                "setup": plus_setup(row, reference),
                "style": "assert",
                "tests": plus_tests(row["entry_point"], arguments),
                "timeout": 30,  # twice the slowest reference, Mbpp/599
                "meta": {"split": "test", "base_tests": len(base)},
            }
        )
    if config.source == "mbppplus":
        warn_of_training_tasks([task["task_id"] for task in tasks])
    return {"test": tasks}


def main(config: Config) -> None:
    files.write_splits(make(config), config.output_dir, config.think)
