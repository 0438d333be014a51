"""Exact line labels of samples, and the pairs that preference optimisation learns from."""

import json
import math
import random
from collections import defaultdict
from concurrent.futures import Future

import pytest
import torch

import common
import make_prm_data
from benchmarks import micro
from common import InputError
from prm_data import contrast, gold, mutate, rank
from prm_data.rows import lines_of
from sandbox import Sandbox


@pytest.fixture(scope="module")
def tasks():
    sizes = {
        "num_sft_tasks": 1,
        "num_train_tasks": 16,
        "num_test_tasks": 1,
        "max_steps": 6,
        "train_min_steps": 3,
    }
    return micro.make(micro.Config("", **sizes))["train"]


@pytest.fixture(scope="module")
def runner():
    with Sandbox(workers=1) as sandbox:
        yield sandbox


def labels_of(runner, task, program):
    return gold.labels(gold.submit(runner, task, program, {}))


def state_labels(task, lines):
    """Labels of micro program lines: does the line do to the reference's state what it should?"""
    states, reference = [[test["args"][0] for test in task["tests"]]], task["solution"].splitlines()
    for line in reference[1:-1]:
        states.append([micro.apply_line(line.removeprefix("    xs = "), xs) for xs in states[-1]])
    labels = []
    for i, line in enumerate(lines):
        right = i < len(reference) and line == reference[i]
        if not right and 0 < i < len(reference) - 1 and line.startswith("    xs = "):
            before, after = states[i - 1], states[i]
            right = [micro.apply_line(line.removeprefix("    xs = "), xs) for xs in before] == after
        labels.append(1.0 if right else -1.0)
    return labels


def random_sample(rng, task):
    """A program in the micro grammar: the reference with wrong, other, missing and added lines."""
    lines = task["solution"].splitlines()
    for i in range(1, len(lines) - 1):
        (step,) = micro.random_steps(rng, 1)
        if rng.random() < 0.5:
            lines[i] = "    xs = " + rng.choice(
                [step.code(), *step.near_misses(), lines[i][9:] + "[:]"]
            )
    change = rng.random()
    if change < 0.2:
        del lines[rng.randrange(len(lines))]
    elif change < 0.4:
        lines.insert(
            rng.randrange(len(lines) + 1),
            rng.choice(["    return xs", "    xs = xs[1:]", "    return"]),
        )
    return lines


def test_gold_labels_are_those_of_the_states_of_a_lock_step_program(tasks, runner):
    rng, cache, checked = random.Random(0), {}, 0
    for _ in range(300):
        task = rng.choice(tasks)
        lines = random_sample(rng, task)
        found = gold.labels(gold.submit(runner, task, "\n".join(lines) + "\n", cache))
        assert found == state_labels(task, lines), (task["solution"], lines)
        checked += found.count(-1.0)
    assert checked > 300


def test_near_misses_of_every_line_are_wrong_and_only_they(tasks, runner):
    for task in tasks[:4]:
        lines = task["solution"].splitlines(keepends=True)
        assert labels_of(runner, task, task["solution"]) == [1.0] * len(lines)
        for i in range(1, len(lines) - 1):
            wrong = [*lines[:i], "    xs = xs[::-1] + [77]\n", *lines[i + 1 :]]
            assert labels_of(runner, task, "".join(wrong)) == [1.0] * i + [-1.0] + [1.0] * (
                len(lines) - i - 1
            )


REVERSED = {
    "task_id": "t",
    "prompt": "p",
    "solution": "def f(xs):\n    # reverse\n    xs = xs[::-1]\n    return xs\n",
    "entry_point": "f",
    "setup": "",
    "style": "call",
    "tests": [{"args": [[1, 2]], "output": [2, 1]}],
}


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("def f(xs):\n    xs = xs[::-1]\n    return xs\n", [1, 1, 1]),
        ("def f(xs):\n    xs = list(reversed(xs))\n    return xs", [1, 1, 1]),
        (
            "# why\n\ndef f(xs):\n  # how\n    xs = xs[::-1]\n    return xs\n",
            [None, None, 1, None, 1, 1],
        ),
        ("def f(xs):\n    return xs\n", [1, -1]),
        ("def f(xs):\n    return xs[::-1]\n", [1, 1]),
        ("def f(xs):\n    xs = xs[::-1]\n    xs = xs\n    return xs\n", [1, 1, -1, -1]),
        ("def f(xs):\n    xs = xs[\n", [1, -1]),
        ("def f(xs):\r\n    xs = xs[::-1]\r\n    return xs\r\n", [1, 1, 1]),
        ("", []),
    ],
)
def test_frame_comments_and_lines_beyond_the_reference_by_place(runner, program, expected):
    found = labels_of(runner, REVERSED, program)
    assert found == expected and len(found) == len(lines_of(program))


def test_a_known_line_does_not_run_again_and_a_sandbox_failure_is_no_label():
    programs = []

    class CountingSandbox:
        def submit(self, task, program):
            programs.append(program)
            future = Future()
            future.set_result({"status": "harness_error"})
            return future

    runner, cache = CountingSandbox(), {}
    program = "def f(xs):\n    xs = []\n    return xs\n"
    first = gold.submit(runner, REVERSED, program, cache)
    assert (
        gold.labels(first)
        == gold.labels(gold.submit(runner, REVERSED, program + "a\n", cache))[:3]
        == [1, None, 1]
    )
    assert programs == ["def f(xs):\n    # reverse\n    xs = []\n    return xs\n"]
    gold.submit(runner, REVERSED | {"task_id": "u"}, program, cache)
    assert len(programs) == 2


def run(method, **flags):
    """The method that make_prm_data.py would start, with the flags that it would give."""
    config = method.Config(**flags)
    assert common.chosen("method", make_prm_data.METHODS, ["--method", config.method]) is method
    method.main(config)
    return common.read_jsonl(config.output_file, {})


def test_gold_writes_prm_rows_of_samples_and_does_not_replace_others(tasks, tmp_path, capsys):
    broken = tasks[1] | {"solution": tasks[1]["solution"].replace("return xs", "return [xs]")}
    common.write_jsonl(tmp_path / "tasks.jsonl", [tasks[0], broken, REVERSED])
    lines = lines_of(tasks[0]["solution"])
    wrong = "".join([lines[0], "    xs = [77]\n", *lines[2:]])
    samples = [
        {"task_id": tasks[0]["task_id"], "completion": wrong, "status": "failed"},
        {"task_id": broken["task_id"], "completion": wrong},
        {"task_id": "t", "completion": "\n"},
        {"task_id": tasks[0]["task_id"], "completion": tasks[0]["solution"]},
        {"task_id": tasks[0]["task_id"], "completion": wrong},
    ]
    common.write_jsonl(tmp_path / "samples.jsonl", samples)
    flags = {name: str(tmp_path / f"{name}.jsonl") for name in ("tasks", "samples")}
    flags |= {"output_file": str(tmp_path / "gold.jsonl"), "num_samples": 2}
    first, second = run(gold, **flags)
    for row in (first, second):
        common.check_prm_row(row)
        assert row["origin"] == "gold" and row["meta"]["steps"] == tasks[0]["meta"]["steps"]
    assert "".join(first["completions"]) == wrong and first["meta"]["status"] == "failed"
    assert first["labels"] == [1, -1] + [1] * (len(lines) - 2) and first["meta"]["changed"] == [1]
    assert second["labels"] == [1] * len(lines) and second["meta"]["changed"] == []
    run(gold, **flags)
    assert "is complete; nothing to do" in capsys.readouterr().out
    with pytest.raises(InputError, match="made with other flags"):
        run(gold, **flags | {"num_samples": 1})


def test_a_result_of_other_samples_is_refused_and_not_replaced(tmp_path, monkeypatch, capsys):
    common.write_jsonl(tmp_path / "tasks.jsonl", [REVERSED])
    samples = [{"task_id": "t", "completion": c, "status": s} for c, s in PASS_AND_FAIL]
    common.write_jsonl(tmp_path / "samples.jsonl", samples)
    flags = {name: str(tmp_path / f"{name}.jsonl") for name in ("tasks", "samples")}
    flags |= {"output_file": str(tmp_path / "pairs.jsonl"), "rank_by": "tests"}
    pairs, beside = tmp_path / "pairs.jsonl", tmp_path / "pairs.jsonl.run_config.json"
    whole = run(rank, **flags)
    common.write_jsonl(tmp_path / "samples.jsonl", [*samples, samples[0] | {"completion": "c"}])
    with pytest.raises(InputError, match="exists, made from other contents of --samples;"):
        run(rank, **flags)
    assert common.read_jsonl(pairs, {}) == whole
    written = json.loads(beside.read_text())
    assert set(written.pop("inputs")) == {"tasks", "samples"}
    beside.write_text(json.dumps(written))  # of an earlier version
    assert run(rank, **flags) == whole
    assert "nothing to do; by its flags: an earlier version" in capsys.readouterr().out

    # A run that is killed before its rows are written leaves no result that calls itself complete.
    pairs.unlink()
    write_jsonl = common.write_jsonl
    monkeypatch.setattr(common, "write_jsonl", None)
    with pytest.raises(TypeError):
        run(rank, **flags)
    monkeypatch.setattr(common, "write_jsonl", write_jsonl)
    write_jsonl(pairs, [])  # as the earlier run left it
    assert len(run(rank, **flags)) == 1


PASS_AND_FAIL = [("a", "passed"), ("b", "failed")]
FUTURE = "from __future__ import annotations\n"
HEAD = "from math import pi\n\n\ndef f(xs):\n"
RIGHT = "def f(xs):\n    xs = xs[::-1]\n    return xs\n"


@pytest.mark.parametrize(
    ("completion", "prefix", "expected"),
    [
        (RIGHT, "", [1, 1, 1]),
        (RIGHT.replace("xs[::-1]", "[]"), "", [1, -1, 1]),
        ("from math import pi\n" + RIGHT, "", None),  # written by the policy: a line of its own
        (f"So:\n```python\n{RIGHT}```", "", [None, None, 1, 1, 1, None]),
        ("    xs = xs[::-1]\n    return xs\n", HEAD, [1, 1]),  # the prefix has the preamble
    ],
)
def test_the_preamble_that_eval_puts_before_a_program_is_no_line_of_the_sample(
    tmp_path, completion, prefix, expected
):
    reference = HEAD + RIGHT.partition("\n")[2] if prefix else RIGHT
    task = REVERSED | {"preamble": "from math import pi", "prefix": prefix, "solution": reference}
    program = common.extract_program(task, completion)
    assert (common.standalone(task, program) == program) == bool(prefix)
    sample = {"task_id": "t", "completion": completion, "status": "passed"}
    for name, rows in (
        ("tasks", [task]),
        ("samples", [sample | {"solution": common.standalone(task, program)}]),
        ("bare", [sample]),
    ):
        common.write_jsonl(tmp_path / f"{name}.jsonl", rows)
    (judged,), (bare,) = (
        run(
            gold,
            tasks=str(tmp_path / "tasks.jsonl"),
            samples=str(tmp_path / f"{name}.jsonl"),
            output_file=str(tmp_path / f"gold-{name}.jsonl"),
        )
        for name in ("samples", "bare")
    )
    assert judged == bare and (expected is None or judged["labels"] == expected)


def test_a_whole_program_of_its_own_keeps_the_lines_that_a_task_gives():
    task = REVERSED | {"prefix": HEAD, "solution": HEAD + RIGHT.partition("\n")[2]}
    for program, own in ((task["solution"], 2), (RIGHT, 3)):
        row = gold.row_of(task, {"solution": program}, [1.0] * len(lines_of(program)))
        assert row["completions"] == lines_of(RIGHT)[-own:] and row["labels"] == [1.0] * own


def test_a_preamble_behind_future_imports_is_found():
    task = REVERSED | {"preamble": "from math import pi"}
    program = FUTURE + RIGHT
    assert gold.without_preamble(task, common.standalone(task, program)) == program
    assert gold.without_preamble(REVERSED, program) == program


@pytest.mark.parametrize("module", [gold, rank])
def test_a_task_that_occurs_twice_is_refused(tmp_path, module):
    common.write_jsonl(tmp_path / "tasks.jsonl", [REVERSED, REVERSED])
    common.write_jsonl(
        tmp_path / "samples.jsonl", [{"task_id": "t", "completion": "a", "status": "passed"}]
    )
    flags = {name: str(tmp_path / f"{name}.jsonl") for name in ("tasks", "samples")}
    flags |= {"rank_by": "tests"} if module is rank else {}
    with pytest.raises(InputError, match="a task_id occurs twice"):
        run(module, output_file=str(tmp_path / "out.jsonl"), **flags)


@pytest.mark.parametrize("module", [gold, rank, contrast])
@pytest.mark.parametrize("field", ["opening", "completion"])
def test_a_sample_that_is_no_text_is_named(tmp_path, module, field):
    sample = {"task_id": "t", "completion": "a", "solution": "a", "status": "passed", field: 5}
    common.write_jsonl(tmp_path / "tasks.jsonl", [REVERSED | {"meta": {"plan": ["a"]}}])
    common.write_jsonl(tmp_path / "samples.jsonl", [sample])
    flags = {name: str(tmp_path / f"{name}.jsonl") for name in ("tasks", "samples")}
    flags |= {"rank_by": "tests"} if module is rank else {}
    with pytest.raises(InputError, match=f"samples.jsonl:1: field '{field}' must be str"):
        run(module, output_file=str(tmp_path / "out.jsonl"), **flags)


def test_the_program_of_a_sample_is_looked_for_behind_what_the_prompt_opened(tmp_path, monkeypatch):
    """Thinking that never ends is no program, whatever fence stands in it: every line counts."""
    text = "So:\n```python\nx = 1\n```\n"
    monkeypatch.setattr(common, "score_text_lines", lambda *_, **__: [[1.0, 2.0, 3.0, 4.0]])
    for opening, score in (("", 3.0), ("<think>\n", 2.5)):
        sample = {"task_id": "t", "completion": text} | ({"opening": opening} if opening else {})
        config = rank.Config("", aggregate="mean")
        assert rank.prm_scores(None, None, [REVERSED], [sample], config) == [score]
        common.write_jsonl(tmp_path / "samples.jsonl", [sample])
        config = gold.Config("", str(tmp_path / "samples.jsonl"), "")
        (read,) = gold.read_samples(config, {"t": REVERSED})
        assert read["solution"] == (opening + text if opening else "x = 1\n")


@pytest.mark.parametrize("min_margin", [None, 0.0, 0.3])
def test_best_pairs_are_the_widest_and_never_tie(min_margin):
    rng = random.Random(0)
    for seed in range(200):
        scores = [rng.choice([0.0, 0.25, 0.5, 1.0, math.nan]) for _ in range(rng.randint(1, 7))]
        pairs = rank.best_pairs(scores, min_margin, 3, seed)
        margins = [scores[i] - scores[j] for i, j in pairs]
        assert all(margin > (min_margin or 0) for margin in margins) and margins == sorted(
            margins, reverse=True
        )
        everything = sorted(
            (a - b for a in scores for b in scores if a - b > (min_margin or 0)), reverse=True
        )
        assert margins == everything[: 1 if min_margin is None else 3] and len(set(pairs)) == len(
            pairs
        )


@pytest.fixture(scope="module")
def sampled(tasks, tmp_path_factory):
    """Tasks, verdicts of made-up samples (some identical), and a line PRM with a random head."""
    folder, rng = tmp_path_factory.mktemp("rank"), random.Random(0)
    rows = []
    for task in tasks[:8]:
        for number in range(6):
            text = task["solution"] if rng.random() < 0.3 else "\n".join(random_sample(rng, task))
            status = "passed" if text == task["solution"] else "failed"
            rows.append(
                {"task_id": task["task_id"], "sample": number, "completion": text, "status": status}
            )
    rows[0]["completion"], rows[1]["status"] = "", "harness_error"
    rows[6] |= {
        "completion": rows[7]["completion"] + "    xs",
        "status": "passed",
        "terminated": False,
    }
    common.write_jsonl(folder / "tasks.jsonl", tasks[:8])
    common.write_jsonl(folder / "verdicts.jsonl", rows)
    tokenizer = common.new_tokenizer([row["prompt"] + row["solution"] for row in tasks], 400)
    model = common.new_model(tokenizer, 32, 1, seed=0, num_labels=1)
    torch.nn.init.normal_(model.score.weight, generator=torch.Generator().manual_seed(0))
    common.save_model(model, tokenizer, folder / "prm")
    return folder


def pairs_of(sampled, name, **flags):
    flags = {
        "tasks": str(sampled / "tasks.jsonl"),
        "samples": str(sampled / "verdicts.jsonl"),
        **flags,
    }
    return run(rank, output_file=str(sampled / f"{name}.jsonl"), **flags)


@pytest.mark.parametrize("aggregate", ["sum", "mean", "min"])
def test_the_prm_ranks_samples_by_its_scores_at_their_line_ends(sampled, tasks, aggregate):
    prm = str(sampled / "prm")
    pairs = pairs_of(sampled, aggregate, prm=prm, aggregate=aggregate, per_device_eval_batch_size=5)
    tokenizer, model = common.load_tokenizer(prm), common.load_scorer(prm).eval()
    scores = defaultdict(dict)
    for row in common.read_jsonl(sampled / "verdicts.jsonl", {}):
        task = next(task for task in tasks if task["task_id"] == row["task_id"])
        ids, lines = common.encode_prompt(tokenizer, task), []
        for line in lines_of(
            row["completion"]
        ):  # this tokenizer cuts at every newline: lines stand alone
            ids = ids + tokenizer(line).input_ids
            with torch.no_grad():
                lines.append(model(input_ids=torch.tensor([ids])).logits[0, -1, 0].item())
        if lines and row.get("terminated", True):
            found = {"sum": sum(lines), "mean": sum(lines) / len(lines), "min": min(lines)}[
                aggregate
            ]
            scores[row["task_id"]][row["completion"]] = found
    assert len(pairs) == 8 == len({pair["task_id"] for pair in pairs})
    for pair in pairs:
        of_task = scores[pair["task_id"]]
        assert (
            pair["complete"] and pair["kind"] == "response" and pair["chosen"] != pair["rejected"]
        )
        assert of_task[pair["chosen"]] == pytest.approx(max(of_task.values()), abs=1e-5)
        assert of_task[pair["rejected"]] == pytest.approx(min(of_task.values()), abs=1e-5)
        assert pair["meta"]["score_chosen"] == pytest.approx(of_task[pair["chosen"]], abs=1e-5)


def test_ranked_by_tests_the_chosen_passes_and_the_rejected_fails_and_no_pair_comes_twice(sampled):
    pairs = pairs_of(sampled, "tests", rank_by="tests", min_margin=0.0, max_pairs_per_task=3)
    statuses = {(row["task_id"], row["completion"]): row["status"]
                for row in common.read_jsonl(sampled / "verdicts.jsonl", {})}  # fmt: skip
    for pair in pairs:
        assert statuses[pair["task_id"], pair["chosen"]] == "passed"
        assert statuses[pair["task_id"], pair["rejected"]] == "failed"
        assert not pair["chosen"].endswith("    xs")  # that one was cut off
    keys = [(pair["task_id"], pair["chosen"], pair["rejected"]) for pair in pairs]
    assert (
        len(set(keys)) == len(keys) > 8
        and max(map([key[0] for key in keys].count, {key[0] for key in keys})) <= 3
    )


def test_step_pairs_differ_in_one_verified_line_after_the_reference_s_lines(tasks, tmp_path):
    common.write_jsonl(tmp_path / "tasks.jsonl", tasks[:6])
    data = str(tmp_path / "prm.jsonl")
    rows = run(
        mutate, tasks=str(tmp_path / "tasks.jsonl"), output_file=data, max_variants_per_line=4
    )
    pairs = run(
        rank,
        output_file=str(tmp_path / "pairs.jsonl"),
        pairs="step",
        data=data,
        max_pairs_per_task=9,
    )
    negative, goes_on = set(), 0  # goes_on: rows whose program goes on after the changed line
    for row in rows:
        for line in row["meta"]["changed"]:
            if row["labels"][line] == -1:
                negative.add((row["task_id"], "".join(row["completions"][: line + 1])))
                goes_on += line + 1 < len(row["completions"])
    assert goes_on > 40
    solutions = {task["task_id"]: task["solution"] for task in tasks}
    for pair in pairs:
        chosen, rejected = lines_of(pair["chosen"]), lines_of(pair["rejected"])
        assert (
            chosen[:-1] == rejected[:-1]
            and chosen[-1] != rejected[-1]
            and pair["complete"] is False
        )
        assert solutions[pair["task_id"]].startswith(pair["chosen"]) and pair["chosen"].endswith(
            "\n"
        )
        assert (pair["task_id"], pair["rejected"]) in negative
    of_task = [pair["task_id"] for pair in pairs]
    assert len({(pair["task_id"], pair["rejected"]) for pair in pairs}) == len(pairs) > 40
    assert max(of_task.count(name) for name in of_task) == 9


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"labels": []}, "field 'labels' has 0 labels for the 2 lines"),
        ({"meta": None}, "field 'meta' must hold 'changed'"),
        ({"meta": {"changed": [2]}}, "field 'meta' must hold 'changed'"),
    ],
)
def test_step_pairs_of_rows_that_do_not_say_what_is_changed_are_refused(tmp_path, broken, message):
    row = {"task_id": "t", "prompt": "p", "completions": ["a\n", "b\n"], "labels": [1, -1]}
    row |= {"origin": "mutate", "meta": {"changed": [1]}}
    data, output = str(tmp_path / "prm.jsonl"), str(tmp_path / "pairs.jsonl")
    common.write_jsonl(data, [row | broken])
    with pytest.raises(InputError, match=f"prm.jsonl:1: {message}"):
        run(rank, output_file=output, pairs="step", data=data)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, "--prm is required"),
        ({"samples": None, "rank_by": "tests"}, "--samples is required"),
        ({"pairs": "step"}, "--data is required"),
        ({"rank_by": "tests", "samples": "{unjudged}"}, ":1: field 'status'"),
        ({"rank_by": "tests", "tasks": "{other}"}, ":1: field 'task_id': no task"),
    ],
)
def test_pairs_that_cannot_be_made_are_refused(sampled, tmp_path, flags, message):
    rows = common.read_jsonl(sampled / "verdicts.jsonl", {})
    common.write_jsonl(
        tmp_path / "unjudged", [{"task_id": row["task_id"], "completion": "a"} for row in rows]
    )
    common.write_jsonl(tmp_path / "other", [{"task_id": "x", "prompt": "p"}])
    places = {name: str(tmp_path / name) for name in ("unjudged", "other")}
    flags = {key: value.format(**places) if value else value for key, value in flags.items()}
    with pytest.raises(InputError, match=message):
        pairs_of(sampled, "refused", **flags)
    assert not (sampled / "refused.jsonl").exists()


@pytest.mark.parametrize(
    ("program", "in_place", "expected"),
    [
        ("def f(xs):\n    xs = xs[::-1]\n    return xs\n", [1, 1, 1], [1, 1, 1]),
        ("def f(xs):\n    xs = []\n    return xs\n", [1, -1, 1], [1, -1, -1]),
        # A comment has no label and ends nothing.
        (
            "def f(xs):\n    # a\n    xs = []\n    # b\n    return xs\n",
            [1, None, -1, None, 1],
            [1, None, -1, None, -1],
        ),
        # The program ends before the reference ends: nothing goes on after its last line.
        ("def f(xs):\n    xs = xs[::-1]\n", [1, 1], [1, -1]),
        ("def f(xs):\n    xs = xs[::-1]\n    # end\n", [1, 1, None], [1, -1, None]),
        # A line on which the sandbox failed: the prefix is not known, until a line is wrong.
        ("def f(xs):\n    xs = []\n    return xs\n", [1, None, 1], [1, None, None]),
        ("def f(xs):\n    xs = []\n    return 1\n", [1, None, -1], [1, None, -1]),
        ("", [], []),
    ],
)
def test_after_the_first_wrong_line_every_label_by_prefix_is_wrong(program, in_place, expected):
    assert gold.prefix_labels(REVERSED, program, in_place) == expected


def test_a_perfect_labeller_of_prefixes_is_imperfect_against_labels_in_place(tasks, runner):
    """Each kind of exact label is a truth of its own: scores against the other kind mislead."""
    rng, cache, by_place, by_prefix = random.Random(1), {}, [], []
    while len(by_place) < 1000:
        task = rng.choice(tasks)
        program = "\n".join(random_sample(rng, task)) + "\n"
        found = gold.labels(gold.submit(runner, task, program, cache))
        by_place += found
        by_prefix += gold.prefix_labels(task, program, found)
    scores, right = torch.tensor(by_prefix), torch.tensor(by_place) > 0
    assert common.auc(scores, torch.tensor(by_prefix) > 0) == 1
    assert common.auc(scores, right) < 0.9
