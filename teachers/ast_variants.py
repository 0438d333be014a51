"""The embedded teacher: changed versions of a program, by rules on its syntax tree.

PRLCoder asks a large language model for a mutated and a refactored version of each line. This is
the stand-in that needs no model, in the tradition of "Let's reward step by step" (mutation of the
syntax tree and unit tests). What the teacher means, "mutate" (break it) or "refactor" (keep what it
does), is only noted: the label of a variant is what its execution shows. So an equivalent mutant,
or a refactoring that breaks the program, does no harm.

    rules.py         the rules, as patterns and rewrites in plain Python: add a rule here
    expressions.py   changes inside a line that no rule can say
    lines.py         changes of a whole statement: deleted, doubled, swapped, replaced
    blocks.py        changes of a compound statement or of several lines
    patterns.py      rules parsed, matched and filled
    splice.py        edits put into the text, whose formatting stays
    units.py         the lines and blocks of a program, and Variant
    program.py       the parsed program

F-strings are left alone: Python 3.11 does not know the places inside them.
"""

import random
import re
import warnings
from collections.abc import Collection, Sequence
from itertools import zip_longest

from teachers.blocks import block_proposals
from teachers.lines import line_proposals
from teachers.program import Program
from teachers.splice import splice
from teachers.units import Variant, block_units, compiles, line_units

IDLE = re.compile(r"\s*(\w+) = \1\n")  # a deletion in disguise


def ast_variants(
    source: str,
    unit: str = "line",
    donors: Sequence[str] = (),
    seed: int = 0,
    max_per_line: int | None = None,
    intents: Sequence[str] = ("mutate", "refactor"),
    taboo: Collection[str] = (),
) -> list[Variant]:
    """Distinct changed versions of every statement line (or block) of `source`.

    donors: other programs, which lend statements. max_per_line: variants of each line (block) at
    most; the intents take turns, and within an intent the operators. intents: changes of these
    alone are made. taboo: lines that no change writes. The same arguments give the same list.
    Raises ValueError for a source that does not parse.
    """
    if unit not in ("line", "block"):
        raise ValueError(f"unit is {unit!r}; it must be 'line' or 'block'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of "\d" or `x is 1` in a program
        program = Program(source)
        seen, variants = {source}, []
        units, propose = line_units, line_proposals
        if unit == "block":
            units, propose = block_units, block_proposals
        for piece in units(program):
            rng = random.Random(f"{seed} {piece.start} {piece.end}")
            proposals = [p for p in propose(program, piece, donors, rng) if p[1] in intents]
            limit = len(proposals)
            if max_per_line is not None:
                proposals, limit = taking_turns(proposals, rng), max_per_line
            forms, kept = {piece.form, None}, 0
            for operator, intent, change in proposals:
                if kept == limit:
                    break
                if isinstance(change, list):
                    change = splice(program, piece, change)
                start, end, text, form = change
                variant = Variant(start, end, text, operator, intent)
                result = variant.apply(source)
                if form in forms or result in seen or IDLE.fullmatch(text) or not compiles(result):
                    continue
                if not set(taboo).isdisjoint(text.split("\n")):
                    continue
                forms.add(form)
                seen.add(result)
                variants.append(variant)
                kept += 1
    return sorted(variants, key=lambda variant: (variant.start, variant.end))


def taking_turns(proposals: list, rng: random.Random) -> list:
    """The proposals, the intents taking turns, and within an intent the operators."""
    rng.shuffle(proposals)
    for key in (lambda item: item[:2]), (lambda item: item[1]):
        groups: dict = {}
        for item in proposals:
            groups.setdefault(key(item), []).append(item)
        proposals = [item for turn in zip_longest(*groups.values()) for item in turn if item]
    return proposals
