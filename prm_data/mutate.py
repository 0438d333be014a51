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

--teacher ast     the embedded rules (prm_data/ast_teacher.py), or a language model: a folder or hub name, or the URL of
                  an OpenAI-compatible endpoint (prm_data/chat.py) and --teacher_model. The paper's is
                  DeepSeek-Coder-V2; its prompts are not public, those below stand in. Comments are cut out of the
                  answers: models like to say there what they broke.

--unit block      the EMNLP version rewrites blocks too: compound statements, and bodies of functions. The label of a
                  changed block stands on its last line. Made for prefix packing: a row of program packing holds
                  one changed block at most, with probability --shift_rate.

--packing prefix  is the paper's: one row a changed line, which ends there (the rest is masked); only that line has a
                  label, so that no reference line counts twice, and one row with the labels of the reference itself.
--packing program puts many verified changes into one row (ours, for speed): each statement is replaced with
                  probability --change_rate by one of its verified variants. Each label was verified alone, with the
                  rest of the program as in the reference: it says whether that line is right in its place.

    python make_prm_data.py --method mutate --tasks tasks/mbpp/train.jsonl --teacher ast --output_file prm.jsonl
    python make_prm_data.py --method mutate --tasks tasks/mbpp/train.jsonl --teacher http://127.0.0.1:8000/v1 \\
        --teacher_model deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct --output_file prm.jsonl

Verdicts (prm.jsonl.progress) and a language model's answers (prm.jsonl.teacher) are kept beside the output as they come
in; a run that was cut off goes on from there. What was counted is printed and written to prm.report.json.
"""

import ast
import contextlib
import dataclasses
import io
import json
import random
import re
import textwrap
import time
import tokenize
import warnings
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import common
import sandbox
from common import InputError
from prm_data import ast_teacher, chat

PROMPT = """Here are a programming problem and a correct Python program for it, with line numbers.

Problem:
{problem}

Program:
{program}
These are the lines to rewrite:
```python
{unit}```

{goal}

Answer with the new version of these lines alone, in one code fence. Do not repeat the rest of the program, and write no
comments."""

GOALS = {
    "mutate": """Rewrite {place} so that the program becomes wrong: plant one bug that a programmer could have made by
mistake. The program must still compile, and must give a wrong result for some input.""",
    "refactor": """Rewrite {place} in a different way so that the program stays correct: it must still give the same
result for every input.""",
}
OPERATIONAL = (
    "teacher_concurrency",
    "teacher_max_retries",
    "teacher_timeout",
    "sandbox_workers",
    "outcomes_file",
)


@dataclass
class Config:
    tasks: str  # tasks.jsonl with reference solutions
    output_file: str  # prm.jsonl
    method: Literal["mutate"] = "mutate"
    teacher: str = "ast"  # who rewrites: rules on the syntax tree (ast), a model folder or hub name, an endpoint's URL
    teacher_model: str | None = None  # the endpoint's name for its model
    teacher_temperature: float = 0.8
    teacher_max_new_tokens: int = 512  # tokens of an answer
    teacher_concurrency: int = (
        8  # requests at the same time, or prompts in a batch of a local model
    )
    teacher_max_retries: int = 5  # of a request that fails, after growing waits
    teacher_timeout: float = 120.0  # seconds of a request
    num_variants: int = 1  # versions of a unit that a language model is asked for, with each intent
    unit: Literal["line", "block"] = "line"  # what is rewritten at a time
    intents: list[Literal["mutate", "refactor"]] = field(
        default_factory=lambda: ["mutate", "refactor"]
    )  # what it is asked for
    num_donors: int = 8  # other tasks whose statements the teacher may borrow, a task
    max_variants_per_line: int | None = (
        8  # versions of a unit by the rules, operators in turn; none: all
    )
    exclude_misconceptions: bool = (
        False  # leave out, of the rules' versions, each that writes one of the lines of
    )
    # meta.misconceptions: what the micro benchmark's policy gets wrong is then nothing that the labels show
    equivalent: Literal["drop", "positive"] = "drop"  # what becomes of mutations that still pass
    packing: Literal["prefix", "program"] = "prefix"  # one changed line a row (the paper), or many
    rows_per_task: int = 4  # program packing: rows a task
    change_rate: float = 0.4  # program packing: share of statements that are replaced
    shift_rate: float = (
        0.15  # program packing: share of rows with one deleted, inserted or moved statement besides
    )
    sandbox_workers: int = 1  # processes that run programs
    sandbox_timeout: float = 3.0  # CPU seconds a reference, where the task sets none
    variant_timeout: float = (
        1.0  # CPU seconds a changed program; ten times its reference's where that is more
    )
    balance: bool = (
        False  # leave out some changes whose label is the more frequent one, drawn at random
    )
    outcomes_file: str | None = (
        None  # every executed program with its verdict, for outcome reward models
    )
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


def given_lines(task: dict) -> int:
    """How many lines of the program the task gives away: no change of them belongs to a completion."""
    return task.get("prefix", "").count("\n")


def rule_variants(task: dict, tasks: list[dict], config: Config) -> list[ast_teacher.Variant]:
    """The embedded teacher's variants of a task; some of the other tasks lend it statements."""
    rng = random.Random(common.seed_of(config.seed, "donors", task["task_id"]))
    donors = [
        tasks[i]["solution"]
        for i in rng.sample(range(len(tasks)), min(config.num_donors, len(tasks)))
    ]
    variants = ast_teacher.ast_variants(
        task["solution"], unit=config.unit, donors=[donor for donor in donors if donor != task["solution"]],
        max_per_line=config.max_variants_per_line, intents=config.intents,
        seed=common.seed_of(config.seed, "teacher", task["task_id"]),
    )  # fmt: skip
    taboo = set(task["meta"]["misconceptions"]) if config.exclude_misconceptions else set()
    return [variant for variant in variants
            if variant.start > given_lines(task) and taboo.isdisjoint(variant.text.split("\n"))]  # fmt: skip


def prompts_of(task: dict, config: Config) -> list[tuple[ast_teacher.Unit, str, str]]:
    """(unit, intent, prompt) of everything that a language model is asked about a task."""
    asked, lines = [], ast_teacher.source_lines(task["solution"])
    program = "".join(f"{number:>3}  {line}" for number, line in enumerate(lines, 1))
    units = ast_teacher.line_units if config.unit == "line" else ast_teacher.block_units
    for unit in units(ast_teacher.Program(task["solution"])):
        place = (
            f"line {unit.start}" if unit.start == unit.end else f"lines {unit.start} to {unit.end}"
        )
        text = "".join(lines[unit.start - 1 : unit.end])
        for intent in config.intents if unit.start > given_lines(task) else ():
            goal = GOALS[intent].format(place=place)
            prompt = PROMPT.format(
                problem=task["prompt"].strip(), program=program, unit=text, goal=goal
            )
            asked += [(unit, intent, prompt)] * config.num_variants
    return asked


def model_variants(
    teacher: chat.Teacher, tasks: list[dict], config: Config
) -> dict[str, tuple[list, dict]]:
    """By task_id: a language model's variants of the task, and counts of the answers that gave none."""
    asked = [(task, *rest) for task in tasks for rest in prompts_of(task, config)]
    answers = teacher.ask([prompt for *_, prompt in asked], "teacher's answers")
    found = {task["task_id"]: ([], Counter()) for task in tasks}
    seen = {task["task_id"]: [meaning(task["solution"])] for task in tasks}
    for (task, unit, intent, _), answer in zip(asked, answers, strict=True):
        (variants, dropped), known = found[task["task_id"]], seen[task["task_id"]]
        text = read_answer(task["solution"], unit, answer) if answer else None
        variant = ast_teacher.Variant(unit.start, unit.end, text or "", "llm", intent)
        form = meaning(variant.apply(task["solution"])) if text else None
        if form is None:
            dropped["unparsable" if answer else "missing"] += 1
        elif form in known:
            dropped["unchanged" if form == known[0] else "duplicate"] += 1
        else:
            known.append(form)
            variants.append(variant)
    return found


def read_answer(source: str, unit: ast_teacher.Unit, answer: str) -> str | None:
    """The lines that a model's answer puts in the place of the unit, at its indentation; None where it has none.

    The code is that of the first whole fence after the reasoning (`</think>`). Where it repeats the whole program around
    the unit, the unit's part is taken. Dropped are answers that repeat the function around the unit with other changes,
    or a body below what was a header alone.
    """
    fence = re.search(
        r"```[^\n]*\n(.*?)^[ \t]*```",
        common.unix(answer.rpartition("</think>")[2]),
        re.DOTALL | re.M,
    )
    if not fence:
        return None
    given, lines = (
        ast_teacher.source_lines(source),
        ast_teacher.source_lines(textwrap.dedent(fence[1])),
    )
    before, old, after = (
        given[: unit.start - 1],
        given[unit.start - 1 : unit.end],
        given[unit.end :],
    )
    last = len(lines) - len(after)
    if last > len(before) and lines[: len(before)] == before and lines[last:] == after:
        lines = lines[len(before) : last]
    text = textwrap.indent(textwrap.dedent(without_comments("".join(lines))), unit.indent)
    around, repeated = (
        set(re.findall(r"^\s*(?:def|class) (\w+)", code, re.M)) for code in ("".join(before), text)
    )
    headers = [code.rstrip().endswith(":") for code in (without_comments("".join(old)), text)]
    return None if not text or around & repeated or headers[0] != headers[1] else text


def without_comments(code: str) -> str:
    """Code without its comments and without blank lines."""
    lines = ast_teacher.source_lines(code)
    with contextlib.suppress(
        tokenize.TokenError, SyntaxError
    ):  # lines of a program need not be a whole one
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
            return ast.dump(ast.parse(source)) if ast_teacher.compiles(source) else None
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            return None


def execute(
    tasks: list[dict], config: Config, progress: Path, teacher: chat.Teacher | None
) -> None:
    """Runs every reference, then every variant of those that pass, and appends a line a task to the progress file."""
    with open(progress, encoding="utf-8") as file:
        done = {json.loads(line)["task_id"] for line in list(file)[1:]}
    left = [task for task in tasks if task["task_id"] not in done]
    waiting = (
        deque()
    )  # tasks whose programs are with the sandbox, so that its workers never wait for the rules
    clock = time.perf_counter()

    def note(task, reference, variants, dropped):
        nonlocal clock
        before, clock = clock, time.perf_counter()
        row = {
            "task_id": task["task_id"],
            "reference": reference,
            "variants": variants,
            "dropped": dropped,
        }
        common.append_jsonl(progress, [row | {"seconds": clock - before}])
        bar.update()

    def collect():
        task, variants, dropped, futures = waiting.popleft()
        statuses = [future.result()["status"] for future in futures]
        rows = [
            dataclasses.asdict(v) | {"status": s} for v, s in zip(variants, statuses, strict=True)
        ]
        note(task, "passed", rows, dropped)

    with sandbox.Sandbox(workers=config.sandbox_workers, timeout=config.sandbox_timeout) as runner:
        verdicts = runner.judge([(task, task["solution"]) for task in left])
        if teacher:
            started = time.perf_counter()
            passing = [
                task
                for task, verdict in zip(left, verdicts, strict=True)
                if verdict["status"] == "passed"
            ]
            found = model_variants(teacher, passing, config)
            clock += (
                time.perf_counter() - started
            )  # the seconds in the report are those of execution
        bar = common.progress_bar("tasks executed", len(tasks), len(done))
        for task, verdict in zip(left, verdicts, strict=True):
            if verdict["status"] != "passed":
                note(task, verdict["status"], [], {})
                continue
            # A mutation often makes an endless loop: it need not get the seconds that a slow right program may.
            limit = max(config.variant_timeout, 10 * verdict["seconds"])
            variants, dropped = (
                found[task["task_id"]] if teacher else (rule_variants(task, tasks, config), {})
            )
            programs = [variant.apply(task["solution"]) for variant in variants]
            futures = [runner.submit(task | {"timeout": limit}, program) for program in programs]
            waiting.append((task, variants, dropped, futures))
            if len(waiting) > 8:
                collect()
        while waiting:
            collect()
    bar.close()


def prefix_rows(task: dict, verified: list[tuple[ast_teacher.Variant, float]]) -> list[dict]:
    """The paper's rows of a task: the reference with all its labels, and each changed line at the end of its prefix."""
    lines, marked = ast_teacher.source_lines(task["solution"]), labelled_lines(task["solution"])
    rows = [
        row_of(
            task,
            lines,
            [1.0 if i in marked else None for i in range(len(lines))],
            "reference",
            [],
            [],
        )
    ]
    for variant, label in verified:
        changed, index = (
            ast_teacher.source_lines(variant.apply(task["solution"])),
            variant.label_line(task["solution"]),
        )
        if index is not None:
            labels = [None] * index + [label]
            rows.append(
                row_of(
                    task, changed[: index + 1], labels, variant.intent, [index], [variant.operator]
                )
            )
    return rows


def program_rows(
    task: dict, verified: list[tuple[ast_teacher.Variant, float]], config: Config
) -> list[dict]:
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
        chosen = {
            i: rng.choice(in_place[i])
            for i in sorted(in_place)
            if rng.random() < config.change_rate
        }
        out = [chosen[i][0].text if i in chosen else line for i, line in enumerate(lines)]
        labels = [
            chosen[i][1] if i in chosen else 1.0 if i in marked else None for i in range(len(lines))
        ]
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


def row_of(
    task: dict,
    lines: list[str],
    labels: list,
    origin: str,
    changed: list[int],
    operators: list[str],
) -> dict:
    """One row of prm.jsonl; the lines that the task gives away (`prefix`) belong to no completion."""
    given = given_lines(task)
    changed = [index - given for index in changed if index >= given]
    row = {
        "prompt": task["prompt"],
        "completions": lines[given:],
        "labels": labels[given:],
        "task_id": task["task_id"],
    }
    row |= {
        "origin": origin,
        "meta": {
            "changed": changed,
            "operators": operators,
            "steps": task.get("meta", {}).get("steps"),
        },
    }
    return row | ({"prefix": task["prefix"]} if task.get("prefix") else {})


def variants_of(result: dict) -> list[tuple[ast_teacher.Variant, str]]:
    """The variants of a line of the progress file, each with its status."""
    return [
        (
            ast_teacher.Variant(**{name: value for name, value in row.items() if name != "status"}),
            row["status"],
        )
        for row in result["variants"]
    ]


def balanced(verified: dict[str, list], seed: int) -> dict[str, list]:
    """As many changes with the one label as with the other: the more frequent label loses some, drawn at random."""
    places = {label: [] for label in (1.0, -1.0)}
    for task_id, changes in verified.items():
        for index, (_, label) in enumerate(changes):
            places[label].append((task_id, index))
    few, many = sorted(places.values(), key=len)
    kept = {*few, *random.Random(common.seed_of(seed, "balance")).sample(many, len(few))}
    return {
        task_id: [change for index, change in enumerate(changes) if (task_id, index) in kept]
        for task_id, changes in verified.items()
    }


def outcome_rows(tasks: list[dict], results: dict[str, dict]) -> list[dict]:
    """One row for each program that was executed and has a verdict."""
    rows = []
    for task in tasks:
        result, prefix = results[task["task_id"]], task.get("prefix", "")
        programs = [(task["solution"], result["reference"], "reference")]
        programs += [
            (variant.apply(task["solution"]), status, variant.intent)
            for variant, status in variants_of(result)
        ]
        for program, status, origin in programs:
            row = {
                "task_id": task["task_id"],
                "prompt": task["prompt"],
                "completion": program[len(prefix) :],
            }
            row |= {"status": status, "origin": origin} | ({"prefix": prefix} if prefix else {})
            rows += [row] if status != "harness_error" else []
    return rows


def report_of(
    tasks: list[dict], results: dict[str, dict], rows: list[dict], teacher: chat.Teacher | None
) -> dict:
    """What the teacher made, what execution said of it, and the labels that came of it."""
    table, dropped = defaultdict(Counter), Counter()
    for result in results.values():
        dropped.update(result["dropped"])
        for variant, status in variants_of(result):
            counts = table[variant.intent, variant.operator]
            kinds = {"passed": "passed", "syntax_error": "broken", "harness_error": "unjudged"}
            counts.update(["made", kinds.get(status, "failed")])
            counts["compiled"] += status != "syntax_error"
            counts["equivalent"] += status == "passed" and variant.intent == "mutate"
    names = ("made", "compiled", "passed", "failed", "equivalent", "unjudged")
    operators = [
        {"intent": intent, "operator": operator} | {name: counts[name] for name in names}
        for (intent, operator), counts in sorted(table.items())
    ]
    failing = sum(result["reference"] != "passed" for result in results.values())
    seconds, executions = (
        sum(r["seconds"] for r in results.values()),
        sum(1 + len(r["variants"]) for r in results.values()),
    )
    labels = Counter(label for row in rows for label in row["labels"])
    changed = Counter(row["labels"][index] for row in rows for index in row["meta"]["changed"])
    units, silent = [], Counter()
    for task in tasks:
        units += ast_teacher.line_units(ast_teacher.Program(task["solution"]))
        marked = labelled_lines(task["solution"])
        for index, line in enumerate(ast_teacher.source_lines(task["solution"])):
            if index >= given_lines(task) and index not in marked:
                silent[
                    "comment"
                    if line.lstrip().startswith("#")
                    else "other"
                    if line.strip()
                    else "blank"
                ] += 1
    return {
        "tasks": len(tasks), "failing_references": failing, "rows": len(rows), "operators": operators,
        "total": {name: sum(row[name] for row in operators) for name in names},
        "labels": {"positive": labels[1.0], "negative": labels[-1.0], "none": labels[None]},
        "changed": {"positive": changed[1.0], "negative": changed[-1.0]},
        "reference_lines_without_label": {kind: silent[kind] for kind in ("comment", "blank", "other")},
        "statements_of_several_lines": sum(unit.end > unit.start for unit in units),
        "executions": executions, "seconds": seconds, "programs_per_second": executions / seconds,
        "teacher": {"answers": len(teacher.answers), **teacher.tokens} | {
            name: dropped[name] for name in ("missing", "unparsable", "unchanged", "duplicate")
        } if teacher else None,
    }  # fmt: skip


def print_report(report: dict, config: Config) -> None:
    total = report["total"]
    print(
        f"{'intent':<9} {'operator':<14}"
        + "".join(f"{name:>11}" for name in total)
        + f"{'pass rate':>11}"
    )
    for row in [*report["operators"], {"intent": "all", "operator": ""} | total]:
        judged = row["made"] - row["unjudged"]
        rate = f"{row['passed'] / judged:>11.3f}" if judged else f"{'-':>11}"
        print(
            f"{row['intent']:<9} {row['operator']:<14}"
            + "".join(f"{row[name]:>11}" for name in total)
            + rate
        )
    failing, labels, changed = report["failing_references"], report["labels"], report["changed"]
    print(
        f"{report['rows']} rows from {report['tasks'] - failing} tasks ({failing} left out: the reference fails its tests)"
    )
    print(
        f"lines: {labels['positive']} positive, {labels['negative']} negative, {labels['none']} without label"
    )
    ratio = changed["negative"] / max(1, changed["positive"])
    print(
        f"changed lines: {changed['positive']} positive, {changed['negative']} negative ({ratio:.2f} to one)"
    )
    kept = "dropped" if config.equivalent == "drop" else "labelled positive"
    print(
        f"changes: {total['equivalent']} equivalent (mutated and still passing; {kept}), "
        f"{total['unjudged']} dropped without a verdict"
    )
    if report["teacher"]:
        print(
            "teacher: "
            + ", ".join(
                f"{count} {name.replace('_', ' ')}" for name, count in report["teacher"].items()
            )
        )
    print(
        f"{report['executions']} programs in {report['seconds']:.0f} s ({report['programs_per_second']:.1f} a second)"
    )


def main(config: Config) -> None:
    def check(row):
        sandbox.check_task(row)
        if not isinstance(row.get("solution"), str):
            raise ValueError(
                "field 'solution' must be str: --method mutate starts from reference programs"
            )
        if config.exclude_misconceptions and not isinstance(
            row.get("meta", {}).get("misconceptions"), list
        ):
            raise ValueError(
                "field 'meta' must hold 'misconceptions', a list of lines, for --exclude_misconceptions"
            )
        if not row["solution"].startswith(row.get("prefix") or ""):
            raise ValueError("field 'solution' must start with the field 'prefix'")
        try:
            ast.parse(row["solution"])
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"field 'solution' does not parse: {error}") from None

    tasks = common.read_jsonl(config.tasks, common.PROMPT_FIELDS, check)
    if len({task["task_id"] for task in tasks}) < len(tasks):
        raise InputError(f"{config.tasks}: a task_id occurs twice")
    if config.num_variants < 1:
        raise InputError(f"--num_variants must be at least 1, not {config.num_variants}")
    for task in tasks:
        task["solution"] = common.unix(task["solution"]).rstrip("\n") + "\n"
        if task.get("prefix"):
            task["prefix"] = common.unix(task["prefix"])
    output = Path(config.output_file)
    progress, outputs = output.with_name(output.name + ".progress"), [output]
    if config.outcomes_file:
        outputs.append(Path(config.outcomes_file))
    flags = json.dumps(
        {
            name: value
            for name, value in dataclasses.asdict(config).items()
            if name not in OPERATIONAL
        }
    )
    if progress.is_file():
        kept = common.whole_lines(progress)
        if not kept or kept[0] != flags + "\n":
            raise InputError(
                f"{progress}: holds a run with other flags; choose another --output_file or delete it"
            )
        if all(path.is_file() for path in outputs):
            print(f"{output} is complete; nothing to do")
            return
    teacher = None
    if config.teacher != "ast":
        teacher = chat.Teacher(
            config.teacher, output.with_name(output.name + ".teacher"), config.teacher_model, config.teacher_temperature,
            config.teacher_max_new_tokens, config.teacher_concurrency, config.teacher_max_retries,
            config.teacher_timeout, config.seed,
        )  # fmt: skip
    common.write_text(progress, "".join(kept) if progress.is_file() else flags + "\n")
    execute(tasks, config, progress, teacher)

    with open(progress, encoding="utf-8") as file:
        results = {row["task_id"]: row for row in map(json.loads, list(file)[1:])}
    verified = {}
    for task in tasks:
        if results[task["task_id"]]["reference"] == "passed":
            labels = [
                (v, label_of(v, s, config.equivalent))
                for v, s in variants_of(results[task["task_id"]])
            ]
            verified[task["task_id"]] = [
                (variant, label) for variant, label in labels if label is not None
            ]
    if config.balance:
        verified = balanced(verified, config.seed)
    rows = []
    for task in tasks:
        if task["task_id"] in verified:
            changes = verified[task["task_id"]]
            rows += (
                prefix_rows(task, changes)
                if config.packing == "prefix"
                else program_rows(task, changes, config)
            )
    rows = [row for row in rows if any(label is not None for label in row["labels"])]
    if not rows:
        raise InputError(f"{config.tasks}: no reference passes its tests; nothing can be labelled")
    report = report_of(tasks, results, rows, teacher)
    print_report(report, config)
    if config.outcomes_file:
        common.write_jsonl(config.outcomes_file, outcome_rows(tasks, results))
    common.write_text(output.with_suffix(".report.json"), json.dumps(report, indent=2) + "\n")
    common.write_jsonl(output, rows)


if __name__ == "__main__":
    common.run(main, Config)
