"""One candidate process seen from the judge: its messages, and the values that cross.

Runs in the judge; the caller's process takes `WALL_FACTOR`, the exceptions and the clocks from this
file. Imports proxies.py, wire.py and the standard library. Nothing here trusts the candidate: a
reply is decoded into exact builtin types, and an object of a class of the program's own becomes a
proxy, which never equals plain data.
"""

from __future__ import annotations

import builtins
import operator
import socket
import struct
import time
import types

from jail.proxies import PROXY_HANDLE, PROXY_KIND, CallableProxy, Proxy
from jail.wire import MAPPINGS, MAX_TEXT, TAGS, Channel, MessageError, decode, encode, fill


class HarnessError(Exception):
    """The judge or the zygote failed, which says nothing about the program."""


class ProgramEnd(BaseException):
    """The program can answer no more. Not an Exception, so that no test swallows it."""

    def __init__(self, status: str, message: str, line: int | None = None):
        super().__init__(status, message, line)
        self.status, self.message, self.line = status, message, line


class CandidateExit(BaseException):
    """The program raised what would end or skip tests, such as SystemExit or SkipTest.

    Not an Exception, so that no test takes an exit for the exception that it expects.
    """


EXCEPTIONS = {
    name: kind
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, Warning)
}
# Modules of the standard library that tests may use through the program's import.
SHARED_NAMES = """bisect cmath collections copy datetime decimal fractions functools heapq itertools
json math operator random re statistics string sys time typing"""
MODULES = frozenset(SHARED_NAMES.split())
ATTEMPTS = 3  # to judge a program; the harness may fail in any but the last
# Wall limit of a program = this times its CPU limit, not counting the wait for a processor.
WALL_FACTOR = 5
TEST_MODULE = "tests"  # value of __name__ in the namespace of the tests
ENDS = ("SystemExit", "KeyboardInterrupt", "GeneratorExit", "SkipTest", "BaseException")
VIEWS = {name: type(getattr({}, name)()) for name in ("keys", "values", "items")}
FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType)
MEASURES = ("len", "bool", "int", "float", "complex", "index", "round", "abs", "str", "repr")
PLAIN = (int, float, complex, bool, str, bytes, type(None))
# What a candidate may do with an object of a class that the tests define.
OBJECT_OPERATIONS = {
    **{"eq": operator.eq, "lt": operator.lt, "getitem": operator.getitem},
    **{"hash": hash, "iter": iter, "len": len, "repr": repr},
}


class Session:
    """One candidate process, seen from the judge."""

    def __init__(self, channel: Channel, on_wait):
        self.channel = channel
        self.on_wait = on_wait
        self.proxies = {}  # handle -> proxy: one object, one proxy
        self.lent = []  # objects of the judge that the candidate may use through callbacks
        self.entry = None  # handle of the entry point; None: each function of the program is one
        self.entry_calls = 0
        self.weak = 0  # comparisons in which the candidate took part, looks that it may answer anew
        self.looks = {}  # handle -> {(operation, argument): the object's first answer}
        self.measured = {}  # (handle, operation) -> answer; empty when the program has done more
        self.iterated = None  # handle of the object whose iterator was the last request
        self.stops = False  # whether a call of a test may raise StopIteration
        self.end = None  # the ProgramEnd that ended the session
        self.gone = False  # whether the candidate closed its socket
        self.test_limit = None  # CPU seconds of the test that runs, if it has a limit
        self.test_begin = 0.0  # CPU seconds of the program when the test began
        self.test_clock = 0.0  # the time of day when the test began
        self.processor_time = lambda: 0.0  # CPU seconds of the program so far
        self.line = None  # where the last exception of the program was raised
        self.executed = None
        self.exceptions = {}  # exception classes of the program by name, as classes of the judge

    def finish(self, status: str, message: str, line: int | None = None):
        """Raise the ProgramEnd of the session: the first one, if there is one."""
        if self.end is None:
            self.end = ProgramEnd(status, message, line)
        raise self.end

    def begin_test(self, limit: float | None) -> None:
        """From here on, `end_test` and each second of waiting compare a test with its limit."""
        self.test_limit = limit
        if limit is not None:
            self.test_begin, self.test_clock = self.processor_time(), time.monotonic()

    def end_test(self) -> None:
        """End the session if the test used up its CPU time, or WALL_FACTOR times as much time."""
        if self.test_limit is None:
            return
        used = self.processor_time() - self.test_begin
        passed = time.monotonic() - self.test_clock
        if used > self.test_limit or passed > WALL_FACTOR * self.test_limit:
            self.finish("timeout", f"a test used {used:.1f} of {self.test_limit:g} CPU seconds")

    def receive(self):
        """The next message of the candidate, of any kind. Ends the session if there is none."""
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
            line = number(message[1]) if len(message) > 1 else None
            self.finish("timeout", "the CPU time is used up", line)
        return message

    def send(self, message) -> None:
        """Send a message to the candidate.

        A candidate that is gone ends the session at the next `receive`, and not here: replies that
        the candidate sent before its end may not be read yet.
        """
        if self.end is not None:
            raise self.end
        try:
            self.channel.send(message)
        except EOFError:
            pass
        except MessageError as error:
            self.finish("error", f"MessageError: {error}")

    def ask(self, operation: str, *args, **kwargs):
        """Let the candidate do an operation: the value, or the exception of the program raised.

        StopIteration would end a loop of the test in silence, so it becomes a RuntimeError, as in a
        generator (PEP 479), unless the test steps an iterator or names StopIteration itself.
        """
        try:
            return self.wait(*self.request(operation, args, kwargs))
        except (StopIteration, StopAsyncIteration) as error:
            if operation == "next" or self.stops:
                raise
            stopped = RuntimeError(text_of(error))
            stopped.from_program = error.from_program
            raise stopped from None

    def look(self, operation: str, proxy: Proxy, *args):
        """What an object of the program says of itself to a test that looks, as by `len`.

        Such an object may answer anew each time, which no value does. So the first answer counts
        where a test measures an object twice, and the program does nothing else in between. The
        verdict is weak where one look has two answers, and where a test looks in two ways, as by
        `len` and `iter`: the program alone says that the two agree.
        """
        handle = PROXY_HANDLE(proxy)
        measure = operation in MEASURES and not args
        if measure and (handle, operation) in self.measured:
            return self.measured[handle, operation]
        hint = operation == "len" and self.iterated == handle  # `list(x)` asks for both
        answer = self.ask(operation, proxy, *args)
        if hint:
            return answer
        if measure and type(answer) in PLAIN:
            self.measured[handle, operation] = answer
        if operation == "iter":
            self.iterated = handle
        looks = self.looks.setdefault(handle, {})
        key = operation, (args[0] if args and type(args[0]) in (int, str) else None)
        if key in looks:
            first = looks[key]
            if operation == "getattr" and type(answer) is type(first) is CallableProxy:
                # A method is a new object each time: looks at one are looks at each.
                known = self.looks.setdefault(PROXY_HANDLE(first), {})
                self.looks[PROXY_HANDLE(answer)] = known
            else:
                self.weak += operation == "iter" or not same_answer(answer, first)
        looks.setdefault(key, answer)
        self.weak += len({way for way, _ in looks if way != "getattr"}) > 1
        return answer

    def request(self, operation: str, args: tuple, kwargs: dict) -> tuple:
        """Send an operation. Returns what `wait` needs for the result."""
        self.iterated = None
        if operation not in MEASURES:
            self.measured.clear()
        numbers = {}
        try:
            sent = [encode(value, self.lend, numbers, True) for value in args]
            keywords = {key: encode(kwargs[key], self.lend, numbers, True) for key in kwargs}
        except RecursionError:
            self.finish("harness_error", "the arguments of a test are nested too deeply")
        except MessageError as error:
            self.finish("harness_error", str(error))
        self.send([operation, sent, keywords])
        if operation in ("call", "apply"):
            self.entry_calls += self.entry is None or sent[0][1] == self.entry
        return args, kwargs, numbers

    def wait(self, args: tuple, kwargs: dict, numbers: dict):
        """The result of the oldest request that has no result yet."""
        while True:
            message = self.receive()
            if message[0] != "back":
                break
            self.serve(message)
        return self.result(message, args, kwargs, numbers)

    def result(self, message, args, kwargs, numbers):
        """The value of a reply, after the call's changes to its arguments are made here too."""
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

    def exception(self, message) -> BaseException:
        """The exception of a reply, as the nearest class that the judge knows."""
        _, names, args, line, text, executed = message
        self.line = number(line)
        self.executed = lines(executed)
        kind = None
        for name in names:
            kind = self.exceptions.get(name) or EXCEPTIONS.get(name)
            if kind is not None or name in ENDS:
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
        """The judge's object for a tagged list that stands for no plain data."""
        tag, handle = value[0], value[1]
        if tag == "m":
            if handle in MODULES:
                return __import__(handle)
            raise MessageError(f"the module {str(handle)[:50]}, which does not cross to the tests")
        if tag == "E":
            names, handle = value[1], value[2]
            known = (EXCEPTIONS[name] for name in names if name in EXCEPTIONS)
            base = next(known, CandidateExit)  # of BaseException: its instances end tests
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
        """The JSON form of an object that is no plain data: a proxy, a builtin, a lent object.

        MessageError for an object that cannot cross.
        """
        kind = type(value)
        if kind in (Proxy, CallableProxy):
            return ["h", PROXY_HANDLE(value), PROXY_KIND(value)]
        if isinstance(value, types.ModuleType):
            return ["m", value.__name__]
        name = getattr(value, "__name__", None)
        if isinstance(name, str) and name.isidentifier() and getattr(builtins, name, None) is value:
            return ["B", name]
        if kind.__module__ == "re" and kind.__name__ == "Pattern":
            return ["re", value.pattern, value.flags]
        if kind in FUNCTIONS or kind.__name__ in ("method", "partial"):
            tag = "fn"
        elif hasattr(kind, "__next__"):
            tag = "it"
        elif kind.__module__ == TEST_MODULE or value in self.exceptions.values():
            tag = "ob"
        elif isinstance(value, type) and value.__module__ == TEST_MODULE:
            tag = "fn"
        else:
            for view, view_type in VIEWS.items():
                if isinstance(value, view_type):
                    return ["v", view, encode(dict(value.mapping), self.lend)]
            raise MessageError(
                f"a test gives an object of type {kind.__name__}, which cannot cross"
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
            value = self.use(kind, target, arguments, keywords)
            reply = ["value", encode(value, self.lend, {}, True)]
        except (Exception, CandidateExit) as error:
            reply = ["raised", type(error).__name__, text_of(error)]
        self.send(reply)

    def use(self, kind: str, target, args: list, kwargs: dict):
        """One operation on a lent object. Names that begin with "_" would lead out of it."""
        own = type(target).__module__ == TEST_MODULE
        if kind == "next" and hasattr(type(target), "__next__"):
            return next(target)
        if kind == "call" and (own or callable(target)):
            return target(*args, **kwargs)
        public = kind in ("getattr", "setattr") and type(args[0]) is str and args[0][:1] != "_"
        if own and public:
            value = getattr(target, args[0]) if kind == "getattr" else setattr(target, *args)
            if isinstance(value, types.ModuleType):
                raise AttributeError(args[0])
            return value
        if own and kind in OBJECT_OPERATIONS:
            return OBJECT_OPERATIONS[kind](target, *args)
        raise TypeError(f"{kind} is not possible here")


def text_of(error: BaseException) -> str:
    """The beginning of an exception's text. The program may be asked for the text, and may fail."""
    try:
        return str(error)[:MAX_TEXT]
    except (ProgramEnd, HarnessError):
        raise
    except BaseException as other:
        return f"without a text ({getattr(other, 'from_program', type(other).__name__)})"


def same_answer(answer, first) -> bool:
    """Whether two answers of an object are one. Of containers nobody can say."""
    plain = type(answer) is type(first) and type(first) in PLAIN
    return answer is first if isinstance(first, Proxy) else plain and answer == first


def processor_time(pid: int) -> float:
    """CPU seconds of another process so far; 0 where the system has no such clock."""
    try:
        return time.clock_gettime(~pid << 3 | 2)
    except (OSError, AttributeError, OverflowError):
        return 0.0


def set_timeout(connection: socket.socket, option: int, seconds: int) -> None:
    """Let a read or write of the blocking socket fail after so many seconds."""
    connection.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", seconds, 0))


def number(value) -> int | None:
    """A line number of the candidate, or None if the value is none."""
    return value if type(value) is int and 0 < value < 1 << 31 else None


def lines(value) -> list[int] | None:
    """A list of line numbers of the candidate, or None if the value is none."""
    if type(value) is list and all(type(line) is int for line in value):
        return [line for line in value if 0 < line < 1 << 31]
    return None
