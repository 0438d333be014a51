"""Evaluation of reward models: line PRMs, judges of pairs, and the input that is refused."""

import json
import math

import pytest
import torch
import transformers
from test_chat import reply, serve  # noqa: F401

import common
import eval_prm
from common import InputError


@pytest.mark.parametrize("activation", ["none", "sigmoid_signed"])
def test_a_prm_is_read_at_line_ends_as_in_reinforcement_learning(tmp_path, activation):
    lines = ["def f(x):\n", "    y = x\n", "    return y\n"]
    rows = [
        {
            "task_id": f"t{i}",
            "prompt": f"p{i}",
            "completions": lines[:n],
            "labels": [1, None, -1][:n],
            "meta": {"steps": n},
        }
        for i, n in enumerate([3, 1, 2, 3, 3])
    ]
    common.write_jsonl(tmp_path / "prm.jsonl", rows)
    tokenizer = common.new_tokenizer(["".join(lines)] * 3, 300)
    model = common.new_model(tokenizer, 32, 1, seed=0, num_labels=1).eval()
    model.config.score_activation = activation
    (tmp_path / "prm").mkdir()
    common.save_model(model, tokenizer, tmp_path / "prm")
    eval_prm.main(
        eval_prm.Config(
            prm=str(tmp_path / "prm"),
            data=str(tmp_path / "prm.jsonl"),
            batch_size=2,
            output_dir=str(tmp_path / "run"),
        )
    )
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    right, squares = [], []
    for row in rows:
        for i, label in enumerate(row["labels"]):
            if label is not None:  # the prefix alone, so that nothing after the line can be seen
                ids = (
                    common.encode_prompt(tokenizer, row)
                    + tokenizer("".join(row["completions"][: i + 1])).input_ids
                )
                with torch.no_grad():
                    z = float(model(input_ids=torch.tensor([ids])).logits[0, -1, 0])
                score = z if activation == "none" else 2 / (1 + math.exp(-z)) - 1
                right.append((score > 0) == (label > 0))
                squares.append((score - label) ** 2)
    assert report["eval_lines"] == len(right) == 8
    assert report["eval_accuracy"] == pytest.approx(sum(right) / 8)
    assert report["eval_squared_error"] == pytest.approx(sum(squares) / 8, abs=1e-5)
    assert {name: part["count"] for name, part in report["by_steps"].items()} == {
        "1": 1,
        "2": 1,
        "3": 6,
    }


PAIRS = [
    {
        "task_id": f"t{i}",
        "prompt": f"problem {i}",
        "chosen": f"sound {i}\n",
        "rejected": f"wrong {i}\n",
        "kind": kind,
        "meta": {"dimension": "rigour", "operator": "chat"},
    }
    for i, kind in enumerate(
        ["strong", "strong", "optimisation", "optimisation", "strong", "strong"]
    )
]


def judge_config(tmp_path, server, out="run"):
    common.write_jsonl(tmp_path / "pairs.jsonl", PAIRS)
    return eval_prm.Config(
        pairs=str(tmp_path / "pairs.jsonl"),
        judge=server.url,
        judge_model="m",
        temperature=0.0,
        max_completion_length=50,
        batch_size=1,
        output_dir=str(tmp_path / out),
    )


def test_a_judge_is_asked_in_both_orders_and_half_right_where_it_favours_a_place(
    serve,  # noqa: F811
    tmp_path,
    capsys,
):
    def script(prompt, attempt):
        number, sound_first = (
            int(prompt.partition("problem ")[2][0]),
            prompt.index("sound") < prompt.index("wrong"),
        )
        right, other = ("A", "B") if sound_first else ("B", "A")
        letter = {
            0: f"Compared.\n**Verdict: {right}**",
            1: f"Verdict: {other}",
            2: "verdict: A",
            3: f"Verdict: {right}",
        }
        if number == 3 and not sound_first:
            return 200, {}, reply("Verdict: A or B")
        if number == 5:
            return 400, {}, "too long"
        return (
            200,
            {},
            reply(letter.get(number, f"Verdict: {right}\nBoth have merit, {right} has more.")),
        )

    server = serve(script)
    eval_prm.main(judge_config(tmp_path, server))
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert (
        report["accuracy"] == pytest.approx((1 + 0 + 0.5 + 0.5 + 0) / 5)
        and report["low"] < 0.4 < report["high"]
    )
    assert report["pairs"] == 5  # the last has no answer and counts nowhere
    assert (report["answers"], report["missing_answers"], report["unparsable_answers"]) == (
        10,
        2,
        3,
    )
    assert report["named_first"] == pytest.approx(5 / 7)
    kinds = {name: (part["pairs"], part["accuracy"]) for name, part in report["by_kind"].items()}
    assert kinds == {"optimisation": (2, 0.5), "strong": (3, pytest.approx(1 / 3))}
    assert set(report["by_dimension"]) == {"rigour"} and set(report["by_operator"]) == {"chat"}
    out = capsys.readouterr().out
    assert "unparsable_answers 3" in out and "5 pairs  blind 1.000" in out
    assert report["blind_accuracy"] == report["by_kind"]["strong"]["blind_accuracy"] == 1.0
    assert {body["model"] for *_, body in server.requests} == {"m"} and len(server.requests) == 12
    assert {(body["temperature"], body["max_tokens"]) for *_, body in server.requests} == {
        (0.0, 50)
    }


def blind_pairs(chosen, rejected, count=60):
    """Pairs of a task each; {up} and {down} change places with the prompt."""
    rows = []
    for i in range(count):
        words = {"up": "above", "down": "below"} if i % 2 else {"up": "below", "down": "above"}
        texts = {"chosen": chosen, "rejected": rejected}
        rows.append(
            {name: text.format(i=i % 7, **words) for name, text in texts.items()}
            | {"task_id": f"t{i}", "prompt": words["up"]}
        )
    return rows


@pytest.mark.parametrize(
    ("chosen", "rejected", "low", "high"),
    [
        ("keep those {up} {i}\nsort", "do something\nsort", 1, 1),  # vague words
        ("sort\nkeep those {up} {i}", "sort\nsort\nkeep those {up} {i}", 1, 1),  # repetition
        ("first drop\nthen sort", "first sort\nthen drop", 1, 1),  # bigrams
        ("keep those {up} {i}", "keep those {down} {i}", 0.2, 0.7),  # the prompt decides
        ("keep {i}", "keep {i}", 0.5, 0.5),  # a tie
    ],
)
def test_a_blind_model_finds_what_shows_without_the_prompt_and_nothing_else(
    chosen, rejected, low, high
):
    preferred = common.blind_preferences(blind_pairs(chosen, rejected))
    assert low <= sum(preferred) / len(preferred) <= high


def test_a_blind_model_is_judged_on_tasks_that_it_has_not_learned_from():
    rows = blind_pairs("keep those {up}", "keep those {down}")
    for i, row in enumerate(rows):  # each task has words of its own, which say its answer
        row["chosen"] += f" yes{i}"
        row["rejected"] += f" no{i}"
    assert 0.2 <= sum(common.blind_preferences(rows)) / len(rows) <= 0.8
    one_task = [row | {"task_id": "t"} for row in rows]
    assert all(math.isnan(value) for value in common.blind_preferences(one_task))
    report = common.preference_report(one_task, [1.0] * 60, [math.nan] * 60)
    assert report["accuracy"] == 1 and report["blind_accuracy"] is None


def test_a_judge_that_was_cut_off_is_not_asked_again_for_its_answers(serve, tmp_path):  # noqa: F811
    refuse = [True]

    def script(prompt, attempt):
        return (
            (401, {}, "") if refuse[0] and "problem 3" in prompt else (200, {}, reply("Verdict: A"))
        )

    server = serve(script)
    with pytest.raises(InputError, match="HTTP 401"):
        eval_prm.main(judge_config(tmp_path, server))
    assert not (tmp_path / "run" / "report.json").exists()
    refuse[0] = False
    eval_prm.main(judge_config(tmp_path, server))
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert (
        report["accuracy"] == 0.5 and report["named_first"] == 1.0
    )  # it always names the first: no judge at all
    assert sorted(server.attempts.values()) == [1] * 11 + [2]


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("Verdict: A", "A"),
        ("text\n\n**verdict: b.**\n", "B"),
        ("Verdict: [[A]]", "A"),
        ("A", None),
        ("", None),
        ("Verdict: A or B", None),
        ("Verdict: A\nor is it?", None),
        ("The verdict: A", None),
        ("Verdict: C", None),
    ],
)
def test_only_a_last_line_that_is_the_verdict_alone_is_one(answer, letter):
    assert eval_prm.verdict_of(answer) == letter


def test_what_cannot_be_evaluated_is_refused_before_work_starts(tmp_path):
    out = str(tmp_path / "run")
    for flags, message in (
        ({}, "give either --prm or --pairs"),
        ({"prm": "x", "pairs": "y"}, "give either --prm or --pairs"),
        ({"prm": "x"}, "--prm needs --data"),
        ({"prm": "x", "data": "y", "orm": "z"}, "--orm and --agreement rank --samples"),
        ({"pairs": "x"}, "--pairs needs --reasoning_rm, a reasoning reward model, or --judge"),
        ({"pairs": "x", "reasoning_rm": "y", "judge": "z"}, "--pairs needs --reasoning_rm"),
        (
            {"pairs": "x", "judge": "http://127.0.0.1:1/v1"},
            "--judge with an endpoint needs --judge_model",
        ),
    ):
        with pytest.raises(InputError, match=message):
            eval_prm.main(eval_prm.Config(output_dir=out, **flags))
    with pytest.raises(InputError, match="--output_dir is required"):
        common.parse_flags(eval_prm.Config, ["--prm", "x"])
    assert not (tmp_path / "run").exists()


def test_a_text_that_is_too_long_for_the_reward_model_is_one_line_and_not_an_index_error(tmp_path):
    lines = [f"    x = {i}\n" for i in range(40)]
    row = {"task_id": "t", "prompt": "p", "completions": lines, "labels": [1] * 40}
    common.write_jsonl(tmp_path / "prm.jsonl", [row])
    pair = {"task_id": "t", "prompt": "p", "chosen": "".join(lines), "rejected": "x"}
    common.write_jsonl(tmp_path / "pairs.jsonl", [pair])
    task = {"task_id": "t", "prompt": "p", "style": "assert", "tests": ["x"]}
    common.write_jsonl(tmp_path / "tasks.jsonl", [task])
    sample = {"task_id": "t", "completion": "".join(lines), "status": "passed"}
    common.write_jsonl(tmp_path / "verdicts.jsonl", [sample])
    tokenizer = common.new_tokenizer(lines, 300)
    size = {"n_embd": 32, "n_head": 2, "n_layer": 1, "n_positions": 64}
    config = transformers.GPT2Config(**size, num_labels=1, vocab_size=len(tokenizer))
    transformers.GPT2ForTokenClassification(config).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    model, samples = str(tmp_path / "gpt2"), str(tmp_path / "verdicts.jsonl")
    for number, flags in enumerate(
        [
            {"prm": model, "data": str(tmp_path / "prm.jsonl")},
            {"prm": model, "samples": samples, "tasks": str(tmp_path / "tasks.jsonl")},
            {"orm": model, "samples": samples, "tasks": str(tmp_path / "tasks.jsonl")},
            {"reasoning_rm": model, "pairs": str(tmp_path / "pairs.jsonl")},
        ]
    ):
        with pytest.raises(InputError, match=r"gpt2: a text may have \d+ tokens; beyond 64"):
            eval_prm.main(eval_prm.Config(output_dir=str(tmp_path / f"run{number}"), **flags))


def test_a_forward_pass_has_no_more_padded_tokens_than_asked_for(tmp_path, monkeypatch):
    shapes, scores_of = [], common.scoring.scores_of

    def noted(model, ids):
        shapes.append(tuple(ids.shape))
        return scores_of(model, ids)

    monkeypatch.setattr("common.scoring.scores_of", noted)
    tokenizer = common.new_tokenizer(["def f(x):\n    return x\n"] * 3, 300)
    model = common.new_model(tokenizer, 32, 1, seed=0, num_labels=1)
    (tmp_path / "rm").mkdir()
    common.save_model(model, tokenizer, tmp_path / "rm")
    lines = ["def f(x):\n", "    return x\n"]
    row = {"prompt": "p", "completions": lines, "labels": [1, -1]}
    common.write_jsonl(tmp_path / "prm.jsonl", [row | {"task_id": f"t{i}"} for i in range(8)])
    flags = {"prm": str(tmp_path / "rm"), "data": str(tmp_path / "prm.jsonl")}
    eval_prm.main(eval_prm.Config(output_dir=str(tmp_path / "one"), **flags))
    ((rows, length),) = shapes
    assert rows == 8
    shapes.clear()
    flags["max_tokens_per_forward"] = 3 * length
    eval_prm.main(eval_prm.Config(output_dir=str(tmp_path / "many"), **flags))
    assert [rows for rows, _ in shapes] == [3, 3, 2]
