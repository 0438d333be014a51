"""Which tokens of a completion are lines of its program, for rltf.diff and fine_grained.diff."""

import ast

import torch

import common
from kernels import masking


def tokens_of_lines(
    rollout: common.Rollout, line_table: masking.LineTable, lines: list[set[int]]
) -> torch.Tensor:
    """Tokens (N, T) bool of the given lines of each of the N programs, numbered from 1 as a verdict
    numbers them. EOS and the prose around a program are in no line."""
    given = []
    for program, text, numbers in zip(rollout.programs(), rollout.texts, lines, strict=True):
        found = common.program_lines(program, text)
        given.append([line is not None and line + 1 in numbers for line in found])
    given = common.pad(given, False, torch.bool)  # (N, L)
    return masking.line_tokens(rollout.ids, rollout.mask, line_table, given)


def unexecuted_lines(program: str, executed: list[int] | None) -> set[int]:
    """Lines of the statements of a program that no test has run, numbered from 1.

    executed: lines that ran, of a verdict with trace=True. A statement has run when one of its own
    lines has; of a compound statement its header alone counts, and a line between two bodies
    (`else:`) is in no statement. Nothing is unexecuted where no line ran: a program that does not
    compile, or that was not traced.
    """
    try:
        nodes = list(ast.walk(ast.parse(program))) if executed else []
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    silent, ran = set(), set(executed or ())
    for node in nodes:
        if not isinstance(node, ast.stmt) or isinstance(node, ast.Global | ast.Nonlocal):
            continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # a docstring leaves no trace
        body = getattr(node, "body", None)
        last = body[0].lineno - 1 if body else node.end_lineno
        own = set(range(node.lineno, max(node.lineno, last) + 1))
        if not own & ran:
            silent |= own
    return silent - ran
