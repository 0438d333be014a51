"""GRPO: reward levels, the gates, the format, the losses against naive forms, and the whole step on a new tiny policy."""

import hashlib
import json
import math
from concurrent.futures import Future

import pytest
import torch
from safetensors.torch import load_file

import common
import grpo
import sandbox
from benchmarks import micro
from kernels import advantages


@pytest.mark.parametrize(
    ("outcome", "rate", "well_formed", "process", "levels"),
    [
        (0, 0.0, 0, 0.0, {"hard": 0, "soft": 0, "threshold": 0, "format": 0, "none": 0}),
        (0, 0.4, 1, 0.9, {"hard": 1, "soft": 1.76, "threshold": 1, "format": 1.9, "none": 1.9}),
        (0, 0.5, 1, 0.9, {"hard": 1, "soft": 1.95, "threshold": 1.9, "format": 1.9, "none": 1.9}),
        (1, 1.0, 1, 0.9, {"hard": 2.9, "soft": 2.9, "threshold": 2.9, "format": 2.9, "none": 2.9}),
        (1, 1.0, 0, 0.0, {"hard": 1, "soft": 1, "threshold": 1, "format": 1, "none": 1}),
        (1, 1.0, 1, 0.0, {"hard": 2, "soft": 2, "threshold": 2, "format": 2, "none": 2}),
    ],
)
def test_reward_levels_are_the_paper_s(outcome, rate, well_formed, process, levels):
    terms = [torch.tensor([float(x)]) for x in (outcome, rate, well_formed, process)]
    for gate, level in levels.items():
        assert float(grpo.compose_rewards(*terms, gate, 0.5)) == pytest.approx(level), gate


def test_a_failing_answer_s_reward_does_not_depend_on_its_reasoning():
    outcome, well_formed = torch.zeros(50), torch.ones(50)
    rewards = grpo.compose_rewards(outcome, torch.rand(50), well_formed, torch.rand(50), "hard")
    assert (rewards == 1).all()


@pytest.mark.parametrize("varies", [True, False])
@pytest.mark.parametrize("gate", ["hard", "soft", "threshold", "format", "none"])
def test_a_group_that_passes_whole_has_an_advantage_exactly_where_the_reasoning_varies(
    varies, gate
):
    process = torch.tensor([0.1, 0.5, 0.9, 0.3]) if varies else torch.full((4,), 0.5)
    rewards = grpo.compose_rewards(torch.ones(4), torch.ones(4), torch.ones(4), process, gate)
    advantage = advantages.group_advantages(rewards, torch.zeros(4, dtype=torch.long))
    assert (advantage != 0).all() if varies else (advantage == 0).all()
    assert bool(grpo.equal_rewards(rewards, 4)) != varies


def test_scores_map_into_0_to_1_and_no_reasoning_is_0():
    scores = torch.tensor([2.0, -1.0, float("nan"), 0.5, 3.0, 3.0, float("nan"), 3.0])
    sigmoid = grpo.map_scores(scores, "sigmoid", 0.5, 4)
    assert sigmoid.tolist() == pytest.approx([1 / (1 + math.exp(-1.5)), 1 / (1 + math.exp(1.5)), 0, 0.5]
                                             + [1 / (1 + math.exp(-2.5))] * 2 + [0, 1 / (1 + math.exp(-2.5))])  # fmt: skip
    assert grpo.map_scores(scores, "clip", 0.5, 4).tolist() == [1, 0, 0, 0, 1, 1, 0, 1]
    assert grpo.map_scores(scores, "minmax_group", 0.5, 4).tolist() == [
        1,
        0,
        0,
        0.5,
        0.5,
        0.5,
        0,
        0.5,
    ]
    assert grpo.map_scores(torch.full((4,), float("nan")), "minmax_group", 0.0, 4).tolist() == [
        0,
        0,
        0,
        0,
    ]


@pytest.mark.parametrize(
    ("text", "reasoning"),
    [
        ("<think>a\nb</think><answer>x = 1</answer>", "a\nb"),
        ("\n<think></think>\n<answer></answer>\n", ""),
        ("<think>a</think>x = 1", None),
        ("<answer>x</answer><think>a</think>", None),
        ("<think>a</think><answer>x</answer> and more", None),
        ("<think>a<think>b</think><answer>x</answer>", None),
        ("<think>a</think><answer>x</answer><answer>y</answer>", None),
        ("<think>a</think><answer>x", None),
    ],
)
def test_only_the_whole_format_counts_as_reasoning(text, reasoning):
    assert grpo.reasoning_of(text) == reasoning


def test_policy_loss_clips_higher_above_than_below():
    for seed in range(20):
        torch.manual_seed(seed)
        new, old, advantage = torch.randn(3, 4, 7, dtype=torch.float64) * 0.3
        mask = torch.rand(4, 7) < 0.7
        total = 0.0
        for b, t in mask.nonzero().tolist():
            ratio = math.exp(float(new[b, t] - old[b, t]))
            total -= min(
                ratio * float(advantage[b, t]), max(0.8, min(1.28, ratio)) * float(advantage[b, t])
            )
        assert float(grpo.policy_loss(new, old, advantage, mask, 0.2, 0.28)[0]) == pytest.approx(
            total
        )


def test_policy_loss_has_a_right_gradient():
    torch.manual_seed(0)
    old, advantage = torch.randn(2, 3, 5, dtype=torch.float64) * 0.3
    mask = torch.rand(3, 5) < 0.7
    new = (old + 0.25 * torch.randn(3, 5, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: grpo.policy_loss(x, old, advantage, mask, 0.2, 0.28)[0], new
    )


def test_sequence_level_ratios_are_the_geometric_mean_of_the_tokens_and_pass_gradients_to_each():
    torch.manual_seed(0)
    old, advantage = (
        torch.randn(4, 7, dtype=torch.float64) * 0.3,
        torch.randn(4, 1, dtype=torch.float64).expand(4, 7),
    )
    mask = torch.rand(4, 7) < 0.7
    new = (old + 0.1 * torch.randn(4, 7, dtype=torch.float64)).requires_grad_()
    total = 0.0
    for b in range(4):
        inside = [t for t in range(7) if mask[b, t]]
        ratio = math.exp(sum(float(new[b, t].detach() - old[b, t]) for t in inside) / len(inside))
        a = float(advantage[b, 0])
        total -= len(inside) * min(ratio * a, max(0.97, min(1.05, ratio)) * a)
    loss, log_ratio, _ = grpo.policy_loss(new, old, advantage, mask, 0.03, 0.05, "sequence")
    assert loss.item() == pytest.approx(total)
    assert (log_ratio == log_ratio[:, :1]).all()
    assert torch.autograd.gradcheck(
        lambda x: grpo.policy_loss(x, old, advantage, mask, 0.03, 0.05, "sequence")[0], new
    )


def test_each_aggregation_is_its_naive_form():
    for seed in range(20):
        torch.manual_seed(seed)
        terms, mask = torch.randn(5, 6, dtype=torch.float64), torch.rand(5, 6) < 0.6
        mask[seed % 5] = False  # a sequence that is left out
        rows = [
            [float(x) for x, on in zip(*row, strict=True) if on]
            for row in zip(terms, mask, strict=True)
        ]
        rows = [row for row in rows if row]
        naive = {
            "dapo": sum(map(sum, rows)) / sum(map(len, rows)),
            "grpo": sum(sum(row) / len(row) for row in rows) / len(rows),
            "dr_grpo": sum(map(sum, rows)) / (len(rows) * 9),
        }
        for loss_type, expected in naive.items():
            weights, counts = grpo.loss_weights(mask, loss_type, 9)
            assert float((terms * weights).sum() / counts.sum()) == pytest.approx(
                expected, rel=1e-6
            ), loss_type
    weights, counts = grpo.loss_weights(torch.zeros(3, 4, dtype=torch.bool), "grpo", 9)
    assert not weights.any() and not counts.any()


def test_the_kl_term_has_the_value_and_the_gradient_of_the_reverse_kl():
    torch.manual_seed(0)
    logits, old, ref = torch.randn(3, 5, dtype=torch.float64)
    logits.requires_grad_()
    old, ref, new = old.log_softmax(0), ref.log_softmax(0), logits.log_softmax(0)
    exact = (new.exp() * (new - ref)).sum()
    kl = grpo.kl_to_reference(new[None], old[None], ref[None], torch.ones(1, 5, dtype=torch.bool))
    mean = (old.exp() * kl[0]).sum()  # over tokens that the old policy samples
    assert mean.item() == pytest.approx(exact.item())
    (wanted,) = torch.autograd.grad(exact, logits, retain_graph=True)
    assert torch.allclose(torch.autograd.grad(mean, logits)[0], wanted)
    nan = torch.full((1, 5), float("nan"))
    assert (grpo.kl_to_reference(nan, nan, nan, torch.zeros(1, 5, dtype=torch.bool)) == 0).all()


class Coin:
    """A sandbox that passes about half of the programs, by their text; and none of the tasks in `hopeless`."""

    hopeless: frozenset = frozenset()

    def __init__(self, **settings):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def submit(self, task, program):
        heads = (
            hashlib.sha256(program.encode()).digest()[0] % 2
            and task["task_id"] not in self.hopeless
        )
        future = Future()
        future.set_result(
            {"status": "passed" if heads else "failed", "passed": 13 if heads else 4, "total": 13}
        )
        return future


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tasks and a new tiny policy that writes anything."""
    folder = tmp_path_factory.mktemp("grpo")
    numbers = {
        "num_sft_tasks": 1,
        "num_train_tasks": 16,
        "num_test_tasks": 1,
        "max_steps": 3,
        "train_min_steps": 2,
    }
    micro.main(micro.Config(output_dir=str(folder), **numbers))
    tasks = common.read_jsonl(folder / "train.jsonl", {})
    tokenizer = common.new_tokenizer(
        [text for task in tasks for text in (task["prompt"], task["solution"])], 512
    )
    common.save_model(common.new_model(tokenizer, 32, 1, seed=0), tokenizer, folder / "policy")
    return folder


def train(folder, monkeypatch, name, hopeless=frozenset(), **flags):
    """Metrics, samples and final weights of a run of grpo.py."""
    monkeypatch.setattr(Coin, "hopeless", hopeless)
    monkeypatch.setattr(sandbox, "Sandbox", Coin)
    flags = {
        "max_steps": 1,
        "num_prompts": 4,
        "num_generations": 4,
        "max_completion_length": 12,
        "warmup_steps": 1,
        **flags,
    }
    grpo.main(
        grpo.Config(
            str(folder / "train.jsonl"), str(folder / "policy"), str(folder / name), **flags
        )
    )
    logs = [
        [json.loads(line) for line in open(folder / name / f"{log}.jsonl")]
        for log in ("metrics", "completions")
    ]
    return *logs, load_file(folder / name / "model.safetensors")


@pytest.mark.parametrize(
    "flags",
    [{}, {"loss_type": "grpo"}, {"loss_type": "dr_grpo", "mask_truncated_completions": True},
     {"importance_sampling_level": "sequence", "loss_type": "grpo", "epsilon": 0.01}, {"beta": 0.1}],
    ids=lambda flags: "-".join(map(str, flags.values())) or "dapo",
)  # fmt: skip
def test_the_update_does_not_depend_on_the_micro_batches(folder, monkeypatch, flags):
    name = "-".join(map(str, flags.values())) or "dapo"
    flags = {"num_iterations": 2, "num_mini_batches": 1, **flags}
    one = train(folder, monkeypatch, f"{name}-32", per_device_train_batch_size=32, **flags)
    other = train(folder, monkeypatch, f"{name}-3", per_device_train_batch_size=3, **flags)
    start = load_file(folder / "policy" / "model.safetensors")
    for key, value in one[2].items():
        assert torch.allclose(value, other[2][key], atol=2e-6), key
    assert any(not torch.equal(one[2][key], start[key]) for key in start)
    assert one[0][0]["loss"] == pytest.approx(other[0][0]["loss"], abs=1e-5)
    assert (one[0][0]["kl"] > 0) == ("beta" in flags)


def test_dynamic_sampling_learns_from_full_batches_of_uneven_groups_and_counts_what_it_drew(
    folder, monkeypatch
):
    tasks = common.read_jsonl(folder / "train.jsonl", {})
    hopeless = frozenset(
        tasks[i]["task_id"] for i in common.draw(len(tasks), 4, 0, 0, "grpo prompts")[:2]
    )
    (plain,), samples, _ = train(folder, monkeypatch, "plain", hopeless, num_mini_batches=1)
    assert plain["frac_all_fail"] >= 0.5 and plain["episode"] == len(samples) == 16
    (row,), more, weights = train(
        folder, monkeypatch, "dynamic", hopeless, dynamic_sampling=True, num_mini_batches=1
    )
    assert row["episode"] == len(more) > 16 and more[:16] == samples
    groups = [[sample["reward"] for sample in more[i : i + 4]] for i in range(0, len(more), 4)]
    assert sum(len(set(group)) > 1 for group in groups) >= 4
    assert row["frac_reward_zero_std"] == sum(len(set(group)) == 1 for group in groups) / len(
        groups
    )
    _, _, alone = train(folder, monkeypatch, "plain-again", hopeless, num_mini_batches=1)
    assert any(not torch.equal(weights[key], alone[key]) for key in weights)


def test_dynamic_sampling_gives_up_after_its_rounds(folder, monkeypatch):
    tasks = common.read_jsonl(folder / "train.jsonl", {})
    hopeless = frozenset(task["task_id"] for task in tasks)
    (row,), _, weights = train(
        folder, monkeypatch, "hopeless", hopeless, dynamic_sampling=True, max_resample=2
    )
    assert row["episode"] == 3 * 16 and row["frac_all_fail"] == row["frac_reward_zero_std"] == 1
    start = load_file(folder / "policy" / "model.safetensors")
    assert all(torch.equal(weights[key], start[key]) for key in start)


def test_a_resumed_run_with_dynamic_sampling_is_the_same_run(folder, monkeypatch):
    flags = {"dynamic_sampling": True, "save_steps": 1, "beta": 0.05, "max_steps": 3}
    whole = train(folder, monkeypatch, "whole", **flags)
    save_checkpoint = common.save_checkpoint

    def save_and_die(*arguments):
        save_checkpoint(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(common, "save_checkpoint", save_and_die)
        train(folder, patch, "cut", **flags)
    again = train(folder, monkeypatch, "cut", **flags)
    strip = [
        [{key: value for key, value in row.items() if key != "step_time"} for row in rows[0]]
        for rows in (whole, again)
    ]
    assert strip[0] == strip[1] and whole[1] == again[1]
    assert all(torch.equal(whole[2][key], again[2][key]) for key in whole[2])


def test_the_reward_falls_over_the_last_tokens_that_are_allowed():
    lengths, futures = [3, 6, 9, 12], [Future() for _ in range(4)]
    for future in futures:
        future.set_result({"status": "passed", "passed": 2, "total": 2})
    ids = torch.zeros(4, 12, dtype=torch.long)
    rollout = common.Rollout(
        [[1]] * 4, [[1] * n for n in lengths], [""] * 4, ids, ids.bool(), ids.float()
    )
    config = grpo.Config(
        "", "", "", max_completion_length=12, overlong_penalty=6, num_generations=4
    )
    assert grpo.grade(config, rollout, futures, None).rewards.tolist() == [1, 1, 0.5, 0]


def test_truncated_answers_can_be_left_out_of_the_loss(folder, monkeypatch):
    monkeypatch.setattr(common, "eos_ids", lambda *_: [10**6])  # no completion ends
    (row,), _, weights = train(
        folder, monkeypatch, "masked", mask_truncated_completions=True, max_completion_length=5
    )
    start = load_file(folder / "policy" / "model.safetensors")
    assert (
        row["completions/clipped_ratio"] == 1
        and row["completions/mean_length"] == 5
        and row["loss"] == 0
    )
    assert all(torch.equal(weights[key], start[key]) for key in start)
