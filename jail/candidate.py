"""The candidate's side: runs one program, then serves the judge's calls on the program's objects.

Runs in a candidate, the sealed process that the zygote forks for each program; the zygote loads
this file before. Imports wire.py and the standard library. A program can reach all of this file
through frames and may change it: all that a candidate can say is "the function returned this".
"""

from __future__ import annotations

import builtins
import marshal
import operator
import os
import resource
import sys
from collections import deque

from jail import wire
from jail.wire import (
    ATOMS,
    MAX_TEXT,
    PROGRAM_FILE,
    TAGS,
    MessageError,
    contents,
    decode,
    deeply,
    encode,
    to_json,
)


def flatten(value):
    """The value as an exact builtin type if its class derives from one, else None."""
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
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic):
        plain = numpy.generic.item(value)
        return None if isinstance(plain, numpy.generic) else plain
    return None


encode_deep, decode_deep = deeply(encode), deeply(decode)


class Candidate:
    """Runs the program, then serves calls on the program's objects until the process is killed."""

    def __init__(self):
        self.channel = wire.Channel(-1, unpack=marshal.loads)
        self.objects = []  # what the judge holds proxies of; a proxy's handle is the index
        self.indices = {}  # id(object) -> index in objects, which keeps the object alive
        self.stubs = {}  # id(stub) -> (form, stub); a stub stands for an object of the judge
        self.executed = None  # lines of the program that ran, when traced
        self.lock = None  # of callbacks, since threads may make some at once; made on demand

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
        """Compile and run the program; the reply has the values of the names asked for."""
        name = order["module"]
        module = sys.modules[name] = type(sys)(name)
        module.__file__ = PROGRAM_FILE
        namespace = module.__dict__
        try:
            code = order["program"]
            code = marshal.loads(code) if type(code) is bytes else wire.compile_program(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            line = getattr(error, "lineno", None)
            return ["syntax", line, f"{type(error).__name__}: {str(error)[:MAX_TEXT]}"]
        if order["stdin"]:
            give_stdin_a_path()
        try:
            if order["preamble"]:
                exec(compile(order["preamble"], "<preamble>", "exec", dont_inherit=True), namespace)
            exec(code, namespace)
        except BaseException as error:
            if name == "__main__" and isinstance(error, SystemExit):
                self.finish(0)  # whatever its code: the output decides (LiveCodeBench, APPS)
            return self.raised(error)
        if name == "__main__":
            self.finish(0)
        if order["inside"] is not None:
            try:
                namespace = self.run_inside(module, *order["inside"])
            except BaseException as error:
                return self.raised(error)
        names = order["names"]
        values = [self.encode(namespace[n]) if n in namespace else ["undefined"] for n in names]
        return ["ok", values, None]

    def run_inside(self, module, source: str, tests: list, classes: list, fail_fast: bool) -> dict:
        """Run the tests in the program's module by `source`; returns the namespace of `source`."""
        sys.modules["tests"] = sys.modules["solution"] = module  # for patches by either name
        codes = [marshal.loads(code) for code in tests]
        namespace = {"module": module, "tests": codes, "classes": classes, "fail_fast": fail_fast}
        exec(compile(source, "<runner>", "exec", dont_inherit=True), namespace)
        return namespace

    def finish(self, code: int) -> None:
        """End as the interpreter does: wait for threads, run exit functions, flush, exit."""
        try:
            if "threading" in sys.modules:
                sys.modules["threading"]._shutdown()
            import atexit

            atexit._run_exitfuncs()
            if self.executed is not None:
                self.channel.send(["executed", sorted(self.executed)])
            sys.stdout.flush()
        finally:
            os._exit(code)

    def on_cpu_limit(self, signum, frame) -> None:
        """Tell the judge the line at which the CPU time ran out.

        The hard limit kills a process that does not get here.
        """
        while frame is not None and frame.f_code.co_filename != PROGRAM_FILE:
            frame = frame.f_back
        self.channel.send(["timeout", frame and frame.f_lineno, self.executed_lines()])
        os._exit(1)

    def executed_lines(self) -> list[int] | None:
        """The sorted numbers of the lines that ran; None or empty as `executed` is."""
        return self.executed and sorted(self.executed)

    def start_trace(self) -> None:
        """Record the lines of the program that run."""
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
        if type(value) in ATOMS:
            return value
        return encode_deep(value, self.foreign, numbers)

    def foreign(self, value):
        """The JSON form of an object that is no plain data: flattened, or a handle and a kind."""
        form = self.stubs.get(id(value))
        if form is not None:
            return form[0]
        flat = flatten(value)
        if flat is not None:
            return self.encode(flat)
        if isinstance(value, type(sys)):
            return ["m", value.__name__]
        index = self.indices.get(id(value))
        if index is None:
            index = self.indices[id(value)] = len(self.objects)
            self.objects.append(value)
        if isinstance(value, type):
            if issubclass(value, BaseException):
                return ["E", [base.__name__ for base in value.__mro__], index]
            return ["h", index, "class"]
        return ["h", index, "callable" if callable(value) else "object"]

    def decode(self, value, objects):
        if type(value) is not list:
            return value
        return decode_deep(value, self.known, objects, True)

    def known(self, value):
        """The object that a tagged list names: of the program, a builtin, a module or a stub."""
        tag, payload = value[0], value[1]
        if tag == "h":
            return self.objects[payload]
        if tag == "B":
            return getattr(builtins, payload)
        if tag == "m":
            return __import__("importlib").import_module(payload)
        if tag == "re":
            return __import__("re").compile(payload, value[2])
        if tag == "v":
            return getattr(decode(value[2], self.known), payload)()
        if tag == "fn":

            def stub(*args, **kwargs):
                return self.call_back("call", payload, args, kwargs)

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
                numbers = {id(value): number for number, value in enumerate(numbered)}
                changes = self.changes([args, kwargs], [arguments, keywords], numbered, numbers)
            reply = ["ok", self.encode(result, numbers), changes]
        except BaseException as error:
            reply = self.raised(error)
        try:
            self.channel.send(reply)
        except MessageError as error:
            self.channel.send(self.raised(error))

    @deeply
    def changes(self, received, arguments, numbered: list, numbers: dict) -> list | None:
        """The contents of the numbered containers after a call; None if the call changed nothing.

        received: the forms of [positional arguments, keyword arguments] that the judge sent.
        arguments: the same, as the values that the call got.
        """
        again = {}
        positional, keywords = arguments
        now = [
            [encode(value, self.foreign, again, True) for value in positional],
            {key: encode(value, self.foreign, again, True) for key, value in keywords.items()},
        ]
        if to_json(now) == to_json(received):
            return None
        return [
            [TAGS[type(value)], *contents(value, type(value), self.foreign, numbers, False)]
            for value in numbered
        ]

    def raised(self, error: BaseException):
        """The message for an exception: class names, arguments, line, text, executed lines."""
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
        return ["raise", names, arguments, line, text, self.executed_lines()]

    def call_back(self, kind: str, number: int, args, kwargs):
        """Let the judge use an object that a test lent; serve nested calls meanwhile."""
        if self.lock is None:
            import threading

            self.lock = threading.RLock()
        with self.lock:
            arguments = [self.encode(value) for value in args]
            keywords = {key: self.encode(value) for key, value in kwargs.items()}
            self.channel.send(["back", kind, number, arguments, keywords])
            while True:
                message = self.channel.receive()
                if message[0] == "value":
                    return self.decode(message[1], [])
                if message[0] == "raised":
                    raise getattr(builtins, message[1], Exception)(message[2])
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
    """An object of a class of the tests, seen from the candidate: public attributes alone."""

    def __init__(self, candidate, number):
        def ask(kind, *args):
            return candidate.call_back(kind, number, args, {})

        object.__setattr__(self, "_ask", ask)

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


def give_stdin_a_path() -> None:
    """Let `open` find standard input at /dev/stdin: there is no /proc where the path would lead."""
    import io

    def wrap(function):
        def opened(file, *args, **kwargs):
            if file in ("/dev/stdin", "/dev/fd/0"):
                file = os.dup(0)
                os.lseek(file, 0, os.SEEK_SET)
                return file if function is os_open else function(file, *args, **kwargs)
            return function(file, *args, **kwargs)

        return opened

    os_open = os.open
    builtins.open = io.open = wrap(builtins.open)
    os.open = wrap(os.open)


def call(function, *args, **kwargs):
    return function(*args, **kwargs)


OPERATOR_NAMES = """add sub mul truediv floordiv mod pow matmul and_ or_ xor lshift rshift
neg pos abs invert eq ne lt le gt ge getitem setitem delitem index"""
BUILTIN_NAMES = """len bool str repr hash iter next int float complex round bytes
getattr setattr delattr dir isinstance issubclass format reversed divmod"""
# What the judge may ask of the candidate: name -> function of the target and further arguments.
OPERATIONS = {
    **{name: getattr(operator, name) for name in OPERATOR_NAMES.split()},
    **{name: getattr(builtins, name) for name in BUILTIN_NAMES.split()},
    "call": call,
    "apply": call,  # a call after which nobody looks at the arguments
    "enter": lambda target: type(target).__enter__(target),
    "exit": lambda target: type(target).__exit__(target, None, None, None),
}


def main(candidate: Candidate, descriptors: tuple[int, ...], seal, command: bytes) -> None:
    """The life of a forked candidate; never returns.

    descriptors: the socket to the judge and, for the stdio style, standard input and output.
    command: b"p" to prove the layers of the seal, b"c" to run a program.
    """
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
