"""The files of the jail: what each process loads, the codec, the filters of system calls."""

import ast
import json
import marshal
import math
import os
import random
import shutil
import socket
import subprocess
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest

import sandbox
from jail import session, syscalls, wire, worker
from jail.proxies import CallableProxy
from jail.session import ProgramEnd, Session

JAIL = Path(worker.__file__).parent
SQUARE = {
    "task_id": "square",
    "style": "assert",
    "tests": ["assert f(2) == 4", "assert f(3) == 9"],
    "entry_point": "f",
}

# what each process loads


def imported(file: Path) -> tuple[set[str], set[str]]:
    """The files of the jail that a file imports, and the names of all other modules."""
    inside, outside = set(), set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "jail":
            inside |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package, _, name = node.module.partition(".")
            inside |= {name} if package == "jail" else set()
            outside |= {package} - {"jail"}
        elif isinstance(node, ast.Import):
            outside |= {alias.name.split(".")[0] for alias in node.names}
    return inside, outside


def test_the_sandbox_imports_the_standard_library_alone():
    for file in [JAIL.parent / "sandbox.py", *JAIL.glob("*.py")]:
        assert imported(file)[1] <= sys.stdlib_module_names, file


@pytest.mark.parametrize("role", worker.ROLES)
def test_a_process_is_sent_each_file_after_those_that_it_imports(role):
    loaded = set()
    for name in worker.ROLES[role]:
        assert imported(JAIL / f"{name}.py")[0] <= loaded, name
        loaded.add(name)


LOADED = """
import sys
known, todo = set(), [object]
while todo:
    kind = todo.pop()
    if kind not in known:
        known.add(kind)
        todo += type.__subclasses__(kind)
files, frame = {kind.__module__ for kind in known}, sys._getframe()
while frame:
    files.add(frame.f_globals["__name__"])
    frame = frame.f_back
def f(): return sorted(name for name in files if "jail" in name or "sandbox" in name)
def g(): return {name.split('.')[0] for name in sys.modules}
"""


NEEDLESS = """jail sandbox common unittest tempfile subprocess threading argparse ast socket select
selectors importlib"""


def test_the_sealed_interpreter_loads_what_a_candidate_needs_and_nothing_else():
    setup = f"NEEDLESS = set({NEEDLESS!r}.split())"
    tests = ["f()\nassert 0, f()", "f()\nassert 0, sorted(NEEDLESS & g())"]
    with sandbox.Sandbox() as pool:
        found = [
            pool.submit({**SQUARE, "setup": setup, "tests": [test]}, LOADED).result()["message"]
            for test in tests
        ]
    files = [f"jail.{name}" for name in sorted(worker.ROLES["zygote"])]
    assert found[0].startswith(f"AssertionError: {files}")
    assert found[1].startswith("AssertionError: []")


def run_copy(folder: Path, *arguments) -> subprocess.CompletedProcess:
    """Run sandbox.py in a folder, without site-packages and without variables of Python."""
    command = [sys.executable, "-S", "-E", "sandbox.py", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_a_copy_of_sandbox_and_jail_works_in_another_folder(tmp_path):
    shutil.copy(JAIL.parent / "sandbox.py", tmp_path)
    shutil.copytree(JAIL, tmp_path / "jail", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "statistics.py").write_text("raise SystemExit('shadows the standard library')")
    result = run_copy(tmp_path, "probe")
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("containment complete\n")
    program = "import statistics\ndef f(x): return statistics.mean([x * x])"
    (tmp_path / "T").write_text(json.dumps(SQUARE))
    (tmp_path / "S").write_text(json.dumps({"task_id": "square", "solution": program}))
    result = run_copy(tmp_path, "run", "--tasks", "T", "--samples", "S", "--out", "V")
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "V").read_text())["status"] == "passed"


@pytest.mark.parametrize("role", ["zygote", "judge"])
def test_a_process_that_cannot_start_is_an_error_with_a_name(role, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setitem(worker.ROLES, role, ("wire",))  # a module without `main`
    worker.role_code.cache_clear()
    descriptors = len(os.listdir("/proc/self/fd"))
    try:
        with pytest.raises(sandbox.SandboxError):
            sandbox.Sandbox()
    finally:
        worker.role_code.cache_clear()
    assert not list(tmp_path.iterdir()) and len(os.listdir("/proc/self/fd")) <= descriptors


def test_replies_that_a_program_sent_before_its_end_are_read():
    here, there = socket.socketpair()
    session = Session(wire.Channel(here.fileno(), pack=marshal.dumps), None)
    function = CallableProxy(session, 0, "callable")
    with here:
        with there:
            replies = wire.Channel(there.fileno())
            replies.send(["ok", 4, None])
            replies.send(["ok", 9, None])
        requests = [session.request("apply", (function, number), {}) for number in (2, 3, 4)]
        assert [session.wait(*request) for request in requests[:2]] == [4, 9]
        with pytest.raises(ProgramEnd, match="the program ended its process"):
            session.wait(*requests[2])
    assert session.gone


# codec


def random_value(rng, depth):
    leaves = [None, True, False, 0, -1, 1 << 61, 1 << 62, -(1 << 62), 10**5000, 1.5, -0.0, 1e300]
    leaves += [math.inf, "", "a\0\ud800é", b"\xff", 1j, ..., int, range(1, 9, 2)]
    leaves += [Decimal("1.10"), Fraction(1, 3), date(2020, 1, 1), datetime(2020, 1, 1, 2)]
    leaves += [timedelta(1, 2, 3)]
    if rng.random() < 0.05:  # many numbers, which may cross as bytes
        odd = rng.choice([0.5, (1 << 53) + 1, math.nan])
        numbers = [0.1, -0.0, 1e-300, 2.0, 3, -5, 1 << 53, odd]
        kind = rng.choice([list, tuple, deque])
        return kind(rng.choice(numbers[: rng.randrange(4, 9)]) for _ in range(100))
    if depth == 0 or rng.random() < 0.3:
        return rng.choice(leaves)
    items = [random_value(rng, depth - 1) for _ in range(rng.randrange(4))]
    keys = [rng.choice([1, "k", (1, "a"), None, 2.5, b"x", 1 << 70]) for _ in items]
    kind = rng.choice(
        [list, tuple, deque, dict, OrderedDict, Counter, defaultdict, set, frozenset, bytearray]
    )
    if kind in (dict, OrderedDict):
        return kind(zip(keys, items, strict=True))
    if kind is Counter:
        return Counter(keys)
    if kind is defaultdict:
        return defaultdict(list, zip(keys, items, strict=True))
    if kind in (set, frozenset):
        return kind(keys[:1])  # the order of a larger one is not part of its value
    return bytearray(b"xyz") if kind is bytearray else kind(items)


def test_messages_are_compact_json():
    message = {"a": [1, {"b": None, "c": 2.5}], "d": "é"}
    assert wire.to_json(message) == json.dumps(message, separators=(",", ":")).encode()
    assert wire.from_json(wire.to_json(message)) == message


@pytest.mark.parametrize(
    "body", [b"", b"[", b"[1] 2", b"[1]]", b" [1]", b'["\xc3\xa9"]', b"passed"]
)
def test_what_is_no_message_is_refused(body):
    with pytest.raises(sandbox.MessageError):
        wire.from_json(body)


def test_values_survive_the_crossing_with_their_exact_types(request):
    limit = sys.get_int_max_str_digits()
    request.addfinalizer(lambda: sys.set_int_max_str_digits(limit))
    rng = random.Random(0)
    for _ in range(2000):
        value = random_value(rng, 4)
        form = wire.encode(value, None)
        body = wire.to_json(form)
        assert body == json.dumps(form, separators=(",", ":")).encode()
        back = wire.decode(wire.from_json(body), None)
        sys.set_int_max_str_digits(0)
        assert repr(back) == repr(value)


def test_many_floats_cross_as_bytes():
    numbers = [1, *[i / 7 for i in range(10_000)]]
    body = wire.to_json(wire.encode(numbers, None))
    assert len(body) < 11 * len(numbers) < 0.7 * len(json.dumps(numbers))
    back = wire.decode(wire.from_json(body), None)
    assert back == numbers and list(map(type, back)) == list(map(type, numbers))


def test_shared_and_cyclic_arguments_keep_their_shape():
    inner = [1]
    cycle = {"a": inner, "b": inner}
    cycle["self"] = cycle
    objects = []
    form = json.loads(json.dumps(wire.encode(cycle, None, {}, True)))
    back = wire.decode(form, None, objects, True)
    assert back["a"] is back["b"] and back["self"] is back and objects == [back, inner]


@pytest.mark.parametrize(
    "form",
    [
        {},
        [],
        ["?"],
        ["l", {}],
        ["i", "zz"],
        ["T", "exec"],
        ["&", 0],
        ["S", "Path", "x"],
        ["S", "datetime", "2026-01-01T00:00:00+00:00"],  # one that `encode` does not send
        ["i", 5],
        ["d", 1],
        [["l"]],
        ["s", ["l"]],
        ["l", ["p"]],
        ["l", ["p", "AAAA", []]],  # three bytes
        ["l", ["p", "AAAAAAAA8H8=", [0]]],  # infinity as an integer
        ["l", ["p", "AAAAAAAA8H8=", [1]]],
        ["l", ["p", 5, []]],
        ["p", "AAAAAAAA8H8=", []],
    ],
)
def test_malformed_values_are_refused(form):
    def foreign(value):
        raise ValueError(value)

    with pytest.raises(sandbox.MessageError):
        wire.decode(form, foreign, [])


def test_line_numbers_of_a_program_are_small():
    assert session.lines([3, 0, -1, 10**5000]) == [3]  # JSON has no text of more than 4300 digits
    assert session.lines([3, "4"]) is None


# filters


def run_filter(code, architecture, number, *arguments):
    """What a BPF program returns for a system call."""
    words = {0: number, 4: architecture}
    for index in range(6):
        value = arguments[index] if index < len(arguments) else 0
        words[16 + 8 * index], words[20 + 8 * index] = value & 0xFFFFFFFF, value >> 32
    position = accumulator = 0
    while True:
        operation, yes, no, constant = code[position]
        assert 0 <= yes < 256 and 0 <= no < 256
        if operation == 0x20:
            accumulator = words[constant]
        elif operation == 0x06:
            return constant
        else:
            true = accumulator == constant if operation == 0x15 else bool(accumulator & constant)
            position += yes if true else no
        position += 1


@pytest.mark.parametrize("machine", syscalls.CALLS)
def test_the_filters_of_both_architectures_decide_as_documented(machine):
    calls = syscalls.CALLS[machine]
    base, candidate = syscalls.base_filter(machine), syscalls.candidate_filter(machine)
    audit = calls["audit"]
    allow, refuse = syscalls.RETURN_ALLOW, syscalls.RETURN_ERRNO | syscalls.EPERM
    numbers = {
        e.split(":")[0]: e.split(":")[calls["column"]] for e in syscalls.ALLOWED_CALLS.split()
    }
    for name in ("read", "write", "openat", "futex", "mmap", "exit_group", "wait4", "kill"):
        assert run_filter(base, audit, int(numbers[name])) == allow, name
    for name in ("ptrace", "socket", "execve", "mount"):
        number = {
            "x86_64": {"ptrace": 101, "socket": 41, "execve": 59, "mount": 165},
            "aarch64": {"ptrace": 117, "socket": 198, "execve": 221, "mount": 40},
        }[machine][name]
        assert run_filter(base, audit, number) == refuse, name
    assert run_filter(base, 0x40000003, int(numbers["read"])) == syscalls.RETURN_KILL
    assert run_filter(base, audit, 0x40000000 | int(numbers["read"])) == refuse
    assert run_filter(base, audit, calls["clone3"]) == syscalls.RETURN_ERRNO | syscalls.ENOSYS
    thread, fork, namespace = 0x3D0F00, 17, 0x10000000 | 17
    assert [
        run_filter(base, audit, calls["clone"], flags) for flags in (thread, fork, namespace)
    ] == [
        allow,
        allow,
        refuse,
    ]
    assert [run_filter(candidate, audit, calls["clone"], flags) for flags in (thread, fork)] == [
        allow,
        refuse,
    ]
    assert (
        run_filter(candidate, audit, calls["kill"]) == refuse
        and run_filter(candidate, audit, int(numbers["read"])) == allow
    )
    assert run_filter(base, audit, calls["sendto"], 3, 0, 0, 0, 0) == allow
    assert run_filter(base, audit, calls["sendto"], 3, 0, 0, 0, 1 << 40) == refuse
    assert (
        run_filter(base, audit, calls["fcntl"], 3, 8) == refuse
        and run_filter(base, audit, calls["fcntl"], 3, 2) == allow
    )
    assert (
        run_filter(base, audit, calls["prctl"], 22) == allow
        and run_filter(candidate, audit, calls["prctl"], 22) == refuse
    )
    assert run_filter(base, audit, calls["mkdirat"], 3, 0, 0o700) == allow
    assert run_filter(base, audit, calls["mkdirat"], 3, 0, 0o300) == refuse
    assert run_filter(base, audit, calls["umask"], 0o77) == allow
    private = syscalls.base_filter(machine, attributes=True)
    for entry in syscalls.ATTRIBUTE_CALLS.split():
        number = entry.split(":")[calls["column"]]
        if number != "-":
            assert run_filter(base, audit, int(number)) == refuse, entry
            assert run_filter(private, audit, int(number)) == allow, entry
    assert run_filter(base, audit, calls["umask"], 0o777) == refuse
