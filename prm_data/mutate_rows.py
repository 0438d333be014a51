"""Rows of prm.jsonl and outcomes.jsonl from executed changes of references, for --method mutate."""

import dataclasses
import random
from collections import Counter, defaultdict

import common
from prm_data import rows
from teachers.program import Program, source_lines
from teachers.units import Variant, line_units


def labelled_lines(source: str) -> set[int]:
    """Indices (from 0) of the lines that get labels: each ends a statement or a header."""
    return {unit.end - 1 for unit in line_units(Program(source))}


def prefix_rows(task: dict, verified: list[tuple[Variant, float]]) -> list[dict]:
    """The paper's rows of a task: the reference, and a row for each changed line.

    The row of a changed line holds the whole changed program, in which that line alone has a label.
    A change that does not show up to the line of its label has no row: of two equal lines that
    follow each other either may be deleted, and the reference says +1 there.
    """
    reference = task["solution"]
    lines, marked = source_lines(reference), labelled_lines(reference)
    labels = [1.0 if i in marked else None for i in range(len(lines))]
    packed = [row_of(task, lines, labels, "reference", [], [])]
    for variant, label in verified:
        index = variant.label_line(reference)
        if index is None:
            continue
        program = source_lines(variant.apply(reference))
        if program[: index + 1] != lines[: index + 1]:
            labels = [label if i == index else None for i in range(len(program))]
            operators = [variant.operator]
            packed.append(row_of(task, program, labels, variant.intent, [index], operators))
    return packed


def program_rows(task: dict, verified: list[tuple[Variant, float]], config) -> list[dict]:
    """Rows that hold many verified changes each, one a line at most; a label stays with its line.

    A deleted, inserted or moved line shifts what follows against the prompt. So a row holds one
    such change at most.
    """
    lines, marked = source_lines(task["solution"]), labelled_lines(task["solution"])
    in_place, shifting = defaultdict(list), []
    for variant, label in verified:
        if variant.start == variant.end and variant.text.count("\n") == 1:
            in_place[variant.start - 1].append((variant, label))
        elif variant.label_line(task["solution"]) is not None:
            shifting.append((variant, label))
    packed = []
    for number in range(config.rows_per_task):
        rng = random.Random(common.seed_of(config.seed, "packing", task["task_id"], number))
        chosen = {}
        for i in sorted(in_place):
            if rng.random() < config.change_rate:
                chosen[i] = rng.choice(in_place[i])
        out, labels = [*lines], [1.0 if i in marked else None for i in range(len(lines))]
        for i, (variant, label) in chosen.items():
            out[i], labels[i] = variant.text, label
        changed, operators = sorted(chosen), [chosen[i][0].operator for i in sorted(chosen)]
        if shifting and rng.random() < config.shift_rate:
            variant, label = rng.choice(shifting)
            first, last = variant.start - 1, variant.end
            new = source_lines(variant.text) if variant.text else []
            out[first:last] = new
            labels[first:last] = [None] * len(new)
            index = variant.label_line(task["solution"])
            if labels[index] is None or label < labels[index]:  # a wrong line stays wrong
                labels[index] = label
            moved = len(new) - (last - first)
            changed = [i for i in changed if i < first] + [i + moved for i in changed if i >= last]
            changed = sorted({*changed, index})
            operators = [*operators, variant.operator]
        packed.append(row_of(task, out, labels, "mutate", changed, operators))
    return packed


def row_of(
    task: dict,
    lines: list[str],
    labels: list,
    origin: str,
    changed: list[int],
    operators: list[str],
) -> dict:
    """One row of prm.jsonl; lines that the task gives away (`prefix`) belong to no completion."""
    given = rows.given_lines(task)
    meta = {
        "changed": [index - given for index in changed if index >= given],
        "operators": operators,
        "steps": rows.steps_of(task),
    }
    return rows.line_row(task, lines[given:], labels[given:], origin, meta)


def variants_of(result: dict) -> list[tuple[Variant, str]]:
    """The variants of a line of the progress file, each with its status."""
    names = [field.name for field in dataclasses.fields(Variant)]
    return [(Variant(*(row[name] for name in names)), row["status"]) for row in result["variants"]]


def balanced(verified: dict[str, list], seed: int) -> dict[str, list]:
    """As many changes of the one label as of the other; the others are left out at random."""
    by_label = {label: [] for label in (1.0, -1.0)}
    for task_id, changes in verified.items():
        for index, (_, label) in enumerate(changes):
            by_label[label].append((task_id, index))
    few, many = sorted(by_label.values(), key=len)
    kept = {*few, *random.Random(common.seed_of(seed, "balance")).sample(many, len(few))}
    return {
        task_id: [change for index, change in enumerate(changes) if (task_id, index) in kept]
        for task_id, changes in verified.items()
    }


def counts_of_references(tasks: list[dict]) -> dict:
    """Lines of the references that have no label, and statements of several lines."""
    silent, several = Counter(comment=0, blank=0, other=0), 0
    for task in tasks:
        units = line_units(Program(task["solution"]))
        several += sum(unit.end > unit.start for unit in units)
        marked = labelled_lines(task["solution"])
        for index, line in enumerate(source_lines(task["solution"])):
            if index < rows.given_lines(task) or index in marked:
                continue
            if line.lstrip().startswith("#"):
                silent["comment"] += 1
            else:
                silent["other" if line.strip() else "blank"] += 1
    return {"reference_lines_without_label": dict(silent), "statements_of_several_lines": several}


def outcome_rows(tasks: list[dict], results: dict[str, dict]) -> list[dict]:
    """One row for each program that was executed and has a verdict."""
    outcomes = []
    for task in tasks:
        result, prefix = results[task["task_id"]], task.get("prefix", "")
        programs = [(task["solution"], result["reference"], "reference")]
        for variant, status in variants_of(result):
            programs.append((variant.apply(task["solution"]), status, variant.intent))
        for program, status, origin in programs:
            if status == "harness_error":
                continue
            outcome = {
                "task_id": task["task_id"],
                "prompt": task["prompt"],
                "completion": program[len(prefix) :],
                "status": status,
                "origin": origin,
            }
            outcomes.append(outcome | rows.prefix_of(task))
    return outcomes
