"""A parsed program, and what the embedded teacher asks of it: text, parents, variables, kinds."""

import ast
import builtins
import re
from functools import cache
from itertools import accumulate

# The kind of a literal, and of what a call returns; see `kind`.
LITERAL_KINDS = {int: "number", float: "number", bool: "bool", str: "str", bytes: "str"}
KINDS_OF_CALLS = {
    "number": "len sum int abs round float pow ord count index find sqrt floor",
    "list": "list sorted split",
    "dict": "dict defaultdict Counter",
    "str": "str join lower upper strip replace chr format",
    "bool": "bool isinstance any all startswith endswith isdigit isalpha isupper islower",
}
NEW_VARIABLES = ("result", "value", "total", "temp", "output", "current", "answer")
SHORT_NAMES = ("x", "item", "i", "elem", "v", "k")  # for variables of comprehensions and lambdas
BUILTINS = frozenset(dir(builtins))
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
NUMERIC = ast.Sub | ast.Div | ast.FloorDiv | ast.Pow  # operators of numbers alone


class Program:
    """A parsed program. Raises ValueError for a source that does not parse.

    parent: {node: node above}. block: {statement: the list of statements that it stands in}.
    fresh: a name that the program does not use; short: short ones of this kind.
    variable_names, defined: names that it sets, and names of its functions, classes and imports.
    shadowed: builtins that it redefines. strings: its string literals. kinds: see kinds_of_names.
    """

    def __init__(self, source: str):
        if re.search(r"\r(?!\n|$)", source):
            raise ValueError(
                "the source has a carriage return inside a line; its line ends must be newlines"
            )
        try:
            self.tree = ast.parse(source)
        except (SyntaxError, ValueError) as error:  # ValueError: a null byte
            raise ValueError(f"the source does not parse: {error}") from None
        self.source, self.lines = source, source_lines(source)
        self.starts = [0, *accumulate(map(len, self.lines))]
        self.parent: dict[ast.AST, ast.AST] = {}
        self.block: dict[ast.AST, list] = {}
        for node in ast.walk(self.tree):
            for child in ast.iter_child_nodes(node):
                self.parent[child] = node
            for _, value in ast.iter_fields(node):
                if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                    self.block.update(dict.fromkeys(value, value))
        words = set(re.findall(r"\w+", source))
        self.fresh = next(
            name
            for name in (*NEW_VARIABLES, *(f"value_{n}" for n in range(len(words) + 1)))
            if name not in words
        )
        self.short = [name for name in SHORT_NAMES if name not in words]
        indents = (re.match(r"[ \t]*", line)[0] for line in self.lines)
        self.step = next(filter(None, indents), "    ")  # one level of indentation
        self.variable_names, self.defined, self.strings = set(), set(), []
        for node, above in self.parent.items():
            match node:
                case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                    self.variable_names.add(name)
                case (
                    ast.FunctionDef(name=name)
                    | ast.AsyncFunctionDef(name=name)
                    | ast.ClassDef(name=name)
                ):
                    self.defined.add(name)
                case ast.alias(name=name, asname=other):
                    self.defined.add(other or name.split(".")[0])
                case ast.Constant(value=str()) if not isinstance(above, ast.Expr | ast.JoinedStr):
                    self.strings.append(node)
        self.shadowed = BUILTINS & (self.variable_names | self.defined)
        self.bound = cache(bindings)
        self.kinds = kinds_of_names(self.tree)

    def span(self, node) -> tuple[int, int]:
        """Character offsets of a node; those of a span are the span itself."""
        if isinstance(node, tuple):
            return node
        start = self.offset(node.lineno, node.col_offset)
        return start, self.offset(node.end_lineno, node.end_col_offset)

    def offset(self, line: int, column: int) -> int:
        """Character offset of a place as `ast` gives it: the column counts UTF-8 bytes."""
        text = self.lines[line - 1]
        if not text.isascii():
            column = len(text.encode()[:column].decode())
        return self.starts[line - 1] + column

    def outer(self, node) -> tuple[int, int]:
        """The span of a node with the parentheses around it, those of the node above left out."""
        start, end = self.span(node)
        above = self.parent[node]
        while not hasattr(above, "lineno"):  # comprehension, arguments: nodes without a place
            above = self.parent.get(above, node)
        low, high = self.span(above)
        if isinstance(above, ast.Call) and node is not above.func:
            low, high = self.source.index("(", self.outer(above.func)[1]) + 1, high - 1
        while True:
            left, right = start - 1, end
            while left >= low and self.source[left] in " \t\n":
                left -= 1
            while right < high and self.source[right] in " \t\n":
                right += 1
            if left < low or right >= high or self.source[left] + self.source[right] != "()":
                return start, end
            start, end = left, right + 1

    def text(self, node) -> str:
        """The source of a node or span; an operand comes with the parentheses around it."""
        operand = isinstance(node, ast.expr) and not isinstance(self.parent[node], ast.stmt)
        start, end = self.outer(node) if operand else self.span(node)
        return self.source[start:end]

    def variables(self, node) -> list[str]:
        """Variables that exist at `node`: of earlier lines, arguments, comprehensions around it."""
        line, names, child = node.lineno, [], None
        while node in self.parent:
            above = self.parent[node]
            if isinstance(above, (*FUNCTIONS, ast.Lambda)) and node is not above.args:
                names += [argument.arg for argument in arguments(above)]
            elif hasattr(above, "generators") and not (
                isinstance(node, ast.comprehension) and child is node.iter
            ):
                names += [name.id for part in above.generators for name in names_in(part.target)]
            if isinstance(above, (*FUNCTIONS, ast.Module)):
                names += [name for name, bound_at in self.bound(above) if bound_at < line]
            node, child = above, node
        return list(dict.fromkeys(names))


def source_lines(source: str) -> list[str]:
    """The lines of a program, each with its newline."""
    return [line + "\n" for line in source.removesuffix("\n").split("\n")]


def names_in(node: ast.AST) -> list[ast.Name]:
    return [child for child in ast.walk(node) if isinstance(child, ast.Name)]


def called(node: ast.AST) -> str:
    """The name of the function or method that a call calls."""
    function = getattr(node, "func", None)
    return getattr(function, "id", "") or getattr(function, "attr", "")


def arguments(function) -> list[ast.arg]:
    args = function.args
    return [
        *args.posonlyargs,
        *args.args,
        *args.kwonlyargs,
        *filter(None, (args.vararg, args.kwarg)),
    ]


def bindings(scope: ast.AST) -> list[tuple[str, int]]:
    """(variable, line) of what a function or module assigns, inner scopes left out."""
    found, stack = [], list(scope.body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.append((node.id, node.lineno))
        elif not (
            isinstance(node, (*FUNCTIONS, ast.ClassDef, ast.Lambda)) or hasattr(node, "generators")
        ):
            stack += ast.iter_child_nodes(node)
    return sorted(found, key=lambda pair: pair[1])


def kinds_of_names(tree: ast.AST) -> dict[str, str]:
    """The kind of each name that only ever holds values of one kind, as far as the text shows."""
    kinds: dict[str, str] = {}
    for _ in range(2):  # the second round knows what the first one found
        seen: dict[str, set] = {}
        for node in ast.walk(tree):
            facts = []
            if isinstance(node, ast.Assign | ast.AugAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                facts = [(target, kind(node.value, kinds)) for target in targets]
            elif isinstance(node, ast.For | ast.comprehension) and called(node.iter) == "range":
                facts = [(node.target, "number")]
            elif called(node) == "range":
                facts = [(argument, "number") for argument in node.args]
            elif isinstance(node, ast.BinOp) and isinstance(node.op, NUMERIC):
                facts = [(node.left, "number"), (node.right, "number")]
            elif isinstance(node, ast.Compare) and kind(node.comparators[0], kinds) == "number":
                facts = [(node.left, "number")]
            elif isinstance(node, ast.Subscript):
                facts = [(node.value, "sequence")]
            for target, value in facts:
                if isinstance(target, ast.Name) and value:
                    seen.setdefault(target.id, set()).add(value)
        for values in seen.values():
            if len(values) > 1:
                values.discard("sequence")  # what is indexed may well be a list, a string or a dict
        kinds = {name: values.pop() for name, values in seen.items() if len(values) == 1}
    return kinds


def kind(node: ast.AST, names: dict[str, str]) -> str | None:
    """What an expression evaluates to, where its form tells.

    Returns "number", "bool", "list", "dict", "str", "sequence" (one of the last four), or None.
    names: the kinds of variables.
    """
    match node:
        case ast.Name(id=name):
            return names.get(name)
        case ast.Constant(value=value):
            return LITERAL_KINDS.get(type(value))
        case ast.JoinedStr() | ast.BinOp(left=ast.Constant(value=str()), op=ast.Mod()):
            return "str"
        case ast.List() | ast.ListComp():
            return "list"
        case ast.Dict() | ast.DictComp():
            return "dict"
        case ast.Tuple():
            return "sequence"
        case ast.Compare() | ast.UnaryOp(op=ast.Not()):
            return "bool"
        case ast.BoolOp(values=[first, second, *_]) if kind(first, names) == "bool":
            return kind(second, names)
        case ast.UnaryOp(operand=operand) | ast.IfExp(body=operand):
            return kind(operand, names)
        case ast.BinOp(left=left, op=ast.Add() | ast.Mult(), right=right):
            sides = [kind(left, names), kind(right, names)]
            known = [side for side in ("list", "str", "sequence", "number") if side in sides]
            return known[0] if known else None
        case ast.BinOp():
            return "number"
        case ast.Subscript(value=value, slice=ast.Slice()):
            return kind(value, names) or "sequence"
        case ast.Call(func=ast.Name(id="min" | "max"), args=[first, _, *_]):
            return kind(first, names)
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            kinds = [result for result, calls in KINDS_OF_CALLS.items() if name in calls.split()]
            return kinds[0] if kinds else None
    return None
