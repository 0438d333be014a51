"""What the teachers rewrite: a Unit, a line or block of a program; a Variant takes its place."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from teachers.program import FUNCTIONS, Program, source_lines

HEADERS = {  # compound statements, and the fields that stand before the colon
    **dict.fromkeys((ast.If, ast.While), ("test",)),
    **dict.fromkeys((ast.For, ast.AsyncFor), ("target", "iter")),
    **dict.fromkeys((ast.With, ast.AsyncWith), ("items",)),
    **dict.fromkeys(FUNCTIONS, ("args",)),
    **{ast.Match: ("subject",), ast.ClassDef: (), ast.Try: (), ast.TryStar: ()},
}


SKIPPED = (ast.Import, ast.ImportFrom, ast.Global, ast.Nonlocal)


@dataclass(frozen=True)
class Variant:
    """Lines `start` to `end` of a program (1-based, inclusive) replaced by `text`."""

    start: int
    end: int  # start - 1: `text` is inserted before line `start`
    text: str  # whole lines, each with its newline; "" deletes the lines
    operator: str
    intent: str  # "mutate" or "refactor": what the teacher meant, never a label

    def apply(self, source: str) -> str:
        """The changed program."""
        lines = source_lines(source)
        return "".join([*lines[: self.start - 1], self.text, *lines[self.end :]])

    def label_line(self, source: str) -> int | None:
        """0-based index of the line of the changed program that carries the label.

        It is the last line that came in. A deletion shows at the next line of code, or nowhere
        (None).
        """
        if self.text:
            return self.start - 2 + self.text.count("\n")
        lines = source_lines(self.apply(source))
        for index, line in enumerate(lines[self.start - 1 :], self.start - 1):
            if line.strip() and not line.lstrip().startswith("#"):
                return index
        return None


@dataclass
class Unit:
    """Lines of the program that a variant replaces."""

    start: int
    end: int
    statements: list[ast.stmt]  # more than one where statements share a line: `a = 1; b = 2`
    indent: str
    alone: bool  # its statements share no line, so that more lines can take their place
    before: str = ""  # with these two around it, the unit is a program of its own
    after: str = ""
    form: str | None = None  # dump of that program


def make_unit(program: Program, start: int, end: int, statements: list) -> Unit:
    """The unit, with the surroundings in which its lines parse alone."""
    text = "".join(program.lines[start - 1 : end])
    indent = re.match(r"[ \t]*", text)[0]
    opened = "if 1:\n" if indent else ""
    alone = program.span(statements[0])[0] == program.starts[start - 1] + len(indent)
    alone = alone and all(one.end_lineno < two.lineno for one, two in pairwise(statements))
    unit = Unit(start, end, statements, indent, alone)
    for unit.before in (
        opened,
        f"{opened}{indent}if 0:\n{indent} pass\n",
        f"{opened}{indent}try:\n{indent} pass\n",
    ):
        for unit.after in ("", f"{indent} pass\n"):
            unit.form = form_of(unit, text)
            if unit.form:
                return unit
    unit.before, unit.after = "".join(program.lines[: start - 1]), "".join(program.lines[end:])
    unit.form = form_of(unit, text)
    return unit


def form_of(unit: Unit, text: str) -> str | None:
    """What the lines parse to in the place of the unit; None where they do not parse."""
    try:
        return ast.dump(ast.parse(unit.before + text + unit.after))
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None


def compiles(source: str) -> bool:
    try:
        return bool(compile(source, "variant", "exec", dont_inherit=True))
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False


@lru_cache(maxsize=8)
def line_units(program: Program) -> list[Unit]:
    """One unit for each simple statement and each header of a compound one.

    Imports and docstrings have none. Statements that share a line are one unit.
    """
    spans: list[list] = []
    for statement in sorted(program.block, key=lambda node: (node.lineno, node.col_offset)):
        if isinstance(statement, SKIPPED) or is_docstring(statement):
            continue
        end = header_end(program, statement) if type(statement) in HEADERS else statement.end_lineno
        if spans and statement.lineno <= spans[-1][1]:
            spans[-1][1] = max(end, spans[-1][1])
            spans[-1][2].append(statement)
        else:
            spans.append([statement.lineno, end, [statement]])
    return [make_unit(program, *span) for span in spans]


def block_units(program: Program) -> list[Unit]:
    """One unit for each compound statement, and one for each body of a function.

    An `elif` belongs to its `if`.
    """
    units = []
    for statement in program.block:
        if isinstance(statement, FUNCTIONS):
            body = [child for child in statement.body if not is_docstring(child)]
            if len(body) > 1 and body[0].lineno > header_end(program, statement):
                units.append(make_unit(program, body[0].lineno, body[-1].end_lineno, body))
        elif type(statement) in HEADERS and not (
            isinstance(statement, ast.ClassDef) or is_elif(program, statement)
        ):
            units.append(make_unit(program, statement.lineno, statement.end_lineno, [statement]))
    return units


def is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def is_elif(program: Program, statement: ast.stmt) -> bool:
    return program.source.startswith("elif", program.span(statement)[0])


def header_end(program: Program, statement: ast.stmt) -> int:
    """The line of the colon that ends the header of a compound statement."""
    ends = [program.span(statement)[0]]
    for name in (*HEADERS[type(statement)], "returns"):
        value = getattr(statement, name, None)
        for part in value if isinstance(value, list) else [value] if value else []:
            ends += [program.span(node)[1] for node in ast.walk(part) if hasattr(node, "lineno")]
    return program.source.count("\n", 0, program.source.index(":", max(ends))) + 1


def own_nodes(statement: ast.stmt) -> Iterator[ast.AST]:
    """The statement and the nodes of its own line; f-strings are leaves, annotations left out."""
    stack = [statement]
    while stack:
        node = stack.pop()
        yield node
        if not isinstance(node, ast.JoinedStr):
            for name in HEADERS.get(type(node), node._fields):
                value = getattr(node, name, None)
                if isinstance(value, ast.AST | list) and name not in ("annotation", "returns"):
                    stack += filter(None, value if isinstance(value, list) else [value])
