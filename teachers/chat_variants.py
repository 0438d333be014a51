"""A language model as the teacher for code: changed versions of a program's lines or blocks.

PRLCoder's teacher is DeepSeek-Coder-V2. Its prompts are not public; those below stand in. Comments
are cut out of the answers: models like to say there what they broke.
"""

import ast
import contextlib
import io
import re
import textwrap
import tokenize
import warnings
from collections import Counter
from collections.abc import Sequence

import common
from teachers.chat import Teacher
from teachers.program import Program, source_lines
from teachers.units import Unit, Variant, block_units, compiles, line_units

PROMPT = """Here are a programming problem and a correct Python program for it, with line numbers.

Problem:
{problem}

Program:
{program}
These are the lines to rewrite:
```python
{unit}```

{goal}

Answer with the new version of these lines alone, in one code fence. Do not repeat the rest of the \
program, and write no
comments."""

GOALS = {
    "mutate": """Rewrite {place} so that the program becomes wrong: plant one bug that a \
programmer could have made by
mistake. The program must still compile, and must give a wrong result for some input.""",
    "refactor": """Rewrite {place} in a different way so that the program stays correct: it must \
still give the same
result for every input.""",
}


def prompts_of(
    task: dict, unit: str, intents: Sequence[str], num_variants: int
) -> list[tuple[Unit, str, str]]:
    """(unit, intent, prompt) of everything that is asked about a task with a `solution`.

    unit: "line" or "block". Lines that the task gives away (`prefix`) are not asked about.
    """
    asked, lines = [], source_lines(task["solution"])
    program = "".join(f"{number:>3}  {line}" for number, line in enumerate(lines, 1))
    given, units = task.get("prefix", "").count("\n"), line_units if unit == "line" else block_units
    for piece in units(Program(task["solution"])):
        if piece.start <= given:
            continue
        one_line = piece.start == piece.end
        place = f"line {piece.start}" if one_line else f"lines {piece.start} to {piece.end}"
        text = "".join(lines[piece.start - 1 : piece.end])
        for intent in intents:
            goal = GOALS[intent].format(place=place)
            prompt = PROMPT.format(
                problem=task["prompt"].strip(), program=program, unit=text, goal=goal
            )
            asked += [(piece, intent, prompt)] * num_variants
    return asked


def chat_variants(
    teacher: Teacher, tasks: list[dict], unit: str, intents: Sequence[str], num_variants: int
) -> dict[str, tuple[list[Variant], Counter]]:
    """By task_id: the teacher's distinct variants of the task, and counts of useless answers.

    An answer is of no use when it is missing, unparsable, unchanged, or a duplicate.
    """
    asked = []  # (task, unit, intent, prompt)
    for task in tasks:
        asked += [(task, *rest) for rest in prompts_of(task, unit, intents, num_variants)]
    answers = teacher.ask([prompt for *_, prompt in asked], "teacher's answers")
    found = {task["task_id"]: ([], Counter()) for task in tasks}
    seen = {task["task_id"]: [meaning(task["solution"])] for task in tasks}
    for (task, piece, intent, _), answer in zip(asked, answers, strict=True):
        variants, dropped = found[task["task_id"]]
        made = variant_of(task["solution"], piece, intent, answer, seen[task["task_id"]])
        if isinstance(made, str):
            dropped[made] += 1
        else:
            variants.append(made)
    return found


def variant_of(
    source: str, unit: Unit, intent: str, answer: str | None, known: list[str]
) -> Variant | str:
    """The variant that an answer makes of a unit, or why the answer is of no use.

    known: what the program and the variants so far parse to, the program first; the new variant is
    noted there.
    """
    if not answer:
        return "missing"
    text = read_answer(source, unit, answer)
    variant = Variant(unit.start, unit.end, text or "", "llm", intent)
    form = meaning(variant.apply(source)) if text else None
    if form is None:
        return "unparsable"
    if form in known:
        return "unchanged" if form == known[0] else "duplicate"
    known.append(form)
    return variant


def read_answer(source: str, unit: Unit, answer: str) -> str | None:
    """The lines that an answer puts in the unit's place, at its indentation; None for no lines.

    Where the code repeats lines of the program around the unit, in whatever white space, the unit's
    part is taken. Dropped are answers that repeat the function around the unit with other changes,
    or a new body below what was a header alone.
    """
    program = source_lines(source)
    before, old = program[: unit.start - 1], program[unit.start - 1 : unit.end]
    code = code_of(answer, old)
    lines = source_lines(code) if code else []
    if len(lines) > len(old):  # fewer lines may be a copy of a line beside the unit: a change
        lines = own_lines(lines, source, before, old)
    text = textwrap.indent(textwrap.dedent("".join(lines)), unit.indent)
    if not text or defined_in(before) & defined_in(lines):
        return None
    headers = [code.rstrip().endswith(":") for code in (text, without_comments("".join(old)))]
    return text if headers[0] == headers[1] else None


def code_of(answer: str, old: list[str]) -> str:
    """The code of an answer, without comments; "" where a whole fence is missing.

    Of several fences after the reasoning (`</think>`) it is the first that is no copy of the old
    lines: models quote what they change.
    """
    answer = common.unix(answer.rpartition("</think>")[2])
    fences = re.findall(r"```[^\n]*\n(.*?)^[ \t]*```", answer, re.DOTALL | re.M)
    codes = [without_comments(textwrap.dedent(fence)) for fence in fences]
    copy = "".join("".join(old).split())
    changed = (code for code in codes if "".join(code.split()) != copy)
    return next(changed, codes[0] if codes else "")


def own_lines(lines: list[str], source: str, before: list[str], old: list[str]) -> list[str]:
    """An answer's lines without those of the program before and after the unit.

    [] where the lines repeat the function around the unit from its head, and end in other changes.
    """
    whole, first = outline(source), len(outline("".join(before)))
    after = whole[first + len(outline("".join(old))) :]
    head, tail = repeated(outline("".join(lines)), whole[:first], whole[first][0], after)
    own = lines[head : len(lines) - tail]
    other_changes = after and not tail and len(own) > len(old)
    return [] if defined_in(lines[:head]) and other_changes else own


def outline(code: str) -> list[tuple[int, str]]:
    """The depth of each line of some code, and the line without white space; comments and blank
    lines are left out."""
    indents, lines = [], []
    for line in without_comments(code).expandtabs().split("\n")[:-1]:
        indent = len(line) - len(line.lstrip())
        indents = [one for one in indents if one < indent] + [indent]
        lines.append((len(indents), "".join(line.split())))
    return lines


def repeated(
    lines: list[tuple[int, str]],
    before: list[tuple[int, str]],
    depth: int,
    after: list[tuple[int, str]],
) -> tuple[int, int]:
    """How many of the first lines of an answer end `before`, and of the last ones begin `after`.

    depth: of the unit, at which the lines between them stand.
    """
    for head in range(min(len(lines) - 1, len(before)), -1, -1):
        moved = [(own + depth - lines[head][0], text) for own, text in lines]
        if moved[:head] == before[len(before) - head :]:
            break
    tails = range(min(len(lines) - head, len(after)) + 1)
    return head, max(n for n in tails if moved[len(moved) - n :] == after[:n])


def defined_in(lines: list[str]) -> set[str]:
    """The names of functions and classes that some lines define."""
    return set(re.findall(r"^\s*(?:def|class) (\w+)", "".join(lines), re.M))


def without_comments(code: str) -> str:
    """Code without its comments and without blank lines; it need not be a whole program."""
    lines = source_lines(code)
    with contextlib.suppress(tokenize.TokenError, SyntaxError):
        for token in tokenize.generate_tokens(io.StringIO(code).readline):
            if token.type == tokenize.COMMENT:
                row, column = token.start
                lines[row - 1] = lines[row - 1][:column].rstrip() + "\n"
    return "".join(line for line in lines if line.strip())


def meaning(source: str) -> str | None:
    """What a program parses to, whatever its formatting; None where it does not compile."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.dump(ast.parse(source)) if compiles(source) else None
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            return None
