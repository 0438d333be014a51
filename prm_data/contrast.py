r"""Pairs for the reasoning reward model: pairs.jsonl, by contrastive reasoning process learning (CRPL).

--method contrast ReCode (Fan et al., 2025): a base reasoning is rewritten to be better (optimised) and worse (degraded)
                  along three dimensions: factual accuracy, logical rigour, logical coherence. Three kinds of pair,
                  `chosen` before `rejected`:

                      optimisation   optimised > base
                      degradation    base > degraded
                      strong         optimised > degraded, of the same base and dimension

                  A reward model learns length and form at once where they tell the two apart, so a pair is kept only
                  when both texts have the same number of lines, the same tags and list marks, and lengths within 15 %
                  of each other in characters (--match_length; ours: ReCode matches nothing that it tells of). What is
                  dropped is counted, and so is how often the longer text is the chosen one.

Base reasonings are those of policy samples (--samples), or else of the rows' own `completion`, and besides them the
reference plan of a task that has one (`meta.plan`, a line a step). Two teachers:

--teacher rules   for tasks with a reference plan. Optimised: the lines that are wrong in one dimension are those of the
                  reference again. Degraded: one line or two are changed by one of the OPERATORS. Which lines of a
                  plan are right is known exactly, so a rewriting counts only when it has more (fewer) right lines.
--teacher URL     or a model folder: a language model is asked, with the prompts below (ReCode does not publish its own),
                  one call a dimension and version. Nobody checks what it did: that is what --match_length is for, and
                  the benchmark that --from_verdicts makes.

                  --lines_file writes the same reasonings as prm.jsonl besides, +1 for each right line and -1 for others.
                  A ranking loss alone hardly teaches a small model what binds a line to its place in the problem
                  (swapped lines, numbers): trained on these labels first, and then on the pairs, it learns both.
                  With them come --num_scrambled reference plans a task in which half of the lines are changed, by
                  the rules that keep a line's form (SCRAMBLERS): many labels a row of what is hard to tell.

--from_verdicts   makes a benchmark instead, as LCB-RB (ReCode): from verdicts.jsonl of eval.py, pairs of a sound and an
                  unsound reasoning for the same problem. Sound: every plan line right and the program passes. Unsound:
                  some line wrong and the program fails, so that reasoning and execution agree on both sides. Without a
                  reference plan the verdict alone decides, where LCB-RB had a language model and people look.

    python make_prm_data.py --method contrast --tasks train.jsonl --samples samples.jsonl --output_file pairs.jsonl
    python make_prm_data.py --method contrast --tasks test.jsonl --from_verdicts verdicts.jsonl --output_file bench.jsonl
    python make_prm_data.py --method contrast --tasks train.jsonl --samples samples.jsonl --output_file pairs.jsonl \
        --lines_file lines.jsonl
    python train_prm.py --data lines.jsonl --model_name_or_path runs/sft --output_dir runs/lines
    python train_prm.py --objective ranking --data pairs.jsonl --model_name_or_path runs/lines --output_dir runs/rm
"""

import random
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Literal

import common
from common import InputError
from prm_data import chat

DIMENSIONS = ("factual", "rigour", "coherence")
KINDS = ("optimisation", "degradation", "strong")


@dataclass
class Config:
    tasks: str  # tasks.jsonl
    output_file: str  # pairs.jsonl
    lines_file: str | None = (
        None  # rules: prm.jsonl of the same reasonings with the exact label of each line
    )
    num_scrambled: int = 16  # lines_file: scrambled reference plans a task besides
    method: Literal["contrast"] = "contrast"
    samples: str | None = (
        None  # samples.jsonl or verdicts.jsonl of a policy whose reasoning is the base
    )
    from_verdicts: str | None = (
        None  # verdicts.jsonl: a benchmark of sound and unsound samples, nothing is rewritten
    )
    teacher: str = "rules"  # who rewrites: rules on plan lines; or the URL of a chat endpoint, a model folder, a hub name
    teacher_model: str | None = None  # which model of the endpoint
    teacher_temperature: float = 0.8
    max_new_tokens: int = 1024  # of one answer
    concurrency: int = 8  # requests at the same time, or prompts a batch of a local teacher
    kinds: list[Literal["optimisation", "degradation", "strong"]] = field(
        default_factory=lambda: list(KINDS)
    )
    dimensions: list[Literal["factual", "rigour", "coherence"]] = field(
        default_factory=lambda: list(DIMENSIONS)
    )
    num_bases: int = 2  # policy samples a task that are rewritten, the first ones that differ
    reference_bases: bool = True  # reference plans are rewritten besides
    num_degraded: int = 2  # degraded versions of a base a dimension
    num_pairs: int = 1  # --from_verdicts: pairs a task at most
    match_length: float | None = (
        0.15  # lengths differ by this share at most, and lines and tags are alike; none: off
    )
    seed: int = 0


PROMPT = """Here is a programming problem and a reasoning that leads to a solution.

<problem>
{problem}
</problem>

<reasoning>
{reasoning}
</reasoning>

{order}

Keep the style, the structure, the number of lines, and the length within 15 %. Write only the rewritten reasoning,
with no remark before or after it, and no tags.
"""
OPTIMISE = {
    "factual": "Rewrite the reasoning so that every statement about the problem, its constraints, the language and its "
    "library is true. Leave what is true as it is.",
    "rigour": "Rewrite the reasoning so that every conclusion follows from what stands before it: no step is skipped, "
    "edge cases are treated, and the cost of the algorithm is right. Leave what is sound as it is.",
    "coherence": "Rewrite the reasoning so that its steps stand in the order in which they are needed, each connected "
    "to the one before it, with no repetition and nothing that does not serve the solution.",
}
DEGRADE = {
    "factual": "Rewrite the reasoning so that one statement about the problem, its constraints, the language or its "
    "library is subtly false. Do not say so. Leave the rest as it is.",
    "rigour": "Rewrite the reasoning so that one conclusion does not follow: skip a needed step, leave out an edge case, "
    "or contradict an earlier step. Do not say so. Leave the rest as it is.",
    "coherence": "Rewrite the reasoning so that it is less coherent: repeat a step, put one where it does not belong, or "
    "replace one by something that does not serve the solution. Do not say so. Leave the rest as it is.",
}

# Words that turn a step into its contrary, both ways round.
OPPOSITES = [
    ("at least", "less than"), ("greater than", "at most"), ("even", "odd"), ("larger", "smaller"), ("left", "right"),
    ("head", "tail"), ("rising", "falling"), ("highest", "lowest"), ("plus", "minus"), ("delete", "retain"),
    ("quotient", "remainder"), ("first", "last"), ("minimum", "maximum"), ("add", "subtract"), ("above", "below"),
    ("before", "after"), ("increase", "decrease"), ("ascending", "descending"), ("always", "never"),
]  # fmt: skip
OPPOSITE_OF = {a: b for pair in OPPOSITES for a, b in (pair, pair[::-1])}
OPPOSITE_WORD = re.compile(
    "|".join(rf"\b{word}\b" for word in sorted(OPPOSITE_OF, key=len, reverse=True))
)
VAGUE = [
    "do this",
    "handle this step",
    "do what is asked here",
    "work out this part of it",
    "apply the next operation to the numbers",
]
UNJUSTIFIED = [
    "this follows",
    "nothing is left to do",
    "no step is needed at this point",
    "the rest is clear and needs no further step",
]
IRRELEVANT = [
    "lists are useful",
    "python was made in 1991",
    "a list can hold many kinds of things",
    "good names make a program easier to read",
]


def plan_lines(text: str) -> list[str]:
    """The lines of a reasoning that are not blank, stripped."""
    return [line.strip() for line in text.split("\n") if line.strip()]


def plan_accuracy(reference: list[str], text: str | None) -> float:
    """Share of plan lines that are the reference's, place by place, of the longer plan's lines; 0 for no reasoning."""
    lines = plan_lines(text or "")
    return sum(a == b for a, b in zip(lines, reference, strict=False)) / max(
        len(lines), len(reference), 1
    )


def opposite(line: str) -> str | None:
    """The line with the last word that has an opposite replaced by it; None where no word has one."""
    *_, found = [None, *OPPOSITE_WORD.finditer(line)]
    return (
        line[: found.start()] + OPPOSITE_OF[found.group()] + line[found.end() :] if found else None
    )


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
    return [
        *lines[:i],
        f"{lines[i][: found.start()]}{value}{lines[i][found.end() :]}",
        *lines[i + 1 :],
    ]


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
    return [*lines[:i], near_length(UNJUSTIFIED, lines[i], rng), *lines[i + 1 :]]


def duplicated(lines: list[str], i: int, rng: random.Random) -> list[str] | None:
    """Step i stands again in the place of the step after it."""
    return [*lines[: i + 1], lines[i], *lines[i + 2 :]] if i + 1 < len(lines) else None


def irrelevant(lines: list[str], i: int, rng: random.Random) -> list[str] | None:
    return [*lines[:i], near_length(IRRELEVANT, lines[i], rng), *lines[i + 1 :]]


def vague(lines: list[str], i: int, rng: random.Random) -> list[str] | None:
    return [*lines[:i], near_length(VAGUE, lines[i], rng), *lines[i + 1 :]]


# Rules that degrade a plan at line i, by dimension; None where a rule has nothing to change there.
OPERATORS = {
    "factual": [wrong_number, wrong_operation],
    "rigour": [swapped, contradictory, unjustified],
    "coherence": [duplicated, irrelevant, vague],
}
SCRAMBLERS = (
    wrong_number,
    wrong_number,
    wrong_operation,
    swapped,
    swapped,
)  # places and numbers are learned last


def scrambled(reference: list[str], rng: random.Random) -> list[str]:
    """The plan with about half of its lines changed, each by one of SCRAMBLERS."""
    lines = reference
    for i in range(len(lines)):
        if rng.random() < 0.5:
            lines = rng.choice(SCRAMBLERS)(lines, i, rng) or lines
    return lines


def fault_of(line: str, before: str | None, reference: list[str], known: set[str]) -> str:
    """The dimension in which a wrong plan line fails: a repetition, or no statement of a step at all (coherence), a
    step in the wrong place (rigour), a wrong step (factual). `known` are the openings of all tasks' plan lines."""
    if line == before or opening_of(line) not in known:
        return "coherence"
    return "rigour" if line in reference else "factual"


def opening_of(line: str) -> str:
    """The first two words of a line, by which a statement of a step is known."""
    return " ".join(line.split()[:2])


def optimise(
    lines: list[str], dimension: str, reference: list[str], known: set[str]
) -> list[str] | None:
    """The plan with every line that fails in this dimension put right; None where none does, or lines are missing."""
    if len(lines) != len(reference):
        return None
    wrong = [line != right and fault_of(line, lines[i - 1] if i else None, reference, known) == dimension
             for i, (line, right) in enumerate(zip(lines, reference, strict=True))]  # fmt: skip
    fixed = [reference[i] if wrong[i] else line for i, line in enumerate(lines)]
    return fixed if any(wrong) else None


def degrade(
    lines: list[str], dimension: str, reference: list[str], rng: random.Random, count: int
) -> list[tuple]:
    """Up to `count` versions (operator's name, lines) with fewer right lines, operators in turn, places by chance."""
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


def form_of(text: str) -> tuple:
    """What must be alike in a pair: the number of lines, the tags, the list marks and headings."""
    return text.count("\n"), re.findall(
        r"</?\w+>|^\s*(?:[-*#]+|\d+[.)])", re.sub(r"\d+", "0", text), re.MULTILINE
    )


def matched(chosen: str, rejected: str, match_length: float | None) -> bool:
    """Whether length and form do not tell the two texts apart."""
    if match_length is None:
        return True
    return form_of(chosen) == form_of(rejected) and abs(
        len(chosen) - len(rejected)
    ) <= match_length * len(chosen)


def read_bases(tasks: list[dict], config: Config) -> list[tuple[dict, str]]:
    """(task, base reasoning) of every task: policy samples or demonstrations, and the reference plan where there is one.

    A reasoning is kept as it stands between the think tags, with one newline at each end.
    """
    by_task = defaultdict(list)
    if config.samples is None:
        for task in tasks:
            by_task[task["task_id"]].append(common.reasoning_of(task.get("completion") or ""))
    else:
        for row in common.read_jsonl(config.samples, {"task_id": str, "completion": str}):
            by_task[row["task_id"]].append(common.reasoning_of(row["completion"]))
    bases = []
    for task in tasks:
        texts = [normal(text) for text in by_task[task["task_id"]] if text and text.strip()]
        texts = list(dict.fromkeys(texts))[: config.num_bases]
        if config.reference_bases and task.get("meta", {}).get("plan"):
            texts.append(normal("\n".join(task["meta"]["plan"])))
        bases += [(task, text) for text in dict.fromkeys(texts)]
    return bases


def normal(text: str) -> str:
    return "\n" + text.strip() + "\n"


def rewrite_by_rules(bases: list[tuple[dict, str]], config: Config) -> list[dict]:
    """Per base {dimension: (optimised text or None, [(operator, degraded text)])}."""
    known = {opening_of(line) for task, _ in bases for line in task["meta"]["plan"]}
    versions = []
    for number, (task, base) in enumerate(bases):
        lines, reference = plan_lines(base), task["meta"]["plan"]
        rng = random.Random(common.seed_of(config.seed, "contrast", task["task_id"], number))
        versions.append({})
        for dimension in config.dimensions:
            better = optimise(lines, dimension, reference, known)
            worse = degrade(lines, dimension, reference, rng, config.num_degraded)
            versions[-1][dimension] = (
                better and normal("\n".join(better)),
                [(name, normal("\n".join(changed))) for name, changed in worse],
            )
    return versions


def rewrite_by_chat(bases: list[tuple[dict, str]], config: Config) -> list[dict]:
    """As rewrite_by_rules; what the teacher did not answer is missing."""
    teacher = chat.Teacher(
        config.teacher, f"{config.output_file}.teacher", config.teacher_model, config.teacher_temperature,
        config.max_new_tokens, config.concurrency, seed=config.seed,
    )  # fmt: skip
    prompts = [
        PROMPT.format(problem=task["prompt"].strip(), reasoning=base.strip(), order=order)
        for task, base in bases
        for dimension in config.dimensions
        for order in [OPTIMISE[dimension], *[DEGRADE[dimension]] * config.num_degraded]
    ]
    answers = iter(teacher.ask(prompts, "rewritten"))
    versions = []
    for _ in bases:
        versions.append({})
        for dimension in config.dimensions:
            better, *worse = [next(answers) for _ in range(1 + config.num_degraded)]
            versions[-1][dimension] = (
                better and normal(better),
                [("chat", normal(text)) for text in dict.fromkeys(worse) if text],
            )
    return versions


def pairs_of(task: dict, base: str, versions: dict, kinds: list[str]) -> list[dict]:
    """The pairs of one base, of the kinds asked for; see the module's docstring."""
    rows = []
    for dimension, (better, worse) in versions.items():
        candidates = [("optimisation", "optimise", better, base)] if better else []
        candidates += [("degradation", name, base, text) for name, text in worse]
        candidates += [("strong", name, better, text) for name, text in worse if better]
        rows += [row_of(task, chosen, rejected, kind, dimension, name)
                 for kind, name, chosen, rejected in candidates if kind in kinds and chosen != rejected]  # fmt: skip
    return rows


def row_of(
    task: dict, chosen: str, rejected: str, kind: str, dimension: str, operator: str
) -> dict:
    """One row of pairs.jsonl."""
    meta = {
        "dimension": dimension,
        "operator": operator,
        "steps": task.get("meta", {}).get("steps"),
    }
    row = {
        "prompt": task["prompt"],
        "chosen": chosen,
        "rejected": rejected,
        "task_id": task["task_id"],
        "kind": kind,
    }
    if task.get("meta", {}).get("plan"):  # a scalar rating, for train_prm.py --objective score
        row |= {
            f"{side}_rating": plan_accuracy(task["meta"]["plan"], row[side])
            for side in ("chosen", "rejected")
        }
    return row | {"meta": meta}


def line_rows(bases: list[tuple[dict, str]], versions: list[dict], config: Config) -> list[dict]:
    """Rows of prm.jsonl: each reasoning of a task once, a line labelled by whether it is the reference's in its place."""
    texts = defaultdict(dict)  # of a task, each once, in order
    for (task, base), by_dimension in zip(bases, versions, strict=True):
        better_and_worse = [
            text
            for better, worse in by_dimension.values()
            for text in (better, *(t for _, t in worse))
        ]
        texts[task["task_id"]] |= dict.fromkeys(filter(None, [base, *better_and_worse]), task)
    for task in {task["task_id"]: task for task, _ in bases}.values():
        rng = random.Random(common.seed_of(config.seed, "contrast scrambled", task["task_id"]))
        plans = [scrambled(task["meta"]["plan"], rng) for _ in range(config.num_scrambled)]
        texts[task["task_id"]] |= dict.fromkeys([normal("\n".join(lines)) for lines in plans], task)
    rows = []
    for text, task in (
        (text, task) for by_text in texts.values() for text, task in by_text.items()
    ):
        lines, reference, labels = text.splitlines(keepends=True), iter(task["meta"]["plan"]), []
        for line in lines:  # a blank line is no step
            labels.append(
                (1.0 if line.strip() == next(reference, None) else -1.0) if line.strip() else None
            )
        rows.append({
            "prompt": task["prompt"], "completions": lines, "labels": labels, "task_id": task["task_id"],
            "origin": "contrast", "meta": {"steps": task["meta"].get("steps")},
        })  # fmt: skip
    return rows


def pairs_from_verdicts(tasks: list[dict], config: Config) -> list[dict]:
    """Every pair of a sound and an unsound reasoning of one task; see the module's docstring."""
    fields = {"task_id": str, "completion": str, "status": str}
    by_task = defaultdict(
        lambda: ({}, {})
    )  # texts that are sound, and that are not, each once, in order
    plans = {task["task_id"]: task.get("meta", {}).get("plan") for task in tasks}
    for row in common.read_jsonl(config.from_verdicts, fields):
        text, plan = common.reasoning_of(row["completion"]), plans.get(row["task_id"])
        if not (text and text.strip()) or row["status"] == "harness_error":
            continue
        passed = row["status"] == "passed"
        if plan is None or passed == (plan_accuracy(plan, text) == 1):
            by_task[row["task_id"]][not passed][normal(text)] = None
    known = {opening_of(line) for plan in plans.values() for line in plan or []}
    rows = []
    for task in tasks:
        sound, unsound = by_task[task["task_id"]]
        for rejected in unsound:
            faults = faults_of(plan_lines(rejected), plans[task["task_id"]], known)
            rows += [
                row_of(task, chosen, rejected, "verdict", faults, "policy") for chosen in sound
            ]
    return rows


def faults_of(lines: list[str], reference: list[str] | None, known: set[str]) -> str | None:
    """The dimension of a plan's first fault; None without a reference. A missing or additional step is of rigour."""
    for i, (line, right) in enumerate(zip(lines, reference or [], strict=False)):
        if line != right:
            return fault_of(line, lines[i - 1] if i else None, reference, known)
    return "rigour" if reference else None


def print_table(made: list[dict], kept: list[dict]) -> None:
    """Pairs made and kept by kind and dimension, and how far length alone tells chosen from rejected."""
    print(f"{'kind':<13} {'dimension':<10} {'made':>7} {'kept':>7} {'longer is chosen':>17}")
    cells = Counter((row["kind"], str(row["meta"]["dimension"])) for row in made)
    for kind, dimension in [*sorted(cells), ("all", "")]:

        def here(row, cell=(kind, dimension)):
            return cell[0] == "all" or (row["kind"], str(row["meta"]["dimension"])) == cell

        longer = [len(row["chosen"]) > len(row["rejected"]) for row in filter(here, kept)
                  if len(row["chosen"]) != len(row["rejected"])]  # fmt: skip
        share = f"{sum(longer) / len(longer):.3f}" if longer else ""
        print(
            f"{kind:<13} {dimension:<10} {sum(map(here, made)):>7} {sum(map(here, kept)):>7} {share:>17}"
        )


def main(config: Config) -> None:
    rules = config.from_verdicts is None and config.teacher == "rules"

    def check(row):
        plan = row.get("meta", {}).get("plan")
        if plan is None and rules:
            raise ValueError(
                "field 'meta' must hold 'plan', the reference's plan lines: --teacher rules starts from it"
            )
        if plan is not None and not (
            isinstance(plan, list) and plan and all(isinstance(line, str) for line in plan)
        ):
            raise ValueError("field 'meta': 'plan' must be a list of str")

    if config.lines_file is not None and not rules:
        raise InputError(
            "--lines_file needs --teacher rules: nobody else knows which lines are right"
        )
    if config.samples is not None and config.from_verdicts is not None:
        raise InputError("give either --samples or --from_verdicts")
    tasks = common.read_jsonl(config.tasks, common.PROMPT_FIELDS, check)
    if config.from_verdicts is not None:
        made = pairs_from_verdicts(tasks, config)
    else:
        bases = read_bases(tasks, config)
        versions = (rewrite_by_rules if rules else rewrite_by_chat)(bases, config)
        made = [row for (task, base), version in zip(bases, versions, strict=True)
                for row in pairs_of(task, base, version, config.kinds)]  # fmt: skip
        if config.lines_file is not None:
            common.write_jsonl(config.lines_file, line_rows(bases, versions, config))
    kept = [row for row in made if matched(row["chosen"], row["rejected"], config.match_length)]
    print_table(made, kept)
    if config.from_verdicts is not None:  # by chance, the same number at most of each task
        rng = random.Random(common.seed_of(config.seed, "contrast verdicts"))
        rng.shuffle(kept)
        numbers = Counter()
        kept = [
            row
            for row in kept
            if not numbers.update([row["task_id"]]) and numbers[row["task_id"]] <= config.num_pairs
        ]
    if not kept:
        raise InputError(f"{config.tasks}: no pair is left")
    tasks_left = len({row["task_id"] for row in kept})
    print(
        f"{len(kept)} pairs from {tasks_left} of {len(tasks)} tasks; {len(made) - len(kept)} left out"
    )
    common.write_jsonl(config.output_file, kept)
