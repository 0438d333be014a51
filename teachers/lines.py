"""What is proposed for a line: changes of its expressions, and of the statement as a whole."""

import ast
import random
from collections.abc import Iterator, Sequence
from functools import lru_cache

from teachers.expressions import EDITORS, constant_edits, extract_edits, rule_edits
from teachers.program import BUILTINS, Program, names_in
from teachers.units import HEADERS, SKIPPED, Unit, form_of, is_docstring, own_nodes


def line_proposals(
    program: Program, unit: Unit, donors: Sequence[str], rng: random.Random
) -> Iterator[tuple]:
    """(operator, intent, change) for one line.

    A change is a list of edits (patterns.py), or what `splice` returns for one: (start, end, text,
    form). Equal forms are the same change.
    """
    for statement in unit.statements:
        nodes = list(own_nodes(statement))
        for node in nodes:
            yield from rule_edits(program, node)
            for edits in EDITORS.get(type(node), ()):
                yield from edits(program, node, rng)
        yield from constant_edits(program, nodes, rng)
        yield from extract_edits(program, statement)
    if unit.alone and len(unit.statements) == 1 and type(unit.statements[0]) not in HEADERS:
        yield from statement_changes(program, unit, donors, rng)


def statement_changes(
    program: Program, unit: Unit, donors: Sequence[str], rng: random.Random
) -> Iterator[tuple]:
    """The statement deleted, doubled, exchanged with the next one, or replaced by another one.

    Other statements come from the program and from the donors, or stand before this one.
    """
    (statement,) = unit.statements
    start, end, block = unit.start, unit.end, program.block[statement]
    text = "".join(program.lines[start - 1 : end])
    if len(block) > 1:
        yield "delete", "mutate", (start, end, "", f"delete {start}")
    elif not isinstance(statement, ast.Pass):
        yield "delete", "mutate", (start, end, f"{unit.indent}pass\n", "pass")
    needs, sets = names_used(statement)
    # Other statements do nothing when they run twice.
    if isinstance(statement, ast.AugAssign | ast.Expr) or needs & sets:
        yield "insert", "mutate", (end + 1, end, text, f"twice {start}")
    following = block[block.index(statement) + 1 :]
    if following and is_simple(following[0]) and following[0].lineno > end:
        first, last = following[0].lineno, following[0].end_lineno
        if len(following) == 1 or following[1].lineno > last:
            swapped = [*program.lines[first - 1 : last], *program.lines[end : first - 1], text]
            intent = "refactor" if independent(statement, following[0]) else "mutate"
            yield "swap", intent, (start, last, "".join(swapped), f"swap {start}")

    variables = program.variables(statement)
    names = program.defined.union(variables)
    foreign = [lent_by_donor(rng.choice(donors)) for _ in range(30 if donors else 0)]
    for operator, pools in ("replace", [lent_by(program)] * 30), ("donor", foreign):
        picks = [rng.choice(pool) for pool in pools if pool]
        picks.sort(key=lambda pick: not pick[1])  # `return total`, which needs a name, comes first
        fitting = {lent: sets for lent, needs, sets in picks if needs <= names and lent not in text}
        for lent in list(fitting)[:2]:
            line = f"{unit.indent}{lent}\n"
            yield operator, "mutate", (start, end, line, form_of(unit, line))
        felt = [lent for lent, sets in fitting.items() if sets.intersection(variables) or not sets]
        for lent in felt[-1:] if operator == "donor" else ():
            yield "insert", "mutate", (start, start - 1, f"{unit.indent}{lent}\n", f"insert {lent}")


def is_simple(statement: ast.stmt) -> bool:
    """Whether a statement may change places: neither compound, nor an import, nor a return."""
    return type(statement) not in (*HEADERS, *SKIPPED, ast.Return)


def independent(one: ast.stmt, two: ast.stmt) -> bool:
    """Whether two statements only assign, and neither touches what the other one sets."""
    effects = (ast.Expr, ast.Return, ast.Break, ast.Continue, ast.Raise, *SKIPPED)
    if any(isinstance(node, effects) for statement in (one, two) for node in ast.walk(statement)):
        return False
    (needs, sets), (other_needs, other_sets) = names_used(one), names_used(two)
    return not (sets & (other_needs | other_sets) or other_sets & needs)


@lru_cache(maxsize=100_000)
def lent_by_donor(source: str) -> list[tuple[str, frozenset, frozenset]]:
    """`lent_by` for another program; nothing if it does not parse."""
    try:
        return lent_by(Program(source))
    except ValueError:
        return []


@lru_cache(maxsize=8)
def lent_by(program: Program) -> list[tuple[str, frozenset, frozenset]]:
    """(text, names that it needs, names that it sets) of a program's simple one-line statements."""
    simple = [node for node in program.block if type(node) not in (*HEADERS, *SKIPPED, ast.Pass)]
    lent = {program.text(node): names_used(node) for node in simple if not is_docstring(node)}
    free = BUILTINS - program.shadowed  # where the lender sets `sum`, `return sum` needs a variable
    return [(text, needs - free, sets) for text, (needs, sets) in lent.items() if "\n" not in text]


def names_used(statement: ast.stmt) -> tuple[frozenset, frozenset]:
    """The names that must exist before a statement runs, and those whose values it sets."""
    needs, sets, inner = set(), set(), set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Name):
            (needs if isinstance(node.ctx, ast.Load) else sets).add(node.id)
        elif isinstance(node, ast.AugAssign):
            needs |= {name.id for name in names_in(node.target)}
            sets |= {name.id for name in names_in(node.target)}
        elif isinstance(node, ast.Assign):
            sets |= {name.id for target in node.targets for name in names_in(target)}
        elif isinstance(node, ast.comprehension):
            inner |= {name.id for name in names_in(node.target)}
        elif isinstance(node, ast.arg):
            inner.add(node.arg)
    return frozenset(needs - inner), frozenset(sets - inner)
