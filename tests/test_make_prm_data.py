"""Line labels: which lines have one, what a verdict gives, and that each packed label holds when it is run alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import common
import make_tasks
from prm_data import ast_teacher, mutate
from sandbox import Sandbox

ROOT = Path(__file__).parent.parent

SOURCE = '''import math
def f(xs,
      n=1):
    """Docstring
    of two lines."""
    # a comment
    total = (1 +
             2)

    for x in xs:
        if x > n:
            total += x
        else:
            total -= x
    while total > 100: total //= 2
    return total
'''


def test_statements_have_labels_on_their_last_line_and_nothing_else_has():
    lines = SOURCE.splitlines()
    marked = [lines[i].strip() for i in sorted(mutate.labelled_lines(SOURCE))]
    assert marked == ["n=1):", "2)", "for x in xs:", "if x > n:", "total += x", "total -= x",
                      "while total > 100: total //= 2", "return total"]  # fmt: skip


def variant(intent, text="    x = 1\n"):
    return ast_teacher.Variant(start=2, end=2, text=text, operator="o", intent=intent)


@pytest.mark.parametrize(
    ("intent", "status", "equivalent", "label"),
    [
        ("mutate", "failed", "drop", -1.0), ("mutate", "timeout", "drop", -1.0), ("mutate", "syntax_error", "drop", -1.0),
        ("mutate", "passed", "drop", None), ("mutate", "passed", "positive", 1.0), ("refactor", "passed", "drop", 1.0),
        ("refactor", "failed", "drop", -1.0), ("refactor", "harness_error", "drop", None),
        ("mutate", "harness_error", "positive", None),
    ],
)  # fmt: skip
def test_the_label_comes_from_execution_and_never_from_the_teacher_s_intent(intent, status, equivalent, label):
    assert mutate.label_of(variant(intent), status, equivalent) == label


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Micro tasks with both packings of their labels, made by the command itself."""
    folder = tmp_path_factory.mktemp("prm")
    config = make_tasks.Config("micro", "", None, 1, 12, 1, train_min_steps=3, max_steps=5)
    tasks = make_tasks.make_micro(config)["train"]
    tasks[3]["solution"] = tasks[3]["solution"].replace("return xs", "return [xs]")  # a reference that is wrong
    common.write_jsonl(folder / "tasks.jsonl", tasks)
    outputs = {}
    for packing in ("prefix", "program"):
        command = [
            sys.executable,
            "make_prm_data.py",
            "--method",
            "mutate",
            "--tasks",
            folder / "tasks.jsonl",
            "--output_file",
        ]
        command += [
            folder / f"{packing}.jsonl",
            "--packing",
            packing,
            "--max_variants_per_line",
            "6",
            "--shift_rate",
            "0.5",
        ]
        outputs[packing] = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return tasks, folder, outputs


def test_each_label_of_a_row_holds_when_its_line_is_run_in_the_reference(labelled):
    tasks, folder, _ = labelled
    by_id = {task["task_id"]: task for task in tasks}
    rows = [json.loads(line) for line in open(folder / "program.jsonl")]
    checks = []
    with Sandbox(workers=2) as sandbox:
        for row in rows:
            reference = by_id[row["task_id"]]["solution"].splitlines(keepends=True)
            if len(row["completions"]) != len(reference):
                continue  # a line was inserted or deleted: lines no longer face each other
            for i, (line, label) in enumerate(zip(row["completions"], row["labels"], strict=True)):
                if label is not None and i in row["meta"]["changed"]:
                    program = "".join([*reference[:i], line, *reference[i + 1 :]])
                    checks.append((label, sandbox.submit(by_id[row["task_id"]], program)))
                elif label is not None:
                    assert label == 1.0 and line == reference[i]
        wrong = [
            (label, f.result()["status"]) for label, f in checks if (label > 0) != (f.result()["status"] == "passed")
        ]
    swapped = sum("swap" in row["meta"]["operators"] for row in rows)
    assert len(checks) > 30 and len(wrong) <= swapped  # a swap changes two lines; alone, one of them may pass


def test_prefix_rows_end_at_the_changed_line_which_alone_has_a_label(labelled):
    tasks, folder, _ = labelled
    by_id = {task["task_id"]: task for task in tasks}
    rows = [json.loads(line) for line in open(folder / "prefix.jsonl")]
    references = [row for row in rows if row["origin"] == "reference"]
    assert len(references) == 11  # the wrong reference is left out
    for row in references:
        assert "".join(row["completions"]) == by_id[row["task_id"]]["solution"] and set(row["labels"]) == {1.0}
    changed = [row for row in rows if row["origin"] != "reference"]
    for row in changed:
        assert row["meta"]["changed"] == [len(row["labels"]) - 1] and row["labels"][-1] in (1.0, -1.0)
        assert set(row["labels"][:-1]) <= {None}
    assert {row["origin"] for row in changed} == {"mutate", "refactor"}


def test_the_counts_that_are_printed_are_those_of_the_file(labelled):
    _, folder, outputs = labelled
    for packing, text in outputs.items():
        rows = [json.loads(line) for line in open(folder / f"{packing}.jsonl")]
        labels = [label for row in rows for label in row["labels"]]
        positive, negative, none = (labels.count(label) for label in (1.0, -1.0, None))
        assert f"lines: {positive} positive, {negative} negative, {none} without label" in text
        assert "1 left out: the reference fails its tests" in text
        verdicts = [json.loads(line) for line in list(open(folder / f"{packing}.jsonl.progress"))[1:]]
        variants = [v for row in verdicts if row["reference"] == "passed" for v in row["variants"]]
        equivalent = sum(v["intent"] == "mutate" and v["status"] == "passed" for v in variants)
        assert f"changes: {equivalent} equivalent" in text


def test_a_run_that_was_cut_off_goes_on_to_the_same_file(labelled):
    _, folder, _ = labelled
    whole = (folder / "prefix.jsonl").read_bytes()
    progress = folder / "prefix.jsonl.progress"
    lines = progress.read_text().splitlines(keepends=True)
    progress.write_text("".join(lines[:6]) + lines[6][:40])  # killed while it wrote the sixth task
    (folder / "prefix.jsonl").unlink()
    command = [
        sys.executable,
        "make_prm_data.py",
        "--method",
        "mutate",
        "--tasks",
        folder / "tasks.jsonl",
        "--output_file",
        folder / "prefix.jsonl",
    ]
    command += ["--packing", "prefix", "--max_variants_per_line", "6", "--shift_rate", "0.5"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert (folder / "prefix.jsonl").read_bytes() == whole
    assert progress.read_text().splitlines(keepends=True)[:6] == lines[:6]


def test_lines_that_the_task_gives_away_are_no_part_of_the_completion():
    prefix = 'def f(x):\n    """Add one."""\n'
    task = {"task_id": "t", "prompt": prefix, "prefix": prefix, "solution": prefix + "    x += 1\n    return x\n"}
    changes = [
        ast_teacher.Variant(1, 1, "def f(y):\n", "o", "mutate"),
        ast_teacher.Variant(3, 3, "    x -= 1\n", "o", "mutate"),
    ]
    rows = mutate.prefix_rows(task, [(change, -1.0) for change in changes])
    rows = [row for row in rows if any(label is not None for label in row["labels"])]
    assert [(row["completions"], row["labels"], row["meta"]["changed"]) for row in rows] == [
        (["    x += 1\n", "    return x\n"], [1.0, 1.0], []),
        (["    x -= 1\n"], [-1.0], [0]),
    ]
