"""Runs scripts in forks of one process that has imported torch and transformers already.

The imports cost a stage 4 seconds of a core (measured), and an experiment has hundreds of short
stages.

    python reproduce/warm.py SOCKET                       # the process; serves until it is ended
    python -S -E reproduce/warm.py SOCKET ppo.py FLAGS    # as `python ppo.py FLAGS`

The second command hands its arguments, environment, folder and standard streams to a fork of the
process, waits for the script's end, and ends with the script's exit status. It ends the script
when it is ended itself. Without such a process at SOCKET it runs the script as Python would.
SOCKET.jsonl has a line for each script that has ended, with its CPU seconds.
"""

import array
import json
import os
import select
import signal
import socket
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LENGTH = 8  # bytes in which a request's length is written


def request(path: str, words: list[str]) -> int:
    """Runs `python WORDS` in a fork of the process at the socket; the exit status."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            if not words[0].endswith(".py"):
                raise OSError("no script")
            connection.connect(path)
        except OSError:
            os.execv(sys.executable, [sys.executable, *words])
        text = json.dumps({"words": words, "folder": os.getcwd(), "env": dict(os.environ)}).encode()
        streams = array.array("i", [0, 1, 2])
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)
        connection.sendmsg([len(text).to_bytes(LENGTH, "big")], [rights])
        connection.sendall(text)
        answer = connection.recv(1)
    return answer[0] if answer else 1


def run_script(words: list[str], folder: str, env: dict[str, str], streams: list[int]) -> None:
    """What `python WORDS` does, in this process."""
    import runpy

    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = words
    sys.path.insert(0, os.path.dirname(os.path.abspath(words[0])))
    runpy.run_path(words[0], run_name="__main__")


def fork(function, *arguments) -> int:
    """The id of a fork that calls the function and ends as Python would."""
    pid = os.fork()
    if pid:
        return pid
    try:
        function(*arguments)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def answer(connection: socket.socket, log: str) -> None:
    """Runs the script that a connection asks for; ends it when the connection ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size = 3 * array.array("i").itemsize
    length, rights, _, _ = connection.recvmsg(LENGTH, socket.CMSG_SPACE(size))
    streams = array.array("i", rights[0][2][:size]).tolist()
    left, text = int.from_bytes(length, "big"), b""
    while len(text) < left:
        text += connection.recv(left - len(text))
    asked = json.loads(text)
    pid = fork(run_script, asked["words"], asked["folder"], asked["env"], streams)
    watched = [connection]
    while True:
        ended, status, used = os.wait4(pid, os.WNOHANG)
        if ended:
            row = {"words": asked["words"], "seconds": used.ru_utime + used.ru_stime}
            with open(log, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            if watched:
                connection.send(bytes([os.waitstatus_to_exitcode(status) & 255]))
            return
        if select.select(watched, [], [], 0.05)[0] and not connection.recv(1):
            os.kill(pid, signal.SIGTERM)
            watched = []


def serve(path: str) -> None:
    sys.path.insert(0, str(ROOT))
    import common  # noqa: F401, I001
    import torch._dynamo  # noqa: F401
    import transformers.masking_utils  # noqa: F401
    from transformers.models.auto import modeling_auto, tokenization_auto  # noqa: F401
    from transformers.models.llama import modeling_llama  # noqa: F401

    del sys.path[0]
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # connections end by themselves
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(64)
        while True:
            connection, _ = listening.accept()
            with connection:
                fork(answer, connection, f"{path}.jsonl")


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(sys.argv[1])
    else:
        sys.exit(request(sys.argv[1], sys.argv[2:]))
