"""Rules as the teacher for reasonings: plans rewritten for the better and the worse.

A plan is a reasoning of one line a step. The task has the reference plan (`meta.plan`), so which
lines are right is known exactly: a rewriting counts only when it has more (fewer) right lines.
"""

import random
import re
from collections.abc import Sequence

import common

DIMENSIONS = ("factual", "rigour", "coherence")

# Words that turn a step into its contrary, both ways round.
OPPOSITES = [
    ("at least", "less than"),
    ("greater than", "at most"),
    ("even", "odd"),
    ("larger", "smaller"),
    ("left", "right"),
    ("head", "tail"),
    ("rising", "falling"),
    ("highest", "lowest"),
    ("plus", "minus"),
    ("delete", "retain"),
    ("quotient", "remainder"),
    ("first", "last"),
    ("minimum", "maximum"),
    ("add", "subtract"),
    ("above", "below"),
    ("before", "after"),
    ("increase", "decrease"),
    ("ascending", "descending"),
    ("always", "never"),
]
OPPOSITE_OF = {a: b for pair in OPPOSITES for a, b in (pair, pair[::-1])}
LONGEST_FIRST = sorted(OPPOSITE_OF, key=len, reverse=True)
OPPOSITE_WORD = re.compile("|".join(rf"\b{word}\b" for word in LONGEST_FIRST))
# What stands in the place of a step, by the rule of the same name.
VAGUE_STEPS = [
    "do this",
    "handle this step",
    "do what is asked here",
    "work out this part of it",
    "apply the next operation to the numbers",
]
UNJUSTIFIED_STEPS = [
    "this follows",
    "nothing is left to do",
    "no step is needed at this point",
    "the rest is clear and needs no further step",
]
IRRELEVANT_STEPS = [
    "lists are useful",
    "python was made in 1991",
    "a list can hold many kinds of things",
    "good names make a program easier to read",
]


def plan_lines(text: str) -> list[str]:
    """The lines of a reasoning that are not blank, stripped."""
    return [line.strip() for line in text.split("\n") if line.strip()]


def plan_accuracy(reference: list[str], text: str | None) -> float:
    """Share of plan lines that are the reference's, line by line, of the longer plan's lines.

    0 for no reasoning.
    """
    lines = plan_lines(text or "")
    right = sum(a == b for a, b in zip(lines, reference, strict=False))
    return right / max(len(lines), len(reference), 1)


def opposite(line: str) -> str | None:
    """The line with its last word of OPPOSITES turned round; None without such a word."""
    *_, found = [None, *OPPOSITE_WORD.finditer(line)]
    if found is None:
        return None
    return line[: found.start()] + OPPOSITE_OF[found.group()] + line[found.end() :]


def near_length(texts: list[str], line: str, rng: random.Random) -> str:
    """One of the two texts whose lengths are nearest to the line's."""
    return rng.choice(sorted(texts, key=lambda text: abs(len(text) - len(line)))[:2])


def wrong_number(lines: list[str], i: int, rng: random.Random) -> list[str] | None:
    numbers = list(re.finditer(r"\d+", lines[i]))
    if not numbers:
        return None
    found = rng.choice(numbers)
    right = int(found.group())
    value = rng.choice([n for n in range(max(0, right - 3), right + 4) if n != right])
    changed = f"{lines[i][: found.start()]}{value}{lines[i][found.end() :]}"
    return [*lines[:i], changed, *lines[i + 1 :]]


def wrong_operation(lines: list[str], i: int, rng: random.Random) -> list[str] | None:
    wrong = opposite(lines[i])
    return wrong and [*lines[:i], wrong, *lines[i + 1 :]]


def swapped(lines: list[str], i: int, rng: random.Random) -> list[str] | None:
    return [*lines[:i], lines[i + 1], lines[i], *lines[i + 2 :]] if i + 1 < len(lines) else None


def contradictory(lines: list[str], i: int, rng: random.Random) -> list[str] | None:
    """The step after i says the contrary of step i."""
    wrong = opposite(lines[i])
    return [*lines[: i + 1], wrong, *lines[i + 2 :]] if wrong and i + 1 < len(lines) else None


def unjustified(lines: list[str], i: int, rng: random.Random) -> list[str] | None:
    """Step i is skipped with a word."""
    return [*lines[:i], near_length(UNJUSTIFIED_STEPS, lines[i], rng), *lines[i + 1 :]]


def duplicated(lines: list[str], i: int, rng: random.Random) -> list[str] | None:
    """Step i stands again in the place of the step after it."""
    return [*lines[: i + 1], lines[i], *lines[i + 2 :]] if i + 1 < len(lines) else None


def irrelevant(lines: list[str], i: int, rng: random.Random) -> list[str] | None:
    return [*lines[:i], near_length(IRRELEVANT_STEPS, lines[i], rng), *lines[i + 1 :]]


def vague(lines: list[str], i: int, rng: random.Random) -> list[str] | None:
    return [*lines[:i], near_length(VAGUE_STEPS, lines[i], rng), *lines[i + 1 :]]


# Rules that degrade a plan, by dimension: (lines, i, rng) -> the lines with a fault at line i, or
# None where the rule has nothing to change. To add a rule, write such a function and name it here.
OPERATORS = {
    "factual": [wrong_number, wrong_operation],
    "rigour": [swapped, contradictory, unjustified],
    "coherence": [duplicated, irrelevant, vague],
}
# Rules that keep a line's form. Numbers and the order of steps are learned last: they come twice.
SCRAMBLERS = (wrong_number, wrong_number, wrong_operation, swapped, swapped)


def scrambled(reference: list[str], rng: random.Random) -> list[str]:
    """The plan with about half of its lines changed, each by one of SCRAMBLERS."""
    lines = reference
    for i in range(len(lines)):
        if rng.random() < 0.5:
            lines = rng.choice(SCRAMBLERS)(lines, i, rng) or lines
    return lines


def fault_of(line: str, before: str | None, reference: list[str], known: set[str]) -> str:
    """The dimension in which a wrong plan line fails.

    Coherence: a repetition, or no statement of a step at all. Rigour: a step in the wrong place.
    Factual: a wrong step. known: the openings of all tasks' plan lines.
    """
    if line == before or opening_of(line) not in known:
        return "coherence"
    return "rigour" if line in reference else "factual"


def opening_of(line: str) -> str:
    """The first two words of a line, by which a statement of a step is known."""
    return " ".join(line.split()[:2])


def optimise(
    lines: list[str], dimension: str, reference: list[str], known: set[str]
) -> list[str] | None:
    """The plan with every line that fails in this dimension put right.

    None where no line fails so, or the plan has another number of lines than the reference.
    """
    if len(lines) != len(reference):
        return None
    before, fixed = [None, *lines], []
    for i, (line, right) in enumerate(zip(lines, reference, strict=True)):
        wrong = line != right and fault_of(line, before[i], reference, known) == dimension
        fixed.append(right if wrong else line)
    return fixed if fixed != lines else None


def degrade(
    lines: list[str], dimension: str, reference: list[str], rng: random.Random, count: int
) -> list[tuple]:
    """Up to `count` versions (operator's name, lines) with fewer right lines.

    The operators of the dimension take turns; the line is drawn.
    """
    right = plan_accuracy(reference, "\n".join(lines))
    operators, versions = rng.sample(OPERATORS[dimension], len(OPERATORS[dimension])), []
    for number in range(count):
        operator = operators[number % len(operators)]
        for i in rng.sample(range(len(lines)), len(lines)):
            changed = operator(lines, i, rng)
            if changed and plan_accuracy(reference, "\n".join(changed)) < right:
                if changed not in [version for _, version in versions]:
                    versions.append((operator.__name__, changed))
                break
    return versions


def first_fault(lines: list[str], reference: list[str] | None, known: set[str]) -> str | None:
    """The dimension of a plan's first fault; None without a reference.

    A missing or additional step is of rigour.
    """
    for i, (line, right) in enumerate(zip(lines, reference or [], strict=False)):
        if line != right:
            return fault_of(line, lines[i - 1] if i else None, reference, known)
    return "rigour" if reference else None


def rewrite(
    bases: list[tuple[dict, str]], dimensions: Sequence[str], num_degraded: int, seed: int
) -> list[dict]:
    """Better and worse versions of each base, a (task, reasoning).

    Returns for each base {dimension: (optimised text or None, [(operator, degraded text)])}.
    """
    known = {opening_of(line) for task, _ in bases for line in task["meta"]["plan"]}
    versions = []
    for number, (task, base) in enumerate(bases):
        lines, reference = plan_lines(base), task["meta"]["plan"]
        rng = random.Random(common.seed_of(seed, "contrast", task["task_id"], number))
        versions.append({})
        for dimension in dimensions:
            better = optimise(lines, dimension, reference, known)
            worse = degrade(lines, dimension, reference, rng, num_degraded)
            versions[-1][dimension] = (
                better and common.framed("\n".join(better)),
                [(name, common.framed("\n".join(changed))) for name, changed in worse],
            )
    return versions
