"""Run untrusted Python programs against tests, and compute a verdict that the program cannot forge.

    with Sandbox(workers=2, timeout=3.0) as sandbox:
        futures = [sandbox.submit(task, program) for task, program in pairs]   # work begins at once
        verdicts = [future.result() for future in futures]                     # in the order of submission

    python sandbox.py run --tasks T.jsonl --samples S.jsonl --out V.jsonl --workers 2 --timeout 3 --memory_mb 1024
    python sandbox.py probe                                                    # which layers hold on this machine

This file needs the standard library alone (Python 3.11 or later) and can be copied into another project as it is.

How a verdict comes about. Each worker owns two processes that are started by exec with a clean environment:

    judge    runs the tests; the program never executes here, and its functions are proxies here
    zygote   a pristine, sealed interpreter that forks one candidate process per program and ends it again

The judge makes a socket pair per program and passes one end to the zygote, which forks; the candidate process reads its
own program from that socket. So the zygote never sees a program or a test, and nothing that was secret is in the memory
that the candidate inherits. A test calls a proxy; arguments and result cross in a tagged form (never pickle); the value
that comes back is rebuilt from exact builtin types and compared in the judge. An object of a class of the program's own
stays behind and is represented by a proxy, which never equals plain data. The candidate may write what it likes to
its socket: all it can say is "the function returned this value".

The tests of a task, by `style`; every test is run, except that a timeout or the death of the program ends it:

    assert    Python source strings, run one by one in one namespace after `setup`
    call      {"args": [...], "output": any, "atol": float?}; the entry point is `f` or `Solution.f`; the result is
              compared as JSON would write it (tuples as lists, keys as strings)
    stdio     {"input": str, "output": str}; one process per test; whole outputs are compared, line by line
    unittest  source strings with unittest.TestCase classes; one that patches what the program calls, or shares files
              with it, must run inside the sandbox, and its verdict is marked `trusted: false`
    answer    {"answer": str}; the text after "####" (or in \\boxed{}) of a solution in prose; nothing is executed

`setup` is Python source that the judge runs after the program and before the tests. It sees the program's names, and
what it defines hides what the program defines under the same name. So helper functions that a prompt gives (HumanEval
32, 38 and 50: `poly`, `encode_cyclic`, `encode_shift`) belong in `setup`; `prompt_helpers` extracts them.

A verdict is a dict:

    status    "passed" | "failed" | "error" | "syntax_error" | "timeout" | "memory" | "harness_error"
    passed    tests passed; total: tests of the task
    line      line of the program where it failed, or None     executed: lines that ran, or None (needs trace=True)
    message   why, at most 500 characters                      seconds: CPU seconds that the program used
    trusted   False where the program itself took part in a comparison (two of its objects compared with each other)

"harness_error" says that the judge or the zygote died repeatedly: no verdict, neither a pass nor a fail.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import json
import marshal
import math
import os
import resource
import signal
import socket
import struct
import sys
import time
from collections import Counter, OrderedDict, defaultdict, deque

STATUSES = ("passed", "failed", "error", "syntax_error", "timeout", "memory", "harness_error")
STYLES = ("assert", "call", "stdio", "unittest", "answer")
OUTCOMES = {  # the four levels of CodeRL; None: no verdict
    "passed": "passed",
    "failed": "failed_test",
    "error": "runtime_error",
    "timeout": "runtime_error",
    "memory": "runtime_error",
    "syntax_error": "syntax_error",
    "harness_error": None,
}

MAX_MESSAGE = 32 << 20  # bytes of one message between the processes
MAX_ITEMS = 4_000_000  # values in one message
MAX_TEXT = 500  # characters of a verdict's message
MAX_AHEAD = 32_768  # bytes of calls that may wait for a program, less than a socket holds
MAX_COMPILED = 100_000  # characters of a program that the judge compiles
JUDGE_MEMORY = 2 << 30  # bytes of address space; the tests work on data that the program chose
WALL_FACTOR = (
    5  # wall limit = this times the CPU limit, not counting the time spent waiting for a processor
)
FILE_BYTES = 64 << 20  # size limit of one file and of the scratch directory
PROGRAM_FILE = "<program>"  # file name of the program in tracebacks


class TaskError(ValueError):
    """A task that cannot be judged; the message is one line that names the field."""


class SandboxError(RuntimeError):
    """The sandbox cannot start as asked."""


class HarnessError(Exception):
    """The judge or the zygote failed; says nothing about the program."""


class MessageError(Exception):
    """A message that is too large, malformed, or holds what cannot cross."""


def outcome(status: str) -> str | None:
    """The outcome class of a status: "syntax_error", "runtime_error", "failed_test", "passed", or None (no verdict)."""
    return OUTCOMES[status]


def check_task(task: dict) -> None:
    """Raise TaskError, a one-line message that names the field, unless the task can be judged."""
    if not isinstance(task, dict):
        raise TaskError(f"a task must be an object, not {type(task).__name__}")
    name = task.get("task_id")
    if not isinstance(name, str):
        raise TaskError("task_id: missing or not a string")

    def fail(field, reason):
        raise TaskError(f"task {name}: {field}: {reason}")

    style = task.get("style")
    if style not in STYLES:
        fail("style", f"{style!r} is not one of {', '.join(STYLES)}")
    tests = task.get("tests")
    if not isinstance(tests, list) or not tests:
        fail("tests", "must be a list with at least one test")
    if not isinstance(task.get("setup") or "", str):
        fail("setup", "must be a string")
    entry_point = task.get("entry_point")
    if entry_point is not None and not (
        isinstance(entry_point, str) and all(part.isidentifier() for part in entry_point.split("."))
    ):
        fail("entry_point", f"{entry_point!r} is not a name")
    timeout = task.get("timeout")
    if timeout is not None and (
        isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout > 0
    ):
        fail("timeout", f"{timeout!r} is not a positive number of seconds")
    if style == "call" and not entry_point:
        fail("entry_point", "the call style needs one")
    for index, test in enumerate(tests):
        field = f"tests[{index}]"
        if style in ("assert", "unittest"):
            if not isinstance(test, str) or not test.strip():
                fail(field, "must be Python source")
            check_source(test, field, fail)
        elif not isinstance(test, dict):
            fail(field, "must be an object")
        elif style == "call":
            if not isinstance(test.get("args"), list):
                fail(f"{field}.args", "must be a list")
            if "output" not in test:
                fail(f"{field}.output", "is missing")
            if not isinstance(test.get("atol") or 0.0, (int, float)):
                fail(f"{field}.atol", "must be a number")
        else:
            for key in ("input", "output") if style == "stdio" else ("answer",):
                if not isinstance(test.get(key), str):
                    fail(f"{field}.{key}", "must be a string")
    if style in ("assert", "unittest", "call"):
        check_source(task.get("setup") or "", "setup", fail)
    if style == "unittest" and not any(unittest_methods(test) for test in tests):
        fail("tests", "hold no test method of a TestCase class")


def check_source(source: str, field: str, fail) -> None:
    """Call `fail` unless the source compiles and holds at least one statement (an empty setup is fine)."""
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of doubtful escapes, which are the benchmark's own
            statements = ast.parse(source).body
            compile(source, field, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError) as error:
        fail(field, f"does not compile: {str(error)[:200]}")
    if not statements and field != "setup":
        fail(field, "holds no statement")


def unittest_methods(source: str) -> list[str]:
    """Names of the test methods in the source, as "Class.test_name"."""
    return [
        f"{node.name}.{item.name}"
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef)
        for item in node.body
        if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef))
        and item.name.startswith("test")
    ]


def prompt_helpers(prompt: str, entry_point: str) -> str:
    """Source of what a code prompt defines besides the entry point: the trusted part, which belongs in `setup`."""
    kept = [node for node in ast.parse(prompt).body if getattr(node, "name", None) != entry_point]
    return "".join(ast.unparse(node) + "\n" for node in kept)


# Made once: json.dumps would make it anew for each message, and whatever a candidate builds costs it copied pages.
encode_json = json.encoder.c_make_encoder(
    None,
    json.JSONEncoder().default,
    json.encoder.encode_basestring_ascii,
    None,
    ":",
    ",",
    False,
    False,
    True,
)
HEADER = struct.Struct(">I")


def to_json(message) -> bytes:
    return "".join(encode_json(message, 0)).encode()


def from_json(body: bytes):
    """The message of a JSON text that nobody vouches for: limited, and every fault is a MessageError."""
    if body.count(b",") > MAX_ITEMS:
        raise MessageError(f"a message holds more than {MAX_ITEMS} values")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"not JSON: {error}") from None


class Channel:
    """Messages with a length prefix on a stream socket's descriptor. EOFError: the other end is gone.

    What a candidate sends is JSON. What the judge sends to it is marshalled, which is cheaper to read in a fresh
    process; marshal is safe in this direction alone, from the trusted side to the other.
    """

    def __init__(self, descriptor: int, pack=to_json, unpack=from_json):
        self.descriptor = descriptor
        self.pack, self.unpack = pack, unpack
        self.buffer = b""

    def send(self, message) -> None:
        data = self.pack(message)
        if len(data) > MAX_MESSAGE:
            raise MessageError(f"a message of {len(data)} bytes exceeds {MAX_MESSAGE}")
        data = HEADER.pack(len(data)) + data
        try:
            written = os.write(self.descriptor, data)
            while written < len(data):
                data = data[written:]
                written = os.write(self.descriptor, data[: 1 << 20])
        except OSError as error:
            raise EOFError(str(error)) from None

    def receive(self, on_wait=None):
        """The next message. `on_wait` is called when a receive timeout set on the socket has passed; it may raise."""
        while True:
            buffer = self.buffer
            needed = HEADER.size
            if len(buffer) >= HEADER.size:
                needed += HEADER.unpack_from(buffer)[0]
                if needed > MAX_MESSAGE + HEADER.size:
                    raise MessageError(f"a message of {needed} bytes exceeds {MAX_MESSAGE}")
                if len(buffer) >= needed:
                    break
            try:
                part = os.read(self.descriptor, max(16384, min(needed - len(buffer), 1 << 20)))
            except BlockingIOError:  # the timeout of the socket
                on_wait()
                continue
            except OSError:
                part = b""
            if not part:
                raise EOFError
            if buffer:
                if on_wait:
                    on_wait()  # a message that comes byte by byte does not escape the limit
                if type(buffer) is bytes:
                    self.buffer = bytearray(buffer)
                self.buffer += part
            else:
                self.buffer = part
        body = bytes(buffer[HEADER.size : needed])
        self.buffer = bytes(buffer[needed:])
        return self.unpack(body)


# Values cross in the forms of JSON. None, booleans, strings, finite floats and integers below 2**62 stand for
# themselves; everything else is a list that begins with a tag. A mutable container among the arguments of a call is
# numbered in the order of first sight, so that ["&", n] can name it again: an alias, a result that is an argument, a
# changed argument.

SMALL = 1 << 62
TAGS = {
    list: "l",
    tuple: "t",
    dict: "d",
    set: "s",
    frozenset: "f",
    deque: "q",
    bytearray: "ba",
    Counter: "C",
    OrderedDict: "O",
    defaultdict: "dd",
}
SEQUENCES = {"l": list, "t": tuple, "s": set, "f": frozenset}
MAPPINGS = {"d": dict, "C": Counter, "O": OrderedDict, "dd": defaultdict}
MUTABLE = frozenset((list, dict, set, deque, bytearray, Counter, OrderedDict, defaultdict))
ATOMS = frozenset((bool, str, type(None)))
TYPES = {
    kind.__name__: kind
    for kind in (
        int,
        float,
        str,
        list,
        dict,
        tuple,
        set,
        frozenset,
        bool,
        bytes,
        bytearray,
        complex,
        object,
        range,
        type,
    )
} | {
    "NoneType": type(None),
    "Counter": Counter,
    "OrderedDict": OrderedDict,
    "defaultdict": defaultdict,
    "deque": deque,
}
TYPE_NAMES = {kind: name for name, kind in TYPES.items()}
STRING_TYPES = {  # rebuilt from their own text: module and class
    "Decimal": ("decimal", "Decimal"),
    "Fraction": ("fractions", "Fraction"),
    "date": ("datetime", "date"),
    "datetime": ("datetime", "datetime"),
    "time": ("datetime", "time"),
    "UUID": ("uuid", "UUID"),
}


def encode(value, foreign, numbers=None, register=False):
    """The JSON form of a value.

    foreign: called with an object of any other type, returns its JSON form.
    numbers: {id: number} of the mutable containers known to the other side; register: number new ones as well.
    """
    kind = type(value)
    if kind in ATOMS:
        return value
    if kind is int:
        return value if -SMALL < value < SMALL else ["i", hex(value)]
    if kind is float:
        return value if math.isfinite(value) else ["x", repr(value)]
    if kind in TAGS:
        if numbers is not None and kind in MUTABLE:
            number = numbers.get(id(value))
            if number is not None:
                return ["&", number]
            if register:
                numbers[id(value)] = len(numbers)
        return [TAGS[kind], *contents(value, kind, foreign, numbers, register)]
    if kind is bytes:
        return ["b", value.hex()]
    if kind is complex:
        return ["c", encode(value.real, foreign), encode(value.imag, foreign)]
    if kind is range:
        return ["r", *[encode(x, foreign) for x in (value.start, value.stop, value.step)]]
    if kind is slice:
        return [
            "sl",
            *[encode(x, foreign, numbers, register) for x in (value.start, value.stop, value.step)],
        ]
    if kind is type and value in TYPE_NAMES:
        return ["T", TYPE_NAMES[value]]
    if kind.__name__ in STRING_TYPES:
        module, name = STRING_TYPES[kind.__name__]
        if (
            kind is getattr(sys.modules.get(module), name, None)
            and getattr(value, "tzinfo", None) is None
        ):
            return ["S", name, str(value)]
    if kind.__name__ == "timedelta" and kind is getattr(
        sys.modules.get("datetime"), "timedelta", None
    ):
        return ["td", value.days, value.seconds, value.microseconds]
    if value is Ellipsis or value is NotImplemented:
        return ["T", repr(value)]
    return foreign(value)


def contents(value, kind, foreign, numbers, register) -> list:
    """The encoded items of a container, without its tag."""
    if kind is bytearray:
        return [value.hex()]
    if kind in (dict, Counter, OrderedDict, defaultdict):
        items = [encode(x, foreign, numbers, register) for pair in kind.items(value) for x in pair]
        if kind is defaultdict:
            items.insert(0, TYPE_NAMES.get(value.default_factory))
        return items
    kinds = set(map(type, value))
    if kinds <= ATOMS or (kinds == {int} and min(value) > -SMALL and max(value) < SMALL):
        items = list(value)
    else:
        items = [encode(x, foreign, numbers, register) for x in value]
    if kind is deque:
        items.insert(0, value.maxlen)
    return items


def decode(value, foreign, objects=None, register=False):
    """The value of a JSON form; every malformed one raises MessageError.

    foreign: called with a tagged list of any other tag. objects: the numbered containers; register: append new ones.
    """
    if type(value) is not list:
        if type(value) is dict:
            raise MessageError("a JSON object where a value was expected")
        return value
    tag = value[0] if value else None
    try:
        if tag in ("l", "t", "s", "f", "q", "d", "C", "O", "dd", "ba"):
            if tag == "l":
                result = []
            elif tag in ("s", "ba"):
                result = set() if tag == "s" else bytearray()
            elif tag == "q":
                result = deque(maxlen=value[1])
            elif tag in MAPPINGS:
                result = MAPPINGS[tag]()
                if tag == "dd":
                    result.default_factory = TYPES.get(value[1])
            else:
                return SEQUENCES[tag](decode_items(value, 1, foreign, objects, register))
            if register:
                objects.append(result)
            fill(result, value, foreign, objects, register)
            return result
        if tag == "&":
            return objects[value[1]]
        if tag == "i":
            return int(value[1], 16)
        if tag == "x":
            return float(value[1])
        if tag == "b":
            return bytes.fromhex(value[1])
        if tag == "c":
            return complex(*decode_items(value, 1, foreign, None, False))
        if tag == "r":
            return range(*decode_items(value, 1, foreign, None, False))
        if tag == "sl":
            return slice(*decode_items(value, 1, foreign, objects, register))
        if tag == "T":
            return {"Ellipsis": ..., "NotImplemented": NotImplemented}.get(value[1]) or TYPES[
                value[1]
            ]
        if tag == "S":
            module, name = STRING_TYPES[value[1]]
            kind = getattr(__import__(module), name)
            return (kind.fromisoformat if module == "datetime" else kind)(value[2])
        if tag == "td":
            return __import__("datetime").timedelta(*value[1:4])
        return foreign(value)
    except (
        TypeError,
        ValueError,
        LookupError,
        ArithmeticError,
        AttributeError,
        RecursionError,
    ) as error:
        raise MessageError(
            f"a malformed value: {type(error).__name__}: {str(error)[:100]}"
        ) from None


def decode_items(value: list, start: int, foreign, objects, register) -> list:
    """The decoded items of a tagged list from `start` on."""
    if list not in set(map(type, value)) and dict not in set(map(type, value)):
        return value[start:]
    return [decode(item, foreign, objects, register) for item in value[start:]]


def fill(container, value: list, foreign, objects, register) -> None:
    """Put the items of a tagged list into an existing mutable container, whose old items go."""
    kind = type(container)
    items = decode_items(value, 2 if value[0] in ("q", "dd") else 1, foreign, objects, register)
    if kind is list:
        container[:] = items
    elif kind is bytearray:
        container[:] = bytes.fromhex(items[0])
    elif kind in (set, deque):
        container.clear()
        (container.update if kind is set else container.extend)(items)
    else:
        container.clear()
        for index in range(0, len(items), 2):
            container[items[index]] = items[index + 1]


def flatten(value):
    """The same data as exact builtin types where the value's class derives from one, else None."""
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, list):
        return list(list.__iter__(value))
    if isinstance(value, tuple):
        return tuple(tuple.__iter__(value))
    if isinstance(value, dict):
        return dict(dict.items(value))
    if isinstance(value, set):
        return set(set.__iter__(value))
    if isinstance(value, frozenset):
        return frozenset(frozenset.__iter__(value))
    if isinstance(value, deque):
        return deque(deque.__iter__(value))
    if isinstance(value, complex):
        return complex(value.real, value.imag)
    if isinstance(value, (bytes, bytearray)):
        return bytes(memoryview(value))
    return None


def compile_program(source: str):
    """The code of a program; raises what `compile` raises."""
    return compile(source.removeprefix("\ufeff"), PROGRAM_FILE, "exec", dont_inherit=True)


class Candidate:
    """The sandboxed process: runs the program, then serves calls on its objects until it is killed."""

    def __init__(self):
        self.channel = Channel(-1, unpack=marshal.loads)
        self.objects = []  # what the judge holds proxies of
        self.handles = {}  # id -> index in objects, which keeps the object alive
        self.stubs = {}  # id -> (form, stub) of what stands for an object of the judge
        self.executed = None  # lines of the program that ran, when traced
        self.lock = None  # taken around a callback, since threads may make some at the same time

    def run(self) -> None:
        """Read the order from the judge, run the program, serve. Returns if the program failed."""
        order = self.channel.receive()
        resource.setrlimit(resource.RLIMIT_CPU, (order["seconds"], order["seconds"] + 1))
        if order["trace"]:
            self.start_trace()
        reply = self.load(order)
        self.channel.send(reply)
        if order["module"] == "__main__":
            self.finish(1)
        while reply[0] == "ok":
            self.answer(self.channel.receive())

    def load(self, order: dict) -> list:
        """Compile and run the program; the reply, with the values of the names that were asked for."""
        name = order["module"]
        module = sys.modules[name] = type(sys)(name)
        module.__file__ = PROGRAM_FILE
        space = module.__dict__
        try:
            code = order["program"]
            code = marshal.loads(code) if type(code) is bytes else compile_program(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            line = getattr(error, "lineno", None)
            return ["syntax", line, f"{type(error).__name__}: {str(error)[:MAX_TEXT]}"]
        try:
            exec(code, space)
        except BaseException as error:
            if name == "__main__" and isinstance(error, SystemExit):
                self.finish(error.code)
            return self.raised(error)
        if name == "__main__":
            self.finish(0)
        return [
            "ok",
            [self.encode(space[key]) if key in space else ["undefined"] for key in order["names"]],
            None,
        ]

    def finish(self, code) -> None:
        """End as the interpreter would: wait for threads, run exit functions, flush; the exit code is the verdict's."""
        if code is not None and not isinstance(code, int):
            code = 1
        try:
            if "threading" in sys.modules:
                sys.modules["threading"]._shutdown()
            import atexit

            atexit._run_exitfuncs()
            if self.executed is not None:
                self.channel.send(["executed", sorted(self.executed)])
            sys.stdout.flush()
        finally:
            os._exit((code or 0) & 255)

    def on_cpu_limit(self, signum, frame) -> None:
        """Tell the judge the line at which the CPU time ran out; the hard limit kills who does not get here."""
        while frame is not None and frame.f_code.co_filename != PROGRAM_FILE:
            frame = frame.f_back
        self.channel.send(
            ["timeout", frame and frame.f_lineno, self.executed and sorted(self.executed)]
        )
        os._exit(1)

    def start_trace(self) -> None:
        executed = self.executed = set()

        def on_line(frame, event, argument):
            if event == "line":
                executed.add(frame.f_lineno)
            return on_line

        def on_call(frame, event, argument):
            return on_line if frame.f_code.co_filename == PROGRAM_FILE else None

        sys.settrace(on_call)
        if "threading" in sys.modules:
            sys.modules["threading"].settrace(on_call)

    def encode(self, value, numbers=None):
        return encode(value, self.foreign, numbers)

    def foreign(self, value):
        """JSON form of an object that is no plain data: flattened, or a handle with its nature."""
        form = self.stubs.get(id(value))
        if form is not None:
            return form[0]
        flat = flatten(value)
        if flat is not None:
            return self.encode(flat)
        if isinstance(value, type(sys)):
            return ["m", value.__name__]
        index = self.handles.get(id(value))
        if index is None:
            index = self.handles[id(value)] = len(self.objects)
            self.objects.append(value)
        if isinstance(value, type):
            if issubclass(value, BaseException):
                return ["E", [base.__name__ for base in value.__mro__], index]
            return ["h", index, "class"]
        return ["h", index, "callable" if callable(value) else "object"]

    def decode(self, value, objects):
        return decode(value, self.known, objects, True)

    def known(self, value):
        """The object of a tagged list that the judge sent: one of ours, or a stub for one of the judge's."""
        tag, payload = value[0], value[1]
        if tag == "h":
            return self.objects[payload]
        if tag == "B":
            return getattr(builtins, payload)
        if tag == "m":
            return __import__("importlib").import_module(payload)
        if tag == "re":
            return __import__("re").compile(payload, value[2])
        if tag == "fn":
            stub = lambda *args, **kwargs: self.call_back("call", payload, args, kwargs)  # noqa: E731
        else:
            stub = CallbackIterator(self, payload) if tag == "it" else CallbackObject(self, payload)
        self.stubs[id(stub)] = value, stub
        return stub

    def answer(self, message) -> None:
        """Do one operation that the judge asked for and send the result."""
        operation, args, kwargs = message
        if operation == "executed":
            self.channel.send(["ok", self.executed and ["l", *sorted(self.executed)], None])
            return
        numbered = []
        try:
            arguments = [self.decode(value, numbered) for value in args]
            keywords = {key: self.decode(value, numbered) for key, value in kwargs.items()}
            result = OPERATIONS[operation](*arguments, **keywords)
            changes = None
            numbers = None
            if numbered and operation != "apply":
                again = {}
                before = to_json([args, kwargs])
                now = [
                    [encode(value, self.foreign, again, True) for value in arguments],
                    {
                        key: encode(value, self.foreign, again, True)
                        for key, value in keywords.items()
                    },
                ]
                numbers = {id(value): number for number, value in enumerate(numbered)}
                if to_json(now) != before:
                    changes = [
                        [
                            TAGS[type(value)],
                            *contents(value, type(value), self.foreign, numbers, False),
                        ]
                        for value in numbered
                    ]
            reply = ["ok", self.encode(result, numbers), changes]
        except BaseException as error:
            reply = self.raised(error)
        try:
            self.channel.send(reply)
        except MessageError as error:
            self.channel.send(self.raised(error))

    def raised(self, error: BaseException):
        """The message for an exception: class names up to a builtin one, arguments, line, text, executed lines."""
        names = [base.__name__ for base in type(error).__mro__]
        try:
            arguments = [self.encode(argument) for argument in error.args]
            text = str(error)[:MAX_TEXT]
        except BaseException:
            arguments, text = [], ""
        line = None
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == PROGRAM_FILE:
                line = trace.tb_lineno
            trace = trace.tb_next
        if len(text) + len(str(arguments)) > 100_000:
            arguments = [text]
        return ["raise", names, arguments, line, text, self.executed and sorted(self.executed)]

    def call_back(self, kind: str, number: int, args, kwargs):
        """Ask the judge to use one of its objects; serves nested calls while it waits."""
        if self.lock is None:
            import threading

            self.lock = threading.RLock()
        with self.lock:
            self.channel.send(
                [
                    "back",
                    kind,
                    number,
                    [self.encode(x) for x in args],
                    {k: self.encode(x) for k, x in kwargs.items()},
                ]
            )
            while True:
                message = self.channel.receive()
                if message[0] == "value":
                    return decode(message[1], self.known, [], True)
                if message[0] == "raised":
                    kind = getattr(builtins, message[1], Exception)
                    raise kind(message[2])
                self.answer(message)


class CallbackIterator:
    """An iterator of the judge, seen from the candidate."""

    def __init__(self, candidate, number):
        self.step = lambda: candidate.call_back("next", number, (), {})

    def __iter__(self):
        return self

    def __next__(self):
        return self.step()


class CallbackObject:
    """An object of a class that the tests define, seen from the candidate: public attributes alone."""

    def __init__(self, candidate, number):
        object.__setattr__(
            self, "_ask", lambda kind, *args: candidate.call_back(kind, number, args, {})
        )

    def __getattr__(self, name):
        return self._ask("getattr", name)

    def __setattr__(self, name, value):
        self._ask("setattr", name, value)

    def __eq__(self, other):
        return self._ask("eq", other)

    def __lt__(self, other):
        return self._ask("lt", other)

    def __hash__(self):
        return self._ask("hash")

    def __call__(self, *args):
        return self._ask("call", *args)

    def __iter__(self):
        return self._ask("iter")

    def __len__(self):
        return self._ask("len")

    def __getitem__(self, key):
        return self._ask("getitem", key)

    def __repr__(self):
        return self._ask("repr")


def call(function, *args, **kwargs):
    return function(*args, **kwargs)


def make_operations() -> dict:
    """What the judge may ask of the candidate: name -> function of the target and further arguments."""
    import operator

    names = "add sub mul truediv floordiv mod pow matmul and_ or_ xor lshift rshift neg pos abs invert eq ne lt le gt ge"
    table = {
        name: getattr(operator, name)
        for name in (*names.split(), "getitem", "setitem", "delitem", "index")
    }
    for function in (
        len,
        bool,
        str,
        repr,
        hash,
        iter,
        next,
        int,
        float,
        complex,
        round,
        getattr,
        setattr,
        delattr,
    ):
        table[function.__name__] = function
    for function in (dir, isinstance, issubclass, format, reversed, divmod, bytes, call):
        table[function.__name__] = function
    table["apply"] = call  # where nobody looks at the arguments afterwards
    table["enter"] = lambda target: type(target).__enter__(target)
    table["exit"] = lambda target: type(target).__exit__(target, None, None, None)
    return table


OPERATIONS = make_operations()


LAYERS = {
    "rlimits": "address space, CPU time, file size, descriptors and core dumps are limited",
    "no_new_privs": "no program can gain privileges by exec",
    "capabilities": "none are held, not even by root",
    "landlock": "files outside the interpreter's library and the scratch directory are out of reach; so is TCP",
    "seccomp": "system calls outside a list fail: no new process, socket, signal to others, mount, chmod, ...",
    "user namespace": "the candidate is nobody inside its namespaces",
    "network namespace": "no network interface but an unconnected loopback",
    "process namespace": "other processes cannot be named",
    "mount namespace": "a private file tree: the interpreter's library, read-only, and an empty /tmp of limited size",
    "ipc namespace": "no shared memory or semaphores of others",
}
NAMESPACES = tuple(name for name in LAYERS if name.endswith("namespace"))

# Numbers on x86_64 and aarch64 ("-": none) of the system calls that an interpreter and honest programs need.
ALLOWED_CALLS = """
read:0:63 write:1:64 close:3:57 stat:4:- fstat:5:80 lstat:6:- poll:7:- lseek:8:62 mmap:9:222 mprotect:10:226
munmap:11:215 brk:12:214 rt_sigaction:13:134 rt_sigprocmask:14:135 rt_sigreturn:15:139 pread64:17:67 pwrite64:18:68
readv:19:65 writev:20:66 access:21:- pipe:22:- select:23:- sched_yield:24:124 mremap:25:216 msync:26:227 mincore:27:232
madvise:28:233 dup:32:23 dup2:33:- pause:34:- nanosleep:35:101 getitimer:36:102 alarm:37:- setitimer:38:103
getpid:39:172 sendfile:40:71 socketpair:53:199 recvfrom:45:207 recvmsg:47:212 shutdown:48:210 getsockname:51:204
getpeername:52:205 setsockopt:54:208 getsockopt:55:209 fork:57:- vfork:58:- exit:60:93 wait4:61:260 kill:62:129
uname:63:160 flock:73:32 fsync:74:82 fdatasync:75:83 ftruncate:77:46 getdents:78:- getcwd:79:17 chdir:80:49
fchdir:81:50 rename:82:- rmdir:84:- creat:85:- link:86:- unlink:87:- symlink:88:- readlink:89:-
gettimeofday:96:169 getrlimit:97:163 getrusage:98:165 sysinfo:99:179 times:100:153 getuid:102:174 getgid:104:176
geteuid:107:175 getegid:108:177 setsid:112:157 getppid:110:173 getpgrp:111:- getpgid:121:155 getsid:124:156
getgroups:115:158 getresuid:118:148 getresgid:120:150 rt_sigpending:127:136 rt_sigtimedwait:128:137
rt_sigsuspend:130:133 sigaltstack:131:132 statfs:137:43 fstatfs:138:44 getpriority:140:141 arch_prctl:158:-
setrlimit:160:164 gettid:186:178 time:201:- futex:202:98 sched_getaffinity:204:123 epoll_create:213:-
getdents64:217:61 set_tid_address:218:96 restart_syscall:219:128 fadvise64:221:223 clock_gettime:228:113
clock_getres:229:114 clock_nanosleep:230:115 exit_group:231:94 waitid:247:95 epoll_wait:232:- epoll_ctl:233:21 open:2:-
openat:257:56 newfstatat:262:79 unlinkat:263:35 renameat:264:38 linkat:265:37 symlinkat:266:36 readlinkat:267:78
faccessat:269:48 pselect6:270:72 ppoll:271:73 set_robust_list:273:99 get_robust_list:274:100 epoll_pwait:281:22
fallocate:285:47 eventfd2:290:19 epoll_create1:291:20 dup3:292:24 pipe2:293:59 preadv:295:69 pwritev:296:70
getcpu:309:168 renameat2:316:276 getrandom:318:278 membarrier:324:283 copy_file_range:326:285 statx:332:291 rseq:334:293
close_range:436:436 faccessat2:439:439 epoll_pwait2:441:441
"""
# Calls that depend on an argument, or that the zygote needs and a candidate must not have.
CALLS = {
    "x86_64": {
        "audit": 0xC000003E,
        "column": 1,
        "clone": 56,
        "fork": 57,
        "vfork": 58,
        "kill": 62,
        "ioctl": 16,
    }
    | {"fcntl": 72, "prctl": 157, "prlimit64": 302, "sendto": 44, "clone3": 435}
    | {"umask": 95, "mkdir": 83, "mkdirat": 258},
    "aarch64": {"audit": 0xC00000B7, "column": 2, "clone": 220, "kill": 129, "ioctl": 29}
    | {"fcntl": 25, "prctl": 167, "prlimit64": 261, "sendto": 206, "clone3": 435}
    | {"umask": 166, "mkdirat": 34},
}
RETURN_ALLOW, RETURN_ERRNO, RETURN_KILL = 0x7FFF0000, 0x00050000, 0x80000000
EPERM, ENOSYS = 1, 38
CLONE_THREAD, CLONE_NAMESPACES = 0x10000, 0x7E020080
IOCTLS = (
    0x5401,
    0x5413,
    0x541B,
    0x5421,
    0x5450,
    0x5451,
)  # TCGETS TIOCGWINSZ FIONREAD FIONBIO FIONCLEX FIOCLEX
FCNTLS = (*range(8), 1030, 1031, 1032)  # no F_SETOWN: it would send signals
PRCTLS = (15, 16)  # PR_SET_NAME, PR_GET_NAME
PR_SET_SECCOMP, PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 22, 1, 38


class Assembler:
    """A classic BPF program as a list of (code, jump if true, jump if false, constant)."""

    def __init__(self):
        self.code = []

    def load(self, offset):
        self.code.append((0x20, 0, 0, offset))

    def load_argument(self, index):
        self.load(16 + 8 * index)  # the low half on a little-endian machine

    def give(self, verdict):
        self.code.append((0x06, 0, 0, verdict))

    def when_equal(self, value, block):
        """Run the block, which ends in a verdict, if the loaded word equals the value."""
        self.jump_over(0x15, value, block, False)

    def when_bits(self, mask, block):
        self.jump_over(0x45, mask, block, False)

    def unless_bits(self, mask, block):
        self.jump_over(0x45, mask, block, True)

    def jump_over(self, code, value, block, negate):
        position = len(self.code)
        self.code.append(None)
        block()
        length = len(self.code) - position - 1
        self.code[position] = (code, length, 0, value) if negate else (code, 0, length, value)

    def allow_values(self, values):
        """Allow if the loaded word is one of the values, else refuse."""
        for value in values:
            self.when_equal(value, lambda: self.give(RETURN_ALLOW))
        self.give(RETURN_ERRNO | EPERM)


def base_filter(machine: str) -> list:
    """The filter of zygote and candidate: a list of allowed calls, everything else fails with EPERM."""
    calls = CALLS[machine]
    out = Assembler()
    out.load(4)
    out.code.append((0x15, 1, 0, calls["audit"]))
    out.give(RETURN_KILL)  # a foreign architecture has other numbers
    out.load(0)
    for entry in ALLOWED_CALLS.split():
        number = entry.split(":")[calls["column"]]
        if number != "-":
            out.when_equal(int(number), lambda: out.give(RETURN_ALLOW))
    out.when_equal(
        calls["clone3"], lambda: out.give(RETURN_ERRNO | ENOSYS)
    )  # its flags are out of sight: use clone

    def clone():
        out.load_argument(0)
        out.when_bits(CLONE_NAMESPACES, lambda: out.give(RETURN_ERRNO | EPERM))
        out.give(RETURN_ALLOW)

    def sendto():
        for offset in (48, 52):  # both halves of the address must be 0: the socket's own peer alone
            out.load(offset)
            out.code.append((0x15, 1, 0, 0))
            out.give(RETURN_ERRNO | EPERM)
        out.give(RETURN_ALLOW)

    def one_of(argument, values):
        def block():
            out.load_argument(argument)
            out.allow_values(values)

        return block

    def make_directory(argument):
        def block():
            out.load_argument(argument)
            for bit in (
                0o400,
                0o200,
                0o100,
            ):  # a directory that its owner cannot read could not be emptied
                out.unless_bits(bit, lambda: out.give(RETURN_ERRNO | EPERM))
            out.give(RETURN_ALLOW)

        return block

    def umask():
        out.load_argument(0)
        out.when_bits(0o700, lambda: out.give(RETURN_ERRNO | EPERM))
        out.give(RETURN_ALLOW)

    for name, argument in (("mkdir", 1), ("mkdirat", 2)):
        if name in calls:
            out.when_equal(calls[name], make_directory(argument))
    out.when_equal(calls["umask"], umask)
    out.when_equal(calls["clone"], clone)
    out.when_equal(calls["sendto"], sendto)
    out.when_equal(calls["ioctl"], one_of(1, IOCTLS))
    out.when_equal(calls["fcntl"], one_of(1, FCNTLS))
    out.when_equal(calls["prctl"], one_of(0, (*PRCTLS, PR_SET_SECCOMP)))
    out.when_equal(calls["prlimit64"], one_of(0, (0,)))
    out.give(RETURN_ERRNO | EPERM)
    return out.code


def candidate_filter(machine: str) -> list:
    """What is taken from a candidate on top, after the zygote's fork: new processes, signals, further filters."""
    calls = CALLS[machine]
    out = Assembler()
    out.load(0)
    for name in ("fork", "vfork", "kill"):
        if name in calls:
            out.when_equal(calls[name], lambda: out.give(RETURN_ERRNO | EPERM))

    def clone():
        out.load_argument(0)
        out.when_bits(CLONE_THREAD, lambda: out.give(RETURN_ALLOW))
        out.give(RETURN_ERRNO | EPERM)

    def prctl():
        out.load_argument(0)
        out.allow_values(PRCTLS)

    out.when_equal(calls["clone"], clone)
    out.when_equal(calls["prctl"], prctl)
    out.give(RETURN_ALLOW)
    return out.code


class Kernel:
    """The system calls that the standard library has no name for. Each raises OSError where the kernel refuses."""

    def __init__(self):
        import ctypes

        self.ctypes = ctypes
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.machine = os.uname().machine
        self.set_filter = ctypes.PyDLL(
            None
        ).prctl  # bare: every candidate pays for the memory that this call touches
        self.prepared = (
            None  # the candidate's filter, ready to install: built once, used after every fork
        )

    def check(self, result: int, what: str) -> int:
        if result < 0:
            number = self.ctypes.get_errno()
            raise OSError(number, f"{what}: {os.strerror(number)}")
        return result

    def prctl(self, option: int, a=0, b=0) -> None:
        long = self.ctypes.c_ulong
        self.check(self.libc.prctl(option, long(a), long(b), long(0), long(0)), f"prctl {option}")

    def drop_capabilities(self) -> None:
        """Give up every capability; root without them cannot raise its limits or mount."""
        header = struct.pack("=Ii", 0x20080522, 0)
        self.check(self.libc.capset(header, bytes(24)), "capset")

    def unshare(self, flags: int) -> None:
        self.check(self.libc.unshare(flags), "unshare")

    def mount(
        self, source: str, target: str, kind: str | None, flags: int, data: str | None = None
    ) -> None:
        text = [
            None if item is None else os.fsencode(item) for item in (source, target, kind, data)
        ]
        flags = self.ctypes.c_ulong(flags)
        self.check(self.libc.mount(text[0], text[1], text[2], flags, text[3]), f"mount {target}")

    def enter_root(self, root: str) -> None:
        """Make `root` the root directory of this mount namespace and forget the old one."""
        os.chdir(root)
        number = {"x86_64": 155, "aarch64": 41}[self.machine]
        self.check(self.libc.syscall(number, b".", b"."), "pivot_root")
        self.check(self.libc.umount2(b".", 2), "umount2")  # MNT_DETACH
        os.chdir("/")

    def landlock(self, readable: list[str], writable: list[str], devices: list[str]) -> int:
        """Restrict this process to the given paths, no TCP, no signals to outside; returns the ABI version."""
        syscall, ctypes = self.libc.syscall, self.ctypes
        version = self.check(syscall(444, None, ctypes.c_size_t(0), 1), "landlock_create_ruleset")
        files = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
        attributes = struct.pack("=QQQ", files, 3, 3)[
            : {1: 8, 2: 8, 3: 8, 4: 16, 5: 16}.get(version, 24)
        ]
        ruleset = self.check(
            syscall(444, attributes, ctypes.c_size_t(len(attributes)), 0), "landlock_create_ruleset"
        )
        read, read_list = 1 << 2, 1 << 2 | 1 << 3
        write = files & ~(
            1 << 0 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 15
        )  # no exec, device, socket, fifo
        rights = [(path, read_list if os.path.isdir(path) else read) for path in readable]
        rights += [(path, write) for path in writable] + [
            (path, (1 << 1 | 1 << 2 | 1 << 14) & files) for path in devices
        ]
        for path, right in rights:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rule = struct.pack("=Qi", right, descriptor)  # packed: 12 bytes
            self.check(syscall(445, ruleset, 1, rule, 0), f"landlock_add_rule {path}")
            os.close(descriptor)
        self.check(syscall(446, ruleset, 0), "landlock_restrict_self")
        os.close(ruleset)
        return version

    def prepare_filter(self, code: list):
        """The kernel's structure for a BPF program, and the bytes it points to."""
        ctypes = self.ctypes
        data = b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
        buffer = ctypes.create_string_buffer(data, len(data))
        return ctypes.byref(
            ctypes.create_string_buffer(struct.pack("@HP", len(code), ctypes.addressof(buffer)))
        ), buffer

    def install_filter(self, prepared) -> None:
        if self.set_filter(PR_SET_SECCOMP, 2, prepared[0], 0, 0) < 0:
            raise OSError(EPERM, "the filter of system calls is refused")


def library_paths() -> list[str]:
    """What an interpreter reads: its library, shared objects, time zones. Links stay links, so /lib may be one."""
    paths = [
        os.path.dirname(os.__file__),
        sys.base_prefix + "/lib",
        sys.base_exec_prefix + "/lib",
        *sys.path,
    ]
    paths += ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo"]
    paths += ["/etc/ld.so.cache", "/etc/localtime"]
    existing = sorted(
        {path for path in paths if path.startswith("/") and os.path.exists(path)}, key=len
    )
    kept = []
    for path in existing:
        if not any(path.startswith(parent + "/") for parent in kept):
            kept.append(path)
    return kept


DEVICES = ["/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"]
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = (
    1,
    2,
    4,
    32,
    4096,
    16384,
    1 << 18,
)


def build_root(kernel: Kernel, root: str, paths: list[str]) -> None:
    """A file tree on `root` with the given paths, read-only, the devices, and a limited /tmp; make it the root."""
    kernel.mount("none", "/", None, MS_REC | MS_PRIVATE)
    kernel.mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m")
    for path in paths + DEVICES:
        target = root + path
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.islink(path):
            os.symlink(os.readlink(path), target)
            continue
        if os.path.isdir(path):
            os.makedirs(target, exist_ok=True)
        else:
            open(target, "w").close()
        kernel.mount(path, target, None, MS_BIND | MS_REC)
        if path not in DEVICES:
            locked = (
                os.statvfs(target).f_flag & 0xF
            )  # nosuid, nodev and noexec of the original cannot be dropped
            kernel.mount("none", target, None, MS_BIND | MS_REMOUNT | MS_RDONLY | locked)
    os.makedirs(root + "/tmp")
    kernel.mount(
        "tmpfs",
        root + "/tmp",
        "tmpfs",
        MS_NOSUID | MS_NODEV,
        f"mode=777,size={FILE_BYTES},nr_inodes=4096",
    )
    with open(root + "/canary", "w") as file:
        file.write("not for reading")
    kernel.enter_root(root)
    kernel.mount("none", "/", None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV)


def forbidden(action, *expected) -> str | None:
    """None if the action fails with OSError (of the expected numbers, if any are given), else what happened."""
    try:
        action()
    except OSError as error:
        if expected and error.errno not in expected:
            return f"failed with {error} instead of being refused"
        return None
    return "was not refused"


class Seal:
    """Takes from this process, the zygote to be, all that a candidate needs not; each layer is proved by its effect."""

    def __init__(self, scratch: str, memory: int):
        self.scratch = scratch  # the directory that a program may write
        self.memory = memory  # bytes of address space
        self.report = {
            name: "not tried" for name in LAYERS
        }  # "" means proved, else the reason of its absence
        self.kernel = Kernel() if sys.platform == "linux" else None
        self.namespaces = False  # whether to leave those of the parent

    def unshare(self) -> None:
        """Leave the namespaces of the parent; takes effect for processes in the fork that follows."""
        self.namespaces = True
        uid, gid = os.getuid(), os.getgid()
        ids = [os.stat("/proc/self/ns/" + name).st_ino for name in ("net", "ipc")]
        try:
            self.kernel.unshare(0x10000000)  # user
            for file, text in (
                ("setgroups", "deny"),
                ("uid_map", f"65534 {uid} 1"),
                ("gid_map", f"65534 {gid} 1"),
            ):
                with open(f"/proc/self/{file}", "w") as stream:
                    stream.write(text)
            self.report["user namespace"] = (
                "" if os.getuid() == 65534 else "the user did not change"
            )
        except OSError as error:
            self.report["user namespace"] = str(error)
        for name, flag in (("network", 0x40000000), ("ipc", 0x08000000), ("process", 0x20000000)):
            try:
                self.kernel.unshare(flag)
                self.report[name + " namespace"] = ""
            except OSError as error:
                self.report[name + " namespace"] = str(error)
        for name, file, before in zip(("network", "ipc"), ("net", "ipc"), ids, strict=True):
            if (
                not self.report[name + " namespace"]
                and os.stat("/proc/self/ns/" + file).st_ino == before
            ):
                self.report[name + " namespace"] = "the namespace did not change"
        if not self.report["network namespace"] and any(
            name != "lo" for _, name in socket.if_nameindex()
        ):
            self.report["network namespace"] = "an interface is there"

    def apply(self) -> None:
        """Everything that this process can do to itself; the order matters: each step may forbid an earlier one."""
        if self.kernel is None:
            self.limit()
            os.chdir(self.scratch)
            return
        paths = library_paths()
        outside = os.path.join(os.path.dirname(self.scratch), "canary")
        if not self.report["process namespace"] and os.getpid() != 1:
            self.report["process namespace"] = "the first process is not number 1"
        if self.namespaces:
            try:
                self.kernel.unshare(0x20000)  # here, since the parent still needs the old tree
                build_root(self.kernel, self.scratch, paths)
                self.scratch = "/tmp"
                self.report["mount namespace"] = (
                    "" if not os.path.exists(outside) else "a file outside can be seen"
                )
                outside = "/canary"
            except OSError as error:
                self.report["mount namespace"] = str(error)
        os.chdir(self.scratch)
        self.limit()
        self.attempt("capabilities", self.kernel.drop_capabilities)
        self.attempt("no_new_privs", lambda: self.kernel.prctl(PR_SET_NO_NEW_PRIVS, 1))
        devices = [path for path in DEVICES if os.path.exists(path)]
        self.attempt("landlock", lambda: self.kernel.landlock(paths, [self.scratch], devices))
        if not self.report["landlock"]:
            found = forbidden(lambda: open(outside).close(), 13) or forbidden(
                lambda: os.listdir("/"), 13
            )
            self.report["landlock"] = (found and "reading a file outside " + found) or ""
        self.attempt("seccomp", self.filter_calls)

    def attempt(self, layer: str, action) -> None:
        try:
            action()
            self.report[layer] = ""
        except (OSError, KeyError, AttributeError) as error:
            self.report[layer] = f"{type(error).__name__}: {error}"

    def limit(self) -> None:
        """Resource limits; the CPU time is limited per program, in the candidate."""
        self.report["rlimits"] = ""
        limits = (
            ("AS", self.memory),
            ("FSIZE", FILE_BYTES),
            ("NOFILE", 128),
            ("CORE", 0),
            ("MEMLOCK", 0),
            ("MSGQUEUE", 0),
        )
        for name, value in limits:
            try:
                resource.setrlimit(getattr(resource, "RLIMIT_" + name), (value, value))
            except (OSError, ValueError, AttributeError) as error:
                if name in ("AS", "FSIZE", "NOFILE"):
                    self.report["rlimits"] = f"{name}: {error}"

    def filter_calls(self) -> None:
        if self.machine_unknown():
            raise OSError(ENOSYS, f"no table of system calls for {os.uname().machine}")
        self.kernel.prepared = self.kernel.prepare_filter(candidate_filter(self.kernel.machine))
        self.kernel.install_filter(self.kernel.prepare_filter(base_filter(self.kernel.machine)))

    def machine_unknown(self) -> bool:
        return (
            self.kernel.machine not in CALLS
            or sys.byteorder != "little"
            or struct.calcsize("P") != 8
        )

    def after_fork(self) -> None:
        """What a candidate loses on top of the zygote's seal."""
        if self.kernel is not None and not self.report["seccomp"]:
            self.kernel.install_filter(self.kernel.prepared)
        else:
            os.setsid()  # so that its processes can be ended as a group

    def prove(self) -> dict:
        """In a sealed candidate: try each forbidden act, and return the report."""
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if not self.report["rlimits"] and (hard != self.memory or not self.raise_limit_fails()):
            self.report["rlimits"] = "a limit can be raised"
        if self.kernel is None:
            return self.report
        acts = {
            "fork": lambda: os.fork() or os._exit(0),
            "socket": lambda: socket.socket().close(),
            "kill": lambda: os.kill(os.getppid(), 0),
            "chmod": lambda: os.chmod(self.scratch, 0o777),
            "exec": lambda: os.execv(sys.executable, [sys.executable, "-c", ""]),
            "unshare": lambda: self.kernel.unshare(0x10000000),
            "ptrace": lambda: self.kernel.check(self.kernel.libc.ptrace(0, 0, 0, 0), "ptrace"),
        }
        if not self.report["seccomp"]:
            for name, act in acts.items():
                found = forbidden(act, EPERM)
                if found:
                    self.report["seccomp"] = f"{name} {found}"
        with open(os.path.join(self.scratch, "proof"), "w") as file:
            file.write("a program may write here")
        return self.report

    def raise_limit_fails(self) -> bool:
        try:
            resource.setrlimit(resource.RLIMIT_AS, (self.memory, self.memory + 4096))
        except (OSError, ValueError):
            return True
        return False


PRELOADED = "re collections itertools functools heapq bisect operator string copy typing math"
STATUS = struct.Struct("=idi")  # wait status, CPU seconds, whether the process had to be ended


def zygote_main(control_descriptor: str, scratch: str, memory: str) -> None:
    """Start the zygote in namespaces of its own and wait for its end; then remove the scratch directory."""
    control = int(control_descriptor)
    seal = Seal(scratch, int(memory))
    if seal.kernel is not None:
        seal.unshare()
    pid = os.fork()
    if pid == 0:
        try:
            if seal.kernel is not None:
                seal.kernel.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            zygote_loop(control, seal)
        finally:
            os._exit(0)
    os.close(control)
    os.waitpid(pid, 0)
    remove_scratch(scratch)


def make_scratch() -> str:
    """A new scratch directory, and beside it a file that no program may read."""
    import tempfile

    base = tempfile.mkdtemp(prefix="sandbox-")
    with open(os.path.join(base, "canary"), "w") as file:
        file.write("not for reading")
    scratch = os.path.join(base, "scratch")
    os.mkdir(scratch)
    return scratch


def remove_scratch(scratch: str) -> None:
    """Undo make_scratch; no error if another process was faster."""
    base = os.path.dirname(scratch)
    for remove, path in (
        (os.rmdir, scratch),
        (os.unlink, os.path.join(base, "canary")),
        (os.rmdir, base),
    ):
        with contextlib.suppress(OSError):
            remove(path)


def zygote_loop(control: int, seal: Seal) -> None:
    """Fork a candidate per request and end it when told; never reads what a candidate is given.

    The loop does little: after a fork, each page that this process or the candidate touches is copied.
    """
    import gc

    requests = socket.socket(fileno=control)
    hook, os.register_at_fork = os.register_at_fork, lambda **hooks: None
    import random  # without its hook, which would seed it anew after each fork: verdicts are repeatable

    os.register_at_fork = hook
    random.seed(0)
    for name in PRELOADED.split():
        __import__(name)
    candidate = Candidate()
    warm_up(candidate)
    signal.signal(signal.SIGXCPU, candidate.on_cpu_limit)
    seal.apply()
    contained = not seal.report["seccomp"]  # the candidate cannot have processes of its own
    os.environ.clear()
    os.environ.update(
        PATH="/usr/bin:/bin", HOME=seal.scratch, TMPDIR=seal.scratch, LC_ALL="C.UTF-8"
    )
    builtins.exit = builtins.quit = sys.exit  # the site module is not loaded
    sys.argv[:] = [""]
    gc.collect()
    gc.freeze()
    with contextlib.suppress(AttributeError):  # where the C library has it
        seal.kernel.libc.malloc_trim(
            1 << 17
        )  # a fork pays for each page, also for what the compiler has freed
    _fillers = open_pools()  # held for as long as the loop runs
    while True:
        command, ancillary, _, _ = requests.recvmsg(1, 64)
        if not command:
            return  # the judge is gone
        descriptors = struct.unpack(f"{len(ancillary[0][2]) // 4}i", ancillary[0][2])
        pid = os.fork()
        if pid == 0:
            os.close(control)
            candidate_main(candidate, descriptors, seal, command)
        for descriptor in descriptors:
            os.close(descriptor)
        over = os.read(control, 1)
        ended = over == b"w" and wait_briefly(pid)
        if not contained:
            end_group(pid)
        os.kill(pid, signal.SIGKILL)
        _, status, usage = os.wait4(pid, 0)
        if not contained and not seal.report["process namespace"]:
            end_all_others()
        if os.listdir(seal.scratch):
            empty_directory(seal.scratch)
        if not over:
            return
        os.write(control, STATUS.pack(status, usage.ru_utime + usage.ru_stime, not ended))


def open_pools() -> list[bytes]:
    """Objects that fill the allocator's pools up to the start of a new one, in each size class.

    The first objects that a candidate makes then lie on the page of their pool's header, and it copies one page where
    it would copy two. A pool has 16 KiB and a header of 48 bytes; with another allocator this wastes at most 8 MiB.
    """
    objects = []
    for size in range(48, 513, 16):
        for _ in range((1 << 18) // size):
            objects.append(bytes(size - sys.getsizeof(b"")))
            if id(objects[-1]) % (1 << 14) == 48:
                break
    return objects


def end_group(pid: int) -> None:
    """Kill the process group of a candidate, where it could make one."""
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)


def wait_briefly(pid: int) -> bool:
    """Whether the process is at its end, or gets there within 0.2 seconds; leaves it to be waited for."""
    for _ in range(100):
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return True
        time.sleep(0.002)
    return False


def end_all_others() -> None:
    """As the first process of a namespace: kill and reap whatever the candidate left."""
    try:
        os.kill(-1, signal.SIGKILL)
        while True:
            os.wait()
    except OSError:
        pass


def empty_directory(path: str) -> None:
    """Remove everything inside, at any depth: the content of a directory is first moved to the top."""
    names = os.listdir(path)
    counter = 0
    while names:
        for name in names:
            top = os.path.join(path, name)
            try:
                os.unlink(top)
                continue
            except OSError:
                pass
            try:
                for inner in os.listdir(top):
                    counter += 1
                    os.rename(
                        os.path.join(top, inner), os.path.join(path, f"{counter}.{os.getpid()}")
                    )
                os.rmdir(top)
            except OSError:
                return  # a directory that cannot be read cannot hold anything of a program
        names = os.listdir(path)


def candidate_main(
    candidate: Candidate, descriptors: tuple[int, ...], seal: Seal, command: bytes
) -> None:
    """The life of a forked candidate; never returns."""
    try:
        if len(descriptors) == 3:
            os.dup2(descriptors[1], 0)
            os.dup2(descriptors[2], 1)
            os.close(descriptors[1])
            os.close(descriptors[2])
        seal.after_fork()
        candidate.channel.descriptor = descriptors[0]
        if command == b"p":
            candidate.channel.send(["layers", seal.prove()])
        else:
            candidate.run()
    finally:
        os._exit(0)


def warm_up(candidate: Candidate) -> None:
    """Walk through what every candidate does, so that it finds code and caches ready and copies fewer pages."""
    here, there = socket.socketpair()
    judge, candidate.channel.descriptor = Channel(here.fileno(), pack=marshal.dumps), there.fileno()
    source = "import re\ndef f(a, *rest):\n    return [a, (rest, 'x', 1.5), {'k': a}]\nclass C:\n    x = 1\n"
    for _ in range(20):
        judge.send(
            {
                "program": marshal.dumps(compile_program(source)),
                "module": "solution",
                "names": ["f"],
            }
        )
        candidate.channel.send(candidate.load(candidate.channel.receive()))
        _, (function,), _ = judge.receive()
        numbers = {}
        args = [
            encode(value, None, numbers, True)
            for value in ([1, 2], {"a": (1, 2.5)}, "x", {3}, None)
        ]
        for message in (["call", [function, 1, 2], {}], ["call", [function, *args], {}]):
            judge.send(message)
            candidate.answer(candidate.channel.receive())
            judge.receive()
        candidate.objects.clear()
        candidate.handles.clear()
    del sys.modules["solution"]


class ProgramEnd(BaseException):
    """The program can answer no more. Not an Exception, so that no test swallows it. status, message, line."""

    def __init__(self, status: str, message: str, line: int | None = None):
        super().__init__(status, message, line)
        self.status, self.message, self.line = status, message, line


class CandidateExit(Exception):
    """The program raised SystemExit, KeyboardInterrupt, SkipTest or another exception that would end or skip tests."""


EXCEPTIONS = {
    name: kind
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, Warning)
}


class Session:
    """One candidate process, seen from the judge."""

    def __init__(self, channel: Channel, on_wait):
        self.channel = channel
        self.on_wait = on_wait
        self.proxies = {}  # handle -> proxy, so that identity is kept
        self.lent = []  # objects of the judge that the candidate may use through callbacks
        self.entry = None  # handle of the entry point
        self.entry_calls = 0
        self.weak = 0  # comparisons in which the candidate took part
        self.end = None  # the ProgramEnd that ended it
        self.gone = False  # whether it closed its socket
        self.line = None  # where the last exception of the program was raised
        self.executed = None
        self.exceptions = {}  # exception classes of the program by name, as classes of the judge

    def finish(self, status: str, message: str, line: int | None = None):
        if self.end is None:
            self.end = ProgramEnd(status, message, line)
        raise self.end

    def receive(self):
        """The next message from the candidate, whatever it is; ends the session if there is none."""
        if self.end is not None:
            raise self.end
        try:
            message = self.channel.receive(self.on_wait)
        except EOFError:
            self.gone = True
            self.finish("error", "the program ended its process")
        except MessageError as error:
            self.finish("error", f"MessageError: {error}")
        if type(message) is not list or not message:
            self.finish("error", "MessageError: not a message")
        if message[0] == "timeout":
            self.executed = lines(message[2]) if len(message) > 2 else None
            self.finish(
                "timeout",
                "the CPU time is used up",
                number(message[1]) if len(message) > 1 else None,
            )
        return message

    def send(self, message) -> None:
        if self.end is not None:
            raise self.end
        try:
            self.channel.send(message)
        except EOFError:
            self.finish("error", "the program ended its process")
        except MessageError as error:
            self.finish("error", f"MessageError: {error}")

    def ask(self, operation: str, *args, **kwargs):
        """Let the candidate do an operation; return its value or raise its exception."""
        return self.wait(*self.request(operation, args, kwargs))

    def request(self, operation: str, args: tuple, kwargs: dict) -> tuple:
        """Send an operation; what `wait` needs for its result."""
        numbers = {}
        try:
            sent = [encode(value, self.lend, numbers, True) for value in args]
            keywords = {
                key: encode(value, self.lend, numbers, True) for key, value in kwargs.items()
            }
        except RecursionError:
            self.finish("harness_error", "the arguments of a test are nested too deeply")
        self.send([operation, sent, keywords])
        if operation in ("call", "apply") and type(sent[0]) is list and sent[0][1] == self.entry:
            self.entry_calls += 1
        return args, kwargs, numbers

    def wait(self, args: tuple, kwargs: dict, numbers: dict):
        """The result of the oldest request that has had none."""
        while True:
            message = self.receive()
            if message[0] != "back":
                break
            self.serve(message)
        return self.result(message, args, kwargs, numbers)

    def result(self, message, args, kwargs, numbers):
        """The value of a reply, after the changes that it made to the arguments."""
        try:
            if message[0] == "raise":
                raise self.exception(message)
            kind, value, changes = message
            if kind != "ok":
                raise MessageError(f"unknown reply {str(kind)[:50]!r}")
            containers = self.numbered(args, kwargs, numbers)
            if changes is not None:
                for container, content in zip(containers, changes, strict=True):
                    if TAGS[type(container)] != content[0]:
                        raise MessageError("an argument changed its type")
                    fill(container, content, self.borrow, containers, False)
            return decode(value, self.borrow, containers)
        except MessageError as error:
            self.finish("error", f"MessageError: {error}")
        except (TypeError, ValueError, LookupError, RecursionError, AttributeError) as error:
            if getattr(error, "from_program", False):
                raise
            self.finish("error", f"MessageError: malformed reply: {type(error).__name__}")

    def numbered(self, args, kwargs, numbers) -> list:
        """The containers among the arguments in the order of their numbers."""
        if not numbers:
            return []
        found = [None] * len(numbers)
        todo = [*args, *kwargs.values()]
        seen = set()
        while todo:
            value = todo.pop()
            kind = type(value)
            if kind in TAGS or kind is slice:
                if id(value) in seen:
                    continue
                seen.add(id(value))
                if id(value) in numbers:
                    found[numbers[id(value)]] = value
                if kind in MAPPINGS.values():
                    todo.extend(dict.values(value))
                    todo.extend(dict.keys(value))
                elif kind is slice:
                    todo.extend((value.start, value.stop, value.step))
                elif kind is not bytearray:
                    todo.extend(value)
        return found

    def exception(self, message) -> Exception:
        """The exception of a reply, as the nearest class that the judge knows."""
        _, names, args, line, text, executed = message
        self.line = number(line)
        self.executed = lines(executed)
        kind = None
        for name in names:
            kind = self.exceptions.get(name) or EXCEPTIONS.get(name)
            if kind is not None:
                break
            if name in (
                "SystemExit",
                "KeyboardInterrupt",
                "GeneratorExit",
                "SkipTest",
                "BaseException",
            ):
                break
        text = str(text)[:MAX_TEXT]
        name = str(names[0])[:100]
        if kind is None:
            error = CandidateExit(f"{name}: {text}")
        else:
            arguments = [decode(value, self.borrow) for value in args]
            try:
                error = kind(*arguments)
            except Exception:
                error = kind.__new__(kind)
                error.args = (text,)
        error.from_program = f"{name}: {text}"
        return error

    def borrow(self, value):
        """The judge's form of a tagged list for something that is not plain data."""
        tag, handle = value[0], value[1]
        if tag == "m":
            if handle in MODULES:
                return __import__(handle)
            raise MessageError("a module")
        if tag == "E":
            names, handle = value[1], value[2]
            base = next(EXCEPTIONS[name] for name in names if name in EXCEPTIONS)
            return self.exceptions.setdefault(names[0], type(str(names[0]), (base,), {}))
        if tag in ("fn", "it", "ob") and type(handle) is int and 0 <= handle < len(self.lent):
            return self.lent[handle]  # what a test passed comes back
        if tag != "h" or type(handle) is not int:
            raise MessageError(f"unknown tag {str(tag)[:50]!r}")
        proxy = self.proxies.get(handle)
        if proxy is None:
            kind = Proxy if value[2] == "object" else CallableProxy
            proxy = self.proxies[handle] = kind(self, handle, value[2])
        return proxy

    def lend(self, value):
        """JSON form of a judge's object that is no plain data: a proxy, a builtin, or something to be called back."""
        kind = type(value)
        if kind in (Proxy, CallableProxy):
            return ["h", PROXY_HANDLE(value), PROXY_KIND(value)]
        if isinstance(value, type(sys)):
            return ["m", value.__name__]
        name = getattr(value, "__name__", None)
        if isinstance(name, str) and name.isidentifier() and getattr(builtins, name, None) is value:
            return ["B", name]
        if kind.__module__ == "re" and kind.__name__ == "Pattern":
            return ["re", value.pattern, value.flags]
        if kind in (type(lend_test), type(len), type([].append)) or kind.__name__ in (
            "method",
            "partial",
        ):
            tag = "fn"
        elif hasattr(kind, "__next__"):
            tag = "it"
        elif kind.__module__ == TEST_MODULE or value in self.exceptions.values():
            tag = "ob"
        elif isinstance(value, type) and value.__module__ == TEST_MODULE:
            tag = "fn"
        else:
            self.finish(
                "harness_error",
                f"a test passes an object of type {kind.__name__}, which cannot cross",
            )
        for index, lent in enumerate(self.lent):
            if lent is value:
                return [tag, index]
        self.lent.append(value)
        return [tag, len(self.lent) - 1]

    def serve(self, message) -> None:
        """Do what the candidate asks of an object that a test lent to it."""
        try:
            _, kind, index, args, kwargs = message
            target = self.lent[index]
            arguments = [decode(value, self.borrow) for value in args]
            keywords = {key: decode(value, self.borrow) for key, value in kwargs.items()}
        except (MessageError, TypeError, ValueError, LookupError, AttributeError) as error:
            self.finish("error", f"MessageError: malformed callback: {type(error).__name__}")
        try:
            reply = [
                "value",
                encode(self.use(kind, target, arguments, keywords), self.lend, {}, True),
            ]
        except Exception as error:
            reply = ["raised", type(error).__name__, str(error)[:MAX_TEXT]]
        self.send(reply)

    def use(self, kind: str, target, args: list, kwargs: dict):
        """One operation on a lent object. Names that begin with "_" would lead out of it, so there are none."""
        own = type(target).__module__ == TEST_MODULE
        if kind == "next" and hasattr(type(target), "__next__"):
            return next(target)
        if kind == "call" and (own or callable(target)):
            return target(*args, **kwargs)
        if (
            own
            and kind in ("getattr", "setattr")
            and type(args[0]) is str
            and not args[0].startswith("_")
        ):
            value = getattr(target, args[0]) if kind == "getattr" else setattr(target, *args)
            if isinstance(value, type(sys)):
                raise AttributeError(args[0])
            return value
        if own and kind in ("eq", "lt", "hash", "iter", "len", "getitem", "repr"):
            return OPERATIONS[kind](target, *args)
        raise TypeError(f"{kind} is not possible here")


def lend_test(): ...


def set_timeout(connection: socket.socket, option: int, seconds: int) -> None:
    """Let a read or write of the blocking socket fail after so many seconds."""
    connection.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", seconds, 0))


def number(value) -> int | None:
    return value if type(value) is int and 0 < value < 1 << 31 else None


def lines(value) -> list[int] | None:
    """A list of line numbers from the candidate, or None if it is none."""
    if type(value) is list and all(type(line) is int for line in value):
        return [line for line in value if line > 0]
    return None


class Proxy:
    """An object of the candidate. It equals no plain data, and does no arithmetic with plain data: else an object that
    equals everything, or whose difference from everything is 0, would pass."""

    __slots__ = ("_Proxy__handle", "_Proxy__kind", "_Proxy__session")

    def __init__(self, session: Session, handle: int, kind: str):
        object.__setattr__(self, "_Proxy__session", session)
        object.__setattr__(self, "_Proxy__handle", handle)
        object.__setattr__(self, "_Proxy__kind", kind)

    def __getattr__(self, name):
        if name.startswith("__") and name not in (
            "__name__",
            "__doc__",
            "__qualname__",
            "__dict__",
            "__wrapped__",
        ):
            raise AttributeError(name)
        return self.__session.ask("getattr", self, name)

    def __setattr__(self, name, value):
        self.__session.ask("setattr", self, name, value)

    def __delattr__(self, name):
        self.__session.ask("delattr", self, name)

    def __eq__(self, other):
        return self.__compare("eq", other, False)

    def __ne__(self, other):
        return self.__compare("ne", other, True)

    def __compare(self, operation, other, otherwise):
        if not isinstance(other, Proxy):
            return otherwise
        self.__session.weak += 1
        return self.__session.ask(operation, self, other)

    def __hash__(self):
        return self.__session.ask("hash", self)

    def __bool__(self):  # says no more than a function that returns True
        return self.__session.ask("bool", self)

    def __iter__(self):
        if self.__kind == "iterator":
            return self
        iterator = self.__session.ask("iter", self)
        return iterator if isinstance(iterator, Proxy) else iter(iterator)

    def __next__(self):
        return self.__session.ask("next", self)

    def __contains__(self, item):
        return any(item is element or item == element for element in self)

    def __instancecheck__(self, instance):
        if not isinstance(instance, Proxy):
            return False
        self.__session.weak += 1
        return self.__session.ask("isinstance", instance, self)

    def __subclasscheck__(self, other):
        self.__session.weak += 1
        return isinstance(other, Proxy) and self.__session.ask("issubclass", other, self)

    def __repr__(self):
        return self.__session.ask("repr", self)

    def __str__(self):
        return self.__session.ask("str", self)


class CallableProxy(Proxy):
    """A function or class of the candidate."""

    __slots__ = ()

    def __call__(self, *args, **kwargs):
        return self._Proxy__session.ask("call", self, *args, **kwargs)


PROXY_HANDLE = Proxy._Proxy__handle.__get__
PROXY_KIND = Proxy._Proxy__kind.__get__


def add_operators() -> None:
    """Give Proxy the operators: between two proxies, or unary. With plain data only what yields no comparison."""

    def unary(operation):
        return lambda self, *args: self._Proxy__session.ask(operation, self, *args)

    def binary(operation):
        def method(self, other):
            if not isinstance(other, Proxy):
                return NotImplemented
            self._Proxy__session.weak += 1
            return self._Proxy__session.ask(operation, self, other)

        return method

    for name in [
        "len",
        "getitem",
        "setitem",
        "delitem",
        "int",
        "float",
        "complex",
        "index",
        "round",
        "reversed",
        "neg",
        "pos",
        "abs",
        "invert",
        "dir",
        "format",
    ]:
        setattr(Proxy, f"__{name}__", unary(name))
    for name in [
        "add",
        "sub",
        "mul",
        "truediv",
        "floordiv",
        "mod",
        "pow",
        "matmul",
        "lshift",
        "rshift",
        "xor",
        "lt",
        "le",
        "gt",
        "ge",
    ]:
        setattr(Proxy, f"__{name}__", binary(name))
    Proxy.__and__, Proxy.__or__ = binary("and_"), binary("or_")
    Proxy.__enter__ = unary("enter")
    Proxy.__exit__ = lambda self, *error: self._Proxy__session.ask("exit", self)


add_operators()

# Modules of the standard library that tests may use through the program's import.
SHARED_NAMES = """bisect cmath collections copy datetime decimal fractions functools heapq itertools json math operator
random re statistics string sys time typing"""
MODULES = frozenset(SHARED_NAMES.split())
TEST_MODULE = "tests"  # value of __name__ in the namespace of the tests


class Plan:
    """What can be prepared once per task: compiled sources and the names that the program must give."""

    def __init__(self, setup: str, style: str, tests: list, entry_point: str | None):
        self.setup = compile(setup, "<setup>", "exec", dont_inherit=True) if setup.strip() else None
        sources = tests if style in ("assert", "unittest") else []
        self.tests = [
            compile(test, f"<test {i}>", "exec", dont_inherit=True)
            for i, test in enumerate(sources)
        ]
        self.entry = entry_point.split(".")[0] if entry_point else None
        self.small = style == "call" and len(to_json(tests)) < MAX_AHEAD
        self.names = sorted(free_names([setup, *sources]) | ({self.entry} if self.entry else set()))
        self.inside = style == "unittest" and any(needs_inside(test) for test in tests)


def free_names(sources: list[str]) -> set[str]:
    """Names that the sources read and neither define nor find among the builtins."""
    read, defined = set(), set(vars(builtins)) | {"__name__", "__file__"}
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Name):
                (read if isinstance(node.ctx, ast.Load) else defined).add(node.id)
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                defined.add(node.name)
            elif isinstance(node, ast.arg):
                defined.add(node.arg)
            elif isinstance(node, ast.alias):
                defined.add((node.asname or node.name).split(".")[0])
            elif isinstance(node, ast.ExceptHandler) and node.name:
                defined.add(node.name)
    return read - defined


def needs_inside(source: str) -> bool:
    """Whether unittest source reaches into the program: patches what it calls, or shares files with it."""
    modules = {
        "mock",
        "unittest.mock",
        "tempfile",
        "os",
        "shutil",
        "pathlib",
        "io",
        "sys",
        "subprocess",
        "warnings",
    }
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import) and any(alias.name in modules for alias in node.names):
            return True
        if isinstance(node, ast.ImportFrom) and (
            node.module in modules
            or (node.module == "unittest" and any(a.name == "mock" for a in node.names))
        ):
            return True
        if isinstance(node, ast.Name) and node.id in ("patch", "open", "mock"):
            return True
    return False


class Judge:
    """The judge's process: orders come from the pool, candidates from the zygote."""

    def __init__(self, orders: Channel, control: socket.socket, launcher: int):
        self.orders = orders
        self.launcher = launcher  # process that waits for the zygote
        self.control = control
        self.plans = OrderedDict()

    def serve(self) -> None:
        """Hand over the report on the layers, then judge programs until the pool goes away."""
        self.orders.send(self.layers())
        while True:
            order = self.orders.receive()
            try:
                verdict = self.judge(order)
            except HarnessError as error:
                verdict = {"harness": str(error)}
            except Exception as error:  # a fault of this file, or a task that it cannot prepare
                verdict = {"harness": f"{type(error).__name__}: {str(error)[:MAX_TEXT]}"}
            self.orders.send(verdict)

    def layers(self) -> dict:
        """The self-test of a sealed candidate."""
        connection, channel = self.fork(b"p", [])
        try:
            report = channel.receive(lambda: None)[1]
        finally:
            connection.close()
            self.end()
        return report

    def fork(self, command: bytes, files: list):
        """A new candidate: its socket and channel."""
        here, there = socket.socketpair()
        try:
            socket.send_fds(self.control, [command], [there.fileno(), *files])
        except OSError as error:
            raise HarnessError(f"the zygote is gone: {error}") from None
        there.close()
        return here, Channel(here.fileno(), pack=marshal.dumps)

    def end(self, gone: bool = False) -> tuple[int, float, bool]:
        """End the candidate, which is `gone` if it has closed its socket: wait status, CPU seconds, was it killed."""
        try:
            self.control.send(b"w" if gone else b"k")
            answer = self.control.recv(STATUS.size)
        except OSError as error:
            raise HarnessError(f"the zygote is gone: {error}") from None
        if len(answer) != STATUS.size:
            raise HarnessError("the zygote is gone")
        return STATUS.unpack(answer)

    def plan(self, order: dict) -> Plan:
        key = (order["setup"], order["style"], order["entry_point"], to_json(order["tests"]))
        plan = self.plans.get(key)
        if plan is None:
            plan = self.plans[key] = Plan(
                order["setup"], order["style"], order["tests"], order["entry_point"]
            )
            if len(self.plans) > 256:
                self.plans.popitem(last=False)
        return plan

    def judge(self, order: dict) -> dict:
        """The verdict on one program."""
        style, tests = order["style"], order["tests"]
        if style == "answer":
            return judge_answer(order["program"], tests)
        if style == "stdio":
            return self.judge_stdio(order)
        plan = self.plan(order)
        if plan.inside:
            return self.judge_inside(order)
        run = {"assert": run_asserts, "call": run_calls, "unittest": run_unittests}[style]
        return self.run_program(
            order, plan.names, lambda session, found, note: run(order, plan, session, found, note)
        )

    def run_program(
        self, order: dict, names: list[str], run_tests, files=(), module="solution"
    ) -> dict:
        """Start a candidate, let `run_tests(session, values of the names, note)` use it, end it, sum up.

        note(status, message) is called once per test.
        """
        notes = []
        begin = time.monotonic()
        connection, channel = self.fork(b"c", list(files))
        wall = WALL_FACTOR * order["timeout"]
        set_timeout(connection, socket.SO_RCVTIMEO, 1)
        set_timeout(connection, socket.SO_SNDTIMEO, math.ceil(wall))

        def on_wait():
            passed = time.monotonic() - begin
            if passed > wall and passed - waiting_for_processor(self.launcher) > wall:
                session.finish("timeout", f"no answer within {wall:g} seconds")

        session = Session(channel, on_wait)
        used = time.process_time()
        limit = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (int(used + order["timeout"]) + 1, limit))
        end = None
        try:
            session.send(
                {
                    "program": compiled(order),
                    "seconds": math.ceil(order["timeout"]),
                    "names": names,
                    "module": module,
                    "trace": order["trace"],
                }
            )
            run_tests(session, names, lambda status, message="": notes.append((status, message)))
            if order["trace"] and module == "solution":
                session.executed = lines(session.ask("executed"))
        except ProgramEnd as error:
            end = error
        finally:
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
            status, seconds, killed = self.end(session.gone)
            connection.close()  # after the candidate's end, or it would wake up once more to find its input closed
        died = (
            session.gone
            and not killed
            and os.WIFSIGNALED(status)
            and os.WTERMSIG(status) == signal.SIGKILL
        )
        if died and seconds < math.ceil(order["timeout"]):
            raise HarnessError(
                "the program was killed from outside"
            )  # it cannot send itself a signal
        return self.sum_up(order, session, notes, end or session.end, status, seconds)

    def judge_inside(self, order: dict) -> dict:
        """unittest that must run in the candidate's process; the tests follow the program there."""
        tests = "\n".join(order["tests"])
        parts = [order["program"], order["setup"], f"_source = {tests!r}", INSIDE]
        order = {**order, "program": "\n".join(parts)}
        return self.run_program(order, ["_report"], lambda *rest: run_inside(order, *rest))

    def judge_stdio(self, order: dict) -> dict:
        """One process per test; the first end by a limit ends the program."""
        import tempfile

        verdicts = []
        for test in order["tests"]:
            with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout:
                stdin.write(test["input"].encode())
                stdin.seek(0)

                def run(session, names, note, stdout=stdout, test=test):
                    self.run_stdio(session, stdout, test, note)

                files = [stdin.fileno(), stdout.fileno()]
                verdict = self.run_program({**order, "total": 1}, [], run, files, "__main__")
            verdicts.append(verdict)
            if verdict["status"] in ("timeout", "memory", "syntax_error"):
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

    def run_stdio(self, session: Session, stdout, test: dict, note) -> None:
        """Wait for the program's end; its output is what counts."""
        session.entry_calls += 1
        while True:
            try:
                message = session.receive()
            except ProgramEnd as end:
                if end.status != "error" or end.message.startswith("MessageError"):
                    raise
                break
            if message[0] == "syntax":
                session.finish("syntax_error", str(message[2])[:MAX_TEXT], number(message[1]))
            elif message[0] == "raise":
                error = session.exception(message)
                session.finish(
                    "memory" if isinstance(error, MemoryError) else "error",
                    error.from_program,
                    session.line,
                )
            elif message[0] == "executed":
                session.executed = lines(message[1])
        session.end = None
        stdout.seek(0)
        if same_output(stdout.read(), test["output"]):
            note("passed")
        else:
            note("failed", "a different output")

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
            status, message, passed = (
                "error",
                f"the program ended with {os.waitstatus_to_exitcode(wait_status)}",
                0,
            )
        if status == "passed" and passed != total:
            status, message = "failed", f"{passed} of {total} tests ran to their end"
        if status == "passed" and not session.entry_calls:
            status, message = "failed", "no test called the program"
        if status in ("passed", "failed"):
            line = None
        return {
            "status": status,
            "passed": min(passed, total),
            "total": total,
            "line": line,
            "executed": session.executed if order["trace"] else None,
            "message": message[:MAX_TEXT],
            "seconds": round(seconds, 6),
            "trusted": not session.weak,
        }


def compiled(order: dict) -> str | bytes:
    """The program as marshalled code, since a fresh process pays more for compiling; its source where that fails, so
    that the candidate finds out why, and after a harness error, since a program might crash the compiler."""
    source = order["program"]
    if order["attempt"] or len(source) > MAX_COMPILED:
        return source
    sys.set_int_max_str_digits(sys.int_info.default_max_str_digits)  # as it is in the candidate
    try:
        return marshal.dumps(compile_program(source))
    except Exception:
        return source
    finally:
        sys.set_int_max_str_digits(0)


SEVERITY = ("passed", "failed", "error", "memory", "timeout", "syntax_error")


def worst(notes: list) -> tuple[str, str]:
    """The worst status among the tests with its message; the first of equals."""
    return max(notes, key=lambda note: SEVERITY.index(note[0]), default=("failed", "no test ran"))


def waiting_for_processor(launcher: int) -> float:
    """Seconds that the candidate, a grandchild of the launcher, stood ready and had no processor; 0 if unknown."""
    try:
        pid = launcher
        for _ in range(2):
            with open(f"/proc/{pid}/task/{pid}/children") as file:
                pid = int(file.read().split()[0])
        with open(f"/proc/{pid}/schedstat") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def start(session: Session, names: list[str], entry: str | None) -> dict:
    """Wait for the program to run; the namespace of the tests with the program's names."""
    message = session.receive()
    if message[0] == "syntax":
        session.finish("syntax_error", str(message[2])[:MAX_TEXT], number(message[1]))
    try:
        if message[0] == "raise":
            error = session.exception(message)
            status = "memory" if isinstance(error, MemoryError) else "error"
            session.finish(status, error.from_program, session.line)
        values = message[1]
        if message[0] != "ok" or len(values) != len(names):
            raise MessageError("not the names that were asked for")
        namespace = {"__name__": TEST_MODULE, "__builtins__": builtins}
        for name, value in zip(names, values, strict=True):
            if value == ["undefined"]:
                continue
            # A module that the tests leave to the program to import: the judge's own, whatever the name holds there.
            namespace[name] = (
                __import__(name)
                if name in MODULES and name != entry
                else decode(value, session.borrow)
            )
            if name == entry and type(value) is list and value[0] == "h":
                session.entry = value[1]
        return namespace
    except (MessageError, TypeError, ValueError, LookupError) as error:
        session.finish("error", f"MessageError: {str(error)[:200]}")


def describe(error: BaseException) -> tuple[str, str]:
    """Status and message of an exception that ended a test."""
    text = getattr(error, "from_program", None)
    if isinstance(error, MemoryError):
        return "memory", text or "MemoryError in a test"
    if text is not None:
        return "error", text
    return (
        "error" if isinstance(error, NameError) else "failed"
    ), f"{type(error).__name__}: {str(error)[:MAX_TEXT]}"


def guarded(session: Session, note, action, source: str = "") -> bool:
    """Run one test and note its result; False if the test failed. The end of the program passes through."""
    try:
        action()
    except (ProgramEnd, HarnessError):
        raise
    except BaseException as error:
        status, message = describe(error)
        note(
            status,
            f"{message} in: {source.strip()[:200]}" if source and status == "failed" else message,
        )
        return False
    if session.end is not None:
        raise session.end
    note("passed")
    return True


def run_asserts(order: dict, plan: Plan, session: Session, names: list[str], note) -> None:
    """Style assert: every test string is one test."""
    namespace = start(session, names, plan.entry)
    if not run_setup(plan, session, namespace, note):
        return
    for code, source in zip(plan.tests, order["tests"], strict=True):
        guarded(session, note, lambda code=code: exec(code, namespace), source)


def run_setup(plan: Plan, session: Session, namespace: dict, note) -> bool:
    """Run the setup; a failure is the only result of the program."""
    if plan.setup is None:
        return True

    def only_failures(status, message=""):
        if status != "passed":
            note(status, f"setup: {message}")

    return guarded(session, only_failures, lambda: exec(plan.setup, namespace))


def run_calls(order: dict, plan: Plan, session: Session, names: list[str], note) -> None:
    """Style call: the result of the entry point on the arguments, as JSON would write it, equals the output."""
    namespace = start(session, names, plan.entry)
    if not run_setup(plan, session, namespace, note):
        return
    *parents, last = order["entry_point"].split(".")

    function = namespace.get(plan.entry)
    # All calls are on their way before the first result is back, where they fit into the socket: a wait costs more.
    early = type(function) is CallableProxy and not parents and plan.small
    requests = deque(
        session.request("apply", (function, *test["args"]), {}) for test in order["tests"] if early
    )

    def one(test):
        if plan.entry not in namespace:
            raise NameError(f"name {plan.entry!r} is not defined")
        if early:
            result = as_json(session.wait(*requests.popleft()))
        else:
            target = getattr(function(), last) if parents else function
            result = as_json(target(*test["args"]))
        if not same(result, as_json(test["output"]), test.get("atol") or 0.0):
            raise AssertionError(f"a result that is not the output: {short(result)}")

    for test in order["tests"]:
        guarded(session, note, lambda test=test: one(test))


def short(value) -> str:
    """The beginning of a value's text; huge integers have none."""
    try:
        return repr(value)[:200]
    except ValueError:
        return f"a {type(value).__name__}"


def as_json(value):
    """The value as it would come back from JSON: lists for tuples, string keys."""
    if type(value) in (list, tuple):
        return [as_json(item) for item in value]
    if type(value) is dict:
        return {key_text(key): as_json(item) for key, item in value.items()}
    return value


def key_text(key):
    if type(key) is bool or key is None:
        return {True: "true", False: "false", None: "null"}[key]
    return str(key) if type(key) in (int, float) else key


def same(result, expected, atol: float) -> bool:
    """Equality, floats within atol (and a relative 1e-7) where the test gives an atol; NaN equals NaN."""
    if type(expected) is list:
        return (
            type(result) is list
            and len(result) == len(expected)
            and all(same(a, b, atol) for a, b in zip(result, expected, strict=True))
        )
    if type(expected) is dict:
        return (
            type(result) is dict
            and result.keys() == expected.keys()
            and all(same(result[key], expected[key], atol) for key in expected)
        )
    if type(expected) is float and type(result) in (int, float):
        if math.isnan(expected):
            return math.isnan(result)
        return result == expected or (
            atol > 0 and abs(result - expected) <= atol + 1e-7 * abs(expected) < math.inf
        )
    return not isinstance(result, Proxy) and result == expected


def run_unittests(order: dict, plan: Plan, session: Session, names: list[str], note) -> None:
    """Style unittest, outside: every test method is one test."""
    import unittest

    namespace = start(session, names, plan.entry)
    if not run_setup(plan, session, namespace, note):
        return

    class Result(unittest.TestResult):
        def addSuccess(self, test):
            note("passed")

        def addError(self, test, error):
            self.bad(test, error)

        def addFailure(self, test, error):
            self.bad(test, error)

        def addSubTest(self, test, subtest, error):
            if error is not None:
                self.bad(subtest, error)

        def bad(self, test, error):
            status, message = describe(error[1])
            note(status, f"{test}: {message}")
            if session.end is not None:
                raise session.end

    def run_all():
        for code in plan.tests:
            exec(code, namespace)
        suite = unittest.TestSuite(
            unittest.defaultTestLoader.loadTestsFromTestCase(kind)
            for kind in list(namespace.values())
            if isinstance(kind, type)
            and issubclass(kind, unittest.TestCase)
            and kind.__module__ == TEST_MODULE
        )
        sys.modules[TEST_MODULE] = type(sys)(TEST_MODULE)  # where unittest looks for setUpModule
        suite.run(Result())

    guarded(
        session,
        lambda status, message="": note(status, message) if status != "passed" else None,
        run_all,
    )


INSIDE = """
import sys as _sys, types as _types, unittest as _unittest
_module = _types.ModuleType("tests")
_module.__dict__.update(globals())
_module.__dict__["__name__"] = "tests"
_sys.modules["tests"] = _module
_sys.modules["__test__"] = _module
exec(compile(_source, "<tests>", "exec", dont_inherit=True), _module.__dict__)
_result = _unittest.TestResult()
_suite = _unittest.TestSuite(
    _unittest.defaultTestLoader.loadTestsFromTestCase(_kind)
    for _kind in list(_module.__dict__.values())
    if isinstance(_kind, type) and issubclass(_kind, _unittest.TestCase) and _kind.__module__ == "tests"
)
_suite.run(_result)
_bad = [_text for _, _text in _result.errors + _result.failures]
_report = [_result.testsRun - len(_bad) - len(_result.skipped), _bad[0] if _bad else ""]
"""


def run_inside(order: dict, session: Session, names: list[str], note) -> None:
    """Style unittest, in the candidate's process: its own word is all there is, so the verdict is not trusted."""
    namespace = start(session, names, None)
    report = namespace.get("_report")
    if type(report) is not list or len(report) != 2 or type(report[0]) is not int:
        note("failed", "no report")
        return
    session.weak += 1
    session.entry_calls += 1
    for _ in range(min(max(report[0], 0), order["total"])):
        note("passed")
    if report[0] < order["total"]:
        note("failed", str(report[1])[-MAX_TEXT:])


def judge_answer(text: str, tests: list) -> dict:
    """Style answer: the text's final answer equals the given one, commas and currency signs aside."""
    import re

    found = re.search(r"####\s*(\S[^\n]*)", text)
    boxed = re.findall(r"\\boxed\{([^{}]*)\}", text)
    answer = found.group(1) if found else boxed[-1] if boxed else None
    passed = sum(
        answer is not None and plain_answer(answer) == plain_answer(test["answer"])
        for test in tests
    )
    message = (
        "no answer"
        if answer is None
        else ""
        if passed == len(tests)
        else f"answer {answer[:100]!r}"
    )
    status = "passed" if passed == len(tests) else "failed"
    return {
        "status": status,
        "passed": passed,
        "total": len(tests),
        "line": None,
        "executed": None,
        "message": message,
        "seconds": 0.0,
        "trusted": True,
    }


def plain_answer(text: str):
    """A number where the text is one, else the bare text."""
    from decimal import Decimal, InvalidOperation

    bare = text.strip().replace(",", "").replace("$", "").rstrip(".").strip()
    try:
        return Decimal(bare)
    except InvalidOperation:
        return bare


def same_output(output: bytes, expected: str) -> bool:
    """Whole outputs are equal, up to white space at line ends and at the end, and up to the spelling of numbers."""
    got = [line.rstrip() for line in output.decode("utf-8", "replace").rstrip().split("\n")]
    want = [line.rstrip() for line in expected.rstrip().split("\n")]
    return len(got) == len(want) and all(
        a == b or same_numbers(a, b) for a, b in zip(got, want, strict=True)
    )


def same_numbers(line: str, expected: str) -> bool:
    from decimal import Decimal, InvalidOperation

    a, b = line.split(), expected.split()
    try:
        return (
            len(a) == len(b)
            and len(line) < 1 << 16
            and [Decimal(x) for x in a] == [Decimal(x) for x in b]
        )
    except InvalidOperation:
        return False


def end_of_limit(signum, frame):
    raise ProgramEnd("timeout", "the tests used up their CPU time on what the program returned")


def judge_main(orders_descriptor: str, control_descriptor: str, launcher: str) -> None:
    """Judge programs until the pool closes its end of the orders."""
    if sys.platform == "linux":
        Kernel().prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGXCPU, end_of_limit)
    sys.set_int_max_str_digits(0)  # the tests are trusted, and benchmarks hold long numbers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (JUDGE_MEMORY, JUDGE_MEMORY))
    orders, control = (
        socket.socket(fileno=int(text)) for text in (orders_descriptor, control_descriptor)
    )
    judge = Judge(Channel(orders.fileno()), control, int(launcher))
    with contextlib.suppress(EOFError):
        judge.serve()
    os._exit(0)


# Loads this file as a module, from its compiled form if there is one: the parser would leave a larger heap behind.
BOOT = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("sandbox", sys.argv[1])
sys.modules["sandbox"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
getattr(module, sys.argv[2])(*sys.argv[3:])
"""


class Worker:
    """A judge and a zygote, started on demand and restarted when one of them dies. Used by one thread."""

    def __init__(self, memory: int, index: int = 0):
        self.memory = memory
        self.index = index  # among the workers of a pool
        self.processes = []
        self.report = None  # layer -> "" if proved, else the reason of its absence
        self.scratch = None

    def start(self) -> None:
        """Start both processes and wait for the self-test. HarnessError if they do not come up."""
        import subprocess

        self.stop()
        self.scratch = make_scratch()
        orders, orders_there = socket.socketpair()
        control, control_there = socket.socketpair()
        command = [
            sys.executable,
            "-P",
            "-s",
            "-S",
            "-X",
            "utf8",
            "-W",
            "ignore",
            "-c",
            BOOT,
            os.path.abspath(__file__),
        ]
        environment = {
            "PATH": "/usr/bin:/bin",
            "LC_ALL": "C.UTF-8",
            "PYTHONHASHSEED": "0",
        }  # so -I would be the same but for the seed
        quiet = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.DEVNULL,
            "stderr": subprocess.DEVNULL,
            "cwd": "/",
            "start_new_session": True,
        }

        def launch(role, descriptors, *arguments):
            numbers = [str(descriptor) for descriptor in descriptors]
            process = subprocess.Popen(
                [*command, role, *numbers, *map(str, arguments)],
                env=environment,
                pass_fds=descriptors,
                **quiet,
            )
            self.processes.append(process)
            if hasattr(os, "sched_setaffinity"):
                # The processes of a worker take turns, so they share a processor: no wake-up crosses to another one.
                processors = sorted(os.sched_getaffinity(0))
                chosen = processors[
                    (os.getpid() + self.index) % len(processors)
                ]  # by process: ranks differ
                with contextlib.suppress(OSError):
                    os.sched_setaffinity(process.pid, {chosen})
            return process.pid

        with orders_there, control, control_there:
            zygote = launch("zygote_main", [control_there.fileno()], self.scratch, self.memory)
            launch("judge_main", [orders_there.fileno(), control.fileno()], zygote)
        self.connection = orders
        self.channel = Channel(orders.fileno())
        set_timeout(orders, socket.SO_RCVTIMEO, 1)
        self.report = self.receive(60.0, 60.0)

    def receive(self, wall: float, processor: float):
        """The judge's next message. ProgramEnd if the judge used `processor` CPU seconds, HarnessError if it is gone or
        `wall` seconds have passed."""
        begin = time.monotonic()
        judge = self.processes[1].pid
        used = processor_time(judge)

        def on_wait():
            if processor_time(judge) - used > processor:
                raise ProgramEnd(
                    "timeout", "the judge's CPU time is used up by what the program returned"
                )
            if time.monotonic() - begin > wall:
                raise HarnessError(f"no verdict within {wall:g} seconds")

        try:
            return self.channel.receive(on_wait)
        except (EOFError, MessageError) as error:
            raise HarnessError(f"the judge is gone: {error}") from None

    def judge(self, order: dict) -> dict:
        """The verdict on one program. HarnessError if there is none."""
        if not self.processes:
            self.start()
        try:
            self.channel.send(order)
            runs = order["total"] if order["style"] == "stdio" else 1
            limit = math.ceil(order["timeout"]) + 1
            verdict = self.receive(60 + 20 * WALL_FACTOR * limit * runs, limit + 1)
        except ProgramEnd as end:
            self.stop()
            return verdict_without_run(order, end.status, end.message)
        except (EOFError, OSError, HarnessError) as error:
            self.stop()
            raise HarnessError(str(error) or "the judge is gone") from None
        if "harness" in verdict:
            self.stop()
            raise HarnessError(verdict["harness"])
        return verdict

    def stop(self) -> None:
        """End both processes and remove the scratch directory."""
        if not self.processes:
            return
        zygote, judge = self.processes
        self.processes = []
        self.connection.close()
        judge.kill()
        judge.wait()
        try:
            zygote.wait(
                10
            )  # it sees the judge's end and ends its candidate, itself and its namespaces
        except Exception:
            zygote.kill()
            zygote.wait()
        remove_scratch(self.scratch)


def processor_time(pid: int) -> float:
    """CPU seconds of another process so far; 0 where the system has no such clock."""
    try:
        return time.clock_gettime(~pid << 3 | 2)
    except (OSError, AttributeError, OverflowError):
        return 0.0


def verdict_without_run(order: dict, status: str, message: str) -> dict:
    return {
        "status": status,
        "passed": 0,
        "total": order["total"],
        "line": None,
        "executed": None,
        "message": message[:MAX_TEXT],
        "seconds": 0.0,
        "trusted": True,
    }


def containment(report: dict) -> list[str]:
    """The layers that are missing for containment: [] if Landlock and seccomp hold, or all namespaces do."""
    missing = [layer for layer in ("rlimits", "no_new_privs", "capabilities") if report[layer]]
    filters = [layer for layer in ("landlock", "seccomp") if report[layer]]
    namespaces = [layer for layer in NAMESPACES if report[layer]]
    if filters and namespaces:
        missing += filters + namespaces
    return missing


class Sandbox:
    """A pool of workers that judge programs.

    workers: programs judged at the same time, one thread and two processes each
    timeout: CPU seconds of a program, rounded up to whole seconds, where the task gives no `timeout`
    memory_mb: address space of a program in MiB
    isolation: "strict" refuses to start unless every layer is proved; "auto" needs Landlock and seccomp, or all
        namespaces, and says on stderr what is missing; "none" starts with whatever holds
    trace: record the executed lines of each program (several times slower)

    Raises SandboxError where the isolation cannot be had.
    """

    def __init__(self, workers=1, timeout=3.0, memory_mb=1024, isolation="auto", trace=False):
        import queue
        import threading

        if isolation not in ("strict", "auto", "none"):
            raise ValueError(f"isolation: {isolation!r} is not one of strict, auto, none")
        if workers < 1 or not timeout > 0 or memory_mb < 64:
            raise ValueError(
                "workers, timeout and memory_mb must be at least 1, above 0 and at least 64"
            )
        self.timeout, self.memory, self.trace = float(timeout), int(memory_mb) << 20, bool(trace)
        self.orders = queue.SimpleQueue()
        self.checked = OrderedDict()
        self.workers = [Worker(self.memory, index) for index in range(workers)]
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
            raise SandboxError(str(problems[0]) if problems else self.missing(isolation))
        if isolation == "auto" and any(self.layers.values()):
            print(f"sandbox: {self.missing('strict')}", file=sys.stderr)

    def missing(self, isolation: str) -> str:
        """One line that names the absent layers that `isolation` needs, with the reasons; "" if there are none."""
        absent = (
            [layer for layer in LAYERS if self.layers[layer]]
            if isolation == "strict"
            else containment(self.layers)
        )
        return (
            absent
            and "layers absent: " + "; ".join(f"{layer} ({self.layers[layer]})" for layer in absent)
        ) or ""

    def __enter__(self):
        return self

    def __exit__(self, kind, *error):
        self.close(cancel=kind is not None)

    def submit(self, task: dict, program: str):
        """A Future of the verdict; judging begins as soon as a worker is free. Raises TaskError for a bad task."""
        from concurrent.futures import Future

        if not self.threads:
            raise RuntimeError("the sandbox is closed")
        if not isinstance(program, str):
            raise TypeError(f"a program must be a string, not {type(program).__name__}")
        if len(program) > MAX_MESSAGE // 4:
            raise MessageError(f"a program of {len(program)} characters exceeds {MAX_MESSAGE // 4}")
        order = self.order(task)
        order["program"] = program
        future = Future()
        self.orders.put((order, future))
        return future

    def judge(self, pairs, progress: str | None = None) -> list[dict]:
        """Verdicts of (task, program) pairs, in order; `progress` names a progress bar on stderr."""
        futures = [self.submit(task, program) for task, program in pairs]
        shown = Progress(progress, len(futures)) if progress else None
        for done in [*range(15, len(futures), 16), len(futures) - 1] if futures else []:
            futures[done].result()  # one wait for several: each would wake this thread
            if shown:
                shown.update(done + 1)
        return [future.result() for future in futures]

    def order(self, task: dict) -> dict:
        """What the judge needs of a task, checked; remembered, since a task usually has many programs."""
        try:
            key = to_json(
                [
                    task.get(k)
                    for k in ("task_id", "style", "setup", "tests", "entry_point", "timeout")
                ]
            )
        except (AttributeError, TypeError, ValueError) as error:
            check_task(task)
            raise TaskError(f"task {task['task_id']}: tests: not JSON: {error}") from None
        if key not in self.checked:
            check_task(task)
            if len(key) > MAX_MESSAGE // 2:
                raise TaskError(
                    f"task {task['task_id']}: tests: {len(key)} bytes exceed {MAX_MESSAGE // 2}"
                )
            total = len(task["tests"])
            if task["style"] == "unittest":
                total = sum(len(unittest_methods(test)) for test in task["tests"])
            self.checked[key] = {
                "style": task["style"],
                "setup": task.get("setup") or "",
                "tests": task["tests"],
                "entry_point": task.get("entry_point"),
                "timeout": float(task.get("timeout") or self.timeout),
                "trace": self.trace,
                "total": total,
            }
            if len(self.checked) > 1024:
                self.checked.popitem(last=False)
        return dict(self.checked[key])

    def work(self, worker: Worker, started) -> None:
        """A worker's thread: judge programs until the pool closes."""
        try:
            worker.start()
            started.put(worker.report)
        except Exception as error:
            started.put(error)
        while True:
            item = self.orders.get()
            if item is None:
                break
            order, future = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(judge_repeatedly(worker, order))
            except BaseException as error:
                future.set_exception(error)
        worker.stop()

    def close(self, cancel: bool = False) -> None:
        """Finish what was submitted, or cancel what has not begun; then end all processes."""
        while cancel and not self.orders.empty():
            with contextlib.suppress(Exception):  # a worker may have been faster
                self.orders.get_nowait()[1].cancel()
        for _ in self.threads:
            self.orders.put(None)
        for thread in self.threads:
            thread.join()
        self.threads = []


def judge_repeatedly(worker: Worker, order: dict, attempts: int = 3) -> dict:
    """The verdict; a failure of the harness is tried again, and is a verdict of its own in the end."""
    for attempt in range(attempts):
        try:
            return worker.judge({**order, "attempt": attempt})
        except (HarnessError, OSError) as error:
            reason = f"{attempt + 1} attempts: {error}"
    return verdict_without_run(order, "harness_error", reason)


class Progress:
    """A progress bar on stderr, redrawn at most ten times a second."""

    def __init__(self, label: str, total: int):
        self.label, self.total = label, total
        self.begin = self.drawn = time.monotonic()

    def update(self, done: int) -> None:
        now = time.monotonic()
        if now - self.drawn < 0.1 and done < self.total:
            return
        self.drawn = now
        bar = "#" * (30 * done // max(1, self.total))
        end = "\n" if done == self.total else ""
        rate = done / max(now - self.begin, 1e-9)
        print(
            f"\r{self.label} [{bar:30}] {done}/{self.total} {rate:.0f}/s",
            end=end,
            file=sys.stderr,
            flush=True,
        )


class InputError(Exception):
    """One line that names file, line and field of bad input."""


def read_rows(path: str):
    """(line number, object) of a JSONL file."""
    try:
        with open(path, encoding="utf-8") as file:
            for line_number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise InputError(f"{path}:{line_number}: not JSON: {error}") from None
                if not isinstance(row, dict):
                    raise InputError(f"{path}:{line_number}: not an object")
                yield line_number, row
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}") from None


def read_tasks(path: str) -> dict[str, dict]:
    tasks = {}
    for line_number, task in read_rows(path):
        try:
            check_task(task)
        except TaskError as error:
            raise InputError(f"{path}:{line_number}: {error}") from None
        if task["task_id"] in tasks:
            raise InputError(f"{path}:{line_number}: task_id: {task['task_id']!r} occurs twice")
        tasks[task["task_id"]] = task
    return tasks


def read_samples(path: str, tasks: dict[str, dict]) -> list[tuple[dict, dict, str]]:
    """(task, row, program) of every sample."""
    samples = []
    for line_number, row in read_rows(path):
        place = f"{path}:{line_number}"
        task_id = row.get("task_id")
        if not isinstance(task_id, str) or task_id not in tasks:
            raise InputError(f"{place}: task_id: {task_id!r} is no task of the tasks file")
        field = "solution" if row.get("solution") is not None else "completion"
        if not isinstance(row.get(field), str):
            raise InputError(f"{place}: {field}: missing or not a string")
        samples.append((tasks[task_id], row, row[field]))
    return samples


def write_rows(path: str, rows: list[dict]) -> None:
    """Write JSONL beside its final name, sync, rename."""
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def run_command(options) -> None:
    tasks = read_tasks(options.tasks)
    samples = read_samples(options.samples, tasks)
    with Sandbox(
        options.workers, options.timeout, options.memory_mb, options.isolation, options.trace
    ) as sandbox:
        verdicts = sandbox.judge(
            [(task, program) for task, _, program in samples], progress="judging"
        )
    write_rows(
        options.out,
        [{**row, **verdict} for (_, row, _), verdict in zip(samples, verdicts, strict=True)],
    )
    counts = Counter(verdict["status"] for verdict in verdicts)
    judged = len(verdicts) - counts["harness_error"]
    for status in STATUSES:
        if counts[status]:
            print(f"{status:14} {counts[status]:7}")
    print(f"passed {counts['passed']} of {judged} judged ({counts['passed'] / max(1, judged):.1%})")


def probe_command(options) -> None:
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
    import argparse

    parser = argparse.ArgumentParser(
        prog="sandbox.py", description="Run untrusted programs against tests."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="judge a file of samples")
    run.add_argument("--tasks", required=True, help="tasks.jsonl")
    run.add_argument(
        "--samples", required=True, help="samples.jsonl: task_id and solution, or completion"
    )
    run.add_argument(
        "--out", required=True, help="verdicts.jsonl: the sample rows and their verdicts"
    )
    run.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    run.add_argument(
        "--timeout",
        type=float,
        default=3.0,
        help="CPU seconds a program, where its task gives none",
    )
    run.add_argument("--isolation", choices=("auto", "strict", "none"), default="auto")
    run.add_argument("--trace", action="store_true", help="record the executed lines")
    probe = commands.add_parser("probe", help="show which layers hold on this machine")
    for command in (run, probe):
        command.add_argument(
            "--memory_mb", type=int, default=1024, help="address space of a program in MiB"
        )
    options = parser.parse_args()
    try:
        {"run": run_command, "probe": probe_command}[options.command](options)
    except (InputError, SandboxError, HarnessError, ValueError, OSError) as error:
        print(f"sandbox.py: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
