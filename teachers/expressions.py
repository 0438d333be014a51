"""Changes inside one line of a program: the rules of rules.py, and what no rule can say.

Each function yields (operator, intent, edits) for a node. To add such a change, write a function
and name it in EDITORS under the type of node that it is about; patterns.py says what an edit is.
"""

import ast
import random
import re
from collections.abc import Iterator
from itertools import pairwise

from teachers.patterns import (
    OPERATOR,
    filled,
    matches,
    number,
    respaced,
    rules_by_shape,
    shape,
    shifted,
    tight,
)
from teachers.program import FUNCTIONS, Program, arguments, called, kind, names_in
from teachers.rules import SIBLINGS

FAMILIES = [family.split() for family in re.split(r"\n| {2,}", SIBLINGS)]
OPPOSITES = {
    **{ast.Lt: ">=", ast.LtE: ">", ast.Gt: "<=", ast.GtE: "<", ast.Eq: "!=", ast.NotEq: "=="},
    **{ast.In: "not in", ast.NotIn: "in", ast.Is: "is not", ast.IsNot: "is"},
}


def rule_edits(program: Program, node: ast.AST) -> Iterator[tuple]:
    """The changes that the tables of rules.py have for a node."""
    for operator, intent, pattern, rewrites in rules_by_shape().get(shape(node), ()):
        found: dict = {}
        if intent == "test" and not is_test(program, node):
            continue
        if matches(pattern, node, found, program.kinds):
            for parts in filled(program, node, rewrites, found):
                yield operator, "refactor" if intent == "test" else intent, [(node, parts)]


def is_test(program: Program, node: ast.AST) -> bool:
    """Whether only the truth of the value counts here."""
    above = program.parent.get(node)
    if isinstance(above, ast.BoolOp):
        return is_test(program, above)
    if isinstance(above, ast.UnaryOp):
        return isinstance(above.op, ast.Not)
    return getattr(above, "test", None) is node or node in getattr(above, "ifs", ())


def negated(program: Program, node: ast.expr) -> list:
    """Parts for the negation of a condition."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return [node.operand]
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        opposite = OPPOSITES[type(node.ops[0])]
        return [node.left, respaced(f" {opposite} ", program.text(node)), node.comparators[0]]
    return ["not ", node]


def interleaved(values: list, text: str) -> list:
    return [part for value in values for part in (text, value)][1:]


def boolean_edits(program: Program, node: ast.BoolOp, rng: random.Random) -> Iterator[tuple]:
    """The other connective, an operand left out, operands exchanged, a negation, De Morgan."""
    here, there = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
    first, second, *rest = node.values
    yield "boolean", "mutate", [(node, interleaved(node.values, f" {there} "))]
    for left_out in range(len(node.values)):
        values = node.values[:left_out] + node.values[left_out + 1 :]
        yield "boolean", "mutate", [(node, interleaved(values, f" {here} "))]
    exchanged = [(program.outer(first), [second]), (program.outer(second), [first])]
    yield "commute", "refactor", exchanged
    if is_test(program, node):
        yield "negate", "mutate", [(node, ["not (", program.span(node), ")"])]
        if not rest:
            inner = [*negated(program, first), f" {there} ", *negated(program, second)]
            yield "de morgan", "refactor", [(node, ["not (", *inner, ")"])]


def test_edits(program: Program, node: ast.expr, rng: random.Random) -> Iterator[tuple]:
    """A call or a variable that is a condition, negated. (Comparisons have their own rules.)"""
    if is_test(program, node):
        yield "negate", "mutate", [(node, ["not ", node])]


def constant_edits(program: Program, nodes: list, rng: random.Random) -> Iterator[tuple]:
    """A literal off by one, zero, of the other sign, emptied, or another literal of the program.

    Equal numbers of a line change one by one, and all at once.
    """
    numbers: dict = {}
    negative = [node for node in nodes if isinstance(node, ast.UnaryOp)]
    inner = {node.operand for node in negative if isinstance(node.op, ast.USub)}
    for node in nodes:
        value = number(node)
        if value is not None and node not in inner:
            numbers.setdefault(value, []).append(node)
            above = program.parent[node]
            # x - 0, x % 0 and [::0] would be odd.
            right = node in (getattr(above, "right", None), getattr(above, "step", None))
            for changed in (value + 1, value - 1, 0, -value):
                if not right or changed > 0:
                    yield "constant", "mutate", [(node, [str(round(changed, 6))])]
        elif node in program.strings:
            others = [other for other in program.strings if other.value != node.value]
            quote = program.text(node)[-1]
            yield "constant", "mutate", [(node, [quote * 2 if node.value else f"{quote} {quote}"])]
            if others:
                yield "constant", "mutate", [(node, [rng.choice(others)])]
    for value, equal in numbers.items():
        for changed in (value + 1, value - 1, -value) if len(equal) > 1 else ():
            yield "constant", "mutate", [(node, [str(changed)]) for node in equal]


def variable_edits(program: Program, node: ast.Name, rng: random.Random) -> Iterator[tuple]:
    """Another variable that exists here, of the same kind as far as kinds are known."""
    above, kinds = program.parent[node], program.kinds
    if node.id not in program.variable_names:
        return
    if not isinstance(above, ast.stmt | ast.expr | ast.keyword):
        return
    stored = isinstance(node.ctx, ast.Store)
    if stored and not isinstance(above, ast.Assign | ast.AugAssign):
        return
    names = [name for name in program.variables(node) if name in program.variable_names]
    names = [name for name in names if kinds.get(name) == kinds.get(node.id) and name != node.id]
    for name in rng.sample(names, min(len(names), 1 if stored else 2)):
        yield "variable", "mutate", [(node, [name])]


def sibling_edits(
    program: Program, node: ast.Name | ast.Attribute, rng: random.Random
) -> Iterator[tuple]:
    """One function or method of a family in place of another."""
    is_name = isinstance(node, ast.Name)
    name = node.id if is_name else node.attr
    if is_name and name in program.variable_names:
        return
    above = program.parent[node]
    single = isinstance(above, ast.Call) and len(above.args) == 1 and not above.keywords
    families = [family for family in FAMILIES if name in family]
    for other in dict.fromkeys(other for family in families for other in family):
        if other != name and (other != "sum" or single):
            parts = [other] if is_name else [node.value, f".{other}"]
            yield "sibling", "mutate", [(node, parts)]


def argument_edits(program: Program, node: ast.Call, rng: random.Random) -> Iterator[tuple]:
    """Arguments exchanged, left out, or off by one."""
    name, args = called(node), node.args
    spans = [program.outer(argument) for argument in args]
    for one, two in pairwise(args):
        if name not in ("min", "max", "gcd") and (name != "range" or one is args[0]):
            yield "argument", "mutate", [(program.outer(one), [two]), (program.outer(two), [one])]
    if len(args) > 1 and name not in ("min", "max", "range"):
        for index, (start, end) in enumerate(spans):
            with_comma = (spans[index - 1][1], end) if index else (start, spans[1][0])
            yield "argument", "mutate", [(with_comma, [""])]
    for argument in args if name != "range" else ():
        if kind(argument, program.kinds) == "number" and number(argument) is None:
            compact = tight(OPERATOR, program.text(node))
            for how in ("next", "prev"):
                yield "argument", "mutate", [(argument, shifted(argument, how, compact))]


def parameter_edits(program: Program, node: ast.arguments, rng: random.Random) -> Iterator[tuple]:
    """Two parameters of a function in the wrong order."""
    for one, two in pairwise(node.args):
        if isinstance(program.parent[node], FUNCTIONS) and one.arg != "self":
            yield "parameters", "mutate", [(one, [two]), (two, [one])]


def iterable_edits(
    program: Program, node: ast.For | ast.comprehension, rng: random.Random
) -> Iterator[tuple]:
    """A loop that misses the first or the last element."""
    if isinstance(node.iter, ast.Name | ast.Attribute | ast.Subscript):
        for bounds in ("[1:]", "[:-1]"):
            yield "iterable", "mutate", [(node.iter, [node.iter, bounds])]


def rename_edits(program: Program, node: ast.expr, rng: random.Random) -> Iterator[tuple]:
    """Another name for a variable of a comprehension or lambda, which lives on this line alone."""
    scopes = [child for child in ast.walk(node) if is_scope(child)]
    if len(scopes) > 1:  # the same name may mean two things
        return
    if isinstance(node, ast.Lambda):
        declared = {argument.arg: [argument] for argument in arguments(node)}
    else:
        outside = {name.id for name in names_in(node.generators[0].iter)}
        targets = [name.id for part in node.generators for name in names_in(part.target)]
        declared = {name: [] for name in targets if name not in outside}
    for name, argument in declared.items():
        occurrences = [child for child in names_in(node) if child.id == name] + argument
        for new in program.short[:2]:
            yield "rename", "refactor", [(occurrence, [new]) for occurrence in occurrences]


def is_scope(node: ast.AST) -> bool:
    """Whether a node is a lambda or a comprehension."""
    return isinstance(node, ast.Lambda) or hasattr(node, "generators")


def extract_edits(program: Program, statement: ast.stmt) -> Iterator[tuple]:
    """A part of the expression computed on a line of its own before the statement.

    Only parts that are evaluated in any case are moved.
    """
    if not isinstance(statement, ast.Return | ast.Assign | ast.AugAssign | ast.Expr):
        return
    if not statement.value:
        return
    start, end = program.span(statement)
    stack, found = [statement.value], []
    while stack:
        node = stack.pop(0)
        if isinstance(node, ast.BinOp | ast.Call) and node is not statement.value:
            found.append(node)
        if not (isinstance(node, ast.BoolOp | ast.IfExp | ast.JoinedStr) or is_scope(node)):
            stack += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
    for node in found[:2]:
        low, high = program.outer(node)
        rest = [(start, low), program.fresh, (high, end)]
        yield "temporary", "refactor", [(statement, [f"{program.fresh} = ", node, "\n", *rest])]


COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)
# Functions (program, node, rng) -> (operator, intent, edits), by the type of node.
EDITORS = {
    ast.BoolOp: (boolean_edits,),
    ast.Name: (variable_edits, sibling_edits, test_edits),
    ast.Attribute: (sibling_edits,),
    ast.Call: (argument_edits, test_edits),
    ast.arguments: (parameter_edits,),
    ast.For: (iterable_edits,),
    ast.comprehension: (iterable_edits,),
    **dict.fromkeys((*COMPREHENSIONS, ast.Lambda), (rename_edits,)),
}
