"""Line labels by changing reference programs and executing them: prm.jsonl.

--method mutate   PRLCoder (Ye et al., 2025, Fig. 2): a teacher rewrites one statement of a
                  reference program, to break it (mutate) or to keep what it does (refactor). The
                  changed program runs against the task's tests. The label of the changed line is
                  what the run shows, never what the teacher meant:

                      mutated,    tests fail    -1
                      mutated,    tests pass    equivalent, or the tests are weak: dropped
                                                (--equivalent positive: +1)
                      refactored, tests pass    +1
                      refactored, tests fail    -1
                      reference line            +1

                  Comments, blank lines, docstrings, imports and `else:` lines have no label (null).
                  A statement of several lines has its label on the last one. A task whose reference
                  fails its own tests is left out.

--teacher ast     the embedded rules (teachers/ast_variants.py), or a language model
                  (teachers/chat_variants.py): a folder or hub name, or the URL of an
                  OpenAI-compatible endpoint and --teacher_model.

--unit block      the EMNLP version rewrites blocks too: compound statements, and bodies of
                  functions. The label of a changed block stands on its last line. Made for prefix
                  packing: a row of program packing holds one changed block at most, with
                  probability --shift_rate.

--packing prefix  is the paper's: one row a changed line, which alone has a label (the rest is
                  masked), so that no reference line counts twice. The row holds the whole changed
                  program: a tokenizer may merge the newline that ends a line with the indentation
                  of the next line, and the token that is labelled must be the one that a reward
                  model reads in use. One more row has the labels of the reference itself.
--packing program puts many verified changes into one row (ours, for speed): each statement is
                  replaced with probability --change_rate by one of its verified variants. Each
                  label was verified alone, with the rest of the program as in the reference: the
                  label says whether that line is right in its place.

    python make_prm_data.py --method mutate --tasks tasks/mbpp/train.jsonl --teacher ast \\
        --output_file prm.jsonl
    python make_prm_data.py --method mutate --tasks tasks/mbpp/train.jsonl \\
        --teacher http://127.0.0.1:8000/v1 --output_file prm.jsonl \\
        --teacher_model deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct

Verdicts (prm.jsonl.progress) and a language model's answers (prm.jsonl.teacher) are kept beside the
output as they come in; a run that was cut off goes on from there, and one that lacks a verdict or
an answer asks again. The counts are printed and written to prm.report.json.
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
from common import (
    InputError,
    InputFile,
    NonNegativeFloat,
    NonNegativeInt,
    OutputFile,
    PositiveFloat,
    PositiveInt,
    UnitFloat,
)
from prm_data import mutate_rows, rows
from prm_data.mutate_rows import variants_of
from teachers import chat
from teachers.ast_variants import ast_variants
from teachers.chat_variants import chat_variants
from teachers.units import Variant

# Flags that change nothing in the labels: a run may go on with others.
OPERATIONAL = (
    "teacher_concurrency",
    "teacher_max_retries",
    "teacher_timeout",
    "sandbox_workers",
    "outcomes_file",
)


@dataclass
class Config:
    tasks: InputFile  # tasks.jsonl with reference solutions
    output_file: OutputFile  # prm.jsonl
    method: Literal["mutate"] = "mutate"
    teacher: str = "ast"  # who rewrites: the rules (ast), a model folder or hub name, a URL
    teacher_model: str | None = None  # the endpoint's name for its model
    teacher_temperature: NonNegativeFloat = 0.8
    teacher_max_new_tokens: PositiveInt = 512  # tokens of an answer
    teacher_concurrency: PositiveInt = 8  # requests at a time; of a local model prompts a batch
    teacher_max_retries: NonNegativeInt = 5  # of a request that fails, after growing waits
    teacher_timeout: PositiveFloat = 120.0  # seconds of a request
    num_variants: PositiveInt = 1  # versions of a unit that a language model writes, of each intent
    unit: Literal["line", "block"] = "line"  # what is rewritten at a time
    # what the teacher is asked for
    intents: list[Literal["mutate", "refactor"]] = field(
        default_factory=lambda: ["mutate", "refactor"]
    )
    num_donors: NonNegativeInt = 8  # other tasks whose statements the rules may borrow, a task
    # versions of a unit by the rules, operators in turn; none: all
    max_variants_per_line: PositiveInt | None = 8
    # leave out rule-made versions that write a line of meta.misconceptions, so that the labels do
    # not show what the micro benchmark's policy gets wrong
    exclude_misconceptions: bool = False
    equivalent: Literal["drop", "positive"] = "drop"  # what becomes of mutations that still pass
    packing: Literal["prefix", "program"] = "prefix"  # one changed line a row (the paper), or many
    rows_per_task: PositiveInt = 4  # program packing: rows a task
    change_rate: UnitFloat = 0.4  # program packing: share of statements that are replaced
    shift_rate: UnitFloat = 0.15  # program packing: rows with a deleted, added or moved line
    sandbox_workers: PositiveInt = 1  # processes that run programs
    sandbox_timeout: PositiveFloat = 3.0  # CPU seconds a reference, where the task sets none
    packages: list[str] = field(default_factory=list)  # that programs may import, as numpy
    # CPU seconds a changed program (a test, where the task limits tests); ten times its reference's
    # where that is more
    variant_timeout: PositiveFloat = 1.0
    balance: bool = False  # leave out, at random, changes whose label is the more frequent one
    outcomes_file: OutputFile | None = None  # all programs with verdicts, for outcome reward models
    seed: int = 0


def label_of(variant: Variant, status: str, equivalent: str) -> float | None:
    """The label that a verdict gives to a variant's line; None where it gives none."""
    if status == "harness_error":
        return None
    if status != "passed":
        return -1.0
    return 1.0 if variant.intent == "refactor" or equivalent == "positive" else None


def rule_variants(task: dict, tasks: list[dict], config: Config) -> list[Variant]:
    """The embedded teacher's variants of a task; some of the other tasks lend it statements."""
    rng = random.Random(common.seed_of(config.seed, "donors", task["task_id"]))
    drawn = rng.sample(tasks, min(config.num_donors, len(tasks)))
    variants = ast_variants(
        task["solution"],
        unit=config.unit,
        donors=[other["solution"] for other in drawn if other["solution"] != task["solution"]],
        seed=common.seed_of(config.seed, "teacher", task["task_id"]),
        max_per_line=config.max_variants_per_line,
        intents=config.intents,
        taboo=task["meta"]["misconceptions"] if config.exclude_misconceptions else (),
    )
    return [variant for variant in variants if variant.start > rows.given_lines(task)]


def counts_of(result: dict) -> tuple[int, int]:
    """The programs of a task that ran, and how many of them have no verdict."""
    statuses = [result["reference"], *(row["status"] for row in result["variants"])]
    return len(statuses), statuses.count("harness_error")


def lacking(result: dict, config: Config) -> int:
    """The verdicts and answers that a task's result lacks, and that another run may bring.

    A local model's answer that is missing stays missing: the same prompt has the same answer again.
    """
    is_local = not config.teacher.startswith(("http://", "https://"))
    return counts_of(result)[1] + (0 if is_local else result["dropped"].get("missing", 0))


def execute(
    tasks: list[dict], config: Config, results: dict[str, dict], teacher: chat.Teacher | None
) -> None:
    """Runs every reference that has no result yet, then every variant of those that pass.

    Adds a result a task, and appends it to the progress file. InputError where the sandbox fails.
    """
    left = [task for task in tasks if task["task_id"] not in results]
    progress, latest = rows.progress_of(config), deque(maxlen=10)  # counts of ten tasks
    # Tasks whose programs are with the sandbox, so that its workers never wait for the rules.
    waiting = deque()
    clock = time.perf_counter()

    def note(task, reference, variants, dropped):
        nonlocal clock
        before, clock = clock, time.perf_counter()
        result = {
            "task_id": task["task_id"],
            "digest": rows.digest_of(task),
            "reference": reference,
            "variants": variants,
            "dropped": dropped,
            "seconds": clock - before,
        }
        common.append_jsonl(progress, [result])
        results[task["task_id"]] = result
        bar.update()
        latest.append(counts_of(result))
        if len(latest) == 10:
            rows.check_judged(latest, progress)

    def collect():
        task, variants, dropped, futures = waiting.popleft()
        statuses = [future.result()["status"] for future in futures]
        executed = [
            dataclasses.asdict(v) | {"status": s} for v, s in zip(variants, statuses, strict=True)
        ]
        note(task, "passed", executed, dropped)

    limits = {"workers": config.sandbox_workers, "timeout": config.sandbox_timeout}
    with sandbox.Sandbox(**limits, packages=config.packages) as runner:
        references = [runner.submit(task, task["solution"]) for task in left]
        verdicts = common.verdicts_of(references).rows
        if teacher:
            started, judged = time.perf_counter(), zip(left, verdicts, strict=True)
            passing = [task for task, verdict in judged if verdict["status"] == "passed"]
            answered = chat_variants(
                teacher, passing, config.unit, config.intents, config.num_variants
            )
            clock += time.perf_counter() - started  # the report's seconds are those of execution
        bar = common.progress_bar("tasks executed", len(tasks), len(tasks) - len(left))
        for task, verdict in zip(left, verdicts, strict=True):
            if verdict["status"] != "passed":
                note(task, verdict["status"], [], {})
                continue
            # Mutations often make endless loops, which need not get a slow right program's seconds.
            limit = max(config.variant_timeout, 10 * verdict["seconds"])
            limits = {"timeout": limit}
            if task.get("test_timeout"):
                limits["test_timeout"] = min(limit, task["test_timeout"])
            if teacher:
                variants, dropped = answered[task["task_id"]]
            else:
                variants, dropped = rule_variants(task, tasks, config), {}
            programs = [variant.apply(task["solution"]) for variant in variants]
            futures = [runner.submit(task | limits, program) for program in programs]
            waiting.append((task, variants, dropped, futures))
            if len(waiting) > 8:
                collect()
        while waiting:
            collect()
    bar.close()


COUNTS = ("made", "compiled", "passed", "failed", "equivalent", "unjudged")  # of changes


def report_of(
    tasks: list[dict], results: dict[str, dict], labelled: list[dict], teacher: chat.Teacher | None
) -> dict:
    """What the teacher made, what execution said of it, and the labels that came of it."""
    by_operator, dropped = defaultdict(Counter), Counter()
    for result in results.values():
        dropped.update(result["dropped"])
        for variant, status in variants_of(result):
            counts = by_operator[variant.intent, variant.operator]
            outcomes = {"passed": "passed", "syntax_error": "broken", "harness_error": "unjudged"}
            counts.update(["made", outcomes.get(status, "failed")])
            counts["compiled"] += status != "syntax_error"
            counts["equivalent"] += status == "passed" and variant.intent == "mutate"
    operators = [
        {"intent": intent, "operator": operator} | {name: counts[name] for name in COUNTS}
        for (intent, operator), counts in sorted(by_operator.items())
    ]
    seconds = sum(result["seconds"] for result in results.values())
    executions = sum(1 + len(result["variants"]) for result in results.values())
    labels = Counter(label for row in labelled for label in row["labels"])
    changed = Counter(row["labels"][index] for row in labelled for index in row["meta"]["changed"])
    report = {
        "tasks": len(tasks),
        "failing_references": sum(r["reference"] != "passed" for r in results.values()),
        "rows": len(labelled),
        "operators": operators,
        "total": {name: sum(row[name] for row in operators) for name in COUNTS},
        "labels": {"positive": labels[1.0], "negative": labels[-1.0], "none": labels[None]},
        "changed": {"positive": changed[1.0], "negative": changed[-1.0]},
        **mutate_rows.counts_of_references(tasks),
        "executions": executions,
        "seconds": seconds,
        "programs_per_second": executions / seconds,
        "teacher": None,
    }
    if teacher:
        useless = {n: dropped[n] for n in ("missing", "unparsable", "unchanged", "duplicate")}
        report["teacher"] = {"answers": len(teacher.answers), **teacher.tokens, **useless}
    return report


def print_report(report: dict, config: Config) -> None:
    total = report["total"]
    columns = "".join(f"{name:>11}" for name in total)
    print(f"{'intent':<9} {'operator':<14}{columns}{'pass rate':>11}")
    for row in [*report["operators"], {"intent": "all", "operator": ""} | total]:
        judged = row["made"] - row["unjudged"]
        rate = f"{row['passed'] / judged:>11.3f}" if judged else f"{'-':>11}"
        columns = "".join(f"{row[name]:>11}" for name in total)
        print(f"{row['intent']:<9} {row['operator']:<14}{columns}{rate}")
    failing, labels, changed = report["failing_references"], report["labels"], report["changed"]
    print(
        f"{report['rows']} rows from {report['tasks'] - failing} tasks "
        f"({failing} left out: the reference fails its tests)"
    )
    print(
        f"lines: {labels['positive']} positive, {labels['negative']} negative, "
        f"{labels['none']} without label"
    )
    ratio = changed["negative"] / max(1, changed["positive"])
    print(
        f"changed lines: {changed['positive']} positive, {changed['negative']} negative "
        f"({ratio:.2f} to one)"
    )
    kept = "dropped" if config.equivalent == "drop" else "labelled positive"
    print(
        f"changes: {total['equivalent']} equivalent (mutated and still passing; {kept}), "
        f"{total['unjudged']} dropped without a verdict"
    )
    if report["teacher"]:
        counts = [f"{count} {name.replace('_', ' ')}" for name, count in report["teacher"].items()]
        print(f"teacher: {', '.join(counts)}")
    print(
        f"{report['executions']} programs in {report['seconds']:.0f} s "
        f"({report['programs_per_second']:.1f} a second)"
    )


def read_tasks(config: Config) -> list[dict]:
    """Tasks whose reference programs can be changed, line ends as Python sees them."""

    def check(row):
        rows.check_reference(row, "--method mutate starts from reference programs")
        misconceptions = row.get("meta", {}).get("misconceptions")
        if config.exclude_misconceptions and not isinstance(misconceptions, list):
            raise ValueError(
                "field 'meta' must hold 'misconceptions', a list of lines, "
                "for --exclude_misconceptions"
            )
        if not row["solution"].startswith(row.get("prefix") or ""):
            raise ValueError("field 'solution' must start with the field 'prefix'")
        try:
            ast.parse(row["solution"])
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(f"field 'solution' does not parse: {error}") from None

    tasks = common.read_jsonl(config.tasks, common.PROMPT_FIELDS, check)
    rows.check_unique(tasks, config.tasks)
    common.check_packages(config, tasks)
    for task in tasks:
        task["solution"] = common.unix(task["solution"]).rstrip("\n") + "\n"
        if task.get("prefix"):
            task["prefix"] = common.unix(task["prefix"])
    return tasks


def verified_changes(tasks: list[dict], results: dict, config: Config) -> dict[str, list]:
    """By task_id, of the tasks whose reference passes: (variant, label) of labelled changes."""
    verified = {}
    for task in tasks:
        result = results[task["task_id"]]
        if result["reference"] == "passed":
            changes = [(v, label_of(v, s, config.equivalent)) for v, s in variants_of(result)]
            verified[task["task_id"]] = [(v, label) for v, label in changes if label is not None]
    return mutate_rows.balanced(verified, config.seed) if config.balance else verified


def main(config: Config) -> None:
    rows.check_teacher(config, "ast")
    tasks, output = read_tasks(config), Path(config.output_file)
    flags = dataclasses.asdict(config)
    flags = {name: flags[name] for name in flags if name not in OPERATIONAL}
    found = rows.read_progress(config, flags, config.outcomes_file)
    digests = {task["task_id"]: rows.digest_of(task) for task in tasks}
    # Results that are not damaged, lack nothing and are of a task as it is; other tasks run again.
    whole = [r for r in found if r and r.get("digest", "") == digests.get(r["task_id"])]
    changed = sum(bool(r) and r["task_id"] in digests for r in found) - len(whole)
    if changed:
        print(
            f"{rows.progress_of(config)}: {changed} tasks run again: they have changed, or an "
            "earlier version ran them and did not note their contents"
        )
    whole = [result for result in whole if not lacking(result, config)]
    outputs = [output, *([Path(config.outcomes_file)] if config.outcomes_file else [])]
    complete = len(whole) == len(found) and {r["task_id"] for r in whole} == digests.keys()
    if complete and all(path.is_file() for path in outputs):
        print(f"{output} is complete; nothing to do")
        return
    teacher = None
    if config.teacher != "ast":
        teacher = chat.Teacher(
            config.teacher,
            f"{config.output_file}.teacher",
            config.teacher_model,
            config.teacher_temperature,
            config.teacher_max_new_tokens,
            config.teacher_concurrency,
            config.teacher_max_retries,
            config.teacher_timeout,
            config.seed,
        )
    rows.write_progress(config, flags, whole)
    results = {result["task_id"]: result for result in whole}
    execute(tasks, config, results, teacher)
    counts = [counts_of(result) for result in results.values()]
    rows.check_judged(counts, rows.progress_of(config))

    verified, labelled = verified_changes(tasks, results, config), []
    for task in tasks:
        if task["task_id"] in verified:
            changes = verified[task["task_id"]]
            if config.packing == "prefix":
                labelled += mutate_rows.prefix_rows(task, changes)
            else:
                labelled += mutate_rows.program_rows(task, changes, config)
    labelled = [row for row in labelled if any(label is not None for label in row["labels"])]
    if not labelled:
        raise InputError(f"{config.tasks}: no reference passes its tests; nothing can be labelled")
    report = report_of(tasks, results, labelled, teacher)
    print_report(report, config)
    if config.outcomes_file:
        common.write_jsonl(config.outcomes_file, mutate_rows.outcome_rows(tasks, results))
    common.write_text(output.with_suffix(".report.json"), json.dumps(report, indent=2) + "\n")
    common.write_jsonl(output, labelled)
    rows.warn_of_lacking(output, sum(lacking(result, config) for result in results.values()))
