"""BigCodeBench (Zhuo et al., 2024, arXiv 2406.15877): functions that use libraries, and unittests.

    python make_tasks.py --source bigcodebench --input BigCodeBench.jsonl.gz --split complete \\
        --output_dir tasks/bigcodebench

Full and hard are two files of one form, BigCodeBench.jsonl.gz and BigCodeBench-Hard.jsonl.gz of
https://github.com/bigcode-project/bigcodebench-annotation/releases (the hub has them as parquet
alone). `--split complete` asks for the body of a function, `instruct` for a whole program.

A task's `packages` are what its reference and its tests import besides the standard library. A
task whose packages this Python lacks is left out of the tasks file: such a task says nothing of a
model. left_out.jsonl names these tasks. The sandbox lets a program import the packages that it is
told of (sandbox.py run --packages numpy). The published numbers need about 70 packages in the
versions of the harness' own image.

As in the harness, a program finds `os`, `sys` and `environ`, and what `code_prompt` defines (its
`calibrated`), so that an answer may leave out the imports of its prompt; and it has 240 seconds.
"""

import ast
import importlib.util
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from benchmarks import files
from common import InputError, InputFile, OutputDir


@dataclass
class Config:
    output_dir: OutputDir  # one JSONL file a split is written here
    input: InputFile  # BigCodeBench.jsonl.gz or BigCodeBench-Hard.jsonl.gz
    source: Literal["bigcodebench"] = "bigcodebench"
    split: Literal["complete", "instruct"] = "complete"  # the prompts: code, or words
    think: bool = False  # prompts ask for reasoning between think tags before the program


# What the harness gives to every program.
GIVEN = "import os\nimport sys\nfrom os import environ\n"
FIELDS = """\
task_id complete_prompt instruct_prompt canonical_solution code_prompt test entry_point"""


def packages_of(*sources: str) -> list[str]:
    """Names that the sources import and that the standard library lacks, in their order."""
    names = set()
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    return sorted(names - set(sys.stdlib_module_names))


def make_with_left_out(config: Config) -> tuple[dict[str, list[dict]], dict[str, str]]:
    """The test split, the only one; and which tasks it lacks: {task_id: reason}."""
    tasks, left_out, counts = [], {}, Counter()
    rows = files.iterate_benchmark(config.input, dict.fromkeys(FIELDS.split(), str))
    for number, row in enumerate(rows, 1):
        solution = row["code_prompt"] + row["canonical_solution"]
        try:
            packages = packages_of(solution, row["test"])
        except SyntaxError as error:
            raise InputError(f"{config.input}:{number}: {row['task_id']}: {error}") from None
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        if missing:
            left_out[row["task_id"]] = f"not installed: {', '.join(missing)}"
            counts.update(missing)
            continue
        prompt, prefix = row[f"{config.split}_prompt"], {}
        if config.split == "complete":
            prefix, solution = {"prefix": prompt}, prompt + row["canonical_solution"]
        task = {
            "task_id": row["task_id"],
            "prompt": prompt,
            **prefix,
            "entry_point": row["entry_point"],
            "solution": solution,
            "preamble": GIVEN + row["code_prompt"] + "\n    pass\n",
            "setup": "",
            "style": "unittest",
            "tests": [{"code": row["test"]}],
            "packages": packages,
            "timeout": 240,
            "meta": {"split": "test"},
        }
        if reason := files.why_not_judged(task):
            left_out[row["task_id"]] = reason
        else:
            tasks.append(task)
    if counts:
        each = ", ".join(f"{name} {count}" for name, count in counts.most_common())
        print(f"packages that are not installed, with the number of tasks: {each}")
    if not tasks:
        raise InputError(f"{config.input}: no task has all of its packages installed")
    return {"test": tasks}, left_out


def make(config: Config) -> dict[str, list[dict]]:
    """The test split, the only one: tasks whose packages are installed."""
    return make_with_left_out(config)[0]


def main(config: Config) -> None:
    splits, left_out = make_with_left_out(config)
    files.write_splits(splits, config.output_dir, config.think, left_out)
