"""LiveCodeBench, code generation (Jain et al., 2024, arXiv 2403.07974): dated contest problems.

    python make_tasks.py --source livecodebench --release release_v6 --start_date 2025-01-01 \\
        --output_dir tasks/livecodebench
    python make_tasks.py --source livecodebench --input test6.jsonl --output_dir tasks/new

A release is the first files of livecodebench/code_generation_lite on the hub. They are large:
release_v1, the first, has 1.25 GB; what was new in release_v6 has 0.13 GB (test6.jsonl). `--input`
names files in their place. Tests are the public ones, then the private ones. Ids and their order
are those of the harness. meta has `difficulty`, `date`, `platform` and `starter_code`, and
`errata` for the tasks that ERRATA.md of the harness lists; the harness counts these tasks, as
eval.py does. eval.py --protocol livecodebench asks and reads as the harness does.

Programs of the harness may import numpy; those of sandbox.py may with --packages numpy. The harness
makes a list of the outer tuple alone that a call returns, and runs all tests of a Solution on one
object. Here all tuples are lists, and each test has an object of its own.

A task whose tests exceed what the sandbox takes is left out, and left_out.jsonl names it.
With --think true a prompt holds the starter code, if there is one.
"""

import base64
import json
import pickletools
import re
import zlib
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from benchmarks import files
from common import InputError, OutputDir

HUB = "livecodebench/code_generation_lite"


@dataclass
class Config:
    output_dir: OutputDir  # one JSONL file a split is written here
    source: Literal["livecodebench"] = "livecodebench"
    release: Literal[
        "release_v1", "release_v2", "release_v3", "release_v4", "release_v5", "release_v6"
    ] = "release_v6"  # the files of the hub up to this release
    input: list[str] = field(default_factory=list)  # in their place: paths, or owner/dataset/file
    start_date: str | None = None  # YYYY-MM-DD: contests from this day on
    end_date: str | None = None  # YYYY-MM-DD: contests up to the beginning of this day
    think: bool = False  # prompts ask for reasoning between think tags before the program


# What the harness puts before every program, and the longest integers that it reads and writes.
STARS = """\
string re datetime collections heapq bisect copy math random statistics itertools functools \
operator io sys json"""
HEADER = (
    "".join(f"from {name} import *\n" for name in f"{STARS} builtins typing".split())
    + "".join(f"import {name}\n" for name in STARS.split())
    + "sys.setrecursionlimit(50000)\nsys.set_int_max_str_digits(50000)\n"
)

# ERRATA.md of the harness: why a right program may fail. By question_id or by the title's words.
ERRATA = {
    "several right outputs": "abc311_c abc326_d abc327_b abc333_e abc343_a abc343_e abc362_c "
    "arc185_c find-words-containing-character find-the-peaks "
    "generate-binary-strings-without-adjacent-zeros",
    "interactive": "abc337_e abc355_e",
    "wrong tests": "abc350_c arc189_a apply-operations-to-make-string-empty most-frequent-ids",
}
ERRATUM_OF = {name: reason for reason, names in ERRATA.items() for name in names.split()}

FIELDS = """\
question_title question_content platform question_id contest_date starter_code difficulty \
public_test_cases private_test_cases metadata"""
# The opcodes of a pickle that holds one string: the string, and what gives no object.
STRING_OPCODES = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"}
OTHER_OPCODES = {"PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "STOP"}


def string_of_pickle(data: bytes) -> str:
    """The string that a pickle holds, read off its opcodes: nothing is built or called.

    Raises ValueError for a pickle of anything else.
    """
    strings = []
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in STRING_OPCODES:
            strings.append(argument)
        elif opcode.name not in OTHER_OPCODES:
            raise ValueError(f"a pickle with {opcode.name}, which may be no string")
    if len(strings) != 1:
        raise ValueError(f"a pickle of {len(strings)} strings, not of one")
    return strings[0]


def private_tests(text: str) -> list[dict]:
    """Tests in the field private_test_cases: JSON, or JSON pickled, compressed and in base64."""
    try:
        return json.loads(text)
    except ValueError:
        packed = base64.b64decode(text.encode(), validate=True)
        return json.loads(string_of_pickle(zlib.decompress(packed)))


def tests_of(row: dict) -> tuple[str, str | None, list[dict]]:
    """Style, entry point and tests of a record. Raises ValueError, or KeyError of a field."""
    function = json.loads(row["metadata"]).get("func_name")
    cases = json.loads(row["public_test_cases"]) + private_tests(row["private_test_cases"])
    if not function:
        tests = [{"input": case["input"], "output": case["output"]} for case in cases]
        return "stdio", None, tests
    tests = []
    for case in cases:  # a line of the input is an argument
        arguments = [json.loads(line) for line in case["input"].split("\n")]
        tests.append({"args": arguments, "output": json.loads(case["output"])})
    return "call", f"Solution.{function}", tests


def day(name: str, text: str | None) -> datetime | None:
    """The beginning of a flag's day."""
    try:
        return datetime.strptime(text, "%Y-%m-%d") if text else None
    except ValueError:
        raise InputError(f"--{name} must be YYYY-MM-DD, got {text!r}") from None


def task_of(row: dict) -> dict:
    """The task of a record. Raises ValueError, or KeyError of a field of a test."""
    style, entry_point, tests = tests_of(row)
    slug = "-".join(re.findall("[a-z0-9]+", row["question_title"].lower()))
    erratum = ERRATUM_OF.get(row["question_id"]) or ERRATUM_OF.get(slug)
    return {
        "task_id": row["question_id"],
        "prompt": row["question_content"],
        "entry_point": entry_point,
        "solution": None,
        "preamble": HEADER,
        "setup": "",
        "style": style,
        "tests": tests,
        "timeout": None,
        "test_timeout": 6,
        "meta": {
            "split": "test",
            "platform": row["platform"],
            "difficulty": row["difficulty"],
            "date": row["contest_date"],
            "starter_code": row["starter_code"],
            **({"errata": erratum} if erratum else {}),
        },
    }


def make_with_left_out(config: Config) -> tuple[dict[str, list[dict]], dict[str, str]]:
    """The test split, of the date window; and which tasks it lacks: {task_id: reason}."""
    start, end = day("start_date", config.start_date), day("end_date", config.end_date)
    names = [f"{HUB}/test{number}.jsonl" for number in ("", *range(2, 7))]
    tasks, fields = {}, dict.fromkeys(FIELDS.split(), str)
    for name in config.input or names[: int(config.release[-1])]:
        path = files.fetch(name)
        for number, row in enumerate(files.iterate_benchmark(path, fields), 1):
            try:
                date = datetime.fromisoformat(row["contest_date"])
                if (start is None or start <= date) and (end is None or date <= end):
                    tasks[row["question_id"]] = task_of(row)
            except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
                reason = f"{type(error).__name__}: {str(error)[:200]}"
                raise InputError(
                    f"{path}:{number}: task {row['question_id']}: not a record of LiveCodeBench: "
                    f"{reason}"
                ) from None
    reasons = {name: files.why_not_judged(tasks[name]) for name in sorted(tasks)}
    left_out = {name: reason for name, reason in reasons.items() if reason}
    listed = [name for name in sorted(tasks) if "errata" in tasks[name]["meta"]]
    if listed:
        print(f"ERRATA.md of LiveCodeBench lists {len(listed)} tasks: {' '.join(listed)}")
    if len(tasks) == len(left_out):
        raise InputError("no task with tests has its contest between --start_date and --end_date")
    return {"test": [tasks[name] for name in sorted(tasks) if name not in left_out]}, left_out


def make(config: Config) -> dict[str, list[dict]]:
    """The test split, the only one: tasks of the date window, in the order of their ids."""
    return make_with_left_out(config)[0]


def main(config: Config) -> None:
    splits, left_out = make_with_left_out(config)
    files.write_splits(splits, config.output_dir, config.think, left_out)
