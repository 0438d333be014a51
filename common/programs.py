"""The program in a completion: chat models write prose, drafts, tags and fences around it.

`extract_program` looks for a text that parses as Python and defines the task's entry point (or, for
a task without one, does something), in this order:

1. What follows the thinking, whole; after the task's `prefix` where it has one.
2. What stands between answer tags, whole.
3. Code fences between the answer tags, then all other fences, the last one first.
4. What stands before the first fence line: a closing fence may have no opening one.

Where nothing parses, the text that the model seems to mean is the program, and fails by itself.
The parsing here decides what is taken, never whether the program is right.
"""

import ast
import itertools
import re
import warnings
from typing import NamedTuple

from common.texts import lines_of

MAX_PARSED = 200_000  # characters: a longer text is taken as it is, without a search
MAX_CANDIDATES = 64  # texts that are parsed of one completion
MAX_FENCES = MAX_ANSWERS = 8  # of a text, the last ones
MAX_ENDS = 8  # lines that may close a fence, the first ones
OPENING = re.compile(r"[ \t]*(`{3,}|~{3,})[ \t]*([^\r\n]*)")


class Fence(NamedTuple):
    language: str  # the first word of the info string, in lower case
    contents: list[str]  # the code up to each line that may close the fence, and to the end
    start: int  # where its opening line begins in the text


def after_thinking(text: str) -> str | None:
    """What follows the last </think>; the text itself without one; None if thinking never ends."""
    if "</think>" in text:
        return text.rpartition("</think>")[2]
    return None if text.lstrip().startswith("<think>") else text


def answers_of(text: str) -> list[str]:
    """What may stand between answer tags, the last opening tag first; each up to its last closing
    tag, then up to its first one. A closing tag may be missing."""
    found = []
    openings = list(re.finditer(r"<answer>\n?", text))
    for opening in reversed(openings[-MAX_ANSWERS:]):
        inside = text[opening.end() :]
        for part in (inside.rpartition("</answer>")[0], inside.partition("</answer>")[0], inside):
            if part and part not in found:
                found.append(part)
    return found


def fences_of(text: str) -> list[Fence]:
    """The fenced code blocks of a text, as CommonMark (section 4.5) reads them, and more loosely:
    at any indentation, as in a list. A fence without a closing line goes to the end.

    A closing line has the opening's character, at least as often, and less than four more columns
    of indentation. A string in the code may hold such a line too: then a later one closes.
    """
    lines = lines_of(text)
    found, number = [], 0  # (index of the opening line, its match, the closing line's pattern)
    while number < len(lines):
        opening = OPENING.fullmatch(lines[number].rstrip("\r\n"))
        if opening is None or (opening[1][0] == "`" and "`" in opening[2]):
            number += 1
            continue
        indent = len(lines[number]) - len(lines[number].lstrip())
        mark, times = opening[1][0], len(opening[1])
        closing = re.compile(rf"[ \t]{{0,{indent + 3}}}{mark}{{{times},}}[ \t]*\r?\n?")
        found.append((number, opening, closing))
        number += 1
        while number < len(lines) and not closing.fullmatch(lines[number]):
            number += 1
        number += 1
    fences = []
    for number, opening, closing in found[-MAX_FENCES:]:
        rest = lines[number + 1 :]
        closings = (end for end, line in enumerate(rest) if closing.fullmatch(line))
        ends = [*itertools.islice(closings, MAX_ENDS), len(rest)]
        indent = len(lines[number]) - len(lines[number].lstrip())
        code = [dedent(line, indent) for line in rest[: ends[-1]]]
        words = re.split(r"[\s{.,]+", opening[2].strip(" \t{."))
        contents = ["".join(code[:end]) for end in ends]
        fences.append(Fence(words[0].lower(), contents, sum(map(len, lines[:number]))))
    return fences


def dedent(line: str, indent: int) -> str:
    """A line of code without the indentation that its opening fence has, as far as it has any."""
    spaces = len(line) - len(line.lstrip(" \t"))
    return line[min(indent, spaces) :]


def statements_of(source: str) -> list[ast.stmt] | None:
    """The statements of a source's top level; None for a source that does not parse, or is longer
    than MAX_PARSED."""
    if len(source) > MAX_PARSED:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of doubtful escapes in the text
            return ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def is_program(source: str, entry_point: str | None) -> bool:
    """Whether a source parses, and defines the entry point at its top level; without an entry
    point, whether it has a statement that is more than a constant, a name or a string."""
    body = statements_of(source)
    if body is None:
        return False
    if entry_point:
        return entry_point.split(".")[0] in defined_names(body)
    plain = (ast.Constant, ast.Name, ast.Tuple, ast.UnaryOp, ast.BinOp, ast.Compare)
    return any(not isinstance(node, ast.Expr) or not isinstance(node.value, plain) for node in body)


def defined_names(body: list[ast.stmt]) -> set[str]:
    """Names that statements bind at their own level: also in branches, not in functions."""
    names, left = set(), list(body)
    while left:
        node = left.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).split(".")[0])
        elif not isinstance(node, ast.Lambda):
            left.extend(ast.iter_child_nodes(node))
    return names


def extract_program(task: dict, completion: str) -> str:
    """The whole program in a completion: see the module's docstring."""
    prefix, entry_point = task.get("prefix") or "", task.get("entry_point")
    text = after_thinking(completion)
    if text is None or len(text) > MAX_PARSED:
        return prefix + completion
    answers = answers_of(text)
    regions = [*answers, text]
    fenced = [(region, fences_of(region)) for region in regions]

    def candidates():
        yield prefix + text
        yield text.lstrip()  # some tokenizers begin every answer with a space
        yield from (prefix + answer for answer in answers)
        for _, fences in fenced:
            for known in (True, False):  # those of Python first
                for fence in reversed(fences):
                    if known == fence.language.startswith("py"):
                        yield from fence.contents
                        if prefix:
                            yield from (prefix + content for content in fence.contents)
        yield from (prefix + region[: fences[0].start] for region, fences in fenced if fences)

    for number, source in enumerate(candidates()):
        if is_program(source, entry_point):
            return source
        if number == MAX_CANDIDATES:
            break
    region, fences = fenced[0]
    python = [fence for fence in fences if fence.language.startswith("py")] or fences
    return python[-1].contents[0] if python else prefix + region


def standalone(task: dict, program: str) -> str:
    """A program for harnesses that know no preamble: after the task's `preamble`, unless the
    program goes on from the task's `prefix`, which has all that the preamble has."""
    preamble, prefix = task.get("preamble") or "", task.get("prefix") or ""
    if not preamble or (prefix and program.startswith(prefix)):
        return program
    future = [  # such imports stand before everything else
        node.end_lineno
        for node in statements_of(program) or ()
        if isinstance(node, ast.ImportFrom) and node.module == "__future__"
    ]
    lines, start = lines_of(program), max(future, default=0)
    return "".join([*lines[:start], preamble.rstrip("\n") + "\n", *lines[start:]])
