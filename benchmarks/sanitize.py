"""What EvalPlus keeps of an answer before it runs the answer (its `sanitize`, release 0.3.1).

A chat model writes examples and asserts of its own below the function that was asked for; a wrong
one of these would fail a right answer. So EvalPlus keeps the imports and what the entry point
needs. The rules are EvalPlus' own, also where they are crude: a function without `return`, a
decorated one and the second definition of a name are dropped.
"""

import ast
import itertools
import warnings


def parse(source: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of doubtful escapes in the text
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def longest_source(text: str) -> str:
    """The lines in a row, two or more, that parse as Python and have the most lines that are not
    blank; the first such lines among equals. The text's first line where no lines parse."""
    if parse(text) is not None:
        return text
    lines = text.split("\n")
    written = list(itertools.accumulate((bool(line.strip()) for line in lines), initial=0))
    pairs = itertools.combinations(range(len(lines)), 2)
    for i, j in sorted(pairs, key=lambda pair: written[pair[0]] - written[pair[1] + 1]):
        source = "\n".join(lines[i : j + 1])
        if source.strip() and parse(source) is not None:
            return source
    return lines[0]


def names_in(node: ast.AST) -> set[str]:
    """Every name that a piece of source has, as a variable, attribute, argument or definition."""
    fields = ("id", "attr", "arg", "name")
    return {getattr(n, f) for n in ast.walk(node) for f in fields if hasattr(n, f)}


def definition_name(node: ast.stmt) -> str | None:
    """The name that a statement defines, if EvalPlus sees a definition in the statement."""
    if isinstance(node, ast.ClassDef) and not node.decorator_list:
        return node.name
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.decorator_list:
        return node.name if any(isinstance(n, ast.Return) for n in ast.walk(node)) else None
    if isinstance(node, ast.Assign | ast.AnnAssign):
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        return target.id if isinstance(target, ast.Name) else None
    return None


def sanitize(text: str, entry_point: str | None) -> str:
    """The imports of a text and the definitions that the entry point reaches (without an entry
    point all definitions), in their order; the longest source in the text where these are none."""
    source = longest_source(text)
    tree = parse(source)
    body = tree.body if tree is not None else []
    imports = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    definitions: dict[str, ast.stmt] = {}
    for node in body:
        name = definition_name(node)
        if name is not None:
            definitions.setdefault(name, node)
    reached, left = ({entry_point}, [entry_point]) if entry_point else ({*definitions}, [])
    while left:
        name = left.pop()
        needed = names_in(definitions[name]) - reached if name in definitions else set()
        reached |= needed
        left += needed
    kept = imports + [node for name, node in definitions.items() if name in reached]
    return "\n".join(ast.get_source_segment(source, node) for node in kept).strip() or source
