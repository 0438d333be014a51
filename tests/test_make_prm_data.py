"""Line labels: which lines have one, what a verdict gives, that each packed label holds alone."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from small_tokenizers import TOKENIZERS

import common
from benchmarks import micro
from prm_data import mutate, mutate_rows
from sandbox import Sandbox
from teachers.units import Variant

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
    marked = [lines[i].strip() for i in sorted(mutate_rows.labelled_lines(SOURCE))]
    assert marked == ["n=1):", "2)", "for x in xs:", "if x > n:", "total += x", "total -= x",
                      "while total > 100: total //= 2", "return total"]  # fmt: skip


def variant(intent, text="    x = 1\n"):
    return Variant(start=2, end=2, text=text, operator="o", intent=intent)


@pytest.mark.parametrize(
    ("intent", "status", "equivalent", "label"),
    [
        ("mutate", "failed", "drop", -1.0),
        ("mutate", "timeout", "drop", -1.0),
        ("mutate", "syntax_error", "drop", -1.0),
        ("mutate", "passed", "drop", None),
        ("mutate", "passed", "positive", 1.0),
        ("refactor", "passed", "drop", 1.0),
        ("refactor", "failed", "drop", -1.0),
        ("refactor", "harness_error", "drop", None),
        ("mutate", "harness_error", "positive", None),
    ],
)
def test_the_label_comes_from_execution_and_never_from_the_teacher_s_intent(
    intent, status, equivalent, label
):
    assert mutate.label_of(variant(intent), status, equivalent) == label


def label(folder, packing, *flags) -> str:
    """Runs the stage on the folder's tasks as a user would; what it prints."""
    command = [
        sys.executable,
        "make_prm_data.py",
        "--method",
        "mutate",
        "--tasks",
        folder / "tasks.jsonl",
    ]
    command += ["--output_file", folder / f"{packing}.jsonl", "--packing", packing]
    command += ["--max_variants_per_line", "6", "--shift_rate", "0.5", *flags]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Micro tasks with both packings of their labels, made by the command itself."""
    folder = tmp_path_factory.mktemp("prm")
    config = micro.Config(
        "",
        num_sft_tasks=1,
        num_train_tasks=12,
        num_test_tasks=1,
        train_min_steps=3,
        max_steps=5,
    )
    tasks = micro.make(config)["train"]
    tasks[3]["solution"] = tasks[3]["solution"].replace(
        "return xs", "return [xs]"
    )  # a reference that is wrong
    common.write_jsonl(folder / "tasks.jsonl", tasks)
    outputs = {}
    for packing in ("prefix", "program"):
        outcomes = folder / f"{packing}.outcomes.jsonl"
        outputs[packing] = label(folder, packing, "--outcomes_file", outcomes)
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
            (label, f.result()["status"])
            for label, f in checks
            if (label > 0) != (f.result()["status"] == "passed")
        ]
    swapped = sum("swap" in row["meta"]["operators"] for row in rows)
    assert (
        len(checks) > 30 and len(wrong) <= swapped
    )  # a swap changes two lines; alone, one of them may pass


def test_a_prefix_row_is_the_changed_program_whose_changed_line_alone_has_a_label(labelled):
    tasks, folder, _ = labelled
    by_id = {task["task_id"]: task for task in tasks}
    rows = [json.loads(line) for line in open(folder / "prefix.jsonl")]
    references = [row for row in rows if row["origin"] == "reference"]
    assert len(references) == 11  # the wrong reference is left out
    for row in references:
        assert "".join(row["completions"]) == by_id[row["task_id"]]["solution"] and set(
            row["labels"]
        ) == {1.0}
    changed = [row for row in rows if row["origin"] != "reference"]
    executed = common.read_jsonl(folder / "prefix.outcomes.jsonl", {})
    programs = {(row["task_id"], row["completion"]) for row in executed}
    for row in changed:
        (line,) = row["meta"]["changed"]
        assert row["labels"].pop(line) in (1.0, -1.0) and set(row["labels"]) <= {None}
        assert (row["task_id"], "".join(row["completions"])) in programs
    assert {row["origin"] for row in changed} == {"mutate", "refactor"}


class TokenScorer(torch.nn.Module):
    """The score of a token is the token's place in the row and its id, as one number."""

    config = transformers.PretrainedConfig()

    def forward(self, input_ids):
        scores = torch.arange(input_ids.shape[1]) * 1000.0 + input_ids
        return transformers.modeling_outputs.TokenClassifierOutput(logits=scores[..., None])


@pytest.mark.parametrize("kind", ["byte_level_bpe", "merging_bpe"])
@pytest.mark.parametrize("fence", [False, True])
def test_a_labelled_token_is_the_one_that_is_read_in_the_whole_changed_program(
    labelled, tmp_path, kind, fence
):
    tokenizer, scorer = TOKENIZERS[kind](), TokenScorer()
    table, path = common.line_table(tokenizer), labelled[1] / "prefix.jsonl"
    tasks = {task["task_id"]: task for task in labelled[0]}
    examples = common.read_labelled_lines(path, fence=fence)
    common.encode_examples(tokenizer, examples)
    whole_lengths = [len(row["text_ids"]) for row in examples]
    common.check_lines_have_tokens(path, examples, table)
    common.cut_changed_programs(examples, table)
    logits = common.logits_at(scorer, examples, table)[..., 0].tolist()
    # In use the PRM reads the programs that were executed.
    executed = {
        (row["task_id"], row["completion"])
        for row in common.read_jsonl(labelled[1] / "prefix.outcomes.jsonl", {})
    }
    rows = common.read_labelled_lines(path)
    texts = [row["text"] for row in rows]
    assert {(row["task_id"], row["text"]) for row in rows} <= executed
    if fence:
        texts = [common.fenced(text) for text in texts]
    in_use = [tasks[row["task_id"]] for row in rows]
    scores = common.score_text_lines(scorer, tokenizer, in_use, texts, batch_size=64)
    goes_on = 0
    for row, trained, read in zip(examples, logits, scores, strict=True):
        for line, label in enumerate(row["labels"]):
            if label is not None:
                assert trained[line] == read[line]
                goes_on += not tokenizer.decode(int(read[line] % 1000)).endswith("\n")
    assert goes_on > 100  # tokens that hold a newline and the indentation after it
    # What follows the changed line is cut off: a row ends with its labelled token.
    shorter = 0
    for row, length, trained in zip(examples, whole_lengths, logits, strict=True):
        if row["origin"] == "reference":
            assert len(row["text_ids"]) == length
        else:
            (line,) = row["meta"]["changed"]
            last = len(row["prompt_ids"]) + len(row["text_ids"]) - 1
            assert trained[line] // 1000 == last and row["labels"][line] is not None
            shorter += len(row["text_ids"]) < length
    assert shorter > 100


def test_the_counts_that_are_printed_are_those_of_the_file(labelled):
    _, folder, outputs = labelled
    for packing, text in outputs.items():
        rows = [json.loads(line) for line in open(folder / f"{packing}.jsonl")]
        labels = [label for row in rows for label in row["labels"]]
        positive, negative, none = (labels.count(label) for label in (1.0, -1.0, None))
        assert f"lines: {positive} positive, {negative} negative, {none} without label" in text
        assert "1 left out: the reference fails its tests" in text
        verdicts = [
            json.loads(line) for line in list(open(folder / f"{packing}.jsonl.progress"))[1:]
        ]
        variants = [v for row in verdicts if row["reference"] == "passed" for v in row["variants"]]
        equivalent = sum(v["intent"] == "mutate" and v["status"] == "passed" for v in variants)
        assert f"changes: {equivalent} equivalent" in text
        report = json.loads((folder / f"{packing}.report.json").read_text())
        assert report["labels"] == {"positive": positive, "negative": negative, "none": none}
        changed = [row["labels"][i] for row in rows for i in row["meta"]["changed"]]
        assert report["changed"] == {
            "positive": changed.count(1.0),
            "negative": changed.count(-1.0),
        }
        statuses = [v["status"] for v in variants]
        assert report["total"] == {
            "made": len(variants),
            "compiled": len(variants) - statuses.count("syntax_error"),
            "passed": statuses.count("passed"),
            "equivalent": equivalent,
            "unjudged": statuses.count("harness_error"),
            "failed": len(variants)
            - sum(map(statuses.count, ("passed", "syntax_error", "harness_error"))),
        }
        assert report["executions"] == len(variants) + 12 and report["seconds"] > 0


def test_a_run_that_was_cut_off_goes_on_to_the_same_file(labelled):
    _, folder, _ = labelled
    whole = (folder / "prefix.jsonl").read_bytes()
    outcomes = (folder / "prefix.outcomes.jsonl").read_bytes()
    progress = folder / "prefix.jsonl.progress"
    lines = progress.read_text().splitlines(keepends=True)
    progress.write_text("".join(lines[:6]) + lines[6][:40])  # killed while it wrote the sixth task
    (folder / "prefix.jsonl").unlink()
    # The workers and the outcomes may change, unlike the other flags.
    label(folder, "prefix", "--sandbox_workers", "2", "--outcomes_file", folder / "again.jsonl")
    assert (folder / "prefix.jsonl").read_bytes() == whole and (
        folder / "again.jsonl"
    ).read_bytes() == outcomes
    assert progress.read_text().splitlines(keepends=True)[:6] == lines[:6]


def test_outcomes_hold_every_executed_program_with_the_verdict_that_it_gets_again(labelled):
    tasks, folder, _ = labelled
    by_id = {task["task_id"]: task for task in tasks}
    rows = [json.loads(line) for line in open(folder / "prefix.outcomes.jsonl")]
    verdicts = [json.loads(line) for line in list(open(folder / "prefix.jsonl.progress"))[1:]]
    assert len(rows) == 12 + sum(len(row["variants"]) for row in verdicts)
    assert [row["status"] for row in rows if row["origin"] == "reference"].count("passed") == 11
    assert any(
        row["origin"] == "mutate" and row["status"] == "passed" for row in rows
    )  # an equivalent one
    with Sandbox(workers=2) as sandbox:
        again = sandbox.judge([(by_id[row["task_id"]], row["completion"]) for row in rows[::7]])
    assert [verdict["status"] for verdict in again] == [row["status"] for row in rows[::7]]


def test_outcomes_leave_out_what_has_no_verdict_and_the_task_s_prefix():
    prefix = "def f(x):\n"
    task = {"task_id": "t", "prompt": "p", "prefix": prefix, "solution": prefix + "    return x\n"}
    variants = [
        {
            "start": 2,
            "end": 2,
            "text": f"    return {x}\n",
            "operator": "o",
            "intent": "mutate",
            "status": status,
        }
        for x, status in (("-x", "failed"), ("+x", "passed"), ("~x", "harness_error"))
    ]
    rows = mutate_rows.outcome_rows([task], {"t": {"reference": "passed", "variants": variants}})
    assert [(row["origin"], row["status"], row["completion"], row["prefix"]) for row in rows] == [
        ("reference", "passed", "    return x\n", prefix),
        ("mutate", "failed", "    return -x\n", prefix),
        ("mutate", "passed", "    return +x\n", prefix),
    ]


def test_balance_leaves_as_many_changes_of_either_label():
    verified = {
        "a": [(variant("mutate"), -1.0)] * 5 + [(variant("refactor"), 1.0)],
        "b": [(variant("mutate"), -1.0)] * 4,
    }
    labels = [
        label for changes in mutate_rows.balanced(verified, seed=0).values() for _, label in changes
    ]
    assert sorted(labels) == [-1.0, 1.0]
    assert mutate_rows.balanced(verified, seed=0) == mutate_rows.balanced(verified, seed=0)


def test_blocks_are_labelled_on_their_last_line_by_execution(tmp_path):
    source = (
        "def f(xs):\n    out = []\n    for x in xs:\n        if x > 0:\n            out.append(x)\n"
        "    return out\n"
    )
    task = {
        "task_id": "t",
        "prompt": "p",
        "entry_point": "f",
        "solution": source,
        "setup": "",
        "style": "call",
    }
    task |= {"tests": [{"args": [[1, -1, 2, 0]], "output": [1, 2]}], "timeout": None, "meta": {}}
    common.write_jsonl(tmp_path / "tasks.jsonl", [task])
    for packing in ("prefix", "program"):
        output = tmp_path / f"{packing}.jsonl"
        mutate.main(
            mutate.Config(
                str(tmp_path / "tasks.jsonl"),
                str(output),
                unit="block",
                packing=packing,
                shift_rate=1.0,
            )
        )
        rows = [
            json.loads(line)
            for line in open(output)
            if "reference" not in json.loads(line)["origin"]
        ]
        changed = [row for row in rows if row["meta"]["changed"]]
        assert len(changed) >= 4
        assert all(row["labels"][row["meta"]["changed"][-1]] in (1.0, -1.0) for row in changed)
        with Sandbox() as sandbox:
            for row in (
                changed if packing == "program" else ()
            ):  # one change a row: the whole program tells
                passed = (
                    sandbox.submit(task, "".join(row["completions"])).result()["status"] == "passed"
                )
                assert (row["labels"][row["meta"]["changed"][-1]] == 1.0) == passed


def test_lines_that_the_task_gives_away_are_no_part_of_the_completion():
    prefix = 'def f(x):\n    """Add one."""\n'
    task = {
        "task_id": "t",
        "prompt": prefix,
        "prefix": prefix,
        "solution": prefix + "    x += 1\n    return x\n",
    }
    changes = [
        Variant(1, 1, "def f(y):\n", "o", "mutate"),
        Variant(3, 3, "    x -= 1\n", "o", "mutate"),
    ]
    rows = mutate_rows.prefix_rows(task, [(change, -1.0) for change in changes])
    rows = [row for row in rows if any(label is not None for label in row["labels"])]
    assert [(row["completions"], row["labels"], row["meta"]["changed"]) for row in rows] == [
        (["    x += 1\n", "    return x\n"], [1.0, 1.0], []),
        (["    x -= 1\n", "    return x\n"], [-1.0, None], [0]),
    ]


def test_a_change_that_the_reference_shares_up_to_its_label_has_no_row_of_its_own():
    source = "def f(x):\n    x = x * 2\n    x = x * 2\n    return x\n"
    task = {"task_id": "t", "prompt": "p", "solution": source}
    deletions = [Variant(line, line, "", "delete", "mutate") for line in (2, 3)]
    programs = [change.apply(source) for change in deletions]
    assert programs[0] == programs[1]  # the reference's `x = x * 2` is right, and there is one
    rows = mutate_rows.prefix_rows(task, [(change, -1.0) for change in deletions])
    assert [(row["origin"], row["labels"]) for row in rows] == [
        ("reference", [1.0, 1.0, 1.0, 1.0]),
        ("mutate", [None, None, -1.0]),
    ]


def test_an_equivalent_deletion_above_a_wrong_line_leaves_that_line_wrong():
    source = "def f(x):\n    x = x + 0\n    y = x + 1\n    return y\n"
    task = {"task_id": "t", "prompt": "p", "solution": source}
    wrong = (Variant(3, 3, "    y = x + 2\n", "o", "mutate"), -1.0)
    for label in (1.0, -1.0):
        deletion = (Variant(2, 2, "", "delete", "mutate"), label)
        config = mutate.Config("", "", change_rate=1.0, shift_rate=1.0)
        for row in mutate_rows.program_rows(task, [deletion, wrong], config):
            assert row["completions"][1] == "    y = x + 2\n"
            assert row["labels"] == [1.0, -1.0, 1.0] and row["meta"]["changed"] == [1]
        for row in mutate_rows.program_rows(task, [deletion], config):
            assert row["labels"] == [1.0, label, 1.0]


ADD_ONE = {
    "prompt": "p",
    "entry_point": "f",
    "solution": "def f(x):\n    return x + 1\n",
    "style": "call",
    "tests": [{"args": [1], "output": 2}, {"args": [5], "output": 6}],
    "meta": {},
}


def test_tasks_without_a_result_run_though_all_other_results_are_whole(tmp_path, capsys):
    tasks = [ADD_ONE | {"task_id": name} for name in "abc"]
    config = mutate.Config(str(tmp_path / "tasks.jsonl"), str(tmp_path / "prm.jsonl"))
    common.write_jsonl(config.tasks, tasks[:2])
    mutate.main(config)
    rows, progress = Path(config.output_file), Path(config.output_file + ".progress")
    whole, lines = rows.read_bytes(), progress.read_text().splitlines(keepends=True)
    assert len(lines) == 3

    # A run that asks again for what the second task lacks is killed before the task has a result.
    progress.write_text("".join(lines[:2]))
    rows.write_text("")
    mutate.main(config)
    assert rows.read_bytes() == whole and len(progress.read_text().splitlines()) == 3
    assert "nothing to do" not in capsys.readouterr().out
    mutate.main(config)
    assert "nothing to do" in capsys.readouterr().out

    for now in (tasks, tasks[1:]):  # a task comes to the file, a task goes
        common.write_jsonl(config.tasks, now)
        mutate.main(config)
        labelled = {row["task_id"] for row in common.read_jsonl(rows, {"task_id": str})}
        assert labelled == {task["task_id"] for task in now}
        assert "nothing to do" not in capsys.readouterr().out
        mutate.main(config)
        assert "nothing to do" in capsys.readouterr().out


def test_a_reference_that_is_too_deep_to_read_is_named(tmp_path):
    deep = f"def f(x):\n    return {' + '.join('x' for _ in range(3000))}\n"
    common.write_jsonl(tmp_path / "tasks.jsonl", [ADD_ONE | {"task_id": "t", "solution": deep}])
    config = mutate.Config(str(tmp_path / "tasks.jsonl"), str(tmp_path / "prm.jsonl"))
    with pytest.raises(common.InputError, match=r"tasks.jsonl:1: field 'solution' does not parse"):
        mutate.main(config)


def test_a_task_that_was_edited_runs_again_and_the_others_do_not(tmp_path, monkeypatch, capsys):
    tasks = [ADD_ONE | {"task_id": name} for name in "ab"]
    config = mutate.Config(str(tmp_path / "tasks.jsonl"), str(tmp_path / "prm.jsonl"))
    config.outcomes_file, config.num_donors = str(tmp_path / "outcomes.jsonl"), 0
    common.write_jsonl(config.tasks, tasks)
    mutate.main(config)
    tasks[0]["solution"] = "def f(x):\n    y = 2 * x\n    return y\n"
    tasks[0]["tests"] = [{"args": [1], "output": 2}, {"args": [5], "output": 10}]
    common.write_jsonl(config.tasks, tasks)
    judged, submit = set(), Sandbox.submit

    def noted(self, task, program):
        judged.add(task["task_id"])
        return submit(self, task, program)

    monkeypatch.setattr(Sandbox, "submit", noted)
    mutate.main(config)
    assert judged == {"a"} and "1 tasks run again" in capsys.readouterr().out
    rows = common.read_jsonl(config.output_file, {})
    own = ["".join(row["completions"]) for row in rows if row["task_id"] == "a"]
    assert own and all("2 * x" in text or "return y" in text for text in own)
    outcomes = common.read_jsonl(config.outcomes_file, {})
    assert tasks[0]["solution"] in [r["completion"] for r in outcomes if r["task_id"] == "a"]
    mutate.main(config)
    assert "nothing to do" in capsys.readouterr().out

    progress = Path(config.output_file + ".progress")  # of an earlier version, without digests
    flags, *results = [json.loads(line) for line in open(progress)]
    common.write_jsonl(progress, [flags, *({**r, "digest": None} for r in results)])
    judged.clear()
    mutate.main(config)
    assert judged == {"a", "b"} and common.read_jsonl(config.output_file, {}) == rows


def test_a_changed_program_has_its_own_limit_also_where_the_task_limits_its_tests(
    tmp_path, monkeypatch
):
    task = ADD_ONE | {"task_id": "t", "test_timeout": 5}
    common.write_jsonl(tmp_path / "tasks.jsonl", [task])
    limits, submit = {}, Sandbox.submit

    def noted(self, task, program):
        limits[program] = task["test_timeout"], self.limit(task)
        return submit(self, task, program)

    monkeypatch.setattr(Sandbox, "submit", noted)
    mutate.main(mutate.Config(str(tmp_path / "tasks.jsonl"), str(tmp_path / "prm.jsonl")))
    assert limits.pop(task["solution"]) == (5, 2 * 5)
    assert len(limits) > 3 and set(limits.values()) == {(1.0, 2 * 1.0)}


def test_answers_that_a_local_model_never_gives_are_not_asked_for_again(tmp_path, capsys):
    common.write_jsonl(tmp_path / "tasks.jsonl", [ADD_ONE | {"task_id": "t"}])
    tokenizer = common.new_tokenizer([ADD_ONE["solution"]], 300)
    (tmp_path / "model").mkdir()
    model = common.new_model(tokenizer, 32, 1, 0)
    common.save_model(model, tokenizer, tmp_path / "model")
    config = mutate.Config(
        str(tmp_path / "tasks.jsonl"),
        str(tmp_path / "prm.jsonl"),
        teacher=str(tmp_path / "model"),
        teacher_max_new_tokens=model.config.max_position_embeddings,  # no prompt is short enough
    )
    mutate.main(config)
    report = json.loads((tmp_path / "prm.report.json").read_text())
    assert report["teacher"]["missing"] == 4
    assert "asks for them again" not in capsys.readouterr().err
    mutate.main(config)
    assert "nothing to do" in capsys.readouterr().out
    lacks = {"reference": "passed", "variants": [], "dropped": {"missing": 4}}
    endpoint = mutate.Config("", "", teacher="https://127.0.0.1/v1")
    assert mutate.lacking(lacks, endpoint) == 4 and mutate.lacking(lacks, config) == 0


def test_without_the_misconceptions_no_version_writes_one_and_the_others_stay():
    config = micro.Config("", num_sft_tasks=1, num_train_tasks=8, num_test_tasks=1)
    tasks = micro.make(config)["train"]
    flags = {"tasks": "", "output_file": "", "intents": ["mutate"], "max_variants_per_line": None}
    for task in tasks:
        misread = [line + "\n" for line in task["meta"]["misconceptions"]]
        right = task["solution"].splitlines(True)[1:-1]
        assert len(misread) == len(right) and all(
            a != b for a, b in zip(misread, right, strict=True)
        )
        every = mutate.rule_variants(task, tasks, mutate.Config(**flags))
        kept = mutate.rule_variants(
            task, tasks, mutate.Config(**flags, exclude_misconceptions=True)
        )
        assert {v.text for v in every} & set(misread)
        assert kept == [v for v in every if not set(v.text.splitlines(True)) & set(misread)]
    # A bound on the versions of a line counts those that are kept.
    one = mutate.Config(**flags | {"max_variants_per_line": 3})
    other = dataclasses.replace(one, exclude_misconceptions=True)
    counts = [sum(len(mutate.rule_variants(t, tasks, c)) for t in tasks) for c in (one, other)]
    assert counts[0] == counts[1]
