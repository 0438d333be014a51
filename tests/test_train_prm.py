"""Reward models: where scores are read, each objective's loss, the pairs, the rows refused."""

import json
import math

import pytest
import torch
import transformers
from safetensors.torch import load_file

import common
import eval_prm
import train_prm
from common import InputError
from kernels import masking

OBJECTIVES = ("regression", "classification", "outcome", "ranking", "score")


class PositionScorer(torch.nn.Module):
    """Gives each token its position in the row as score."""

    def forward(self, input_ids):
        scores = torch.arange(input_ids.shape[1], dtype=torch.float32).expand(input_ids.shape)
        return transformers.modeling_outputs.TokenClassifierOutput(logits=scores[..., None])


def test_a_line_s_score_is_read_at_the_token_that_ends_it_and_a_text_s_at_its_last():
    lines = [
        "def f(x):\n",
        "    # why\n",
        "\n",
        "    return x + 1\n",
        "    # no newline at the end",
    ]
    text = "".join(lines)
    tokenizer = common.new_tokenizer([text * 3], 320)
    table = masking.line_table(tokenizer)
    rows = [
        {"prompt": "add one", "text": text, "eos": False, "labels": [1] * 5},
        {"prompt": "a", "text": lines[0], "eos": False, "labels": [1]},
    ]
    common.encode_examples(tokenizer, rows)
    prompts, texts = [row["prompt_ids"] for row in rows], [row["text_ids"] for row in rows]
    scores = common.logits_at(PositionScorer(), rows, table).squeeze(-1)  # (2, 5)
    read = ""
    for line, position in zip(lines, scores[0].long().tolist(), strict=True):
        read += line
        assert tokenizer.decode((prompts[0] + texts[0])[len(prompts[0]) : position + 1]).startswith(
            read
        )
        assert tokenizer.decode((prompts[0] + texts[0])[len(prompts[0]) : position]) != read
    assert scores[1, 0] == len(prompts[1]) + len(texts[1]) - 1
    assert common.logits_at(PositionScorer(), rows, None).flatten().tolist() == [
        len(p) + len(t) - 1 for p, t in zip(prompts, texts, strict=True)
    ]
    means = common.logits_at(PositionScorer(), rows, table, "lines").flatten()  # (2,)
    assert means.tolist() == pytest.approx([scores[0].mean().item(), scores[1, 0].item()])


def test_later_lines_never_change_the_score_of_earlier_ones():
    texts = ["a = 1\nb = 2\n", "a = 1\nb = 3\nc = a\n"]
    tokenizer = common.new_tokenizer(texts * 5, 300)
    model = common.new_model(tokenizer, 32, 2, seed=0, num_labels=1).eval()
    rows = [{"prompt": "p", "text": text, "eos": False, "labels": [1, 1]} for text in texts]
    common.encode_examples(tokenizer, rows)
    scores = common.logits_at(model, rows, masking.line_table(tokenizer)).detach()  # (2, 2, 1)
    assert scores[0, 0] == pytest.approx(scores[1, 0].item(), abs=1e-6)
    assert scores[0, 1] != pytest.approx(scores[1, 1].item(), abs=1e-6)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_the_losses_are_those_of_the_docstring():
    lines = torch.tensor([[[0.3], [-2.0], [9.0]], [[1.5], [0.1], [9.0]]])  # (2, 3, 1)
    rows = [{"labels": [1, -1, None]}, {"labels": [-1, 0.5]}]
    labelled = [(0.3, 1), (-2.0, -1), (1.5, -1), (0.1, 0.5)]
    terms = train_prm.loss_terms("regression", lines, rows)
    assert terms.tolist() == pytest.approx([(score - label) ** 2 for score, label in labelled])
    terms = train_prm.loss_terms("classification", lines, rows)
    expected = [
        -(y * math.log(sigmoid(z)) + (1 - y) * math.log(1 - sigmoid(z)))
        for z, y in ((z, (x + 1) / 2) for z, x in labelled)
    ]
    assert terms.tolist() == pytest.approx(expected)
    logits = torch.tensor([[[0.0, 1.0, 2.0, -1.0]], [[3.0, 0.0, 0.0, 1.0]]])  # (2, 1, 4)
    terms = train_prm.loss_terms("outcome", logits, [{"outcome": 2}, {"outcome": 3}])
    expected = [
        math.log(sum(math.exp(x) for x in row[0])) - row[0][c]
        for row, c in zip(logits.tolist(), (2, 3), strict=True)
    ]
    assert terms.tolist() == pytest.approx(expected)
    scores = torch.tensor([1.0, -1.0, 0.5, 2.0])[
        :, None, None
    ]  # two preferred, then the two rejected
    terms = train_prm.loss_terms("ranking", scores, [])
    assert terms.tolist() == pytest.approx([-math.log(sigmoid(0.5)), -math.log(sigmoid(-3.0))])
    rows = [{"rating": rating} for rating in (1.0, 0.25, 0.5, 0.0)]
    terms = train_prm.loss_terms("score", scores, rows)
    assert terms.tolist() == pytest.approx([(0.0**2 + 0.0**2) / 2, (1.25**2 + 2.0**2) / 2])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_rank_without_rows_steps_with_the_others(objective):
    tokenizer = common.new_tokenizer(["a b c\n"] * 3, 300)
    model = common.new_model(tokenizer, 32, 1, 0, 4 if objective == "outcome" else 1)
    table = common.line_table(tokenizer) if objective in train_prm.LINE_WISE else None
    terms = train_prm.loss_terms(objective, common.logits_at(model, [], table), [])
    assert terms.shape == (0,)
    terms.sum().backward()
    assert all(not parameter.grad.any() for parameter in model.parameters())


def test_a_score_stays_within_its_range_and_is_the_expected_reward():
    torch.manual_seed(0)
    logits = torch.randn(500, 4) * 30
    scores = common.scores_of_logits(logits, "expected_outcome")
    assert -1 <= scores.min() < -0.9 and 0.9 < scores.max() <= 1
    rewards = torch.tensor([-1.0, -0.6, -0.3, 1.0])
    assert torch.allclose(scores, (logits.softmax(-1) * rewards).sum(-1), atol=1e-6)
    assert list(common.OUTCOME_REWARDS) == [
        "syntax_error",
        "runtime_error",
        "failed_test",
        "passed",
    ]
    signed = common.scores_of_logits(logits[:, :1], "sigmoid_signed")
    assert signed.shape == (500,) and signed.abs().max() <= 1
    assert torch.allclose(signed, 2 * logits[:, 0].sigmoid() - 1, atol=1e-6)
    assert torch.equal(common.scores_of_logits(logits[:, :1], "none"), logits[:, 0])


OUTCOME = {"task_id": "t", "prompt": "p", "completion": "x", "status": "passed"}


def outcome_rows(statuses):
    return [
        OUTCOME | {"task_id": task, "status": status, "completion": f"{i}\n"}
        for i, (task, status) in enumerate(statuses)
    ]


def config_for(tmp_path, rows, **flags):
    common.write_jsonl(tmp_path / "data.jsonl", rows)
    return train_prm.Config(str(tmp_path / "data.jsonl"), str(tmp_path / "run"), **flags)


def test_outcome_rows_become_classes_and_a_lost_verdict_is_none(tmp_path):
    statuses = ["passed", "failed", "error", "timeout", "memory", "syntax_error", "harness_error"]
    rows = outcome_rows([("t", status) for status in statuses])
    examples = common.read_examples(config_for(tmp_path, rows, objective="outcome"))
    assert [row["outcome"] for row in examples] == [3, 2, 1, 1, 1, 0]
    with pytest.raises(InputError, match=r"data\.jsonl: no row has a verdict"):
        common.read_examples(config_for(tmp_path, rows[-1:], objective="outcome"))


def test_the_orm_reads_what_it_reads_in_reinforcement_learning(tmp_path):
    rows = [OUTCOME, OUTCOME | {"terminated": True}, OUTCOME | {"terminated": False}]
    examples = common.read_examples(config_for(tmp_path, rows, objective="outcome"))
    tokenizer = common.new_tokenizer(["p\nx\n"] * 3, 300)
    common.encode_examples(tokenizer, examples)
    plain = tokenizer("x").input_ids
    ended = [
        *plain,
        tokenizer.eos_token_id,
    ]  # a rollout's last valid token, or that of a completion cut off
    assert [row["text_ids"] for row in examples] == [ended, ended, plain]


def test_a_pair_is_a_passing_and_a_failing_program_of_one_task(tmp_path):
    rows = outcome_rows(
        [
            ("a", "passed"),
            ("a", "failed"),
            ("a", "error"),
            ("a", "passed"),
            ("b", "passed"),
            ("c", "failed"),
            ("d", "harness_error"),
            ("d", "passed"),
            ("e", "syntax_error"),
            ("e", "passed"),
        ]
    )
    config = config_for(tmp_path, rows, objective="ranking")
    units = train_prm.units_of(config, common.read_examples(config))
    assert [[[row["text"] for row in side] for side in unit] for unit in units] == [
        [["0\n", "3\n"], ["1\n", "2\n"]],
        [["9\n"], ["8\n"]],
    ]
    drawn = {
        tuple(row["text"] for row in train_prm.draw_unit(units[0], 0, step, 0))
        for step in range(60)
    }
    assert drawn == {(a, b) for a in ("0\n", "3\n") for b in ("1\n", "2\n")}
    assert train_prm.draw_unit(units[0], 0, 7, 3) == train_prm.draw_unit(units[0], 0, 7, 3)


def test_a_row_of_pairs_is_a_group_of_its_own(tmp_path):
    rows = [
        {"task_id": "t", "prompt": "p", "chosen": f"good {i}", "rejected": f"bad {i}"}
        for i in range(2)
    ]
    config = config_for(tmp_path, rows, objective="ranking")
    examples = common.read_examples(config)
    assert not any(row["eos"] for row in examples)
    assert [
        [row["text"] for side in unit for row in side]
        for unit in train_prm.units_of(config, examples)
    ] == [["good 0", "bad 0"], ["good 1", "bad 1"]]


def programs(num_tasks):
    """Outcome rows of tasks to add a number: sums pass, differences fail, others are broken."""
    rows = []
    for i in range(num_tasks):
        texts = [
            (f"return x + {i}\n", "passed"),
            (f"return x - {i}\n", "failed"),
            (f"return y + {i}\n", "error"),
            (f"return (x + {i}\n", "syntax_error"),
        ]
        rows += [
            {"task_id": f"t{i}", "prompt": f"add {i}", "completion": text, "status": status}
            for text, status in texts
        ]
    return rows


FLAGS = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "max_steps": 40,
    "train_batch_size": 16,
    "learning_rate": 5e-3,
    "warmup_steps": 5,
    "eval_fraction": 0.3,
}


@pytest.mark.parametrize("objective", ["outcome", "ranking"])
def test_an_orm_ranks_held_out_passing_programs_above_failing_ones(tmp_path, objective):
    config = config_for(tmp_path, programs(60), objective=objective, **FLAGS)
    train_prm.main(config)
    text = (tmp_path / "run" / "report.json").read_text()
    assert "NaN" not in text
    report = json.loads(text)
    assert report["eval_auc"] > 0.9 and report["eval_accuracy"] > 0.85
    if objective == "outcome":
        held_out = report["eval_texts"] // 4
        assert [sum(row) for row in report["confusion"]] == [held_out] * 4
        assert report["eval_majority"] == pytest.approx(0.25)
    # What reinforcement learning reads: the saved model, through common.scores_of, at the EOS.
    model, tokenizer = (
        common.load_scorer(tmp_path / "run").eval(),
        common.load_tokenizer(tmp_path / "run"),
    )
    examples = common.read_examples(config)
    common.encode_examples(tokenizer, examples)
    with torch.no_grad():
        scores = [
            common.scores_of(model, torch.tensor([row["prompt_ids"] + row["text_ids"]]))
            for row in examples
        ]
    assert all(
        score.shape == (1, len(row["prompt_ids"]) + len(row["text_ids"])) and score.abs().max() <= 1
        for score, row in zip(scores, examples, strict=True)
    )
    last = torch.stack([score[0, -1] for score in scores])
    passed = torch.tensor([row["preferred"] for row in examples])
    assert last[passed].mean() > 0.3 + last[~passed].mean()


def test_ranking_scores_are_centred_on_the_training_texts(tmp_path):
    config = config_for(
        tmp_path, programs(30), objective="ranking", **FLAGS | {"max_steps": 6, "eval_steps": 6}
    )
    train_prm.main(config)
    model, tokenizer = (
        common.load_scorer(tmp_path / "run").eval(),
        common.load_tokenizer(tmp_path / "run"),
    )
    examples = common.read_examples(config)
    common.encode_examples(tokenizer, examples)
    held_out = {
        f"t{i}" for i in range(30) if common.seed_of(0, "held-out", f"t{i}") % 10_000 < 3000
    }
    train = [row for row in examples if row["task_id"] not in held_out]
    assert 0 < len(held_out) < 30
    logits = torch.stack(train_prm.logits_of_all(model, config, train, None)).flatten()
    preferred = torch.tensor([row["preferred"] for row in train])
    assert float(logits[preferred].mean() + logits[~preferred].mean()) == pytest.approx(0, abs=1e-5)
    assert float(logits[preferred].mean()) != pytest.approx(0, abs=1e-3)


def rated_pairs(num_tasks):
    """Pairs of texts rated by the share of right words of three: 1 above 2/3, 2/3 above 1/3."""
    words, rows = ["one", "two", "three"], []
    for i in range(num_tasks):
        for right in (3, 2):
            chosen, rejected = (
                [word if k < n else "no" for k, word in enumerate(words)]
                for n in (right, right - 1)
            )
            rows.append(
                {
                    "task_id": f"t{i}",
                    "prompt": f"count {i}",
                    "chosen": " ".join(chosen),
                    "rejected": " ".join(rejected),
                    "kind": str(right),
                    "chosen_rating": right / 3,
                    "rejected_rating": (right - 1) / 3,
                }
            )
    return rows


def test_the_score_model_learns_the_rating_of_each_text_alone_and_every_reader_takes_it(tmp_path):
    config = config_for(tmp_path, rated_pairs(40), objective="score", **FLAGS | {"max_steps": 60})
    train_prm.main(config)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert (
        report["eval_accuracy"] > 0.95 and report["eval_loss"] < 0.01
    )  # always naming the mean: 0.056
    assert set(report["by_kind"]) == {"2", "3"}
    model, tokenizer = (
        common.load_scorer(tmp_path / "run").eval(),
        common.load_tokenizer(tmp_path / "run"),
    )
    texts = ["one two three", "one two no", "one no no"]
    scores = common.score_texts(model, tokenizer, [{"prompt": "count 3"}] * 3, texts, 2)
    assert scores.tolist() == pytest.approx([1, 2 / 3, 1 / 3], abs=0.15)


@pytest.mark.parametrize("objective", ["ranking", "score"])
def test_a_score_that_is_the_mean_over_lines_is_learned_saved_and_read_as_such(tmp_path, objective):
    rows = [
        row | {side: row[side].replace(" ", "\n") for side in ("chosen", "rejected")}
        for row in rated_pairs(40)
    ]
    train_prm.main(
        config_for(
            tmp_path, rows, objective=objective, score_pooling="lines", **FLAGS | {"max_steps": 60}
        )
    )
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["eval_accuracy"] > 0.95
    model, tokenizer = (
        common.load_scorer(tmp_path / "run").eval(),
        common.load_tokenizer(tmp_path / "run"),
    )
    texts = ["one\ntwo\nthree", "one\ntwo\nno", "one\nno"]
    scores = common.score_texts(model, tokenizer, [{"prompt": "count 3"}] * 3, texts, 2)
    one = []
    for text in texts:
        prompt, ids = (
            common.encode_prompt(tokenizer, {"prompt": "count 3"}),
            tokenizer(text).input_ids,
        )
        with torch.no_grad():
            read = common.scores_of(model, torch.tensor([prompt + ids]))[0, len(prompt) :]
        ends = [
            i
            for i in range(len(ids))
            if i + 1 == len(ids) or tokenizer.decode(ids[: i + 1]).endswith("\n")
        ]
        one.append(read[ends].mean().item())
    assert scores.tolist() == pytest.approx(one, abs=1e-5) and one[0] > one[1]


def test_a_mean_over_lines_is_for_pairs_alone(tmp_path):
    with pytest.raises(InputError, match="--score_pooling lines is for pairs"):
        train_prm.main(
            config_for(tmp_path, LINES, score_pooling="lines", **FLAGS | {"max_steps": 1})
        )


def test_pairs_without_ratings_are_rated_one_and_zero_and_half_rated_files_are_refused(tmp_path):
    rated = rated_pairs(1)
    bare = [
        {key: value for key, value in row.items() if not key.endswith("_rating")} for row in rated
    ]
    examples = common.read_examples(config_for(tmp_path, bare, objective="score"))
    assert [row["rating"] for row in examples] == [1, 0, 1, 0] and not any(
        row["eos"] for row in examples
    )
    examples = common.read_examples(config_for(tmp_path, rated, objective="score"))
    assert [row["rating"] for row in examples] == pytest.approx([1, 2 / 3, 2 / 3, 1 / 3])
    half = [rated[0], bare[1] | {"chosen_rating": 1}]
    with pytest.raises(
        InputError, match=r"data\.jsonl:2: field 'rejected_rating' must be a number in \[0, 1\]"
    ):
        common.read_examples(config_for(tmp_path, half, objective="score"))


def test_a_head_without_bias_cannot_be_centred():
    tokenizer = common.new_tokenizer(["p\n"] * 3, 300)
    model = common.new_model(tokenizer, 32, 1, seed=0, num_labels=1)
    assert train_prm.head_bias(model) is model.score.bias
    model.score = torch.nn.Linear(32, 1, bias=False)
    with pytest.raises(InputError, match="--objective ranking needs a model whose head has a bias"):
        train_prm.head_bias(model)


LINES = [
    {
        "task_id": f"t{i}",
        "prompt": f"give {i}",
        "completions": [f"x = {i}\n", "y = x\n", f"return {j}\n"],
        "labels": [1, None, 1 if i == j else -1 + 0.25 * (j % 2)],
    }
    for i in range(12)
    for j in (i, i + 1, i + 2)
]
PAIRS = [
    {
        "task_id": f"t{i}",
        "prompt": "p",
        "chosen": f"{i} good\n",
        "rejected": f"{i} bad\n" * (1 + i % 3),
    }
    for i in range(24)
]


def test_a_field_of_labels_says_nothing_of_the_terms_of_texts_and_pairs(tmp_path):
    losses = []
    for name, more in (("bare", {}), ("more", {"labels": [1, None, 1]})):
        (tmp_path / name).mkdir()
        config = config_for(
            tmp_path / name,
            [row | more for row in PAIRS],
            objective="score",
            **FLAGS | {"max_steps": 1, "num_hidden_layers": 1},
        )
        train_prm.main(config)
        (row,) = common.read_jsonl(f"{config.output_dir}/metrics.jsonl", {})
        losses.append(row["loss"])
    assert losses[0] == losses[1] > 0


@pytest.mark.parametrize(
    ("objective", "rows"),
    [
        ("regression", LINES),
        ("classification", LINES),
        ("outcome", programs(12)),
        ("ranking", programs(12)),
        ("ranking", PAIRS),
        ("score", PAIRS),
    ],
)
def test_neither_the_gradient_nor_the_report_depends_on_the_micro_batch(tmp_path, objective, rows):
    logs, weights = [], []
    for size in (2, 16):
        folder = tmp_path / str(size)
        folder.mkdir()
        flags = FLAGS | {
            "max_steps": 2,
            "num_hidden_layers": 1,
            "per_device_train_batch_size": size,
        }
        train_prm.main(config_for(folder, rows, objective=objective, **flags))
        logs.append([json.loads(line) for line in open(folder / "run" / "metrics.jsonl")])
        weights.append(load_file(folder / "run" / "model.safetensors"))
    for few, many in zip(*logs, strict=True):
        for key in few.keys() - {"step_time"}:
            assert few[key] == (
                None if many[key] is None else pytest.approx(many[key], rel=1e-3, abs=1e-5)
            ), key
    changed = sum(
        int(((weights[0][key] - weights[1][key]).abs() > 1e-4).sum()) for key in weights[0]
    )
    assert changed < 0.005 * sum(value.numel() for value in weights[0].values())


@pytest.mark.parametrize(
    ("objective", "activation"), [("regression", "none"), ("classification", "sigmoid_signed")]
)
def test_the_saved_line_prm_says_how_its_scores_are_read(tmp_path, objective, activation):
    train_prm.main(config_for(tmp_path, LINES, objective=objective, **FLAGS | {"max_steps": 2}))
    model = common.load_scorer(tmp_path / "run").eval()
    assert model.config.score_activation == activation and model.config.num_labels == 1
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        logits, scores = model(input_ids=ids).logits[..., 0], common.scores_of(model, ids)
    assert torch.allclose(
        scores, logits if objective == "regression" else 2 * logits.sigmoid() - 1, atol=1e-6
    )
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert {"by_position", "by_num_lines", "calibration", "histogram", "confusion"} <= report.keys()


@pytest.mark.parametrize("objective", ["regression", "classification"])
def test_an_evaluation_says_of_the_held_out_rows_what_training_said_of_them(tmp_path, objective):
    config = config_for(tmp_path, LINES, objective=objective, **FLAGS | {"max_steps": 4})
    train_prm.main(config)
    names = common.held_out_tasks(LINES, config.eval_fraction, config.seed)
    held_out = str(tmp_path / "held_out.jsonl")
    common.write_jsonl(held_out, [row for row in LINES if row["task_id"] in names])
    eval_prm.main(eval_prm.Config(str(tmp_path / "eval"), config.output_dir, held_out))
    trained, evaluated = (
        json.loads((tmp_path / folder / "report.json").read_text()) for folder in ("run", "eval")
    )
    assert trained.keys() - evaluated.keys() == {"eval_loss"}
    for name, value in evaluated.items():
        if isinstance(value, float):
            assert value == pytest.approx(trained[name], abs=1e-5), name
    equal = trained["eval_loss"] == pytest.approx(trained["eval_squared_error"])
    assert equal == (objective == "regression")  # of classification the loss is a cross-entropy


def test_another_number_of_outputs_or_an_unknown_activation_is_one_clear_error(tmp_path):
    train_prm.main(
        config_for(tmp_path, programs(12), objective="outcome", **FLAGS | {"max_steps": 1})
    )
    assert common.load_scorer(tmp_path / "run").config.id2label[3] == "passed"
    with pytest.raises(InputError, match="weights do not fit"):
        common.load_scorer(tmp_path / "run", num_labels=1)
    settings = json.loads((tmp_path / "run" / "config.json").read_text())
    common.write_text(
        tmp_path / "run" / "config.json", json.dumps(settings | {"score_activation": "cube"})
    )
    with pytest.raises(InputError):
        common.load_scorer(tmp_path / "run", num_labels=4)


GOOD = {"task_id": "t", "prompt": "p", "completions": ["a = 1\n", "b = 2\n"], "labels": [1, None]}


@pytest.mark.parametrize(
    ("objective", "good", "change", "message"),
    [
        (
            "regression",
            GOOD,
            {"labels": [1]},
            "field 'labels' has 1 labels for the 2 lines of field 'completions'",
        ),
        ("regression", GOOD, {"labels": [None, None]}, "field 'labels' has no label"),
        (
            "regression",
            GOOD,
            {"labels": [1, "x"]},
            "field 'labels': item 1 must be a number or null",
        ),
        (
            "regression",
            GOOD,
            {"completions": ["a = 1", "b = 2\n"]},
            "field 'completions': item 0 must be one line",
        ),
        (
            "regression",
            GOOD,
            {"completions": ["a = 1\nb\n", "b = 2\n"]},
            "field 'completions': item 0 must be one line",
        ),
        (
            "regression",
            GOOD,
            {"completions": ["a = 1\n", 3]},
            "field 'completions': item 1 must be one line",
        ),
        ("regression", GOOD, {"prompt": None}, "field 'prompt' must be str, got null"),
        (
            "classification",
            GOOD,
            {"labels": [1, 2]},
            r"field 'labels': item 1 must lie in \[-1, 1\]",
        ),
        (
            "outcome",
            OUTCOME,
            {"status": "ok"},
            "field 'status' must be one of passed, .*, got 'ok'",
        ),
        ("outcome", OUTCOME, {"completion": None}, "field 'completion' must be str, got null"),
        ("ranking", OUTCOME, {"status": "ok"}, "field 'status' must be one of passed"),
        ("ranking", OUTCOME, {"terminated": 1}, "field 'terminated' must be true or false"),
        ("ranking", PAIRS[0], {"rejected": 3}, "field 'rejected' must be str, got 3"),
        (
            "score",
            rated_pairs(1)[0],
            {"chosen_rating": 2},
            r"field 'chosen_rating' must be a number in \[0, 1\]",
        ),
        (
            "score",
            rated_pairs(1)[0],
            {"rejected_rating": None},
            "field 'rejected_rating' must be a number",
        ),
    ],
)
def test_rows_that_do_not_fit_are_refused_by_place(tmp_path, objective, good, change, message):
    with pytest.raises(InputError, match=r"data\.jsonl:2: " + message):
        common.read_examples(config_for(tmp_path, [good, good | change], objective=objective))
