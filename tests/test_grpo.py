"""GRPO: reward levels, the gate, the format, and the loss against a naive form."""

import math

import pytest
import torch

import grpo
from kernels import advantages


@pytest.mark.parametrize(
    ("outcome", "well_formed", "process", "hard", "ungated"),
    [(0, 0, 0.0, 0, 0), (0, 1, 0.9, 1, 1.9), (1, 1, 0.9, 2.9, 2.9), (1, 0, 0.0, 1, 1), (1, 1, 0.0, 2, 2)],
)
def test_reward_levels_are_the_paper_s(outcome, well_formed, process, hard, ungated):
    terms = [torch.tensor([float(x)]) for x in (outcome, well_formed, process)]
    assert float(grpo.compose_rewards(*terms, "hard")) == pytest.approx(hard)
    assert float(grpo.compose_rewards(*terms, "none")) == pytest.approx(ungated)


def test_a_failing_answer_s_reward_does_not_depend_on_its_reasoning():
    outcome, well_formed = torch.zeros(50), torch.ones(50)
    rewards = grpo.compose_rewards(outcome, well_formed, torch.rand(50), "hard")
    assert (rewards == 1).all()


@pytest.mark.parametrize("varies", [True, False])
def test_a_group_that_passes_whole_has_an_advantage_exactly_where_the_reasoning_varies(varies):
    process = torch.tensor([0.1, 0.5, 0.9, 0.3]) if varies else torch.full((4,), 0.5)
    rewards = grpo.compose_rewards(torch.ones(4), torch.ones(4), process, "hard")
    advantage = advantages.group_advantages(rewards, torch.zeros(4, dtype=torch.long))
    assert (advantage != 0).all() if varies else (advantage == 0).all()


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
            total -= min(ratio * float(advantage[b, t]), max(0.8, min(1.28, ratio)) * float(advantage[b, t]))
        assert float(grpo.policy_loss(new, old, advantage, mask, 0.2, 0.28)[0]) == pytest.approx(total)


def test_policy_loss_has_a_right_gradient():
    torch.manual_seed(0)
    old, advantage = torch.randn(2, 3, 5, dtype=torch.float64) * 0.3
    mask = torch.rand(3, 5) < 0.7
    new = (old + 0.25 * torch.randn(3, 5, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: grpo.policy_loss(x, old, advantage, mask, 0.2, 0.28)[0], new)
