"""Rules at work: the tables of rules.py parsed, patterns matched, rewrites filled.

A change of a unit is a list of edits. An edit is a node (or a span), and the parts that replace its
text: strings as they are, and nodes (or spans) of the program as copies of their text.
"""

import ast
import re
from collections.abc import Iterator
from functools import lru_cache

from teachers.program import Program, kind
from teachers.rules import MUTATIONS, REFACTORINGS, TEST_REFACTORINGS

SEQUENCES = ("list", "str", "sequence")
OPERATOR = r"(?:[<>=!]=|\*\*|//|[-+*/%<>&|^])"
# A rewrite as (text, letter, suffix), again and again.
PARTS = re.compile(r"(.*?)(?:\b([A-Z])(next|prev|neg)?\b|$)", re.DOTALL)


@lru_cache
def parsed(table: str) -> list[tuple[str, list[ast.stmt], list[str]]]:
    """(operator, pattern, rewrites) for every rule of a table."""
    found = []
    for line in table.strip().splitlines():
        operator, _, entries = line.partition("  ")
        for entry in re.split(r" {3,}", entries.strip()):
            entry = entry.replace("\\n", "\n").replace("\\t", "    ")
            parts = re.split(r" (<?)-> ", entry)
            if len(parts) != 3:
                raise ValueError(
                    f"teachers/rules.py: not one `pattern -> rewrite` in {entry!r} of {line!r}; "
                    "two or more spaces end the operator's name, rules stand three or more apart"
                )
            left, both_ways, right = parts
            found.append((operator, ast.parse(left).body, right.split(" ; ")))
            if both_ways:
                found.append((operator, ast.parse(right).body, [left]))
    return found


@lru_cache
def rules_by_shape() -> dict[tuple, list]:
    """{shape of the pattern's root: [(operator, intent, pattern, rewrites)]}, for single nodes."""
    table: dict[tuple, list] = {}
    tables = {"mutate": MUTATIONS, "refactor": REFACTORINGS, "test": TEST_REFACTORINGS}
    for intent, text in tables.items():
        for operator, (node,), rewrites in parsed(text):
            # A pattern that is an expression matches anywhere, unless the rewrite is a statement.
            statement = any("\n" in rewrite or "+= " in rewrite for rewrite in rewrites)
            node = node.value if isinstance(node, ast.Expr) and not statement else node
            table.setdefault(shape(node), []).append((operator, intent, node, rewrites))
    return table


def shape(node: ast.AST) -> tuple:
    """Type and operator of a node: what a pattern and its matches share, whatever stands inside."""
    operator = node.ops[0] if isinstance(node, ast.Compare) else getattr(node, "op", None)
    return type(node), type(operator)


def matches(pattern, node, found: dict, kinds: dict) -> bool:
    """Whether `node` has the form of `pattern`; fills `found` with the parts behind the letters."""
    letter = as_text(pattern) if isinstance(pattern, ast.Name | str) else ""
    if len(letter) == 1 and letter.isupper():
        if not suits(letter, node, kinds):
            return False
        known = found.setdefault(letter, node)
        return known is node or as_text(known) == as_text(node)
    if isinstance(pattern, list):
        return len(pattern) == len(node) and all(
            matches(p, n, found, kinds) for p, n in zip(pattern, node, strict=True)
        )
    if isinstance(pattern, ast.AST):
        return type(pattern) is type(node) and all(
            matches(getattr(pattern, name), getattr(node, name), found, kinds)
            for name in pattern._fields
            if name not in ("ctx", "kind", "type_comment")
        )
    return type(pattern) is type(node) and pattern == node


def suits(letter: str, node, kinds: dict) -> bool:
    """Whether a letter of a pattern may stand for this node; rules.py lists the letters."""
    if isinstance(node, str) or letter == "V":
        return letter == "V" and isinstance(node, str | ast.Name)
    if not isinstance(node, ast.expr) or isinstance(node, ast.Slice | ast.Starred):
        return False
    if letter == "N":
        return isinstance(node, ast.Constant) and type(node.value) is int
    if letter == "X":
        return not isinstance(node, ast.Constant | ast.Name)
    if letter == "Q" and isinstance(node, ast.Constant):
        return False
    known = kind(node, kinds) if letter in "KQSGPR" else None
    wanted = {"K": ("number",), "Q": ("bool",), "S": SEQUENCES, "G": ("list",)}.get(letter)
    return known in wanted if wanted else not (letter in "PR" and known in SEQUENCES)


def as_text(part: ast.AST | str) -> str:
    """What a part of a rule says; a name is the same whether it is read or set."""
    if isinstance(part, str):
        return part
    return part.id if isinstance(part, ast.Name) else ast.unparse(part)


def filled(program: Program, node, rewrites: list[str], found: dict) -> Iterator[list]:
    """The parts of each rewrite, in the spacing of the text that it replaces."""
    start, end = program.span(node)
    examples = program.source[start:end], program.lines[program.source.count("\n", 0, start)]
    for rewrite in rewrites:
        if program.shadowed.intersection(re.findall(r"\w+", rewrite)):
            continue  # it calls `sum`, and the program has a variable of that name
        parts = []
        for text, letter, how in PARTS.findall(rewrite):
            parts.append(respaced(text, *examples))
            if how:
                parts += shifted(found[letter], how, tight(OPERATOR, *examples))
            elif letter:
                parts.append(program.fresh if letter == "T" else found[letter])
        yield parts


def tight(token: str, *texts: str) -> bool:
    """Whether such tokens have no spaces around them, by the first of the texts that has any."""
    for text in texts:
        if re.search(rf" {token} |{token} " if token == "," else rf" {token} ", text):
            return False
        if re.search(rf"[\w)\]]{token}[\w(\[]", text):
            return True
    return False


def respaced(text: str, *examples: str) -> str:
    """Text of a rewrite, without spaces at operators or commas where the examples have none."""
    if tight(OPERATOR, *examples):
        text = re.sub(rf" ({OPERATOR}) ", r"\1", text)
    return text.replace(", ", ",") if tight(",", *examples) else text


def shifted(node: ast.expr, how: str, compact: bool) -> list:
    """Parts for node + 1, node - 1 or -node as a person writes them: 3 for 2 + 1."""
    step = {"next": 1, "prev": -1}.get(how)
    value = number(node)
    if value is not None:
        return [str(-value if step is None else value + step)]
    if step is None:
        return ["-", node]
    left, added = node, step
    match node:
        case ast.BinOp(op=ast.Add()) if type(number(node.right)) is int:
            left, added = node.left, step + number(node.right)
        case ast.BinOp(op=ast.Sub()) if type(number(node.right)) is int:
            left, added = node.left, step - number(node.right)
    sign = "+" if added > 0 else "-"
    return [left, sign if compact else f" {sign} ", str(abs(added))] if added else [left]


def number(node) -> int | float | None:
    """The value of a number literal, signed or not."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = number(node.operand)
        return None if value is None else -value
    is_number = isinstance(node, ast.Constant) and type(node.value) in (int, float)
    return node.value if is_number else None
