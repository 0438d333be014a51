"""Edits put into the text of a program, with the parentheses that keep their meaning.

An edit replaces the text of a node and copies the text of its parts. So the rest of the line keeps
its formatting, and a changed line does not give itself away by its style.
"""

import ast

from teachers.program import Program
from teachers.units import Unit, form_of

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


def splice(program: Program, unit: Unit, edits: list) -> tuple[int, int, str, str | None]:
    """(start, end, text, form) of the unit after the edits; form None where they make no sense.

    The meaning of the edits is what the text parses to with parentheses around every part and every
    replaced expression. What is spliced in is the text with the fewest added parentheses that
    parses to the same tree.
    """
    parts = [part for _, parts in edits for part in parts]
    exprs = [part for part in parts if isinstance(part, ast.expr)]
    loose = [id(part) for part in exprs if not isinstance(part, (*ATOMS, ast.Starred))]
    if not unit.alone and any("\n" in part for part in parts if isinstance(part, str)):
        return unit.start, unit.end, "", None
    meaning = form_of(unit, rendered(program, unit, edits, loose, True))
    one_each = [([part], False) for part in loose]
    choices = [([], False), ([], True), *one_each, (loose, False), (loose, True)]
    for wrapped, whole in choices if meaning else ():
        text = rendered(program, unit, edits, wrapped, whole)
        if form_of(unit, text) == meaning:
            return unit.start, unit.end, text, meaning
    return unit.start, unit.end, "", None


def rendered(program: Program, unit: Unit, edits: list, wrapped: list[int], whole: bool) -> str:
    """The lines of the unit after the edits.

    wrapped: ids of the parts that get parentheses. whole: replaced expressions get them too.
    """
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
