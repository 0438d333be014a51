"""What is proposed for a block: a compound statement with its body, or the body of a function."""

import ast
import random
import re
from collections.abc import Iterator, Sequence

from teachers.expressions import negated
from teachers.lines import independent, line_proposals
from teachers.patterns import filled, matches, parsed
from teachers.program import Program, names_in
from teachers.rules import BLOCK_MUTATIONS, BLOCK_REFACTORINGS
from teachers.splice import splice
from teachers.units import HEADERS, Unit, is_elif, line_units, make_unit


def is_set(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store)


def block_proposals(
    program: Program, unit: Unit, donors: Sequence[str], rng: random.Random
) -> Iterator[tuple]:
    """(operator, intent, change) for one block: of several of its lines, and of its structure."""
    inner = [line for line in line_units(program) if unit.start <= line.start]
    inner = [line for line in inner if line.end <= unit.end]
    for intent in ("mutate", "refactor") * 4 if len(inner) > 1 else ():
        lines, changed = program.lines[: unit.end], 0
        drawn = rng.sample(inner, min(len(inner), 3))
        for line in sorted(drawn, key=lambda line: -line.start):
            proposals = line_proposals(program, line, (), rng)
            changes = [change for _, meant, change in proposals if meant == intent]
            start, end, text, form = pick_spliced(program, line, changes, rng)
            if form and changed < 2 and end <= unit.end:
                lines[start - 1 : end] = text.splitlines(keepends=True)
                changed += 1
        if changed > 1:
            text = "".join(lines[unit.start - 1 :])
            yield "several lines", intent, (unit.start, unit.end, text, f"several {text}")
    statement = unit.statements[0]
    if type(statement) in HEADERS and len(unit.statements) == 1:
        yield from structure_changes(program, unit, statement)
        yield from block_rules(program, statement)


def pick_spliced(program: Program, unit: Unit, changes: list, rng: random.Random) -> tuple:
    """One of the changes of edits, spliced in; form None where there is none."""
    edits = [change for change in changes if isinstance(change, list)]
    result = splice(program, unit, rng.choice(edits)) if edits else (0, 0, "", None)
    return result if result[3] != unit.form else (0, 0, "", None)


def structure_changes(program: Program, unit: Unit, statement: ast.stmt) -> Iterator[tuple]:
    """The block left out, without its header, without its `else`, its branches exchanged, moved."""
    start, end, lines, block = unit.start, unit.end, program.lines, program.block[statement]

    def change(operator: str, intent: str, text: str, last: int = end) -> tuple:
        return operator, intent, (start, last, text, f"{operator} {text}")

    yield change("delete", "mutate", "" if len(block) > 1 else f"{unit.indent}pass\n")
    following = block[block.index(statement) + 1 :]
    if following and not isinstance(following[0], ast.Return):
        first, last = following[0].lineno, following[0].end_lineno
        moved = [*lines[first - 1 : last], *lines[end : first - 1], *lines[start - 1 : end]]
        intent = "refactor" if independent(statement, following[0]) else "mutate"
        yield change("swap", intent, "".join(moved), last)
    body, other = getattr(statement, "body", []), getattr(statement, "orelse", [])
    if not body or body[0].lineno <= start or isinstance(statement, ast.Try | ast.TryStar):
        return
    deeper = re.match(r"[ \t]*", lines[body[0].lineno - 1])[0]
    inside = lines[body[0].lineno - 1 : body[-1].end_lineno]
    bare = "".join(unit.indent + line.removeprefix(deeper) for line in inside)
    header = "".join(lines[start - 1 : body[0].lineno - 1])
    if not other:
        yield change("unwrap", "mutate", bare)
    else:
        yield change("else", "mutate", header + "".join(inside))
    has_else = isinstance(statement, ast.If) and other and not is_elif(program, other[0])
    if has_else and other[0].lineno > body[-1].lineno + 1:
        outside = lines[other[0].lineno - 1 : end]
        branches = "".join([*outside, f"{unit.indent}else:\n", *inside])
        yield change("branches", "mutate", header + branches)
        line = next(line for line in line_units(program) if line.start == start)
        negation = [(statement.test, negated(program, statement.test))]
        *_, text, form = splice(program, line, negation)
        if form:
            yield change("branches", "refactor", text + branches)
    match statement:
        case ast.For(
            target=ast.Name(id=name),
            iter=ast.Call(func=ast.Name(id="range"), args=[*low, high]),
            orelse=[],
        ):
            nodes = [node for part in body for node in ast.walk(part)]
            loose = any(isinstance(node, ast.Continue) or is_set(node, name) for node in nodes)
            if len(low) < 2 and not loose:
                begin = f"{unit.indent}{name} = {program.text(low[0]) if low else 0}\n"
                test = f"{unit.indent}while {name} < {program.text(high)}:\n"
                text = "".join([begin, test, *inside, f"{deeper}{name} += 1\n"])
                yield change("while", "refactor", text)


def block_rules(program: Program, statement: ast.stmt) -> Iterator[tuple]:
    """Rules for several statements, where this one is the compound statement of the pattern."""
    block = program.block[statement]
    for intent, table in ("mutate", BLOCK_MUTATIONS), ("refactor", BLOCK_REFACTORINGS):
        for operator, wanted, rewrites in parsed(table):
            offset = next(index for index, node in enumerate(wanted) if type(node) in HEADERS)
            first = block.index(statement) - offset
            window, found = block[max(first, 0) : first + len(wanted)], {}
            if first < 0 or not matches(wanted, window, found, program.kinds):
                continue
            parts_read = [found[letter] for letter in "CD" if letter in found]
            names_read = [name.id for part in parts_read for name in names_in(part)]
            if operator == "loop" and found["V"].id in names_read:
                continue  # the loop looks at what it has built so far
            unit = make_unit(program, window[0].lineno, window[-1].end_lineno, window)
            span = program.span(window[0])[0], program.span(window[-1])[1]
            for parts in filled(program, span, rewrites, found):
                yield operator, intent, splice(program, unit, [(span, parts)])
