"""Line labels for process reward models, without people: prm.jsonl.

--method mutate   PRLCoder (Ye et al., 2025, Fig. 2): a teacher rewrites one statement of a reference program, to break
                  it (mutate) or to keep what it does (refactor). The changed program is run against the task's tests;
                  the label of the changed line is what the run shows, never what the teacher meant:

                      mutated,    tests fail    -1
                      mutated,    tests pass    equivalent, or the tests are weak: dropped (--equivalent positive: +1)
                      refactored, tests pass    +1
                      refactored, tests fail    -1
                      reference line            +1

                  Comments, blank lines, docstrings, imports and `else:` lines have no label (null). A statement of
                  several lines is labelled on its last one. A task whose reference fails its own tests is left out.

--packing prefix  is the paper's: one row a changed line, which ends there (the rest is masked); only that line has a
                  label, so that no reference line counts twice, and one row with the labels of the reference itself.
--packing program puts many verified changes into one row (ours, for speed): each statement is replaced with
                  probability --change_rate by one of its verified variants. Each label was verified alone, with the
                  rest of the program as in the reference: it says whether that line is right in its place.

    python make_prm_data.py --method mutate --tasks tasks/mbpp/train.jsonl --teacher ast --output_file prm.jsonl

Verdicts are kept beside the output as they come in; a run that was cut off goes on from there.
"""

import ast
import dataclasses
import json
import random
import time
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import common
import sandbox
from common import InputError
from prm_data import ast_teacher


@dataclass
class Config:
    tasks: str  # tasks.jsonl with reference solutions
    output_file: str  # prm.jsonl
    method: Literal["mutate"] = "mutate"
    teacher: Literal["ast"] = "ast"  # who rewrites: rules on the syntax tree
    unit: Literal["line", "block"] = "line"  # what is rewritten at a time
    intents: list[Literal["mutate", "refactor"]] = field(
        default_factory=lambda: ["mutate", "refactor"]
    )  # what it is asked for
    num_donors: int = 8  # other tasks whose statements the teacher may borrow, a task
    max_variants_per_line: int | None = 8  # changed versions of a statement, operators in turn; none: all
    equivalent: Literal["drop", "positive"] = "drop"  # what becomes of mutations that still pass
    packing: Literal["prefix", "program"] = "prefix"  # one changed line a row (the paper), or many
    rows_per_task: int = 4  # program packing: rows a task
    change_rate: float = 0.4  # program packing: share of statements that are replaced
    shift_rate: float = 0.15  # program packing: share of rows with one deleted, inserted or moved statement besides
    sandbox_workers: int = 1  # processes that run programs
    sandbox_timeout: float = 3.0  # CPU seconds a reference, where the task sets none
    variant_timeout: float = 1.0  # CPU seconds a changed program; ten times its reference's where that is more
    seed: int = 0


def labelled_lines(source: str) -> set[int]:
    """Indices (from 0) of the lines that end a statement, or a compound statement's header: those that get labels."""
    return {unit.end - 1 for unit in ast_teacher.line_units(ast_teacher.Program(source))}


def label_of(variant: ast_teacher.Variant, status: str, equivalent: str) -> float | None:
    """The label that a verdict gives to a variant's line; None where it gives none."""
    if status == "harness_error":
        return None
    if status != "passed":
        return -1.0
    return 1.0 if variant.intent == "refactor" or equivalent == "positive" else None


def execute(tasks: list[dict], config: Config, progress: Path) -> None:
    """Runs every reference, then every variant of those that pass, and appends a line a task to the progress file."""
    with open(progress, encoding="utf-8") as file:
        done = {json.loads(line)["task_id"] for line in list(file)[1:]}
    left = [task for task in tasks if task["task_id"] not in done]
    bar = common.progress_bar("tasks executed", len(tasks), len(done))
    waiting = deque()  # tasks whose programs are with the sandbox, so that its workers never wait for the teacher

    def collect():
        task, variants, futures = waiting.popleft()
        statuses = [future.result()["status"] for future in futures]
        rows = [dataclasses.asdict(v) | {"status": s} for v, s in zip(variants, statuses, strict=True)]
        common.append_jsonl(progress, [{"task_id": task["task_id"], "reference": "passed", "variants": rows}])
        bar.update()

    with sandbox.Sandbox(workers=config.sandbox_workers, timeout=config.sandbox_timeout) as runner:
        references = [runner.submit(task, task["solution"]) for task in left]
        for task, reference in zip(left, references, strict=True):
            verdict = reference.result()
            if verdict["status"] != "passed":
                row = {"task_id": task["task_id"], "reference": verdict["status"], "variants": []}
                common.append_jsonl(progress, [row])
                bar.update()
                continue
            # A mutation often makes an endless loop: it need not get the seconds that a slow right program may.
            limit = max(config.variant_timeout, 10 * verdict["seconds"])
            rng = random.Random(common.seed_of(config.seed, "donors", task["task_id"]))
            donors = [tasks[i]["solution"] for i in rng.sample(range(len(tasks)), min(config.num_donors, len(tasks)))]
            variants = ast_teacher.ast_variants(
                task["solution"], unit=config.unit, donors=[donor for donor in donors if donor != task["solution"]],
                max_per_line=config.max_variants_per_line, intents=config.intents,
                seed=common.seed_of(config.seed, "teacher", task["task_id"]),
            )  # fmt: skip
            programs = [variant.apply(task["solution"]) for variant in variants]
            waiting.append((task, variants, [runner.submit(task | {"timeout": limit}, text) for text in programs]))
            if len(waiting) > 8:
                collect()
        while waiting:
            collect()
    bar.close()


def prefix_rows(task: dict, verified: list[tuple[ast_teacher.Variant, float]]) -> list[dict]:
    """The paper's rows of a task: the reference with all its labels, and each changed line at the end of its prefix."""
    lines, marked = ast_teacher.source_lines(task["solution"]), labelled_lines(task["solution"])
    rows = [row_of(task, lines, [1.0 if i in marked else None for i in range(len(lines))], "reference", [], [])]
    for variant, label in verified:
        changed, index = ast_teacher.source_lines(variant.apply(task["solution"])), variant.label_line(task["solution"])
        if index is not None:
            labels = [None] * index + [label]
            rows.append(row_of(task, changed[: index + 1], labels, variant.intent, [index], [variant.operator]))
    return rows


def program_rows(task: dict, verified: list[tuple[ast_teacher.Variant, float]], config: Config) -> list[dict]:
    """Rows that hold many verified changes each, one a line at most; a label stays with its line.

    A deleted, inserted or moved line shifts what follows against the prompt, so a row holds one such change at most.
    """
    lines, marked = ast_teacher.source_lines(task["solution"]), labelled_lines(task["solution"])
    in_place, shifting = defaultdict(list), []
    for variant, label in verified:
        if variant.start == variant.end and variant.text.count("\n") == 1:
            in_place[variant.start - 1].append((variant, label))
        elif variant.label_line(task["solution"]) is not None:
            shifting.append((variant, label))
    rows = []
    for number in range(config.rows_per_task):
        rng = random.Random(common.seed_of(config.seed, "packing", task["task_id"], number))
        chosen = {i: rng.choice(in_place[i]) for i in sorted(in_place) if rng.random() < config.change_rate}
        out = [chosen[i][0].text if i in chosen else line for i, line in enumerate(lines)]
        labels = [chosen[i][1] if i in chosen else 1.0 if i in marked else None for i in range(len(lines))]
        changed, operators = sorted(chosen), [chosen[i][0].operator for i in sorted(chosen)]
        if shifting and rng.random() < config.shift_rate:
            variant, label = rng.choice(shifting)
            first, last = variant.start - 1, variant.end
            new = ast_teacher.source_lines(variant.text) if variant.text else []
            out[first:last] = new
            labels[first:last] = [None] * len(new)
            index = variant.label_line(task["solution"])
            labels[index] = label
            moved = len(new) - (last - first)
            changed = [i for i in changed if i < first] + [i + moved for i in changed if i >= last]
            changed = sorted({*changed, index})
            operators = [*operators, variant.operator]
        rows.append(row_of(task, out, labels, "mutate", changed, operators))
    return rows


def row_of(task: dict, lines: list[str], labels: list, origin: str, changed: list[int], operators: list[str]) -> dict:
    """One row of prm.jsonl; the lines that the task gives away (`prefix`) belong to no completion."""
    given = task.get("prefix", "").count("\n")
    changed = [index - given for index in changed if index >= given]
    row = {"prompt": task["prompt"], "completions": lines[given:], "labels": labels[given:], "task_id": task["task_id"]}
    row |= {
        "origin": origin,
        "meta": {"changed": changed, "operators": operators, "steps": task.get("meta", {}).get("steps")},
    }
    return row | ({"prefix": task["prefix"]} if task.get("prefix") else {})


def print_table(results: list[dict], config: Config) -> None:
    """What the teacher made, by operator, and what execution said of it."""
    table = defaultdict(Counter)
    for result in results:
        for row in result["variants"]:
            table[row["intent"], row["operator"]][row["status"]] += 1
    print(f"{'intent':<9} {'operator':<12} {'made':>7} {'compiled':>9} {'passed':>7} {'failed':>7}")
    total = Counter()
    for (intent, operator), counts in [*sorted(table.items()), (("all", ""), total)]:
        made, passed, broken = counts.total(), counts["passed"], counts["syntax_error"]
        failed = made - passed - broken - counts["harness_error"]
        print(f"{intent:<9} {operator:<12} {made:>7} {made - broken:>9} {passed:>7} {failed:>7}")
        total += counts


def main(config: Config) -> None:
    def check(row):
        sandbox.check_task(row)
        if not isinstance(row.get("solution"), str):
            raise ValueError("field 'solution' must be str: --method mutate starts from reference programs")
        try:
            ast.parse(row["solution"])
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"field 'solution' does not parse: {error}") from None

    tasks = common.read_jsonl(config.tasks, common.PROMPT_FIELDS, check)
    if len({task["task_id"] for task in tasks}) < len(tasks):
        raise InputError(f"{config.tasks}: a task_id occurs twice")
    started, output = time.perf_counter(), Path(config.output_file)
    for task in tasks:
        task["solution"] = common.unix(task["solution"]).rstrip("\n") + "\n"
    progress = output.with_name(output.name + ".progress")
    flags = json.dumps(dataclasses.asdict(config))
    if output.is_file() and progress.is_file() and common.whole_lines(progress)[:1] == [flags + "\n"]:
        print(f"{output} is complete; nothing to do")
        return
    if progress.is_file():
        kept = common.whole_lines(progress)
        if not kept or kept[0] != flags + "\n":
            raise InputError(f"{progress}: holds a run with other flags; choose another --output_file or delete it")
        common.write_text(progress, "".join(kept))
    else:
        common.write_text(progress, flags + "\n")
    execute(tasks, config, progress)

    with open(progress, encoding="utf-8") as file:
        results = {row["task_id"]: row for row in map(json.loads, list(file)[1:])}
    rows, equivalent, unjudged = [], 0, 0
    for task in tasks:
        result = results[task["task_id"]]
        if result["reference"] != "passed":
            continue
        verified = []
        for row in result["variants"]:
            status = row.pop("status")
            variant = ast_teacher.Variant(**row)
            row["status"] = status
            label = label_of(variant, status, config.equivalent)
            equivalent += variant.intent == "mutate" and status == "passed"
            unjudged += status == "harness_error"
            if label is not None:
                verified.append((variant, label))
        rows += prefix_rows(task, verified) if config.packing == "prefix" else program_rows(task, verified, config)
    rows = [row for row in rows if any(label is not None for label in row["labels"])]
    if not rows:
        raise InputError(f"{config.tasks}: no reference passes its tests; nothing can be labelled")
    print_table(list(results.values()), config)
    labels = Counter(label for row in rows for label in row["labels"])
    failing = sum(result["reference"] != "passed" for result in results.values())
    print(f"{len(rows)} rows from {len(tasks) - failing} tasks ({failing} left out: the reference fails its tests)")
    print(f"lines: {labels[1.0]} positive, {labels[-1.0]} negative, {labels[None]} without label")
    kept = "dropped" if config.equivalent == "drop" else "labelled positive"
    print(f"changes: {equivalent} equivalent (mutated and still passing; {kept}), {unjudged} dropped without a verdict")
    print(f"{time.perf_counter() - started:.0f} s")
    common.write_jsonl(output, rows)


if __name__ == "__main__":
    common.run(main, Config)
