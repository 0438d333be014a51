"""The embedded teacher: changed versions of the statements of a program, made by rules on its syntax tree.

PRLCoder asks a large language model for a mutated and a refactored version of each line. This is the stand-in that
needs no model, in the tradition of "Let's reward step by step" (mutation of the syntax tree and unit tests).
`ast_variants` returns `Variant`s: the lines of the program that go, and the lines that come in their place. What the
teacher *meant*, "mutate" (break it) or "refactor" (keep what it does), is only noted: the label of a variant is what
its execution shows, so an equivalent mutant or a refactoring that breaks the program does no harm.

Most changes are rules, in the tables below: a pattern and its rewrites in plain Python, where capital letters stand for
parts of the program,

    A B C D E   any expression           P R   not known to be a list or string     N   an integer
    X           more than one token      S     known to be a list or string         Q   known to be a bool
    V           a variable               G     known to be a list                   K   known to be a number

and in a rewrite T for a name that the program does not use, and Anext, Aprev and Aneg for A + 1, A - 1 and -A as a
person would write them. What a rule cannot say is a small function further down.

A change replaces the text of the node that it is about and copies the text of the parts, so that the rest of the line
keeps its formatting and a changed line does not give itself away by its style. `splice` adds the parentheses without
which the line would mean something else. F-strings are left alone: Python 3.11 does not know the places inside them.
"""

import ast
import builtins
import random
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import accumulate, pairwise, zip_longest

# Each line: the operator, then rules three or more spaces apart. A rule is `pattern -> rewrite ; another rewrite`, or
# `one <-> other` for both ways. \n and \t are a new line and one more level of indentation.
MUTATIONS = r"""
compare      A < B -> A <= B ; A > B ; A >= B   A <= B -> A < B ; A >= B ; A > B   A > B -> A >= B ; A < B ; A <= B
compare      A >= B -> A > B ; A <= B ; A < B   A == B <-> A != B   A in B <-> A not in B   A is B <-> A is not B
compare      A == K -> A > K ; A < K   A <= B <= C -> A < B <= C ; A <= B < C ; A <= C
compare      A <= B < C -> A < B < C ; A <= B <= C ; B < C   A < B < C -> A <= B < C ; A < B <= C ; A < C
arithmetic   P + R -> P - R ; P * R   A - B -> A + B   P * R -> P + R ; P - R ; P / R   A ** B -> A * B
arithmetic   A / B -> A * B ; A // B ; A % B   A // B -> A / B ; A * B ; A % B   P % B -> P // B ; P * B
arithmetic   A & B -> A | B ; A ^ B   A | B -> A & B ; A ^ B   A ^ B -> A & B ; A | B   A << B <-> A >> B
arithmetic   -X -> X   -V -> V ; abs(V)   abs(A) -> -A
operands     A - B -> B - A   A / B -> B / A   A // B -> B // A   P % B -> B % P   A ** B -> B ** A
operands     S + A <-> A + S
term         A + B -> A ; B   A - B -> A   A * B -> A ; B   A / B -> A   A // B -> A   P % B -> P
augmented    A += P -> A -= P ; A = P   A += B -> A = B   A -= B -> A += B ; A = B   A *= B -> A += B ; A = B
augmented    A /= B -> A //= B ; A *= B   A //= B -> A /= B ; A -= B   A %= B -> A //= B   A |= B <-> A &= B
augmented    A ^= B -> A |= B   A >>= B -> A <<= B
parity       A % 2 == 0 <-> A % 2 == 1
constant     True <-> False
negate       not A -> A
range        range(A) -> range(1, A) ; range(Anext) ; range(Aprev)
range        range(A, B) -> range(Anext, B) ; range(Aprev, B) ; range(A, Bnext) ; range(A, Bprev)
range        range(A, B, C) -> range(A, Bnext, C) ; range(A, Bprev, C) ; range(A, B) ; range(Anext, B, C)
index        A[P] -> A[Pnext] ; A[Pprev]
slice        A[B:] -> A[:B] ; A[Bnext:] ; A[Bprev:] ; A[Bneg:] ; A[:Bneg]
slice        A[:B] -> A[B:] ; A[:Bnext] ; A[:Bprev] ; A[:Bneg] ; A[Bneg:]
slice        A[B:C] -> A[Bnext:C] ; A[Bprev:C] ; A[B:Cnext] ; A[B:Cprev] ; A[B:] ; A[:C]   A[::B] -> A[B:] ; A[:B]
slice        A[::-1] -> A[:-1] ; A[1:] ; A[::-2] ; A[::2]   A[B::C] -> A[::C] ; A[Bnext::C] ; A[B::Cnext]
order        sorted(A) -> sorted(A, reverse=True) ; A   sorted(A, reverse=True) -> sorted(A) ; A[::-1]
order        sorted(A, key=B) -> sorted(A) ; sorted(A, key=B, reverse=True)
order        sorted(A, key=B, reverse=True) -> sorted(A, key=B) ; sorted(A, reverse=True)
order        A[::-1] -> sorted(A, reverse=True) ; sorted(A)
order        A.sort() -> A.sort(reverse=True) ; A.reverse()   A.sort(reverse=True) -> A.sort() ; A.reverse()
unwrap       abs(A) -> A   int(A) -> A   round(A, B) -> A   set(A) -> A   str(A) -> A
unwrap       min(A, B) -> A ; B   max(A, B) -> A ; B
method       A.append(B) -> A.insert(0, B) ; A.extend(B)   A.insert(0, B) -> A.append(B)   A.extend(B) -> A.append(B)
filter       [A for B in C if D] -> [A for B in C]   (A for B in C if D) -> (A for B in C)
filter       {A for B in C if D} -> {A for B in C}   {A: E for B in C if D} -> {A: E for B in C}
filter       [X for V in C] -> [V for V in C]
conditional  A if B else C -> C if B else A ; A ; C
return       return A -> return None   return K -> return Knext ; return Kprev ; return -K
return       return S -> return S[1:] ; return S[::-1]
unpack       A, B = C, D -> A, B = D, C
jump         break <-> continue
"""

REFACTORINGS = r"""
commute        P + R -> R + P   A * B -> B * A   A & B -> B & A   A | B -> B | A   A ^ B -> B ^ A
mirror         A == B -> B == A   A != B -> B != A   A < B <-> B > A   A <= B <-> B >= A
not            A == B <-> not A != B   A != B <-> not A == B   A not in B <-> not A in B
not            A < B <-> not A >= B   A >= B <-> not A < B   A > B <-> not A <= B   A <= B <-> not A > B
boundary       A > N -> A >= Nnext   A >= N -> A > Nprev   A < N -> A <= Nprev   A <= N -> A < Nnext
parity         A % 2 == 0 -> not A % 2 ; A % 2 != 1   A % 2 != 0 <-> A % 2 == 1
empty          len(A) == 0 -> not A ; len(A) < 1   not S -> len(S) == 0
empty          len(A) > 0 <-> len(A) != 0   len(A) > 0 -> len(A) >= 1
chain          A < B and B < C <-> A < B < C   A <= B and B <= C <-> A <= B <= C   A <= B and B < C <-> A <= B < C
chain          A >= B and A <= C -> B <= A <= C   A > B and A < C -> B < A < C
chain          A == B or A == C -> A in (B, C)   A != B and A != C -> A not in (B, C)
augmented      A += B <-> A = A + B   A -= B <-> A = A - B   A *= B <-> A = A * B   A /= B <-> A = A / B
augmented      A //= B <-> A = A // B   A %= B <-> A = A % B   A **= B <-> A = A ** B   A |= B <-> A = A | B
augmented      A &= B <-> A = A & B   A ^= B <-> A = A ^ B   A >>= B <-> A = A >> B   V = K + V -> V += K
power          V ** 2 <-> V * V   A ** B <-> pow(A, B)   2 * V -> V + V
half           A / 2 -> A * 0.5 ; 0.5 * A   A // N -> int(A / N)
range          range(0, A) <-> range(A)   range(A, B) <-> range(A, B, 1)
index          A[len(A) - 1] -> A[-1]
slice          A[:B] <-> A[0:B]   A[B:] <-> A[B:len(A)]
reverse        G[::-1] -> list(reversed(G))   sorted(A, reverse=True) <-> sorted(A)[::-1]
unpacking      A + [B] -> [*A, B]   [B] + A -> [B, *A]   G[A:] + G[:B] -> [*G[A:], *G[:B]]
empty literal  [] <-> list()   {} <-> dict()
min max        min(A, B) -> min(B, A) ; A if A < B else B   max(A, B) -> max(B, A) ; A if A > B else B
min max        max(A, default=B) -> max(A) if A else B   min(A, default=B) -> min(A) if A else B
sort           V = sorted(A) -> V = list(A)\nV.sort()   V = sorted(A, reverse=True) -> V = list(A)\nV.sort(reverse=True)
comprehension  [A for B in C] <-> list(A for B in C)   [A for B in C if D] -> list(A for B in C if D)
comprehension  [V for V in C] -> list(C)   [X for V in C] -> list(map(lambda V: X, C))
comprehension  [V for V in C if D] <-> list(filter(lambda V: D, C))   list(map(lambda V: A, C)) -> [A for V in C]
comprehension  list(map(A, B)) -> [A(T) for T in B]   tuple(map(A, B)) -> tuple(A(T) for T in B)
comprehension  sum([A for B in C]) <-> sum(A for B in C)   A.join([B for C in D]) <-> A.join(B for C in D)
comprehension  set([A for B in C]) -> {A for B in C}   list(set(A)) -> [*set(A)]
keys           A in B.keys() -> A in B
str            str(A) -> f"{A}"
append         V.append(B) -> V += [B] ; V.extend([B]) ; V.insert(len(V), B)   V += [B] -> V.append(B)
append         V = V + [B] -> V.append(B)   V.extend(B) -> V += B
conditional    A if B else C -> C if not B else A   True if Q else False -> Q
conditional    return Q -> return True if Q else False ; if Q:\n\treturn True\nreturn False
conditional    return A if B else C -> if B:\n\treturn A\nreturn C ; if not B:\n\treturn C\nreturn A
conditional    V = A if B else C -> if B:\n\tV = A\nelse:\n\tV = C ; V = C\nif B:\n\tV = A
loop           V = [A for B in C] -> T = []\nfor B in C:\n\tT.append(A)\nV = T
loop           V = [A for B in C if D] -> T = []\nfor B in C:\n\tif D:\n\t\tT.append(A)\nV = T
loop           return [A for B in C] -> T = []\nfor B in C:\n\tT.append(A)\nreturn T
loop           return [A for B in C if D] -> T = []\nfor B in C:\n\tif D:\n\t\tT.append(A)\nreturn T
loop           return sum(A for B in C) -> T = 0\nfor B in C:\n\tT += A\nreturn T
loop           return all(A for B in C) -> for B in C:\n\tif not A:\n\t\treturn False\nreturn True
loop           return any(A for B in C) -> for B in C:\n\tif A:\n\t\treturn True\nreturn False
unpack         A, B = C, D -> T = C\nB = D\nA = T
temporary      return X -> T = X\nreturn T
"""

# Refactorings of a condition, of which only the truth counts.
TEST_REFACTORINGS = r"""
truth          len(A) > 0 -> A   len(A) != 0 -> A   A % 2 == 1 -> A % 2   A % 2 != 0 -> A % 2
truth          A == True -> A   A == False -> not A
"""

# Rules for a compound statement together with the statements before and after it, for `unit="block"`.
BLOCK_MUTATIONS = r"""
conditional    if A:\n\treturn B\nelse:\n\treturn C -> if A:\n\treturn C\nelse:\n\treturn B ; return B
conditional    if A:\n\treturn B\nreturn C -> if A:\n\treturn C\nreturn B ; return C
conditional    if A:\n\tV = B\nelse:\n\tV = C -> if A:\n\tV = C\nelse:\n\tV = B ; V = B
search         for A in B:\n\tif C:\n\t\treturn D\nreturn E -> for A in B:\n\tif C:\n\t\treturn E\nreturn D
"""

BLOCK_REFACTORINGS = r"""
conditional    if A:\n\treturn B\nelse:\n\treturn C -> return B if A else C ; if not A:\n\treturn C\nelse:\n\treturn B
conditional    if A:\n\treturn B\nelse:\n\treturn C <-> if A:\n\treturn B\nreturn C
conditional    if A:\n\treturn B\nreturn C -> return B if A else C ; if not A:\n\treturn C\nreturn B
conditional    if A:\n\tV = B\nelse:\n\tV = C -> V = B if A else C ; V = C\nif A:\n\tV = B
loop           V = []\nfor A in B:\n\tV.append(C) -> V = [C for A in B]
loop           V = []\nfor A in B:\n\tif D:\n\t\tV.append(C) -> V = [C for A in B if D]
loop           V = 0\nfor A in B:\n\tV += C -> V = sum(C for A in B)
loop           V = 0\nfor A in B:\n\tV = V + C -> V = sum(C for A in B)
loop           V = 0\nfor A in B:\n\tif D:\n\t\tV += C -> V = sum(C for A in B if D)
loop           V = 0\nfor A in B:\n\tif D:\n\t\tV = V + C -> V = sum(C for A in B if D)
search         for A in B:\n\tif C:\n\t\treturn True\nreturn False -> return any(C for A in B)
search         for A in B:\n\tif C:\n\t\treturn False\nreturn True -> return not any(C for A in B)
"""

# Families of functions and methods; one stands in for another.
SIBLINGS = """
min max sum   any all   list set   int float   abs int   floor ceil   sin cos tan   sqrt exp log   degrees radians
lower upper   title capitalize   strip lstrip rstrip   startswith endswith   find rfind   split rsplit   isupper islower
isdigit isalpha isalnum   search match   append extend   pop remove   add discard   keys values items
union intersection difference   nlargest nsmallest   combinations permutations   bisect_left bisect_right
"""
FAMILIES = [family.split() for family in re.split(r"\n|   ", SIBLINGS)]

# What calls of these return, as far as `kind` cares.
RESULTS = {
    "number": {
        "len",
        "sum",
        "int",
        "abs",
        "round",
        "float",
        "pow",
        "ord",
        "count",
        "index",
        "find",
        "sqrt",
        "floor",
    },
    "list": {"list", "sorted", "split"},
    "dict": {"dict", "defaultdict", "Counter"},
    "str": {"str", "join", "lower", "upper", "strip", "replace", "chr", "format"},
    "bool": {
        "bool",
        "isinstance",
        "any",
        "all",
        "startswith",
        "endswith",
        "isdigit",
        "isalpha",
        "isupper",
        "islower",
    },
}
KINDS = {int: "number", float: "number", bool: "bool", str: "str", bytes: "str"}
SEQUENCES = ("list", "str", "sequence")
OPPOSITES = {
    **{ast.Lt: ">=", ast.LtE: ">", ast.Gt: "<=", ast.GtE: "<", ast.Eq: "!=", ast.NotEq: "=="},
    **{ast.In: "not in", ast.NotIn: "in", ast.Is: "is not", ast.IsNot: "is"},
}
FRESH = ("result", "value", "total", "temp", "output", "current", "answer")  # new variables
SHORT = ("x", "item", "i", "elem", "v", "k")  # and new names for those of comprehensions
IDLE = re.compile(r"\s*(\w+) = \1\n")  # a deletion in disguise
OPERATOR = r"(?:[<>=!]=|\*\*|//|[-+*/%<>&|^])"

ATOMS = (
    ast.Name,
    ast.Constant,
    ast.Call,
    ast.Attribute,
    ast.Subscript,
    ast.List,
    ast.ListComp,
    ast.Dict,
    ast.Set,
)
BUILTINS = frozenset(dir(builtins))
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
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

        It is the last line that came in. A deletion shows at the code that now stands in its place, or nowhere (None).
        """
        if self.text:
            return self.start - 2 + self.text.count("\n")
        rest = enumerate(source_lines(self.apply(source))[self.start - 1 :], self.start - 1)
        return next(
            (index for index, line in rest if line.strip() and not line.lstrip().startswith("#")),
            None,
        )


def ast_variants(
    source: str,
    unit: str = "line",
    donors: Sequence[str] = (),
    seed: int = 0,
    max_per_line: int | None = None,
    intents: Sequence[str] = ("mutate", "refactor"),
) -> list[Variant]:
    """Distinct changed versions of every statement line (or block) of `source`, none of them equal to it.

    `donors` are other programs that lend statements. `max_per_line` keeps so many variants of each line (block): the
    intents take turns, and within an intent the operators do. Only changes of the `intents` are made. The same
    arguments give the same list.
    """
    if unit not in ("line", "block"):
        raise ValueError(f"unit is {unit!r}; it must be 'line' or 'block'")
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # a program may hold "\d" or `x is 1`; that is its own business
        program = Program(source)
        seen, variants = {source}, []
        for piece in line_units(program) if unit == "line" else block_units(program):
            rng = random.Random(f"{seed} {piece.start} {piece.end}")
            propose = line_proposals if unit == "line" else block_proposals
            proposals = [
                item for item in propose(program, piece, donors, rng) if item[1] in intents
            ]
            limit = len(proposals)
            if max_per_line is not None:
                proposals, limit = taking_turns(proposals, rng), max_per_line
            forms, kept = {piece.form, None}, 0
            for operator, intent, change in proposals:
                if kept == limit:
                    break
                start, end, text, form = (
                    splice(program, piece, change) if isinstance(change, list) else change
                )
                variant = Variant(start, end, text, operator, intent)
                result = variant.apply(source)
                if (
                    form not in forms
                    and result not in seen
                    and not IDLE.fullmatch(text)
                    and compiles(result)
                ):
                    forms.add(form)
                    seen.add(result)
                    variants.append(variant)
                    kept += 1
    return sorted(variants, key=lambda variant: (variant.start, variant.end))


def taking_turns(proposals: list, rng: random.Random) -> list:
    """The proposals in an order in which the intents alternate, and the operators within an intent."""
    rng.shuffle(proposals)
    for key in (lambda item: item[:2]), (lambda item: item[1]):
        groups: dict = {}
        for item in proposals:
            groups.setdefault(key(item), []).append(item)
        proposals = [item for turn in zip_longest(*groups.values()) for item in turn if item]
    return proposals


# The program


class Program:
    """A parsed program, and what the rules ask of it: text, parents, blocks, variables and their kinds."""

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
            for name in (*FRESH, *(f"value_{n}" for n in range(len(words) + 1)))
            if name not in words
        )
        self.short = [name for name in SHORT if name not in words]
        self.step = next(
            filter(None, (re.match(r"[ \t]*", line)[0] for line in self.lines)), "    "
        )
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
        self.pieces = cache(lambda: line_units(self))
        self.lent = cache(lambda: lent_by(self))
        self.bound = cache(bindings)
        self.kinds = kinds_of_names(self.tree)

    def span(self, node) -> tuple[int, int]:
        """Character offsets of a node (or of a span, which is itself); `ast` counts columns in UTF-8 bytes."""
        if isinstance(node, tuple):
            return node
        places = []
        for line, column in (
            (node.lineno, node.col_offset),
            (node.end_lineno, node.end_col_offset),
        ):
            text = self.lines[line - 1]
            places.append(
                self.starts[line - 1]
                + (column if text.isascii() else len(text.encode()[:column].decode()))
            )
        return places[0], places[1]

    def outer(self, node) -> tuple[int, int]:
        """The span of a node with the parentheses around it, short of those that belong to the node above."""
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
        """The source of a node or span; that of an operand comes with the parentheses around it."""
        operand = isinstance(node, ast.expr) and not isinstance(self.parent[node], ast.stmt)
        start, end = self.outer(node) if operand else self.span(node)
        return self.source[start:end]

    def variables(self, node) -> list[str]:
        """Variables that exist at `node`: bound on earlier lines, as arguments, or by a comprehension around it."""
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
    """Variables that the statements of a function or module assign, each with its line; not those of inner scopes."""
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
    """The kind of each name that only ever holds one, as far as the text shows; see `kind`."""
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
            elif isinstance(node, ast.BinOp) and isinstance(
                node.op, ast.Sub | ast.Div | ast.FloorDiv | ast.Pow
            ):
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
    """What an expression evaluates to, where its form tells: "number", "bool", "list", "str", "sequence" or None."""
    match node:
        case ast.Name(id=name):
            return names.get(name)
        case ast.Constant(value=value):
            return KINDS.get(type(value))
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
            return next(
                (side for side in ("list", "str", "sequence", "number") if side in sides), None
            )
        case ast.BinOp():
            return "number"
        case ast.Subscript(value=value, slice=ast.Slice()):
            return kind(value, names) or "sequence"
        case ast.Call(func=ast.Name(id="min" | "max"), args=[first, _, *_]):
            return kind(first, names)
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            return next((result for result, calls in RESULTS.items() if name in calls), None)
    return None


@dataclass
class Unit:
    """Lines of the program that a variant replaces."""

    start: int
    end: int
    statements: list[ast.stmt]  # more than one where statements share a line: `a = 1; b = 2`
    indent: str
    alone: bool  # each of its statements has its lines to itself, so that more lines can take its place
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


def line_units(program: Program) -> list[Unit]:
    """One unit for each simple statement and each header of a compound one; no imports, no docstrings."""
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


def is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def header_end(program: Program, statement: ast.stmt) -> int:
    """The line of the colon that ends the header of a compound statement."""
    places = [program.span(statement)[0]]
    for name in (*HEADERS[type(statement)], "returns"):
        value = getattr(statement, name, None)
        for part in value if isinstance(value, list) else [value] if value else []:
            places += [program.span(node)[1] for node in ast.walk(part) if hasattr(node, "lineno")]
    return program.source.count("\n", 0, program.source.index(":", max(places))) + 1


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
                    stack += [
                        child for child in (value if isinstance(value, list) else [value]) if child
                    ]


# Rules: match a pattern, fill a rewrite, splice it in

# A change of a unit is a list of edits; an edit is a node (or a span), and the parts that replace its text: strings as
# they are, and nodes (or spans) of the program as copies of their text.


@lru_cache
def rules(table: str) -> list[tuple[str, list[ast.stmt], list[str]]]:
    """(operator, pattern, rewrites) for every rule of a table."""
    found = []
    for line in table.strip().splitlines():
        operator, entries = re.split(r" {2,}", line, maxsplit=1)
        for entry in re.split(r" {3,}", entries):
            left, both, right = re.split(
                r" (<?)-> ", entry.replace("\\n", "\n").replace("\\t", "    ")
            )
            for pattern, rewrites in (
                (left, right.split(" ; ")),
                *([(right, [left])] if both else ()),
            ):
                found.append((operator, ast.parse(pattern).body, rewrites))
    return found


@lru_cache
def rules_by_shape() -> dict[tuple, list]:
    """{shape of the root of the pattern: [(operator, intent, pattern, rewrites)]} of the rules for a single node."""
    table: dict[tuple, list] = {}
    for intent, text in (
        ("mutate", MUTATIONS),
        ("refactor", REFACTORINGS),
        ("test", TEST_REFACTORINGS),
    ):
        for operator, (node,), rewrites in rules(text):
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
    """Whether `node` has the form of `pattern`; fills `found` with the parts that the capital letters stand for."""
    letter = (
        pattern.id if isinstance(pattern, ast.Name) else pattern if isinstance(pattern, str) else ""
    )
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
    """Whether a letter of a pattern may stand for this node; the docstring of the module lists the letters."""
    if isinstance(node, str) or letter == "V":
        return letter == "V" and isinstance(node, str | ast.Name)
    if not isinstance(node, ast.expr) or isinstance(node, ast.Slice | ast.Starred):
        return False
    if letter in "NX":
        literal = isinstance(node, ast.Constant)
        return (
            literal and type(node.value) is int
            if letter == "N"
            else not literal and not isinstance(node, ast.Name)
        )
    if letter == "Q" and isinstance(node, ast.Constant):
        return False
    known = kind(node, kinds) if letter in "KQSGPR" else None
    wanted = {"K": ("number",), "Q": ("bool",), "S": SEQUENCES, "G": ("list",)}.get(letter)
    return known in wanted if wanted else not (letter in "PR" and known in SEQUENCES)


def as_text(part: ast.AST | str) -> str:
    """What a part of a rule says; a name is the same whether it is read or set."""
    return (
        part
        if isinstance(part, str)
        else part.id
        if isinstance(part, ast.Name)
        else ast.unparse(part)
    )


def filled(program: Program, node, rewrites: list[str], found: dict) -> Iterator[list]:
    """The parts of each rewrite, in the spacing of the text that it replaces."""
    start, end = program.span(node)
    examples = program.source[start:end], program.lines[program.source.count("\n", 0, start)]
    for rewrite in rewrites:
        if program.shadowed.intersection(re.findall(r"\w+", rewrite)):
            continue  # it calls `sum`, and the program has a variable of that name
        parts = []
        for text, letter, how in re.findall(
            r"(.*?)(?:\b([A-Z])(next|prev|neg)?\b|$)", rewrite, re.DOTALL
        ):
            parts.append(respaced(text, *examples))
            if how:
                parts += shifted(found[letter], how, tight(OPERATOR, *examples))
            elif letter:
                parts.append(program.fresh if letter == "T" else found[letter])
        yield parts


def tight(token: str, *texts: str) -> bool:
    """Whether such tokens stand between words without spaces, in the first of the texts in which they stand at all."""
    for text in texts:
        if re.search(rf" {token} |{token} " if token == "," else rf" {token} ", text):
            return False
        if re.search(rf"[\w)\]]{token}[\w(\[]", text):
            return True
    return False


def respaced(text: str, *examples: str) -> str:
    """Text of a rewrite without the spaces around operators, or after commas, that the examples do not have either."""
    if tight(OPERATOR, *examples):
        text = re.sub(rf" ({OPERATOR}) ", r"\1", text)
    return text.replace(", ", ",") if tight(",", *examples) else text


def shifted(node: ast.expr, how: str, compact: bool) -> list:
    """Parts for node + 1, node - 1 or -node, the way a person writes them: 3 for 2 + 1, and n for n - 1 + 1."""
    step = {"next": 1, "prev": -1}.get(how)
    value = number(node)
    if value is not None:
        return [str(-value if step is None else value + step)]
    if step is None:
        return ["-", node]
    left, added = node, step
    if (
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Add | ast.Sub)
        and type(number(node.right)) is int
    ):
        left, added = (
            node.left,
            step + number(node.right) * (1 if isinstance(node.op, ast.Add) else -1),
        )
    sign = "+" if added > 0 else "-"
    return [left, sign if compact else f" {sign} ", str(abs(added))] if added else [left]


def number(node) -> int | float | None:
    """The value of a number literal, signed or not."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = number(node.operand)
        return None if value is None else -value
    return (
        node.value if isinstance(node, ast.Constant) and type(node.value) in (int, float) else None
    )


def splice(program: Program, unit: Unit, edits: list) -> tuple[int, int, str, str | None]:
    """(start, end, text, form) of the unit after the edits; form None where they make no sense.

    The meaning of the edits is the text with parentheses around every part and every replaced expression. What is
    spliced in is the text with the fewest parentheses that parses to the same tree, the ones of the source among them.
    """
    parts = [part for _, parts in edits for part in parts]
    loose = [
        id(part)
        for part in parts
        if isinstance(part, ast.expr) and not isinstance(part, (*ATOMS, ast.Starred))
    ]
    if not unit.alone and any("\n" in part for part in parts if isinstance(part, str)):
        return unit.start, unit.end, "", None
    meaning = form_of(unit, rendered(program, unit, edits, loose, True))
    choices = [
        ([], False),
        ([], True),
        *(([one], False) for one in loose),
        (loose, False),
        (loose, True),
    ]
    for wrapped, whole in choices if meaning else ():
        text = rendered(program, unit, edits, wrapped, whole)
        if form_of(unit, text) == meaning:
            return unit.start, unit.end, text, meaning
    return unit.start, unit.end, "", None


def rendered(program: Program, unit: Unit, edits: list, wrapped: list[int], whole: bool) -> str:
    """The lines of the unit after the edits, with parentheses around the parts in `wrapped`, and around expressions."""
    position, pieces = program.starts[unit.start - 1], []
    for target, parts in sorted(edits, key=lambda edit: program.span(edit[0])):
        start, end = program.span(target)
        text = ""
        for part in parts:
            if isinstance(part, str):
                text += part.replace("    ", program.step).replace("\n", "\n" + unit.indent)
            else:
                text += f"({program.text(part)})" if id(part) in wrapped else program.text(part)
        brackets = whole and isinstance(target, ast.expr)
        pieces += [program.source[position:start], f"({text})" if brackets else text]
        position = end
    return "".join([*pieces, program.source[position : program.starts[unit.end]]])


# What is proposed for a line


def line_proposals(
    program: Program, unit: Unit, donors: Sequence[str], rng: random.Random
) -> Iterator[tuple]:
    """(operator, intent, change) for one line; a change is a list of edits, or what `splice` returns for one."""
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


def rule_edits(program: Program, node: ast.AST) -> Iterator[tuple]:
    """The tables of rules at the top of the file."""
    for operator, intent, pattern, rewrites in rules_by_shape().get(shape(node), ()):
        found: dict = {}
        if (intent != "test" or is_test(program, node)) and matches(
            pattern, node, found, program.kinds
        ):
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
    """The other connective, an operand left out, operands exchanged, the condition negated, De Morgan."""
    here, there = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
    first, second, *rest = node.values
    yield "boolean", "mutate", [(node, interleaved(node.values, f" {there} "))]
    for left_out in range(len(node.values)):
        values = node.values[:left_out] + node.values[left_out + 1 :]
        yield "boolean", "mutate", [(node, interleaved(values, f" {here} "))]
    yield (
        "commute",
        "refactor",
        [(program.outer(first), [second]), (program.outer(second), [first])],
    )
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
    """A literal off by one, zero, of the other sign, emptied, or another one of the program; all equal ones at once."""
    numbers: dict = {}
    inner = {
        node.operand
        for node in nodes
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
    }
    for node in nodes:
        value = number(node)
        if value is not None and node not in inner:
            numbers.setdefault(value, []).append(node)
            above = program.parent[node]
            right = node in (
                getattr(above, "right", None),
                getattr(above, "step", None),
            )  # x - 0, x % 0 and [::0] are odd
            for changed in (value + 1, value - 1, 0, -value):
                if not right or changed > 0:
                    yield "constant", "mutate", [(node, [str(round(changed, 6))])]
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and node in program.strings
        ):
            others = [other for other in program.strings if other.value != node.value]
            quote = program.text(node)[-1]
            yield "constant", "mutate", [(node, [quote * 2 if node.value else f"{quote} {quote}"])]
            if others:
                yield "constant", "mutate", [(node, [rng.choice(others)])]
    for value, places in numbers.items():
        for changed in (value + 1, value - 1, -value) if len(places) > 1 else ():
            yield "constant", "mutate", [(node, [str(changed)]) for node in places]


def variable_edits(program: Program, node: ast.Name, rng: random.Random) -> Iterator[tuple]:
    """Another variable of the same place, and of the same kind where that is known."""
    above = program.parent[node]
    if node.id in program.variable_names and isinstance(above, ast.stmt | ast.expr | ast.keyword):
        names = [
            name
            for name in program.variables(node)
            if name != node.id and name in program.variable_names
        ]
        kinds = program.kinds
        names = [name for name in names if kinds.get(name) == kinds.get(node.id)]
        stored = isinstance(node.ctx, ast.Store)
        if not stored or isinstance(above, ast.Assign | ast.AugAssign):
            for name in rng.sample(names, min(len(names), 1 if stored else 2)):
                yield "variable", "mutate", [(node, [name])]


def sibling_edits(
    program: Program, node: ast.Name | ast.Attribute, rng: random.Random
) -> Iterator[tuple]:
    """One function or method of a family in place of another."""
    name = node.id if isinstance(node, ast.Name) else node.attr
    if not (isinstance(node, ast.Name) and name in program.variable_names):
        above = program.parent[node]
        single = isinstance(above, ast.Call) and len(above.args) == 1 and not above.keywords
        for other in dict.fromkeys(
            other for family in FAMILIES if name in family for other in family
        ):
            if other != name and (other != "sum" or single):
                yield (
                    "sibling",
                    "mutate",
                    [(node, [other] if isinstance(node, ast.Name) else [node.value, f".{other}"])],
                )


def argument_edits(program: Program, node: ast.Call, rng: random.Random) -> Iterator[tuple]:
    """Arguments exchanged, left out, or off by one."""
    name, arguments = called(node), node.args
    spans = [program.outer(argument) for argument in arguments]
    for one, two in pairwise(arguments):
        if name not in ("min", "max", "gcd") and (name != "range" or one is arguments[0]):
            yield "argument", "mutate", [(program.outer(one), [two]), (program.outer(two), [one])]
    for index, (start, end) in enumerate(
        spans if len(spans) > 1 and name not in ("min", "max", "range") else ()
    ):
        gap = (spans[index - 1][1], end) if index else (start, spans[1][0])
        yield "argument", "mutate", [(gap, [""])]
    for argument in arguments if name != "range" else ():
        if kind(argument, program.kinds) == "number" and number(argument) is None:
            for how in ("next", "prev"):
                yield (
                    "argument",
                    "mutate",
                    [(argument, shifted(argument, how, tight(OPERATOR, program.text(node))))],
                )


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
    """Another name for a variable that lives on this line alone: that of a comprehension or a lambda."""
    scopes = [
        child
        for child in ast.walk(node)
        if isinstance(child, ast.Lambda) or hasattr(child, "generators")
    ]
    if len(scopes) > 1:  # the same name may mean two things
        return
    if isinstance(node, ast.Lambda):
        targets = {argument.arg: argument for argument in arguments(node)}
    else:
        outside = {name.id for name in names_in(node.generators[0].iter)}
        targets = {
            name.id: None
            for part in node.generators
            for name in names_in(part.target)
            if name.id not in outside
        }
    for name, argument in targets.items():
        places = [child for child in names_in(node) if child.id == name] + [argument] * (
            argument is not None
        )
        for new in program.short[:2]:
            yield "rename", "refactor", [(place, [new]) for place in places]


def extract_edits(program: Program, statement: ast.stmt) -> Iterator[tuple]:
    """A part of the expression computed on a line of its own before; only a part that is evaluated in any case."""
    if (
        not isinstance(statement, ast.Return | ast.Assign | ast.AugAssign | ast.Expr)
        or not statement.value
    ):
        return
    start, end = program.span(statement)
    stack, found = [statement.value], []
    while stack:
        node = stack.pop(0)
        if isinstance(node, ast.BinOp | ast.Call) and node is not statement.value:
            found.append(node)
        if not isinstance(
            node, ast.BoolOp | ast.IfExp | ast.Lambda | ast.JoinedStr
        ) and not hasattr(node, "generators"):
            stack += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
    for node in found[:2]:
        low, high = program.outer(node)
        rest = [(start, low), program.fresh, (high, end)]
        yield "temporary", "refactor", [(statement, [f"{program.fresh} = ", node, "\n", *rest])]


EDITORS = {
    ast.BoolOp: (boolean_edits,),
    ast.Name: (variable_edits, sibling_edits, test_edits),
    ast.Attribute: (sibling_edits,),
    ast.Call: (argument_edits, test_edits),
    ast.arguments: (parameter_edits,),
    ast.For: (iterable_edits,),
    ast.comprehension: (iterable_edits,),
    **dict.fromkeys(
        (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp, ast.Lambda), (rename_edits,)
    ),
}


def statement_changes(
    program: Program, unit: Unit, donors: Sequence[str], rng: random.Random
) -> Iterator[tuple]:
    """The statement deleted, doubled, exchanged with the next one, or replaced; a foreign one before it."""
    (statement,) = unit.statements
    start, end, block = unit.start, unit.end, program.block[statement]
    text = "".join(program.lines[start - 1 : end])
    if len(block) > 1:
        yield "delete", "mutate", (start, end, "", f"delete {start}")
    elif not isinstance(statement, ast.Pass):
        yield "delete", "mutate", (start, end, f"{unit.indent}pass\n", "pass")
    needs, sets = names_used(statement)
    if (
        isinstance(statement, ast.AugAssign | ast.Expr) or needs & sets
    ):  # others do nothing when they run twice
        yield "insert", "mutate", (end + 1, end, text, f"twice {start}")
    following = block[block.index(statement) + 1 :]
    if (
        following
        and type(following[0]) not in (*HEADERS, *SKIPPED, ast.Return)
        and following[0].lineno > end
    ):
        until = following[0].end_lineno
        if len(following) == 1 or following[1].lineno > until:
            swapped = (
                program.lines[following[0].lineno - 1 : until]
                + program.lines[end : following[0].lineno - 1]
            )
            intent = "refactor" if independent(statement, following[0]) else "mutate"
            yield "swap", intent, (start, until, "".join([*swapped, text]), f"swap {start}")

    variables = program.variables(statement)
    names = program.defined.union(variables)
    foreign = [lent_by_donor(rng.choice(donors)) for _ in range(30 if donors else 0)]
    for operator, pools in ("replace", [program.lent()] * 30), ("donor", foreign):
        picks = [rng.choice(pool) for pool in pools if pool]
        picks.sort(
            key=lambda pick: not pick[1]
        )  # those that use something of this program before `return True`
        fitting = {lent: sets for lent, needs, sets in picks if needs <= names and lent not in text}
        for lent in list(fitting)[:2]:
            line = f"{unit.indent}{lent}\n"
            yield operator, "mutate", (start, end, line, form_of(unit, line))
        felt = [lent for lent, sets in fitting.items() if sets.intersection(variables) or not sets]
        for lent in felt[-1:] if operator == "donor" else ():
            yield "insert", "mutate", (start, start - 1, f"{unit.indent}{lent}\n", f"insert {lent}")


def independent(one: ast.stmt, two: ast.stmt) -> bool:
    """Whether two statements that only assign can change places: neither touches what the other one sets."""
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


def lent_by(program: Program) -> list[tuple[str, frozenset, frozenset]]:
    """(text, names that it needs, names that it sets) of the one-line simple statements of a program."""
    simple = [node for node in program.block if type(node) not in (*HEADERS, *SKIPPED, ast.Pass)]
    lent = {program.text(node): names_used(node) for node in simple if not is_docstring(node)}
    free = (
        BUILTINS - program.shadowed
    )  # `return sum` needs a variable where the lender has one of that name
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


# What is proposed for a block: a compound statement with its body, or the body of a function


def block_units(program: Program) -> list[Unit]:
    """One unit for each compound statement (an `elif` belongs to its `if`), and one for each body of a function."""
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


def is_set(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store)


def is_elif(program: Program, statement: ast.stmt) -> bool:
    return program.source.startswith("elif", program.span(statement)[0])


def block_proposals(
    program: Program, unit: Unit, donors: Sequence[str], rng: random.Random
) -> Iterator[tuple]:
    """(operator, intent, change) for one block: changes of several of its lines, and of its structure."""
    pieces = [
        piece for piece in program.pieces() if unit.start <= piece.start and piece.end <= unit.end
    ]
    for intent in ("mutate", "refactor") * 4 if len(pieces) > 1 else ():
        lines, changed = program.lines[: unit.end], 0
        for piece in sorted(
            rng.sample(pieces, min(len(pieces), 3)), key=lambda piece: -piece.start
        ):
            changes = [
                change
                for _, meant, change in line_proposals(program, piece, (), rng)
                if meant == intent
            ]
            start, end, text, form = pick_spliced(program, piece, changes, rng)
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
    """The block left out, without its header, without its `else`, with its branches exchanged, or elsewhere."""
    start, end, lines, block = unit.start, unit.end, program.lines, program.block[statement]

    def change(operator: str, intent: str, text: str, last: int = end) -> tuple:
        return operator, intent, (start, last, text, f"{operator} {text}")

    yield change("delete", "mutate", "" if len(block) > 1 else f"{unit.indent}pass\n")
    following = block[block.index(statement) + 1 :]
    if following and not isinstance(following[0], ast.Return):
        first, last = following[0].lineno, following[0].end_lineno
        moved = [*lines[first - 1 : last], *lines[end : first - 1], *lines[start - 1 : end]]
        yield change(
            "swap",
            "refactor" if independent(statement, following[0]) else "mutate",
            "".join(moved),
            last,
        )
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
    if (
        isinstance(statement, ast.If)
        and other
        and not is_elif(program, other[0])
        and other[0].lineno > body[-1].lineno + 1
    ):
        branches = (
            "".join(lines[other[0].lineno - 1 : end]) + f"{unit.indent}else:\n" + "".join(inside)
        )
        yield change("branches", "mutate", header + branches)
        piece = next(piece for piece in program.pieces() if piece.start == start)
        *_, text, form = splice(
            program, piece, [(statement.test, negated(program, statement.test))]
        )
        if form:
            yield change("branches", "refactor", text + branches)
    match statement:
        case ast.For(
            target=ast.Name(id=name),
            iter=ast.Call(func=ast.Name(id="range"), args=[*low, high]),
            orelse=[],
        ):
            loose = any(
                isinstance(node, ast.Continue) or is_set(node, name)
                for part in body
                for node in ast.walk(part)
            )
            if len(low) < 2 and not loose:
                begin = f"{unit.indent}{name} = {program.text(low[0]) if low else 0}\n"
                test = f"{unit.indent}while {name} < {program.text(high)}:\n"
                yield change(
                    "while", "refactor", begin + test + "".join(inside) + f"{deeper}{name} += 1\n"
                )


def block_rules(program: Program, statement: ast.stmt) -> Iterator[tuple]:
    """The tables of rules for several statements, where this one is the compound statement of the pattern."""
    block = program.block[statement]
    for intent, table in ("mutate", BLOCK_MUTATIONS), ("refactor", BLOCK_REFACTORINGS):
        for operator, wanted, rewrites in rules(table):
            offset = next(index for index, node in enumerate(wanted) if type(node) in HEADERS)
            first = block.index(statement) - offset
            window, found = block[max(first, 0) : first + len(wanted)], {}
            if first < 0 or not matches(wanted, window, found, program.kinds):
                continue
            inputs = [
                name.id for letter in "CD" if letter in found for name in names_in(found[letter])
            ]
            if (
                operator != "loop" or found["V"].id not in inputs
            ):  # a loop that looks at what it has built so far
                unit = make_unit(program, window[0].lineno, window[-1].end_lineno, window)
                span = program.span(window[0])[0], program.span(window[-1])[1]
                for parts in filled(program, span, rewrites, found):
                    yield operator, intent, splice(program, unit, [(span, parts)])
