"""Run untrusted Python programs against tests; the program cannot forge the verdict.

    with Sandbox(workers=2, timeout=3.0) as sandbox:
        futures = [sandbox.submit(task, program) for task, program in pairs]  # work begins at once
        verdicts = [future.result() for future in futures]             # in the order of submission

    python sandbox.py run --tasks T.jsonl --samples S.jsonl --out V.jsonl --workers 2 --timeout 3
    python sandbox.py probe                              # which layers hold on this machine

This file is the face: the contract, the pool of workers, the command line. It runs in the caller's
process. The folder jail/ holds the rest, one file a process role. Both need the standard library
alone (Python 3.11 or later): copy `sandbox.py` and `jail/` into another project as they are.

How a verdict comes about. Each worker owns two processes, started by exec in a clean environment:

    judge    runs the tests; the program never executes here, and its functions are proxies here
    zygote   a pristine, sealed interpreter that forks a candidate process for each program

The judge makes a socket pair for each program and passes one end to the zygote, which forks. The
candidate reads its own program from that socket. So the zygote never sees a program or a test, and
the memory that the candidate inherits holds no secret. A test calls a proxy; arguments and result
cross in a tagged form (never as pickles). The judge rebuilds the result from exact builtin types
and compares. An object of a class of the program's own stays behind; a proxy stands for it, and
never equals plain data. The candidate may write what it likes to its socket: all that it can say is
"the function returned this value". An object that stays behind may answer anew: see `trusted`.

The tests of a task, by `style`. Every test runs, unless `fail_fast`, a timeout or the program's
death ends the run:

    assert    Python source strings, run one by one in one namespace after `setup`. Each test has a
              dict `__memory__` that outlives the program: what a reference gives is computed once
    call      {"args": [...], "output": any, "atol": float?, "rtol": float?}; the entry point is `f`
              or `Solution.f`, where a program without that class is called by its `f`; the result
              is compared as JSON would write it (tuples as lists, keys as strings)
    stdio     {"input": str, "output": str, "atol": float?, "rtol": float?}; one process per test;
              whole outputs are compared, line by line; lines of numbers as decimals; SystemExit
              ends a program well, whatever its code
    unittest  source strings with unittest.TestCase classes. Inherited test methods count,
              those that the source skips do not. A source that patches what the program calls, or
              shares files with it, must run inside the sandbox: `trusted` is False.
              {"code": str} always runs inside, in the program's namespace (BigCodeBench): seeds,
              arrays and connections are shared, and a program could forge its verdict
    answer    {"answer": str}; the text after the last "####" (or in \\boxed{}) of a solution in
              prose; nothing is executed

`timeout` limits the CPU seconds of a program, `test_timeout` those of each test (call, stdio).
`packages` names what programs may import besides the standard library. Tests that run in the judge,
and `setup`, may import the standard library alone; `check_task` refuses others.

`setup` is Python source that the judge runs after the program and before the tests. It sees the
program's names; a name that it defines hides the program's. So helper functions that a prompt gives
(HumanEval 32, 38 and 50: `poly`, `encode_cyclic`, `encode_shift`) belong in `setup`;
`prompt_helpers` extracts them.

`preamble` is Python source that runs before the program, in the program's namespace: what a prompt
gives and an answer may leave out, as imports and helpers. A name that the program defines itself
replaces the preamble's. Lines are counted in the program alone.

A verdict is a dict:

    status    "passed" | "failed" | "error" | "syntax_error" | "timeout" | "memory" |
              "harness_error": the judge or the zygote died repeatedly; neither a pass nor a fail.
              A program that is itself killed three times, as where memory runs out, has "memory"
    passed    tests passed; total: tests of the task
    line      line of the program where it failed, or None
    executed  lines of the program that ran, or None (needs trace=True)
    message   why, at most 500 characters
    seconds   CPU seconds that the program used
    trusted   False where the program took part in a comparison (of two of its own objects), where
              a test's look at such an object had two answers, where a test looked in two ways, as
              `len` and `iter` (only the program says that they agree), where a test uses another
              name of the program's than the entry point, as a class `Node` that the test builds
              arguments of, or where the tests ran in the program's process
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import marshal
import operator
import os
import queue
import sys
import threading
from collections import Counter, OrderedDict
from concurrent.futures import Future

from jail.packages import installed, locate, missing_package, versions
from jail.progress import Progress
from jail.rows import RowError, check_out, read_samples, read_tasks, write_rows
from jail.seal import LAYERS, NAMESPACES
from jail.session import HarnessError
from jail.styles import make_verdict
from jail.tasks import (
    FIELDS,
    MAX_TASK,
    SandboxError,
    TaskError,
    check_limits,
    check_task,
    prepare,
    prompt_helpers,
)
from jail.wire import MAX_MESSAGE, MessageError, to_json
from jail.worker import Worker, judge_repeatedly, start_repeatedly

__all__ = [
    "OUTCOMES",
    "STATUSES",
    "MessageError",
    "Sandbox",
    "SandboxError",
    "TaskError",
    "check_task",
    "installed",
    "missing_package",
    "outcome",
    "prompt_helpers",
    "versions",
]

STATUSES = ("passed", "failed", "error", "syntax_error", "timeout", "memory", "harness_error")
OUTCOMES = {  # the four levels of CodeRL; None: no verdict
    "passed": "passed",
    "failed": "failed_test",
    "error": "runtime_error",
    "timeout": "runtime_error",
    "memory": "runtime_error",
    "syntax_error": "syntax_error",
    "harness_error": None,
}


def outcome(status: str) -> str | None:
    """The outcome class of a status; None for "harness_error", which is no verdict."""
    return OUTCOMES[status]


def containment(report: dict) -> list[str]:
    """The layers that containment lacks: [] if Landlock and seccomp hold, or all namespaces do."""
    missing = [layer for layer in ("rlimits", "no_new_privs", "capabilities") if report[layer]]
    filters = [layer for layer in ("landlock", "seccomp") if report[layer]]
    namespaces = [layer for layer in NAMESPACES if report[layer]]
    if filters and namespaces:
        missing += filters + namespaces
    return missing


class Sandbox:
    """A pool of workers that judge programs.

    workers: programs judged at the same time, one thread and two processes each
    timeout: CPU seconds of a program, rounded up to whole seconds, where a task gives none
    memory_mb: address space of a program in MiB
    isolation: "strict" refuses to start unless every layer is proved; "auto" needs Landlock and
        seccomp, or all namespaces, and says on stderr what is missing; "none" starts in any case
    trace: whether to record the executed lines of each program (several times slower)
    fail_fast: whether a program's first failing test is its last; `passed` counts those before it
    packages: installed packages that programs may import, as ["numpy"]; each makes a program's
        start dearer. The standard library alone by default

    Raises SandboxError where a limit or the isolation cannot be had, or a package is not installed.
    """

    def __init__(
        self,
        workers=1,
        timeout=3.0,
        memory_mb=1024,
        isolation="auto",
        trace=False,
        fail_fast=False,
        packages=(),
    ):
        if isolation not in ("strict", "auto", "none"):
            raise ValueError(f"isolation: {isolation!r} is not one of strict, auto, none")
        check_limits(workers, timeout, memory_mb)
        self.timeout, self.memory, self.trace = float(timeout), int(memory_mb) << 20, bool(trace)
        self.orders = queue.SimpleQueue()
        self.fail_fast = bool(fail_fast)
        self.seen = OrderedDict()  # id of a task object -> the object, its parts, what `task` gave
        self.checked = OrderedDict()  # the same by what the verdict depends on
        self.numbers = itertools.count()
        self.packages = list(packages)
        try:
            paths = locate(self.packages) if packages else {}
        except ImportError as error:
            raise SandboxError(f"packages: {error}") from None
        self.workers = [
            Worker(self.memory, index, self.packages, paths) for index in range(workers)
        ]
        started = queue.SimpleQueue()
        self.threads = [
            threading.Thread(target=self.work, args=(worker, started), daemon=True)
            for worker in self.workers
        ]
        for thread in self.threads:
            thread.start()
        results = [started.get() for _ in self.workers]
        problems = [result for result in results if isinstance(result, Exception)]
        self.layers = next((result for result in results if isinstance(result, dict)), None)
        if problems or (isolation != "none" and self.missing(isolation)):
            self.close()
            reason = problems[0] if problems else self.missing(isolation)
            raise SandboxError(f"the sandbox cannot start: {reason}")
        if isolation == "auto" and any(self.layers.values()):
            print(f"sandbox: {self.missing('strict')}", file=sys.stderr)

    def missing(self, isolation: str) -> str:
        """One line with the layers that `isolation` lacks, and why; "" if none is missing."""
        absent = containment(self.layers)
        if isolation == "strict":
            absent = [layer for layer in LAYERS if self.layers[layer]]
        reasons = "; ".join(f"{layer} ({self.layers[layer]})" for layer in absent)
        return reasons and f"layers absent: {reasons}"

    def __enter__(self):
        return self

    def __exit__(self, kind, *error):
        self.close(cancel=kind is not None)

    def submit(self, task: dict, program: str):
        """A Future of the verdict. Judging begins when a worker is free. TaskError: a bad task.

        A program that is too long to send has a verdict, status "memory".
        """
        if not self.threads:
            raise RuntimeError("the sandbox is closed")
        if not isinstance(program, str):
            raise TypeError(f"a program must be a string, not {type(program).__name__}")
        prepared, future = self.prepared(task), Future()
        if len(program) > MAX_MESSAGE // 4:
            reason = f"a program of {len(program)} characters exceeds {MAX_MESSAGE // 4}"
            future.set_result(make_verdict("memory", 0, prepared["total"], reason))
            return future
        self.orders.put((prepared, program, future))
        return future

    def judge(self, pairs, progress: str | None = None) -> list[dict]:
        """Verdicts of (task, program) pairs, in order; `progress` labels a bar on stderr."""
        futures = [self.submit(task, program) for task, program in pairs]
        shown = Progress(progress, len(futures)) if progress else None
        for done in [*range(15, len(futures), 16), len(futures) - 1] if futures else []:
            futures[done].result()  # one wait for several: each would wake this thread
            if shown:
                shown.update(done + 1)
        return [future.result() for future in futures]

    def prepared(self, task: dict) -> dict:
        """What the judge needs of a task, checked. Remembered: a task usually has many programs.

        A task object that was seen, with the same parts, is not read again. So a caller must not
        change what is inside a test of a task that was submitted.
        """
        parts = None
        if isinstance(task, dict):
            parts = [task.get(field) for field in FIELDS]
            if isinstance(task.get("tests"), list):
                parts += task["tests"]
            known = self.seen.get(id(task))
            if known and len(known[1]) == len(parts) and all(map(operator.is_, known[1], parts)):
                return known[2]
        try:
            key = to_json([task.get(field) for field in FIELDS])
        except (AttributeError, TypeError, ValueError) as error:
            check_task(task)
            raise TaskError(f"task {task['task_id']}: tests: not JSON: {error}") from None
        if key not in self.checked:
            check_task(task)
            missing = set(task.get("packages") or ()) - set(self.packages)
            if missing:
                names = ", ".join(sorted(missing))
                reason = f"{names}: not among the packages that programs may import here"
                raise TaskError(f"task {task['task_id']}: packages: {reason}")
            prepared = {
                **prepare(task),
                "timeout": self.limit(task),
                "trace": self.trace,
                "fail_fast": self.fail_fast,
                "number": next(self.numbers),
            }
            prepared["bytes"] = max(len(key), len(marshal.dumps(prepared)))
            if prepared["bytes"] > MAX_TASK:
                reason = f"{prepared['bytes']} bytes exceed {MAX_TASK}"
                raise TaskError(f"task {task['task_id']}: tests: {reason}")
            self.checked[key] = prepared
            if len(self.checked) > 1024:
                self.checked.popitem(last=False)
        self.seen[id(task)] = task, parts, self.checked[key]
        if len(self.seen) > 1024:
            self.seen.popitem(last=False)
        return self.checked[key]

    def limit(self, task: dict) -> float:
        """CPU seconds of one process of a program; of one test where each has its process."""
        each = task.get("test_timeout")
        if not each:
            return float(task.get("timeout") or self.timeout)
        return float(each if task["style"] == "stdio" else each * len(task["tests"]))

    def work(self, worker: Worker, started) -> None:
        """A worker's thread: judge programs until the pool closes."""
        try:
            start_repeatedly(worker)
            started.put(worker.report)
        except Exception as error:
            started.put(error)
        while True:
            item = self.orders.get()
            if item is None:
                break
            task, program, future = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(judge_repeatedly(worker, task, program))
            except BaseException as error:
                future.set_exception(error)
        worker.stop()

    def close(self, cancel: bool = False) -> None:
        """Finish what was submitted, or cancel what has not begun. Then end all processes."""
        while cancel and not self.orders.empty():
            with contextlib.suppress(Exception):  # a worker may have been faster
                self.orders.get_nowait()[-1].cancel()
        for _ in self.threads:
            self.orders.put(None)
        for thread in self.threads:
            thread.join()
        self.threads = []


def run_command(options) -> None:
    """Judge a file of samples, write the verdicts, print the counts."""
    tasks = read_tasks(options.tasks)
    samples = read_samples(options.samples, tasks)
    check_out(options.out, [options.tasks, options.samples])
    needed = {name for task in tasks.values() for name in task.get("packages") or ()}
    absent = {name for name in needed if not installed(name)}
    for name in sorted(absent):
        left = [key for key, task in tasks.items() if name in (task.get("packages") or ())]
        print(f"{name} is not installed: {len(left)} tasks are left out: {', '.join(left)}")
    samples = [row for row in samples if not absent & set(row[0].get("packages") or ())]
    with Sandbox(
        options.workers,
        options.timeout,
        options.memory_mb,
        options.isolation,
        options.trace,
        options.fail_fast,
        sorted({*options.packages, *needed} - absent),
    ) as sandbox:
        pairs = [(task, program) for task, _, program in samples]
        verdicts = sandbox.judge(pairs, progress="judging")
    rows = [{**row, **verdict} for (_, row, _), verdict in zip(samples, verdicts, strict=True)]
    write_rows(options.out, rows)
    counts = Counter(verdict["status"] for verdict in verdicts)
    judged = len(verdicts) - counts["harness_error"]
    for status in STATUSES:
        if counts[status]:
            print(f"{status:14} {counts[status]:7}")
    wanted = Counter(map(missing_package, verdicts))
    for name in sorted(set(wanted) - {None}):
        print(f"{wanted[name]} samples failed for want of {name}")
    print(f"passed {counts['passed']} of {judged} judged ({counts['passed'] / max(1, judged):.1%})")


def probe_command(options) -> None:
    """Print each layer as proved or absent; exit status 1 if containment is incomplete."""
    check_limits(1, 1.0, options.memory_mb)
    worker = Worker(options.memory_mb << 20)
    worker.start()
    worker.stop()
    for layer, text in LAYERS.items():
        reason = worker.report[layer]
        print(f"{layer:18} {f'absent: {reason}' if reason else 'proved: ' + text}")
    missing = containment(worker.report)
    print(f"containment {'incomplete: ' + ', '.join(missing) if missing else 'complete'}")
    if missing:
        sys.exit(1)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="sandbox.py", description="Run untrusted programs against tests."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="judge a file of samples")
    samples = "samples.jsonl: task_id and solution, or completion"
    out = "verdicts.jsonl: the sample rows and their verdicts"
    timeout = "CPU seconds a program, where its task gives none"
    run.add_argument("--tasks", required=True, help="tasks.jsonl")
    run.add_argument("--samples", required=True, help=samples)
    run.add_argument("--out", required=True, help=out)
    workers = "programs at a time; the default is the number of CPUs"
    run.add_argument("--workers", type=int, default=os.cpu_count() or 1, help=workers)
    run.add_argument("--timeout", type=float, default=3.0, help=timeout)
    isolation = (
        "auto needs Landlock and seccomp, or all namespaces; strict needs every layer; "
        "none runs in any case"
    )
    run.add_argument(
        "--isolation", choices=("auto", "strict", "none"), default="auto", help=isolation
    )
    run.add_argument("--trace", action="store_true", help="record the executed lines")
    fail_fast = "end a program at its first failing test"
    run.add_argument("--fail_fast", action="store_true", help=fail_fast)
    packages = "installed packages that programs may import, as numpy"
    run.add_argument("--packages", nargs="+", default=[], help=packages)
    probe = commands.add_parser("probe", help="show which layers hold on this machine")
    for command in (run, probe):
        command.add_argument(
            "--memory_mb", type=int, default=1024, help="address space of a program in MiB"
        )
    options = parser.parse_args()
    try:
        {"run": run_command, "probe": probe_command}[options.command](options)
    except (RowError, SandboxError, HarnessError, MessageError, ValueError, OSError) as error:
        print(f"sandbox.py: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
