"""Preference optimisation: the loss and its gradient, a pair's tokens, whole runs on micro."""

import json
import math
import random
import weakref
from pathlib import Path

import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import load_file
from small_stages import run_on_two_processes

import common
import dpo
from benchmarks import micro
from common import InputError

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A folder with a new tiny policy, and pairs: a reference program, one with a wrong line."""
    folder = tmp_path_factory.mktemp("dpo")
    sizes = {
        "num_sft_tasks": 1,
        "num_train_tasks": 60,
        "num_test_tasks": 1,
        "max_steps": 3,
        "train_min_steps": 2,
    }
    rows, rng = [], random.Random(0)
    for task in micro.make(micro.Config("", **sizes))["train"]:
        lines = task["solution"].splitlines(keepends=True)
        place = rng.randrange(1, len(lines) - 1)
        wrong = [*lines[:place], "    xs = xs[::-1] + xs\n", *lines[place + 1 :]]
        row = {"prompt": task["prompt"], "task_id": task["task_id"], "kind": "response", "meta": {}}
        rows.append(row | {"chosen": "".join(lines), "rejected": "".join(wrong)})
        if len(rows) % 3 == 0:
            step = {"chosen": "".join(lines[: place + 1]), "rejected": "".join(wrong[: place + 1])}
            rows.append(row | step | {"kind": "step", "complete": False})
    common.write_jsonl(folder / "pairs.jsonl", rows)
    tokenizer = common.new_tokenizer([row["prompt"] + row["chosen"] for row in rows], 400)
    common.save_model(common.new_model(tokenizer, 32, 2, seed=0), tokenizer, folder / "policy")
    return folder


def config_of(start, output, **flags):
    flags = {
        "max_steps": 4,
        "train_batch_size": 8,
        "save_steps": 2,
        "eval_steps": 2,
        "eval_fraction": 0.3,
        "learning_rate": 1e-3,
        "warmup_steps": 2,
        **flags,
    }
    return dpo.Config(
        str(start / "pairs.jsonl"), str(start / "policy"), str(start / output), **flags
    )


def metrics_of(folder):
    return [json.loads(line) for line in open(Path(folder) / "metrics.jsonl")]


def naive_logp(model, prompt, text):
    """Sum of the text's log-probs, one row alone, from the whole matrix of logits."""
    logp = model(input_ids=torch.tensor([prompt + text])).logits[0].log_softmax(-1)  # (L, V)
    return sum(
        (logp[len(prompt) + t - 1, token] for t, token in enumerate(text)),
        torch.zeros((), dtype=logp.dtype),
    )


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"beta": 0.5, "label_smoothing": 0.2, "rpo_alpha": 0.7},
        {"loss_type": "ipo", "beta": 0.3},
    ],
)
def test_loss_and_gradient_are_those_of_the_paper_s_formula_in_float64(start, flags):
    config = config_of(start, "unused", **flags)
    tokenizer = common.load_tokenizer(start / "policy")
    policy = common.shard(common.load_policy(start / "policy").double())
    pairs = [dpo.encode_pair(tokenizer, row) for row in common.read_jsonl(config.data, {})[:6]]
    reference = torch.stack([-20 - 10 * torch.rand(6, dtype=torch.float64) for _ in range(2)])
    assert any(len(chosen) != len(rejected) for _, chosen, rejected in pairs)
    loss, sums = dpo.score_pairs(policy, pairs, reference, config)
    loss.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in policy.named_parameters()}
    policy.zero_grad()

    expected, rewards, nll = 0.0, [], 0.0
    for i, (prompt, chosen, rejected) in enumerate(pairs):
        first, second = naive_logp(policy, prompt, chosen), naive_logp(policy, prompt, rejected)
        h = (first - reference[0, i]) - (second - reference[1, i])
        is_ipo = config.loss_type == "ipo"  # of which the loss and the rewards have means
        rewards.append(
            (
                config.beta * (first - reference[0, i]).item() / (len(chosen) if is_ipo else 1),
                config.beta * (second - reference[1, i]).item() / (len(rejected) if is_ipo else 1),
            )
        )
        if config.loss_type == "ipo":  # means over tokens: a sum would grow with the length
            mean = (first - reference[0, i]) / len(chosen)
            mean = mean - (second - reference[1, i]) / len(rejected)
            expected += (mean - 0.5 / config.beta) ** 2
        else:
            wrong = config.label_smoothing
            expected += -(1 - wrong) * (1 / (1 + (-config.beta * h).exp())).log()
            expected += -wrong * (1 / (1 + (config.beta * h).exp())).log()
        expected += config.rpo_alpha * -first / len(chosen)
        nll += -first.item() / len(chosen)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-10)
    for name, parameter in policy.named_parameters():
        assert torch.allclose(gradients[name], parameter.grad, rtol=1e-8, atol=1e-12), name
    metrics = dpo.means_of(sums, len(pairs))
    assert metrics["rewards/chosen"] == pytest.approx(sum(a for a, _ in rewards) / 6)
    assert metrics["rewards/margins"] == pytest.approx(sum(a - b for a, b in rewards) / 6)
    assert metrics["rewards/accuracies"] == sum(a > b for a, b in rewards) / 6
    assert metrics["nll_loss"] == pytest.approx(nll / 6)


def merging_tokenizer():
    """A tokenizer whose tokens hold a newline and the first characters of the next line."""
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    trainer = tokenizers.trainers.BpeTrainer(
        special_tokens=["<eos>"], max_token_length=6, show_progress=False
    )
    model.train_from_iterator(["p\n", *["a = 1\n    b = 2\n    b = 3\n  c = 4\n"] * 20], trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=model, eos_token="<eos>")


STEP = {
    "task_id": "t",
    "prompt": "p",
    "complete": False,
    "chosen": "a = 1\n    b = 2\n    b = 3\n",
    "rejected": "a = 1\n    b = 2\n  c = 4\n",
}


@pytest.mark.parametrize("merging", [False, True])
def test_a_step_pair_shares_the_ids_of_its_prefix_and_its_margin_is_that_of_the_whole_texts(
    merging,
):
    tokenizer = common.new_tokenizer([STEP["chosen"] * 3, STEP["rejected"]], 300)
    if merging:
        tokenizer = merging_tokenizer()
        ids = tokenizer(STEP["chosen"]).input_ids
        assert any("\n" in text[:-1] for text in tokenizer.batch_decode([[i] for i in ids]))
    prompt, chosen, rejected = dpo.encode_pair(tokenizer, STEP)
    whole = [tokenizer(STEP[name]).input_ids for name in ("chosen", "rejected")]
    assert [prompt + chosen, prompt + rejected] == [
        tokenizer("p\n").input_ids + text for text in whole
    ]
    assert chosen[0] != rejected[0] and tokenizer.eos_token_id not in chosen + rejected
    assert len(prompt) > len(tokenizer("p\n").input_ids)
    model, short = common.new_model(tokenizer, 32, 1, seed=0).double(), tokenizer("p\n").input_ids
    whole_margin = naive_logp(model, short, whole[0]) - naive_logp(model, short, whole[1])
    margin = naive_logp(model, prompt, chosen) - naive_logp(model, prompt, rejected)
    assert margin.item() == pytest.approx(whole_margin.item(), rel=1e-12)


def test_a_complete_text_ends_in_eos_and_keeps_what_it_shares_with_the_other():
    tokenizer = common.new_tokenizer([STEP["chosen"]] * 3, 300)
    prompt, chosen, rejected = dpo.encode_pair(tokenizer, STEP | {"complete": True})
    assert prompt == tokenizer("p\n").input_ids
    assert chosen == [*tokenizer(STEP["chosen"]).input_ids, tokenizer.eos_token_id]
    assert rejected == [*tokenizer(STEP["rejected"]).input_ids, tokenizer.eos_token_id]
    without = {key: value for key, value in STEP.items() if key != "complete"}
    assert dpo.encode_pair(tokenizer, without) == (prompt, chosen, rejected)


@pytest.mark.parametrize("flags", [{}, {"loss_type": "ipo", "beta": 0.5}, {"rpo_alpha": 0.5}])
def test_training_starts_at_the_reference_and_learns_to_prefer_the_chosen(start, flags):
    config = config_of(start, f"learns-{len(str(flags))}", max_steps=30, **flags)
    dpo.main(config)
    rows = metrics_of(config.output_dir)
    first, last = rows[0], rows[-1]
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-4) and first[
        "rewards/chosen"
    ] == pytest.approx(0, abs=1e-4)
    at_reference = (
        1.0 if config.loss_type == "ipo" else math.log(2) + config.rpo_alpha * first["nll_loss"]
    )
    assert first["loss"] == pytest.approx(at_reference, abs=1e-3)
    assert (
        last["loss"] < first["loss"] - 0.2
        and last["rewards/margins"] > 0.3
        and last["rewards/accuracies"] >= 0.9
    )
    report = json.loads((Path(config.output_dir) / "report.json").read_text())
    assert report["eval_rewards/accuracies"] >= 0.9 and report["eval_pairs"] > 10
    assert last["eval_nll_loss"] < rows[1]["eval_nll_loss"] or not config.rpo_alpha


def test_a_killed_run_resumes_to_the_same_weights_bit_for_bit_against_the_same_reference(
    start, monkeypatch
):
    dpo.main(config_of(start, "whole"))
    config, append = config_of(start, "killed"), common.append_jsonl

    def killed(path, rows):
        append(path, rows)
        if rows[0]["step"] == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("common.runs.append_jsonl", killed)
    with pytest.raises(KeyboardInterrupt):
        dpo.main(config)
    monkeypatch.undo()
    assert [path.name for path in Path(config.output_dir).glob("checkpoint-*")] == ["checkpoint-2"]
    dpo.main(config)
    whole, resumed = (load_file(start / name / "model.safetensors") for name in ("whole", "killed"))
    before = load_file(start / "policy" / "model.safetensors")
    assert whole.keys() == resumed.keys() and all(
        torch.equal(whole[key], resumed[key]) for key in whole
    )
    assert any(not torch.equal(whole[key], before[key]) for key in whole)
    for row, other in zip(metrics_of(start / "whole"), metrics_of(start / "killed"), strict=True):
        assert row | {"step_time": 0} == other | {"step_time": 0}


def assert_same_run(folder, other):
    for row, twin in zip(metrics_of(folder), metrics_of(other), strict=True):
        rounded = (
            {"rewards/accuracies"} if row["step"] == 1 else set()
        )  # the margins are 0 but for rounding
        for key in row.keys() - {"step_time"} - rounded:
            assert twin[key] == pytest.approx(row[key], rel=1e-3, abs=2e-4), key
    first, second = (load_file(Path(path) / "model.safetensors") for path in (folder, other))
    # Adam's first steps may make a rounding error a step of the learning rate, in a few weights.
    different = sum(int(((first[key] - second[key]).abs() > 1e-5).sum()) for key in first)
    assert different < 0.005 * sum(value.numel() for value in first.values())


def test_micro_batches_change_nothing_but_rounding(start):
    for size in (16, 3):
        dpo.main(
            config_of(
                start, f"micro-{size}", max_steps=2, per_device_train_batch_size=size, rpo_alpha=0.3
            )
        )
    assert_same_run(start / "micro-16", start / "micro-3")


@pytest.mark.slow
def test_a_run_in_bfloat16_is_near_the_run_in_float32(start):
    losses = []
    for bf16 in (True, False):
        config = config_of(start, f"bf16-{bf16}", max_steps=2, bf16=bf16)
        dpo.main(config)
        losses.append([row["loss"] for row in common.logged_metrics(config.output_dir)])
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.02)
    common.end_distributed()


@pytest.mark.slow
def test_two_processes_do_what_one_does(start):
    dpo.main(config_of(start, "one", max_steps=2, per_device_train_batch_size=7))
    two = config_of(start, "two", max_steps=2, per_device_train_batch_size=7)
    result = run_on_two_processes("dpo.py", two, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    assert_same_run(start / "one", start / "two")


@pytest.mark.slow
def test_processes_may_have_different_numbers_of_micro_batches(start):
    limit = {"max_steps": 2, "max_tokens_per_forward": 300}
    dpo.main(config_of(start, "uneven-one", **limit))
    two = config_of(start, "uneven-two", **limit)
    result = run_on_two_processes("dpo.py", two, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    assert_same_run(start / "uneven-one", start / "uneven-two")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rejected": STEP["chosen"]}, "fields 'chosen' and 'rejected' are the same text"),
        ({"complete": "no"}, "field 'complete' must be true or false"),
        ({"chosen": None}, "field 'chosen' must be str, got null"),
    ],
)
def test_pairs_that_cannot_be_learned_from_are_refused_by_place(tmp_path, change, message):
    common.write_jsonl(tmp_path / "pairs.jsonl", [STEP, STEP | change])
    with pytest.raises(InputError, match=r"pairs\.jsonl:2: " + message):
        common.read_jsonl(tmp_path / "pairs.jsonl", common.PAIR_FIELDS, dpo.check_row)


def test_the_reference_is_freed_before_the_policy_is_loaded(start, monkeypatch):
    references, reference_of, begin_run = [], dpo.reference_of, common.begin_run

    def noting(model, *args):
        references.append(weakref.ref(model))
        return reference_of(model, *args)

    def check(*args):
        assert [reference() for reference in references] == [None]
        begin_run(*args)

    monkeypatch.setattr(dpo, "reference_of", noting)
    monkeypatch.setattr(common, "begin_run", check)
    dpo.main(config_of(start, "freed", max_steps=1))
    assert references


def test_a_step_is_the_gradient_of_the_mean_over_its_pairs_and_the_seed_draws_them(start):
    rows = []
    for seed in (0, 1):
        config = config_of(start, f"step-{seed}", max_steps=1, warmup_steps=1, seed=seed)
        dpo.main(config)
        rows += metrics_of(config.output_dir)
    assert rows[0]["logps/chosen"] != rows[1]["logps/chosen"]
    config = config_of(start, "unused")
    tokenizer = common.load_tokenizer(start / "policy")
    policy = common.shard(common.load_policy(start / "policy"))
    data = common.read_jsonl(config.data, {})
    held_out = common.held_out_tasks(data, 0.3, 0)
    train = [row for row in data if row["task_id"] not in held_out]
    drawn = common.draw(len(train), 8, 0, 0, "dpo pairs")
    pairs = [dpo.encode_pair(tokenizer, train[i]) for i in drawn]
    with torch.no_grad():
        reference = dpo.pair_logps(policy, pairs)
    loss, _ = dpo.score_pairs(policy, pairs, reference, config)
    (loss / 8).backward()
    norm = torch.stack([p.grad.norm() for p in policy.parameters() if p.grad is not None]).norm()
    assert rows[0]["grad_norm"] == pytest.approx(float(norm), rel=1e-3)
