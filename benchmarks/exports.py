"""Samples in the form that a published harness reads: eval.py --export.

evalplus needs no export: it runs the `solution` of samples.jsonl.

human_eval      human_eval.jsonl, for evaluate_functional_correctness of openai/human-eval, which
                runs HumanEval's prompt + completion + tests
livecodebench   livecodebench.json, for lcb_runner.runner.custom_evaluator --custom_output_file. It
                wants all problems of the release, with as many samples each
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import common


def human_eval_rows(tasks: dict[str, dict], samples: Iterable[dict]) -> Iterator[dict]:
    """Rows of task_id and completion, such that the prompt and the completion are the solution. A
    solution that does not begin with the prompt (a chat model's) stands below the prompt, whose
    function it defines anew. A solution that imports from __future__ would be no program there: it
    is run by exec."""
    for row in samples:
        prefix, solution = tasks[row["task_id"]].get("prefix", ""), row["solution"]
        goes_on = solution.startswith(prefix)
        completion = solution[len(prefix) :] if goes_on else "\n" + solution
        if not goes_on and "from __future__ import" in solution:
            completion = f"\nexec({solution!r})\n"
        yield {"task_id": row["task_id"], "completion": completion}


def write(name: str, tasks: dict[str, dict], samples: Iterable[dict], folder: Path) -> None:
    """Writes the file of a harness. samples: rows with task_id and solution."""
    if name == "human_eval":
        common.write_jsonl(folder / "human_eval.jsonl", human_eval_rows(tasks, samples))
    elif name == "livecodebench":
        codes: dict[str, list[str]] = {task_id: [] for task_id in sorted(tasks)}
        for row in samples:
            codes[row["task_id"]].append(row["solution"])
        rows = [{"question_id": task_id, "code_list": code} for task_id, code in codes.items()]
        common.write_text(folder / "livecodebench.json", json.dumps(rows) + "\n")
