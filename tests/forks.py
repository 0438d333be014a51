"""Stages in forked processes, which can be killed: torch is imported once."""

import os
import sys
import traceback
from pathlib import Path

import common


def argv_of(config) -> list[str]:
    """The flags of a config, as a command line."""
    words = []
    for name, value in vars(config).items():
        values = value if isinstance(value, list) else [value]
        if values:
            words += [f"--{name}", *("none" if item is None else str(item) for item in values)]
    return words


def start(module, argv: list[str], folder: Path, before=None) -> int:
    """Starts a stage's own entry point in a folder, in a forked process group; returns its id.

    Its output goes to FOLDER.stdout and FOLDER.stderr. before(): is called in the process first.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        for stream, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(f"{folder}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        sys.stdout, sys.stderr = open(1, "w"), open(2, "w")
        sys.argv = [f"{module.__name__}.py", *argv]
        if before:
            before()
        common.run(module.main, module.Config)
        code = 0
    except SystemExit as error:
        code = error.code or 0
    except BaseException:
        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def finish(child: int, folder: Path) -> tuple[int, str]:
    """Waits for a stage; its exit code (negative: the signal that killed it) and standard error."""
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), Path(f"{folder}.stderr").read_text()


def run(module, argv: list[str], folder: Path, before=None) -> tuple[int, str]:
    """The exit code and the standard error of a stage, run in a forked process."""
    return finish(start(module, argv, folder, before), folder)


def children_of(pid: int) -> list[int]:
    """The processes that a process has started: of a stage those of its sandbox."""
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").glob("*/children")
        for child in task.read_text().split()
    ]


def is_alive(pid: int) -> bool:
    """Whether a process runs: a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
