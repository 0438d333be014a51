"""The zygote: a pristine, sealed interpreter that forks one candidate for each program and ends it.

Runs in the zygote, started by worker.py, and in the launcher, its parent outside its namespaces.
Imports candidate.py, seal.py, syscalls.py, wire.py and the standard library: whatever is loaded
here lies in the memory of every candidate. The zygote gets commands of one byte and descriptors
from the judge. It never sees a program or a test, so a candidate inherits no secret.
"""

from __future__ import annotations

import _socket  # socket itself would load select and selectors into every candidate's memory
import builtins
import contextlib
import gc
import json
import marshal
import os
import signal
import stat
import struct
import sys
import time

from jail import candidate as candidates
from jail.candidate import Candidate
from jail.seal import Seal, remove_scratch
from jail.syscalls import PR_SET_PDEATHSIG
from jail.wire import STATUS, Channel, compile_program, encode

# Modules that programs import often: loaded once, here.
PRELOADED = "re collections itertools functools heapq bisect operator string copy typing math"
WARM_UP = """
import re
def f(a, *rest):
    return [a, (rest, 'x', 1.5), {'k': a}]
class C:
    x = 1
"""


def main(control_descriptor: str, scratch: str, memory: str, packages: str) -> None:
    """Fork the zygote into namespaces of its own; when it ends, remove the scratch directory."""
    control = int(control_descriptor)
    names, paths = json.loads(packages)
    seal = Seal(scratch, int(memory), paths)
    if seal.kernel is not None:
        seal.unshare()
    pid = os.fork()
    if pid == 0:
        try:
            if seal.kernel is not None:
                seal.kernel.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            serve(control, prepare(seal, names), seal)
        finally:
            os._exit(0)
    os.close(control)
    os.waitpid(pid, 0)
    remove_scratch(scratch)


def prepare(seal: Seal, packages: list[str]) -> Candidate:
    """Load and warm up all that candidates need, then seal this process."""
    hook, os.register_at_fork = os.register_at_fork, lambda **hooks: None
    import random  # without its hook, which seeds anew after each fork: verdicts are repeatable

    os.register_at_fork = hook
    random.seed(0)
    for name in PRELOADED.split():
        __import__(name)
    candidate = Candidate()
    warm_up(candidate)
    signal.signal(signal.SIGXCPU, candidate.on_cpu_limit)
    seal.apply()
    os.environ.clear()
    os.environ.update(
        PATH="/usr/bin:/bin", HOME=seal.scratch, TMPDIR=seal.scratch, LC_ALL="C.UTF-8"
    )
    if packages:
        import_packages(seal.packages, packages)
    builtins.exit = builtins.quit = sys.exit  # the site module is not loaded
    sys.argv[:] = sys.orig_argv[:] = [""]
    gc.collect()
    gc.freeze()
    with contextlib.suppress(AttributeError):  # where the C library has no malloc_trim
        seal.kernel.libc.malloc_trim(1 << 17)  # a fork pays for each page, for a freed one too
    return candidate


def import_packages(folder: str, names: list[str]) -> None:
    """Import the packages once, for all candidates; what fails here fails in a candidate too."""
    sys.path.append(folder)
    for name in ("OPENBLAS", "MKL", "OMP"):
        os.environ[f"{name}_NUM_THREADS"] = "1"  # a fork copies one thread
    for name in names:
        with contextlib.suppress(Exception):
            __import__(name)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)  # verdicts are repeatable


def serve(control: int, candidate: Candidate, seal: Seal) -> None:
    """Fork a candidate for each request, end it when told, answer how it ended.

    A request is a command byte with the descriptors that the candidate gets. The loop does little:
    after a fork, each page that this process or the candidate touches is copied. A name that the
    loop finds in its own frame, and not in a module, is a page or two less.
    """
    receive = _socket.socket(fileno=control).recvmsg
    unpack = {size: struct.Struct(f"{size // 4}i").unpack for size in (4, 12)}
    pack, scratch, killed = STATUS.pack, seal.scratch, int(signal.SIGKILL)
    fork, read, write, close = os.fork, os.read, os.write, os.close
    kill, wait4, listdir = os.kill, os.wait4, os.listdir
    private, chmod = not seal.report["mount namespace"], os.chmod
    contained = not seal.report["seccomp"]  # the candidate cannot have processes of its own
    _fillers = open_pools()  # held for as long as the loop runs
    while True:
        command, ancillary, _, _ = receive(1, 64)
        if not command:
            return  # the judge is gone
        data = ancillary[0][2]
        descriptors = unpack[len(data)](data)
        pid = fork()
        if pid == 0:
            close(control)
            candidates.main(candidate, descriptors, seal, command)
        for descriptor in descriptors:
            close(descriptor)
        over = read(control, 1)
        ended = over == b"w" and wait_briefly(pid)
        if not contained:
            end_group(pid)
        kill(pid, killed)
        _, status, usage = wait4(pid, 0)
        if not contained and not seal.report["process namespace"]:
            end_all_others()
        if private:
            chmod(scratch, 0o777)  # whatever the program made of it
        left = listdir(scratch) and empty_directory(scratch)
        if not over:
            return
        write(control, pack(status, usage.ru_utime + usage.ru_stime, not ended))
        if left:
            return  # the next program must not find it: a new zygote has a new directory


def open_pools() -> list[bytes]:
    """Objects that fill the allocator's pools up to the start of a new one, in each size class.

    The first objects that a candidate makes then lie on the page of their pool's header: one copied
    page where there were two. A pool has 16 KiB and a header of 48 bytes. With another allocator
    the fillers waste at most 8 MiB.
    """
    objects = []
    for size in range(48, 513, 16):
        for _ in range((1 << 18) // size):
            objects.append(bytes(size - sys.getsizeof(b"")))
            if id(objects[-1]) % (1 << 14) == 48:
                break
    return objects


def end_group(pid: int) -> None:
    """Kill the process group of a candidate that may have processes."""
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)


def wait_briefly(pid: int) -> bool:
    """Whether the process ends within 0.2 seconds; leaves it to be waited for."""
    for _ in range(100):
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return True
        time.sleep(0.002)
    return False


def end_all_others() -> None:
    """Kill and reap whatever the candidate left, as the first process of a namespace can."""
    try:
        os.kill(-1, signal.SIGKILL)
        while True:
            os.wait()
    except OSError:
        pass


def empty_directory(path: str) -> list[str]:
    """Remove everything inside, at any depth: what a directory holds is first moved to the top.

    Returns the names of what is left, since it cannot be removed.
    """
    counter, going_on = 0, True
    while going_on:
        going_on = False
        for name in os.listdir(path):
            top = os.path.join(path, name)
            with contextlib.suppress(OSError):
                os.unlink(top)
                continue
            with contextlib.suppress(OSError):
                open_directory(top)
                for inner in os.listdir(top):
                    open_directory(os.path.join(top, inner))  # its ".." changes with the move
                    while os.path.lexists(moved := os.path.join(path, str(counter))):
                        counter += 1  # a name of the program's own
                    os.rename(os.path.join(top, inner), moved)
                    going_on = True
                os.rmdir(top)
    return os.listdir(path)


def open_directory(path: str) -> None:
    """Give the owner all rights on a directory, where modes can be changed at all."""
    if stat.S_ISDIR(os.lstat(path).st_mode):
        with contextlib.suppress(OSError):
            os.chmod(path, 0o700)


def warm_up(candidate: Candidate) -> None:
    """Do what every candidate does: candidates find code and caches ready, and copy fewer pages."""
    here, there = _socket.socketpair()
    judge, candidate.channel.descriptor = Channel(here.fileno(), pack=marshal.dumps), there.fileno()
    order = {"module": "solution", "names": ["f"], "preamble": "", "inside": None}
    order["stdin"] = False
    values = ([1, 2], {"a": (1, 2.5)}, "x", {3}, None)
    for _ in range(20):
        judge.send({**order, "program": marshal.dumps(compile_program(WARM_UP))})
        candidate.channel.send(candidate.load(candidate.channel.receive()))
        _, (function,), _ = judge.receive()
        numbers = {}
        arguments = [encode(value, None, numbers, True) for value in values]
        for message in (["call", [function, 1, 2], {}], ["call", [function, *arguments], {}]):
            judge.send(message)
            candidate.answer(candidate.channel.receive())
            judge.receive()
        candidate.objects.clear()
        candidate.indices.clear()
    del sys.modules["solution"]
