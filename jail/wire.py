"""Messages between the processes of a worker: framing, and the form in which values cross.

Runs in every process: the caller's, the judge, the zygote, each candidate. Imports the standard
library alone.

Values cross in the forms of JSON, never as pickles. None, booleans, strings, finite floats and
integers below 2**62 stand for themselves. Every other value is a list that begins with a tag. Many
floats cross as the bytes of doubles: their texts take longer to write and to read. The mutable
containers among the arguments of a call are numbered in the order of first sight. So ["&", n] can
name one again: an alias, a result that is an argument, a changed argument.
"""

from __future__ import annotations

import json
import math
import os
import struct
import sys
from array import array
from binascii import a2b_base64, b2a_base64
from collections import Counter, OrderedDict, defaultdict, deque

MAX_MESSAGE = 32 << 20  # bytes of one message between the processes
MAX_ITEMS = 4_000_000  # values in one message
MAX_TEXT = 500  # characters of a verdict's message
# Frames while values are put into their form or rebuilt: some for each level of nesting, of which a
# program of CPython's own limit of 1000 can make a thousand.
RECURSION_LIMIT = 4000
PROGRAM_FILE = "<program>"  # file name of the program in tracebacks
# What the zygote says of a candidate's end: wait status, CPU seconds, whether it had to be killed.
STATUS = struct.Struct("=idi")


class MessageError(Exception):
    """A message is too large or malformed, or holds a value that cannot cross."""


# Made once: json.dumps makes an encoder for each message, and new objects cost a candidate pages.
encode_json = json.encoder.c_make_encoder(
    None,  # markers: no look-out for cycles
    json.JSONEncoder().default,
    json.encoder.encode_basestring_ascii,
    None,  # indent
    ":",
    ",",
    False,  # sort_keys
    False,  # skipkeys
    True,  # allow_nan
)
DECODER = json.JSONDecoder()
HEADER = struct.Struct(">I")


def to_json(message) -> bytes:
    """The message as compact JSON in ASCII."""
    return "".join(encode_json(message, 0)).encode()


def from_json(body: bytes):
    """The message of a JSON text of an untrusted sender. MessageError if too long or no JSON."""
    if body.count(b",") > MAX_ITEMS:
        raise MessageError(f"a message holds more than {MAX_ITEMS} values")
    try:
        message, end = DECODER.raw_decode(body.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise MessageError(f"not JSON: {error}") from None
    if end != len(body):
        raise MessageError("not JSON: more follows the value")
    return message


class Channel:
    """Messages with a length prefix on the descriptor of a stream socket.

    A candidate sends JSON. The judge sends marshalled values to a candidate: a fresh process reads
    them faster. marshal.loads is unsafe on untrusted bytes, so marshal serves this direction alone.
    Sending and receiving raise EOFError when the other end is gone.
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
            if written < len(data):
                rest = memoryview(data)  # slices of bytes would copy what is left each time
                while rest := rest[written:]:
                    written = os.write(self.descriptor, rest[: 1 << 20])
        except OSError as error:
            raise EOFError(str(error)) from None

    def receive(self, on_wait=None):
        """The next message.

        on_wait: called whenever the socket's receive timeout passes, and for each further part of a
            message that comes in parts. It ends the wait by raising.
        """
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
                    on_wait()  # a message sent byte by byte does not escape the time limit
                if type(buffer) is bytes:
                    self.buffer = bytearray(buffer)
                self.buffer += part
            else:
                self.buffer = part
        body = bytes(buffer[HEADER.size : needed])
        self.buffer = bytes(buffer[needed:])
        return self.unpack(body)


SMALL = 1 << 62
PACKED = 64  # numbers of a container from which on its floats cross as bytes
EXACT = 1 << 53  # all integers up to here are doubles
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
NUMBERS = frozenset((int, float))
SIMPLE = (int, float, str, list, dict, tuple, set, frozenset, bool, bytes, bytearray, complex)
TYPES = {kind.__name__: kind for kind in (*SIMPLE, object, range, type, *MAPPINGS.values(), deque)}
TYPES["NoneType"] = type(None)
CONSTANTS = {"Ellipsis": ..., "NotImplemented": NotImplemented}
TYPE_NAMES = {kind: name for name, kind in TYPES.items()}
MALFORMED = (  # what rebuilding a malformed form raises
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RecursionError,
)
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

    foreign: called with an object of any other type, returns the object's JSON form.
    numbers: {id: number} of the mutable containers that the other side knows.
    register: whether to number further mutable containers.
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
        return ["r", *[encode(part, foreign) for part in (value.start, value.stop, value.step)]]
    if kind is slice:
        parts = (value.start, value.stop, value.step)
        return ["sl", *[encode(part, foreign, numbers, register) for part in parts]]
    if kind is type and value in TYPE_NAMES:
        return ["T", TYPE_NAMES[value]]
    if kind.__name__ in STRING_TYPES:
        module, name = STRING_TYPES[kind.__name__]
        known = kind is getattr(sys.modules.get(module), name, None)
        if known and getattr(value, "tzinfo", None) is None:
            return ["S", name, str(value)]
    if kind is getattr(sys.modules.get("datetime"), "timedelta", None):
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
    if plain(value, kinds):
        items = list(value)
        if float in kinds and len(items) >= PACKED:
            items = packed(items)
    else:
        items = [encode(x, foreign, numbers, register) for x in value]
    if kind is deque:
        items.insert(0, value.maxlen)
    return items


def plain(values, kinds: set) -> bool:
    """Whether values of these kinds all stand for themselves; it may err on the side of False."""
    if kinds <= ATOMS:
        return True
    if not kinds <= NUMBERS:
        return False
    if float in kinds:
        try:
            if not math.isfinite(sum(values)):
                return False
        except OverflowError:  # an integer beyond the floats
            return False
    return min(values) > -SMALL and max(values) < SMALL if int in kinds else True


def packed(numbers: list) -> list:
    """Plain numbers as one item: tag, their doubles in base64, the indices of the integers.

    The numbers themselves where most are integers, whose texts are short, or one is no double.
    """
    whole = [index for index, number in enumerate(numbers) if type(number) is int]
    if 2 * len(whole) > len(numbers) or any(abs(numbers[index]) > EXACT for index in whole):
        return numbers
    return [["p", b2a_base64(array("d", numbers), newline=False).decode(), whole]]


def unpacked(item: list) -> list:
    """The numbers of `packed`; ValueError, TypeError or LookupError if the item is malformed."""
    _, text, whole = item
    numbers = array("d", a2b_base64(text)).tolist()
    integers = [numbers[index] for index in whole]
    if not all(map(float.is_integer, integers)):
        raise ValueError("no integer")
    for index, number in zip(whole, integers, strict=True):
        numbers[index] = int(number)
    return numbers


def decode(value, foreign, objects=None, register=False):
    """The value of a JSON form. MessageError if the form is malformed.

    foreign: called with a tagged list of any other tag, returns the object.
    objects: the numbered containers, by number.
    register: whether to append further mutable containers to `objects`.
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
            return CONSTANTS[value[1]] if value[1] in CONSTANTS else TYPES[value[1]]
        if tag == "S":
            module, name = STRING_TYPES[value[1]]
            kind = getattr(__import__(module), name)
            result = (kind.fromisoformat if module == "datetime" else kind)(value[2])
            if getattr(result, "tzinfo", None) is not None:
                raise ValueError("a time zone, which `encode` does not send")
            return result
        if tag == "td":
            return __import__("datetime").timedelta(*value[1:4])
        return foreign(value)
    except MALFORMED as error:
        name = type(error).__name__
        raise MessageError(f"a malformed value: {name}: {str(error)[:100]}") from None


def decode_items(value: list, start: int, foreign, objects, register) -> list:
    """The decoded items of a tagged list from `start` on."""
    kinds = set(map(type, value))
    if list not in kinds and dict not in kinds:
        return value[start:]
    if len(value) == start + 1 and type(value[start]) is list and value[start][:1] == ["p"]:
        return unpacked(value[start])
    return [decode(item, foreign, objects, register) for item in value[start:]]


def fill(container, value: list, foreign, objects, register) -> None:
    """Replace the items of a mutable container by those of a tagged list."""
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


def deeply(function):
    """The function, with stack enough for values as deep as a program can nest them."""

    def inner(*args):
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(max(limit, RECURSION_LIMIT))
        try:
            return function(*args)
        finally:
            sys.setrecursionlimit(limit)

    return inner


def compile_program(source: str):
    """The code object of a program. Raises what `compile` raises."""
    return compile(source.removeprefix("\ufeff"), PROGRAM_FILE, "exec", dont_inherit=True)
