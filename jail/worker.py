"""A worker: starts a judge and a zygote, hands them their code, passes orders and verdicts.

Runs in the caller's process, in one thread of the pool. Imports judge.py and what judge.py imports,
seal.py for the scratch directory, and the standard library.

A program can read what lies on sys.path of its interpreter. So neither process gets a folder of the
project there, nor a path of it at all: this file compiles the files of a role, and the new
interpreter reads their code from a pipe, runs them as modules of a package `jail`, and forgets the
package's names.
"""

from __future__ import annotations

import contextlib
import functools
import json
import marshal
import math
import os
import socket
import subprocess
import sys
import time
from collections import OrderedDict

from jail.seal import make_scratch, remove_scratch
from jail.session import (
    ATTEMPTS,
    WALL_FACTOR,
    HarnessError,
    ProgramEnd,
    processor_time,
    set_timeout,
)
from jail.styles import make_verdict
from jail.wire import Channel, MessageError

# The files that each process loads, each after those that it imports; `main` of the last one runs.
ROLES = {
    "judge": ("wire", "syscalls", "proxies", "session", "equality", "styles", "judge"),
    "zygote": ("wire", "syscalls", "seal", "candidate", "zygote"),
}
MAX_TASKS, MAX_TASK_BYTES = 256, 128 << 20  # that a judge keeps
BOOT = """
import marshal, sys

def boot(descriptor, size, *arguments):
    with open(int(descriptor), "rb") as pipe:
        files = marshal.loads(pipe.read(int(size)))
    package = sys.modules["jail"] = type(sys)("jail")
    package.__path__ = []
    for name, code in files:
        module = sys.modules["jail." + name] = type(sys)("jail." + name)
        setattr(package, name, module)
        exec(code, module.__dict__)
    for name, _ in files:
        del sys.modules["jail." + name]
    del sys.modules["jail"], files, code, package
    module.main(*arguments)

boot(*sys.argv[1:])
"""
# As -I, but for the fixed seed of hashes; no site-packages; UTF-8 whatever the locale; no warnings.
FLAGS = ["-P", "-s", "-S", "-X", "utf8", "-W", "ignore"]
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"}


@functools.cache
def role_code(role: str) -> bytes:
    """The marshalled (name, code) pairs of a role's files, without docstrings and paths."""
    files = []
    for name in ROLES[role]:
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{name}.py")
        with open(path, encoding="utf-8") as file:
            source = file.read()
        code = compile(source, f"<jail/{name}.py>", "exec", dont_inherit=True, optimize=2)
        files.append((name, code))
    return marshal.dumps(files)


class Worker:
    """A judge and a zygote, started on demand, restarted when one of them dies. For one thread."""

    def __init__(self, memory: int, index: int = 0, packages=(), paths=None):
        self.memory = memory  # bytes of address space of a program
        self.packages = packages  # names that the zygote imports
        self.paths = paths or {}  # of the files of these packages, by name
        self.index = index  # of this worker in its pool
        self.processes = []  # the zygote's launcher and the judge, while they run
        self.report = None  # layer -> "" if proved, else the reason of its absence
        self.scratch = self.connection = None
        self.known = OrderedDict()  # bytes of the tasks that the judge has, by number

    def start(self) -> None:
        """Start both processes and wait for the self-test.

        HarnessError or OSError if they do not come up; then neither is left.
        """
        self.stop()
        try:
            self.scratch = make_scratch(self.paths)
            self.connection, orders_there = socket.socketpair()
            control, control_there = socket.socketpair()
            self.channel = Channel(self.connection.fileno(), pack=marshal.dumps)
            self.known.clear()
            set_timeout(self.connection, socket.SO_RCVTIMEO, 1)
            with orders_there, control, control_there:
                zygote_ends = [control_there.fileno()]
                packages = json.dumps([list(self.packages), self.paths])
                launcher = self.launch("zygote", zygote_ends, self.scratch, self.memory, packages)
                self.launch("judge", [orders_there.fileno(), control.fileno()], launcher)
            self.report = self.receive(60.0, 60.0)
        except BaseException:
            self.stop()
            raise

    def launch(self, role: str, descriptors: list[int], *arguments) -> int:
        """Start the process of a role and send it its code. Returns the process id."""
        code = role_code(role)
        reader, writer = os.pipe()
        values = [reader, len(code), *descriptors, *arguments]
        with open(writer, "wb") as pipe:
            try:
                process = subprocess.Popen(
                    [sys.executable, *FLAGS, "-c", BOOT, *map(str, values)],
                    env=ENVIRONMENT,
                    pass_fds=[reader, *descriptors],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    start_new_session=True,
                )
            finally:
                os.close(reader)
            self.processes.append(process)
            if hasattr(os, "sched_setaffinity"):
                # The processes of a worker take turns: they share a processor, so that no wake-up
                # crosses to another one. The choice depends on the process: ranks of a job differ.
                processors = sorted(os.sched_getaffinity(0))
                chosen = processors[(os.getpid() + self.index) % len(processors)]
                with contextlib.suppress(OSError):
                    os.sched_setaffinity(process.pid, {chosen})
            pipe.write(code)
        return process.pid

    def receive(self, wall: float, processor: float):
        """The judge's next message.

        ProgramEnd if the judge used `processor` CPU seconds. HarnessError if the judge is gone or
        `wall` seconds have passed.
        """
        begin = time.monotonic()
        judge = self.processes[1].pid
        used = processor_time(judge)

        def on_wait():
            if processor_time(judge) - used > processor:
                reason = "the judge's CPU time is used up by what the program returned"
                raise ProgramEnd("timeout", reason)
            if time.monotonic() - begin > wall:
                raise HarnessError(f"no verdict within {wall:g} seconds")

        try:
            return self.channel.receive(on_wait)
        except (EOFError, MessageError) as error:
            raise HarnessError(f"the judge is gone: {error}") from None

    def task_to_send(self, number: int, task: dict) -> dict:
        """The task, unless the judge has it, and the numbers of those that the judge may forget."""
        new = number not in self.known
        self.known[number] = task["bytes"]
        self.known.move_to_end(number)
        forget = []
        while len(self.known) > 1 and (
            len(self.known) > MAX_TASKS or sum(self.known.values()) > MAX_TASK_BYTES
        ):
            forget.append(self.known.popitem(last=False)[0])
        return {"number": number, "task": task if new else None, "forget": forget}

    def judge(self, task: dict, program: str, attempt: int = 0) -> dict:
        """The verdict on one program. HarnessError if there is none."""
        if not self.processes:
            self.start()
        try:
            sent = self.task_to_send(task["number"], task)
            self.channel.send({**sent, "program": program, "attempt": attempt})
            runs = task["total"] if task["style"] == "stdio" else 1
            limit = math.ceil(task["timeout"]) + 1
            verdict = self.receive(60 + 20 * WALL_FACTOR * limit * runs, limit + 1)
        except ProgramEnd as end:
            self.stop()
            return make_verdict(end.status, 0, task["total"], end.message)
        except (EOFError, OSError, HarnessError) as error:
            self.stop()
            raise HarnessError(str(error) or "the judge is gone") from None
        if "harness" in verdict:
            self.stop()
            raise HarnessError(verdict["harness"])
        return verdict

    def stop(self) -> None:
        """End both processes and remove the scratch directory."""
        processes, self.processes = self.processes, []
        if self.connection is not None:
            self.connection.close()
            self.connection = None
        for judge in processes[1:]:  # there is no judge if it could not be started
            judge.kill()
            judge.wait()
        for launcher in processes[:1]:
            try:
                launcher.wait(10)  # the zygote sees the judge's end, ends its candidate and itself
            except subprocess.TimeoutExpired:
                launcher.kill()
                launcher.wait()
        if self.scratch is not None:
            remove_scratch(self.scratch)
            self.scratch = None


def start_repeatedly(worker: Worker) -> None:
    """Starts a worker. After a failure, tries again; raises the last one."""
    for attempt in range(ATTEMPTS):
        try:
            return worker.start()
        except (HarnessError, OSError):
            if attempt == ATTEMPTS - 1:
                raise


def judge_repeatedly(worker: Worker, task: dict, program: str) -> dict:
    """The verdict. After a failure of the harness, try again; the last failure is the verdict."""
    for attempt in range(ATTEMPTS):
        try:
            return worker.judge(task, program, attempt)
        except (HarnessError, OSError) as error:
            reason = f"{attempt + 1} attempts: {error}"
    return make_verdict("harness_error", 0, task["total"], reason)
