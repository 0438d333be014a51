"""GRPO: reward levels, the gates, the form, the losses against naive forms, and the whole step."""

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


def config_of(**flags):
    return grpo.Config(tasks="", model_name_or_path="", output_dir="", **flags)


@pytest.mark.parametrize(
    ("passed", "rate", "well_formed", "process", "levels"),
    [
        (False, 0.0, 0, 0.0, {"hard": 0, "soft": 0, "none": 0}),
        (False, 0.4, 1, 0.9, {"hard": 1, "soft": 1.76, "none": 1.9}),
        (False, 0.5, 1, 0.9, {"hard": 1, "soft": 1.95, "none": 1.9}),
        (True, 1.0, 1, 0.9, {"hard": 2.9, "soft": 2.9, "none": 2.9}),
        (True, 1.0, 0, 0.0, {"hard": 1, "soft": 1, "none": 1}),
        (True, 1.0, 1, 0.0, {"hard": 2, "soft": 2, "none": 2}),
    ],
)
def test_reward_levels_are_the_paper_s(passed, rate, well_formed, process, levels):
    terms = [torch.tensor([passed]), *(torch.tensor([x]) for x in (rate, well_formed, process))]
    for gate, level in levels.items():
        reward = grpo.compose_rewards(*terms, config_of(gate=gate))
        assert float(reward) == pytest.approx(level), gate


def test_the_weight_of_the_reasoning_s_reward_multiplies_it_alone():
    terms = [torch.tensor([True]), *(torch.tensor([x]) for x in (1.0, 1.0, 0.5))]
    assert float(grpo.compose_rewards(*terms, config_of(process_weight=3.0))) == pytest.approx(3.5)


def test_a_failing_answer_s_reward_does_not_depend_on_its_reasoning():
    failing, well_formed = torch.zeros(50).bool(), torch.ones(50)
    rewards = grpo.compose_rewards(
        failing, torch.rand(50), well_formed, torch.rand(50), config_of(gate="hard")
    )
    assert (rewards == 1).all()


@pytest.mark.parametrize("varies", [True, False])
@pytest.mark.parametrize("gate", ["hard", "soft", "none"])
def test_a_group_that_passes_has_an_advantage_exactly_where_the_reasoning_varies(varies, gate):
    process = torch.tensor([0.1, 0.5, 0.9, 0.3]) if varies else torch.full((4,), 0.5)
    ones = torch.ones(4)
    rewards = grpo.compose_rewards(ones.bool(), ones, ones, process, config_of(gate=gate))
    advantage = advantages.group_advantages(rewards, torch.zeros(4, dtype=torch.long))
    assert (advantage != 0).all() if varies else (advantage == 0).all()


@pytest.mark.parametrize(
    ("text", "reasoning"),
    [
        ("<think>a\nb</think><answer>x = 1</answer>", "\na\nb\n"),
        ("<think>\na\r\nb  \n\n</think><answer>x = 1</answer>", "\na\nb\n"),
        ("\n<think></think>\n<answer></answer>\n", "\n\n"),
        ("<think>a</think>x = 1", None),
        ("<answer>x</answer><think>a</think>", None),
        ("<think>a</think><answer>x</answer> and more", None),
        ("<think>a<think>b</think><answer>x</answer>", None),
        ("<think>a</think><answer>x</answer><answer>y</answer>", None),
        ("<think>a</think><answer>x", None),
    ],
)
def test_only_the_whole_format_counts_as_reasoning(text, reasoning):
    assert common.reasoning_of(text) == reasoning


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


def test_the_kl_term_has_the_value_and_the_gradient_of_the_reverse_kl():
    torch.manual_seed(0)
    logits, old, ref = torch.randn(3, 5, dtype=torch.float64)
    logits.requires_grad_()
    old, ref, new = old.log_softmax(0), ref.log_softmax(0), logits.log_softmax(0)
    exact = (new.exp() * (new - ref)).sum()
    kl = grpo.kl_term(new[None], old[None], ref[None], torch.ones(1, 5, dtype=torch.bool))
    mean = (old.exp() * kl[0]).sum()  # over tokens that the old policy samples
    assert mean.item() == pytest.approx(exact.item())
    (wanted,) = torch.autograd.grad(exact, logits, retain_graph=True)
    assert torch.allclose(torch.autograd.grad(mean, logits)[0], wanted)
    nan = torch.full((1, 5), float("nan"))
    assert (grpo.kl_term(nan, nan, nan, torch.zeros(1, 5, dtype=torch.bool)) == 0).all()


class Coin:
    """A sandbox that passes half of the programs, by their text; of tasks in `hopeless`, none."""

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


@pytest.mark.parametrize("flags", [{}, {"beta": 0.1}], ids=["tests", "kl"])
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


def test_the_logged_spread_and_the_groups_without_an_advantage_are_those_of_the_samples(
    folder, monkeypatch
):
    tasks = common.read_jsonl(folder / "train.jsonl", {})
    drawn = common.draw(len(tasks), 4, 0, 0, "grpo prompts")
    hopeless = frozenset(tasks[i]["task_id"] for i in drawn[:2])
    (row,), samples, _ = train(folder, monkeypatch, "spread", hopeless, num_mini_batches=1)
    rewards = torch.tensor([sample["reward"] for sample in samples])
    assert row["reward_std"] == pytest.approx(float(rewards.std(unbiased=False)))
    groups = rewards.view(-1, 4)
    assert row["frac_all_fail"] == float((groups.amax(1) == 0).float().mean()) >= 0.5
    assert row["frac_all_pass"] == float((groups.amin(1) == 1).float().mean())
    equal = groups.amax(1) == groups.amin(1)
    assert row["frac_reward_zero_std"] == float(equal.float().mean())
    assert row["episode"] == len(samples) == 16
