"""APPS (Hendrycks et al., 2021, arXiv 2105.09938): problems of contests and of coding sites.

    python make_tasks.py --source apps --input codeparrot/apps/train.jsonl --output_dir tasks/apps
    python make_tasks.py --source apps --input APPS/train --output_dir tasks/apps

`--input` is train.jsonl or test.jsonl of the hub's codeparrot/apps (107 MB and 1.3 GB), here or
there, or a split's folder of the original release. The split is named after it. A prompt is that of
the original evaluation, a program is what follows it. meta has `difficulty` and `url`.

Tasks without tests, or with tests that cannot be read, are left out. left_out.jsonl names them.

A program reads standard input (style stdio), or is called (style call): a function, or a method of
Solution where the starter code or the reference has that class. The file wraps what a call returns
in a list of one; a task whose outputs all have this form loses the wrapping.

Printed outputs are equal but for blank lines, as in the original grader (eval/testing_util.py). In
a problem that prints a number with a decimal point, numbers are equal within 0.0005 + 1e-5 times
the expected one: the original compares by np.allclose, and after rounding to three decimals. The
original also takes for right, and this module does not:

- lines in another order, a line's words in another order, and words or lines that repeat
- other integers within 1e-5 times the expected one, in a problem that prints integers alone
- of a function that is called, the right value in a list of one

The original runs all tests of a Solution on one object, gives a program numpy as np, and makes
lists of tuples at the outer two levels of what a call returns. Here each test has an object of its
own, a program imports what is not in HEADER, and all tuples are lists.
"""

import ast
import json
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import common
from benchmarks import files
from common import InputError, InputFile, OutputDir


@dataclass
class Config:
    output_dir: OutputDir  # one JSONL file a split is written here
    source: Literal["apps"] = "apps"
    input: str = "codeparrot/apps/test.jsonl"  # a file here or on the hub, or a split's folder
    exclude: list[InputFile] = field(default_factory=list)  # training tasks that these have go
    think: bool = False  # prompts ask for reasoning between think tags before the program


# What the original grader puts before every program, but for numpy. The original's Python read and
# wrote integers of any length.
HEADER = """\
import sys
sys.set_int_max_str_digits(0)
import time
import itertools
from itertools import accumulate, product, permutations, combinations
import collections
from collections import Counter, OrderedDict, deque, defaultdict, ChainMap
from functools import lru_cache
import math
from math import sqrt, sin, cos, tan, ceil, fabs, floor, gcd, exp, log, log2
import fractions
from typing import List, Tuple
import random
import heapq
from heapq import *
"""


# A word of an output that is a number with a decimal point.
REAL = re.compile(r"(?<!\S)[+-]?\d*\.\d+(?:[eE][+-]?\d+)?(?!\S)")
TOLERANCE = {"atol": 5e-4, "rtol": 1e-5}


def iterate_folder(folder: Path) -> Iterator[dict]:
    """Rows of a split's folder, with the fields of the hub's files."""
    for place in sorted(path.parent for path in folder.glob("*/question.txt")):

        def text(name, place=place):
            path = place / name
            return path.read_text(encoding="utf-8") if path.is_file() else ""

        try:
            yield {
                "problem_id": place.name,
                "question": text("question.txt"),
                "solutions": text("solutions.json"),
                "input_output": text("input_output.json"),
                "starter_code": text("starter_code.py"),
                **json.loads(text("metadata.json") or "{}"),
            }
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{place}: not a problem of APPS: {error}") from None


def rows_of(path: str) -> Iterator[dict]:
    if Path(path).is_dir():
        return iterate_folder(Path(path))
    texts = ("question", "solutions", "input_output", "difficulty", "starter_code")
    return files.iterate_benchmark(path, dict.fromkeys(texts, str))


def solution_of(text: str) -> str | None:
    """The first reference that is a program of Python 3; None without one."""
    try:
        solutions = json.loads(text or "[]")
    except ValueError:
        return None
    for solution in solutions:
        program = common.unix(solution).rstrip("\n") + "\n"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of doubtful escapes in the program
                ast.parse(program)
            return program
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return None


def tests_of(text: str) -> tuple[str | None, list[dict]]:
    """The function that is called, or None, and the tests. ValueError: these cannot be read."""
    data = json.loads(text) if text.strip() else {}
    if not isinstance(data, dict):
        raise ValueError("not an object")
    inputs, outputs = data.get("inputs") or [], data.get("outputs") or []
    if not (isinstance(inputs, list) and isinstance(outputs, list) and len(inputs) == len(outputs)):
        raise ValueError("inputs and outputs are not two lists of one length")
    function = data.get("fn_name")
    if function:
        if not all(isinstance(arguments, list) for arguments in inputs):
            raise ValueError("an input is no list of arguments")
        if any(has_numeric_keys(arguments) for arguments in inputs):
            raise ValueError("an argument is a dict whose keys are numbers, which JSON lacks")
        if all(isinstance(output, list) and len(output) == 1 for output in outputs):
            outputs = [output[0] for output in outputs]
        pairs = zip(inputs, outputs, strict=True)
        return function, [{"args": arguments, "output": output} for arguments, output in pairs]
    lines = [  # some inputs and outputs are lists of lines
        ["\n".join(map(str, text)) if isinstance(text, list) else text for text in texts]
        for texts in (inputs, outputs)
    ]
    if not all(isinstance(text, str) for texts in lines for text in texts):
        raise ValueError("an input or an output is no text")
    tolerance = TOLERANCE if any(map(REAL.search, lines[1])) else {}
    rules = {"blank_lines": False} | tolerance
    return None, [{"input": a, "output": b} | rules for a, b in zip(*lines, strict=True)]


def has_numeric_keys(arguments: list) -> bool:
    """Whether the original grader makes numbers of the keys of the first argument."""
    first = arguments[0] if arguments else None
    return isinstance(first, dict) and {key.lstrip("-").isdigit() for key in first} == {True}


def make_with_left_out(config: Config) -> tuple[dict[str, list[dict]], dict[str, str]]:
    """The one split that the input holds; and which tasks it lacks: {task_id: reason}."""
    path = files.fetch(config.input)
    split, tasks, left_out = Path(path).name.split(".")[0], [], {}
    for number, row in enumerate(rows_of(path)):
        name = f"apps/{split}/{row.get('problem_id', row.get('id', number))}"
        try:
            function, tests = tests_of(row["input_output"])
        except (ValueError, RecursionError) as error:  # also integers of thousands of digits
            left_out[name] = " ".join(str(error).split())[:200]
            continue
        starter, solution = row["starter_code"], solution_of(row["solutions"])
        entry_point = function
        if function and "class Solution" in (starter or solution or ""):
            entry_point = f"Solution.{function}"
        prompt = (
            f"\nQUESTION:\n{row['question']}"
            + (f"\n{starter}" if starter else "")
            + f"\nUse {'Call-Based' if function else 'Standard Input'} format"
            + ("\n" if config.think else "\nANSWER:\n")
        )
        task = {
            "task_id": name,
            "prompt": prompt,
            "entry_point": entry_point,
            "solution": solution,
            "preamble": HEADER,
            "setup": "",
            "style": "call" if function else "stdio",
            "tests": tests,
            "timeout": None,
            "test_timeout": 4,
            "meta": {
                "split": split,
                "difficulty": row.get("difficulty"),
                "url": row.get("url"),
            },
        }
        if reason := files.why_not_judged(task):
            left_out[name] = reason
        else:
            tasks.append(task)
    if not tasks:
        raise InputError(f"{path}: no task with tests")
    return files.without_tasks_of({split: tasks}, config.exclude), left_out


def make(config: Config) -> dict[str, list[dict]]:
    """The one split that the input holds: tasks with tests."""
    return make_with_left_out(config)[0]


def main(config: Config) -> None:
    splits, left_out = make_with_left_out(config)
    files.write_splits(splits, config.output_dir, config.think, left_out)
