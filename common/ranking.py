"""Best of n: rankers of a task's samples, and how often the sample that a ranker chooses passes."""

import ast
import builtins
import math
import re
from collections import Counter

import numpy as np

from common.batches import verdicts_of
from common.pass_rates import bootstrap, pass_rate
from common.runs import progress_bar

MAX_INPUTS = 64  # of a task, on which programs are compared
# Runs in place of a task's tests; the verdict's message is a digest of what the calls return.
OUTPUTS = """
import hashlib as _hashlib
from math import inf, nan

def _text(value):
    if isinstance(value, (bool, str)) or value is None:
        return repr(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int):
        return hex(value)
    if isinstance(value, float):
        text = f"{value:.9g}"
        return hex(int(text)) if text.lstrip("-").isdigit() else text
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_text, value)) + "]"
    if isinstance(value, (set, frozenset)):
        return "{" + ", ".join(sorted(map(_text, value))) + "}"
    if isinstance(value, dict):
        items = [_text(key) + ": " + _text(item) for key, item in value.items()]
        return "{" + ", ".join(sorted(items)) + "}"
    if type(value).__name__ in ("bytes", "bytearray", "complex", "range", "Fraction", "Decimal"):
        return repr(value)
    raise TypeError("a value of another type")

_outputs = []
for _call in (CALLS,):
    try:
        _outputs.append(_text(_call()))
    except Exception as _error:
        _outputs.append("raises " + type(_error).__name__)
if all(_output.startswith("raises ") for _output in _outputs):
    raise AssertionError("no output")
_text = "\\n".join(_outputs).encode("utf-8", "surrogatepass")
raise AssertionError("outputs " + _hashlib.sha256(_text).hexdigest())
"""


def reduce_lines(scores: list[float], how: str) -> float:
    """One score from those of a program's lines, NaN left out; -inf without a line.

    how: "min", "mean", "sum", "last", or "product", the sum of log((score + 1) / 2): scores as
    probabilities, cut to [1e-6, 1].
    """
    scores = [score for score in scores if not math.isnan(score)]
    if not scores:
        return -math.inf
    if how == "min":
        return min(scores)
    if how == "sum":
        return sum(scores)
    if how == "mean":
        return sum(scores) / len(scores)
    if how == "last":
        return scores[-1]
    return sum(math.log(min(max((score + 1) / 2, 1e-6), 1.0)) for score in scores)


def chosen_rate(scores: list[float], passed: list[bool]) -> float:
    """Chance that the sample with the highest score passes; among equals one is drawn."""
    best = [won for score, won in zip(scores, passed, strict=True) if score == max(scores)]
    return sum(best) / len(best)


def best_of_n_report(samples: list[dict], rankers: dict[str, list[float]]) -> dict:
    """pass@1 of each ranker's choice, of a random choice and of an oracle, over tasks.

    samples: rows with task_id and status, all with a verdict. rankers: by name, a score a sample.
    A row of the report has the rate and its 95 % Wilson interval (common.pass_rate), and the gain
    over a random choice with a paired bootstrap interval over tasks (common.bootstrap).
    """
    by_task: dict[str, list[int]] = {}
    for i, row in enumerate(samples):
        by_task.setdefault(row["task_id"], []).append(i)
    passed = [[samples[i]["status"] == "passed" for i in group] for group in by_task.values()]
    counts = {"random": [(len(won), sum(won)) for won in passed]}
    for name, scores in rankers.items():
        own = [[scores[i] for i in group] for group in by_task.values()]
        counts[name] = [(1, chosen_rate(*pair)) for pair in zip(own, passed, strict=True)]
    counts["oracle"] = [(1, any(won)) for won in passed]
    rates = {name: np.array([[c / n for n, c in pairs]]) for name, pairs in counts.items()}
    report = {}
    for name, pairs in counts.items():
        rate, low, high = pass_rate(pairs)
        report[name] = {"pass@1": rate, "low": low, "high": high}
        if name != "random":
            gain, low, high = bootstrap(rates["random"], rates[name], seed=0)
            report[name] |= {"gain": gain, "gain_low": low, "gain_high": high}
    sizes = [len(won) for won in passed]
    return {"tasks": len(passed), "n": max(sizes), "least_n": min(sizes), "rankers": report}


def agreement_scores(outputs: list[str | None]) -> list[float]:
    """For each sample of a task the number of samples with the same outputs; 0 without outputs."""
    counts = Counter(outputs)
    return [float(counts[output]) if output is not None else 0.0 for output in outputs]


def output_task(task: dict) -> dict | None:
    """The task with a test that says what a program returns on the tests' inputs, for `outputs_of`;
    None where the tests show no inputs. The expected outputs are not used.

    Inputs are the arguments of style call; of style assert those of the calls in the tests, but for
    calls with arguments that only the test knows. Style answer needs none: the text's answer is its
    output. Styles stdio and unittest show none.
    """
    if task["style"] == "answer":  # an answer that no text has: the message has the text's own
        return task | {"tests": [{"answer": "\0"}]}
    calls, entry_point = [], task.get("entry_point")
    if task["style"] == "call":
        *parents, _ = entry_point.split(".")
        target = f"{parents[0]}().{entry_point.split('.')[-1]}" if parents else entry_point
        calls = [f"{target}(*{test['args']!r})" for test in task["tests"]]
    elif task["style"] == "assert" and entry_point:
        known = set(vars(builtins)) | {entry_point, "inf", "nan"}
        known |= bound_names(ast.parse(task.get("setup") or ""))
        for test in task["tests"]:
            calls += calls_in(ast.parse(test), entry_point, known)
    calls = list(dict.fromkeys(calls))[:MAX_INPUTS]
    if not calls:
        return None
    source = OUTPUTS.replace("CALLS", ", ".join(f"lambda: {call}" for call in calls))
    return task | {"style": "assert", "tests": [source]}


def bound_names(tree: ast.AST) -> set[str]:
    """Names that a source binds anywhere: by assignment, import or definition."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).split(".")[0])
    return names


def calls_in(test: ast.Module, entry_point: str, known: set[str]) -> list[str]:
    """Sources of calls of the entry point, from a test that calls it by its name, as `candidate`
    (HumanEval), or hands it to a function together with its arguments (evalplus here)."""
    names, found = {entry_point, "candidate"}, []
    for node in ast.walk(test):
        if not isinstance(node, ast.Call):
            continue
        arguments = node.args
        if not (isinstance(node.func, ast.Name) and node.func.id in names):
            first = arguments[0] if arguments else None
            if not (isinstance(first, ast.Name) and first.id == entry_point and arguments[1:]):
                continue
            arguments = arguments[1:]
        call = ast.Call(ast.Name(entry_point), arguments, node.keywords)
        call = ast.parse(re.sub(r"\bcandidate\b", entry_point, ast.unparse(call)), mode="eval")
        read = {n.id for n in ast.walk(call) if isinstance(n, ast.Name)}
        if read <= known | bound_names(call):
            found.append(ast.unparse(call))
    return found


def outputs_of(verdict: dict) -> str | None:
    """What the verdict of an `output_task` says of the program's outputs; None without outputs."""
    found = re.match(r"AssertionError: (outputs \w{64})|answer '(.*)'$", verdict["message"])
    if found is None:
        return None
    return found[1] or re.sub(r"[,$\s]", "", found[2]).rstrip(".")


def agreement_of(runner, tasks: dict[str, dict], samples: list[dict]) -> tuple[list[float], int]:
    """`agreement_scores` of samples, rows with task_id and `program`, run in a sandbox.Sandbox; and
    how many programs have no verdict."""
    by_task: dict[str, list[int]] = {}
    for i, row in enumerate(samples):
        by_task.setdefault(row["task_id"], []).append(i)
    asked = {name: output_task(tasks[name]) for name in by_task}
    blind = [name for name in by_task if asked[name] is None]
    if blind:
        styles = ", ".join(sorted({tasks[name]["style"] for name in blind}))
        print(
            f"agreement: the tests of {len(blind)} of {len(by_task)} tasks (style {styles}) show "
            "no inputs; there the choice is random"
        )
    scores, runs = [0.0] * len(samples), {}
    for row in samples:
        name, program = row["task_id"], row["program"]
        if asked[name] is not None and (name, program) not in runs:
            runs[name, program] = runner.submit(asked[name], program)
    statuses = [row["status"] for row in verdicts_of(list(runs.values())).rows]
    bar = progress_bar("agreement", len(by_task))
    for name, group in by_task.items():
        outputs = [None] * len(group)
        if asked[name] is not None:
            outputs = [outputs_of(runs[name, samples[i]["program"]].result()) for i in group]
        for i, score in zip(group, agreement_scores(outputs), strict=True):
            scores[i] = score
        bar.update()
    bar.close()
    return scores, statuses.count("harness_error")
