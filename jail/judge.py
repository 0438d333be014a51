"""The judge: runs the tests of a task against a program, and computes the verdict.

Runs in the judge, started by worker.py; the caller's process takes `WALL_FACTOR` from this file.
Imports styles.py, proxies.py, wire.py, syscalls.py and the standard library. No program ever
executes here: the judge makes a socket pair for each program and passes one end to the zygote,
which forks the candidate that holds it. The candidate reads its own program from that socket.
"""

from __future__ import annotations

import contextlib
import functools
import marshal
import math
import os
import resource
import signal
import socket
import sys
import tempfile
import time

from jail import styles
from jail.session import (
    ATTEMPTS,
    WALL_FACTOR,
    HarnessError,
    ProgramEnd,
    Session,
    lines,
    processor_time,
    set_timeout,
)
from jail.syscalls import PR_SET_PDEATHSIG, Kernel
from jail.wire import MAX_TEXT, RECURSION_LIMIT, STATUS, Channel, compile_program

MAX_COMPILED = 100_000  # characters of a program that the judge compiles
JUDGE_MEMORY = 2 << 30  # bytes of address space: tests work on data that the program chose
SEVERITY = ("passed", "failed", "error", "memory", "timeout", "syntax_error")


class Judge:
    """Judges one program at a time: orders come from the pool, candidates from the zygote."""

    def __init__(self, orders: Channel, control: socket.socket, launcher: int):
        self.orders = orders
        self.launcher = launcher  # process id of the zygote's parent
        self.control = control
        self.plans = {}  # number of a task -> its plan, or the task as it came

    def serve(self) -> None:
        """Send the report on the layers, then judge programs until the pool goes away."""
        self.orders.send(self.layers())
        while True:
            order = self.orders.receive()
            try:
                verdict = self.judge(order)
            except HarnessError as error:
                verdict = {"harness": str(error)}
            except Exception as error:  # a fault of the judge, or a task that it cannot prepare
                verdict = {"harness": f"{type(error).__name__}: {str(error)[:MAX_TEXT]}"}
            self.orders.send(verdict)

    def layers(self) -> dict:
        """The report of a sealed candidate that has tried each forbidden act."""
        connection, channel = self.fork(b"p", [])
        try:
            report = channel.receive(lambda: None)[1]
        finally:
            connection.close()
            self.end()
        return report

    def fork(self, command: bytes, files: list):
        """A new candidate: the socket to it and a channel on that socket."""
        here, there = socket.socketpair()
        try:
            socket.send_fds(self.control, [command], [there.fileno(), *files])
        except OSError as error:
            raise HarnessError(f"the zygote is gone: {error}") from None
        there.close()
        return here, Channel(here.fileno(), pack=marshal.dumps)

    def end(self, gone: bool = False) -> tuple[int, float, bool]:
        """End the candidate. Returns its wait status, its CPU seconds, and whether it was killed.

        gone: whether the candidate has closed its socket, so that it ends by itself.
        """
        try:
            self.control.send(b"w" if gone else b"k")
            answer = self.control.recv(STATUS.size)
        except OSError as error:
            raise HarnessError(f"the zygote is gone: {error}") from None
        if len(answer) != STATUS.size:
            raise HarnessError("the zygote is gone")
        return STATUS.unpack(answer)

    def plan(self, order: dict) -> styles.Plan:
        """The plan of the order's task. The task itself comes with its first program alone."""
        for number in order["forget"]:
            self.plans.pop(number, None)
        if order["task"] is not None:
            self.plans[order["number"]] = order["task"]
        if isinstance(self.plans[order["number"]], dict):
            self.plans[order["number"]] = styles.Plan(self.plans[order["number"]])
        if memory_in_use() > JUDGE_MEMORY // 2:
            for plan in self.plans.values():
                if isinstance(plan, styles.Plan):
                    plan.forget()
        return self.plans[order["number"]]

    def judge(self, order: dict) -> dict:
        """The verdict on one program."""
        plan = self.plan(order)
        order = {**plan.order, "program": order["program"], "attempt": order["attempt"]}
        style, tests = order["style"], order["tests"]
        if style == "answer":
            return styles.judge_answer(order["program"], tests)
        if style == "stdio":
            return self.judge_stdio(order)
        if order["inside"]:
            return self.judge_inside(order)
        run = {
            "assert": styles.run_asserts,
            "call": styles.run_calls,
            "unittest": styles.run_unittests,
        }[style]
        return self.run_program(order, plan.names, lambda *rest: run(order, plan, *rest))

    def run_program(
        self, order: dict, names: list[str], run_tests, files=(), module="solution"
    ) -> dict:
        """Start a candidate, let run_tests(session, names, note) use it, end it, sum up.

        names: what the program must give the values of.
        files: descriptors of standard input and output, for the stdio style.
        module: value of __name__ in the program.
        """
        notes = []
        begin = time.monotonic()
        connection, channel = self.fork(b"c", list(files))
        wall = WALL_FACTOR * order["timeout"]
        set_timeout(connection, socket.SO_RCVTIMEO, 1)
        set_timeout(connection, socket.SO_SNDTIMEO, math.ceil(wall))

        def on_wait():
            session.end_test()
            passed = time.monotonic() - begin
            if passed > wall and passed - waiting_for_processor(self.launcher) > wall:
                session.finish("timeout", f"no answer within {wall:g} seconds")

        session = Session(channel, on_wait)
        session.stops = order["stops"]
        session.processor_time = lambda: processor_time(candidate_of(self.launcher))
        used = time.process_time()
        limit = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (int(used + order["timeout"]) + 1, limit))
        request = {"names": names, "module": module, "trace": order["trace"]}
        request["preamble"] = order["preamble"]
        request["inside"] = order.get("tests_inside")
        request["stdin"] = module == "__main__" and "/dev/" in order["program"]
        request["seconds"] = math.ceil(order["timeout"])
        end = None
        try:
            session.send({**request, "program": compiled(order)})
            run_tests(session, names, lambda status, message="": notes.append((status, message)))
            if order["trace"] and module != "__main__":
                session.executed = lines(session.ask("executed"))
        except ProgramEnd as error:
            end = error
        except HarnessError:
            raise
        except BaseException as error:  # else a program that provokes one would have no verdict
            status, message = styles.describe(error)
            end = ProgramEnd("memory" if status == "memory" else "error", message)
        finally:
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
            status, seconds, killed = self.end(session.gone)
            connection.close()  # not before the end, or the candidate would wake up once more
        died = session.gone and not killed and os.WIFSIGNALED(status)
        if died and os.WTERMSIG(status) == signal.SIGKILL and seconds < request["seconds"]:
            # By the system, for want of memory; or by a limit that the program lowered by itself.
            # One kill may be bad luck. Three are the program's doing, as far as one can tell.
            if order["attempt"] < ATTEMPTS - 1:
                raise HarnessError("the program was killed from outside")
            end = ProgramEnd("memory", f"killed in {ATTEMPTS} attempts, as where memory runs out")
        return self.sum_up(order, session, notes, end or session.end, status, seconds)

    def judge_inside(self, order: dict) -> dict:
        """Style unittest in the candidate: the tests follow the program in its namespace."""
        tests = [code for code in (order["setup"], *order["tests"]) if code is not None]
        order["tests_inside"] = [styles.INSIDE, tests, order["classes"], order["fail_fast"]]
        run = functools.partial(styles.run_inside, order)
        return self.run_program(order, ["report"], run, module=styles.INSIDE_MODULE)

    def judge_stdio(self, order: dict) -> dict:
        """Style stdio: a process for each test, until a limit ends one."""
        verdicts = []
        for test in order["tests"]:
            with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout:
                stdin.write(test["input"].encode())
                stdin.seek(0)

                def run(session, names, note, stdout=stdout, test=test):
                    styles.run_stdio(session, stdout, test, note)

                files = [stdin.fileno(), stdout.fileno()]
                verdict = self.run_program({**order, "total": 1}, [], run, files, "__main__")
            verdicts.append(verdict)
            if verdict["status"] in ("timeout", "memory", "syntax_error"):
                break
            if order["fail_fast"] and verdict["status"] != "passed":
                break
        chosen = max(verdicts, key=lambda verdict: SEVERITY.index(verdict["status"]))
        ran = [line for verdict in verdicts for line in verdict["executed"] or ()]
        return {
            **chosen,
            "passed": sum(verdict["passed"] for verdict in verdicts),
            "total": order["total"],
            "seconds": round(sum(verdict["seconds"] for verdict in verdicts), 6),
            "executed": sorted(set(ran)) if order["trace"] else None,
        }

    def sum_up(self, order, session, notes, end, wait_status, seconds) -> dict:
        """The verdict from what the tests noted and how the process ended."""
        total = order["total"]
        passed = sum(status == "passed" for status, _ in notes)
        line = session.line
        if end is not None:
            status, message = end.status, end.message
            line = end.line or (line if status != "timeout" else None)
            if status == "error" and session.gone and os.WIFSIGNALED(wait_status):
                message = f"the program was killed by signal {os.WTERMSIG(wait_status)}"
        else:
            status, message = worst(notes)
        if seconds >= math.ceil(order["timeout"]) and status != "syntax_error":
            status, message = "timeout", f"used {seconds:.1f} of {order['timeout']:g} CPU seconds"
        if order["style"] == "stdio" and status in ("passed", "failed") and wait_status != 0:
            code = os.waitstatus_to_exitcode(wait_status)
            status, message = "error", f"the program ended with {code}"
        if order["style"] == "stdio" and status != "passed":
            passed = 0
        if status == "passed" and passed != total:
            status, message = "failed", f"{passed} of {total} tests ran to their end"
        if status == "passed" and not session.entry_calls:
            status, message = "failed", "no test called the program"
        if status in ("passed", "failed"):
            line = None
        return styles.make_verdict(
            status,
            min(passed, total),
            total,
            message,
            line,
            session.executed if order["trace"] else None,
            seconds,
            not session.weak,
        )


def compiled(order: dict) -> str | bytes:
    """The program as marshalled code: compiling costs a fresh process more.

    The source itself where compiling fails, so that the candidate finds out why; and after an error
    of the harness, since a program might crash the compiler.
    """
    source = order["program"]
    if order["attempt"] or len(source) > MAX_COMPILED:
        return source
    sys.set_int_max_str_digits(sys.int_info.default_max_str_digits)  # as in the candidate
    try:
        return marshal.dumps(compile_program(source))
    except Exception:
        return source
    finally:
        sys.set_int_max_str_digits(0)


def worst(notes: list) -> tuple[str, str]:
    """The worst status among the tests, with the message of the first such test."""
    return max(notes, key=lambda note: SEVERITY.index(note[0]), default=("failed", "no test ran"))


def waiting_for_processor(launcher: int) -> float:
    """Seconds that the candidate, a grandchild of the launcher, was ready and had no processor.

    0 if unknown.
    """
    try:
        with open(f"/proc/{candidate_of(launcher)}/schedstat") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def candidate_of(launcher: int) -> int:
    """Process id of the candidate, a grandchild of the launcher; 0, no process, if unknown."""
    try:
        pid = launcher
        for _ in range(2):
            with open(f"/proc/{pid}/task/{pid}/children") as file:
                pid = int(file.read().split()[0])
        return pid
    except (OSError, ValueError, IndexError):
        return 0


def memory_in_use() -> int:
    """Bytes that this process holds in memory; 0 if unknown."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return 0


def end_of_limit(signum, frame):
    """End the session: the judge's CPU time for one program is used up."""
    raise ProgramEnd("timeout", "the tests used up their CPU time on what the program returned")


def main(orders_descriptor: str, control_descriptor: str, launcher: str) -> None:
    """Judge programs until the pool closes its end of the orders."""
    if sys.platform == "linux":
        Kernel().prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGXCPU, end_of_limit)
    sys.setrecursionlimit(RECURSION_LIMIT)  # a result may be nested as deep as a program can nest
    sys.set_int_max_str_digits(0)  # the tests are trusted, and benchmarks hold long numbers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (JUDGE_MEMORY, JUDGE_MEMORY))
    orders = socket.socket(fileno=int(orders_descriptor))
    control = socket.socket(fileno=int(control_descriptor))
    channel = Channel(orders.fileno(), unpack=marshal.loads)  # of the caller, who is trusted
    judge = Judge(channel, control, int(launcher))
    with contextlib.suppress(EOFError):
        judge.serve()
    os._exit(0)
