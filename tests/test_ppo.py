"""PPO: the reward's composition and the two losses, against naive float64 forms."""

import math
import random

import pytest
import torch

import ppo


def config_of(**flags):
    return ppo.Config(tasks="", model_name_or_path="", output_dir="", **flags)


def random_batch(seed, batch=6, width=12):
    rng = random.Random(seed)
    lengths = [rng.randint(1, width) for _ in range(batch)]
    mask = torch.tensor([[t < n for t in range(width)] for n in lengths])
    ends = torch.tensor([[t < n and (rng.random() < 0.4 or t == n - 1) for t in range(width)] for n in lengths])
    process = torch.tensor([[rng.gauss(0, 2) for _ in range(width)] for _ in lengths])
    outcome = torch.tensor([float(rng.random() < 0.5) for _ in lengths])
    return outcome, process, ends, mask


def naive_rewards(outcome, process, ends, mask, config):
    rewards = [[0.0] * mask.shape[1] for _ in outcome]
    for b in range(len(outcome)):
        places = [t for t in range(mask.shape[1]) if ends[b, t]]
        weight = config.lambda_pass if outcome[b] == 1 else config.lambda_fail
        norm = {"lines": max(len(places), 1), "constant": config.process_norm_lines, "none": 1}[config.process_norm]
        for t in places:
            score = float(process[b, t])
            score = max(-config.process_clip, min(config.process_clip, score)) if config.process_clip else score
            rewards[b][t] += weight * score / norm
        if config.outcome_reward == "tests":
            rewards[b][int(mask[b].sum()) - 1] += float(outcome[b])
    return torch.tensor(rewards)


@pytest.mark.parametrize("norm", ["lines", "constant", "none"])
@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("outcome_reward", ["tests", "none"])
def test_rewards_are_the_sum_over_lines_and_the_outcome_at_the_last_token(norm, clip, outcome_reward):
    for seed in range(20):
        batch = random_batch(seed)
        config = config_of(process_norm=norm, process_clip=clip, outcome_reward=outcome_reward)
        torch.testing.assert_close(ppo.compose_rewards(*batch, config), naive_rewards(*batch, config))


def test_process_rewards_fall_on_line_ends_alone():
    outcome, process, ends, mask = random_batch(1)
    rewards = ppo.compose_rewards(outcome * 0, process, ends, mask, config_of())
    assert ((rewards != 0) == ends).all()


def test_a_clipped_prm_never_lifts_a_failing_program_above_a_passing_one():
    for seed in range(200):
        outcome, process, ends, mask = random_batch(seed, batch=16)
        total = ppo.compose_rewards(outcome, process * 10, ends, mask, config_of()).sum(1)
        assert (total[outcome == 0] <= 0.25 + 1e-6).all() and (total[outcome == 1] >= 0.975 - 1e-6).all()


def test_padding_with_well_scored_lines_pays_without_the_norm_and_not_with_it():
    def total(lines, norm):
        ends = torch.ones(1, lines, dtype=torch.bool)
        config = config_of(process_norm=norm, lambda_fail=1.0)
        return float(ppo.compose_rewards(torch.zeros(1), torch.full((1, lines), 0.5), ends, ends, config).sum())

    assert total(8, "none") == pytest.approx(2 * total(4, "none"))
    assert total(8, "lines") == pytest.approx(total(4, "lines"))


def naive_policy_loss(new, old, advantage, mask, cliprange):
    total = 0.0
    for b in range(len(mask)):
        for t in range(mask.shape[1]):
            if mask[b, t]:
                ratio = math.exp(float(new[b, t]) - float(old[b, t]))
                bounded = max(1 - cliprange, min(1 + cliprange, ratio))
                total -= min(ratio * float(advantage[b, t]), bounded * float(advantage[b, t]))
    return total


def test_policy_loss_is_the_clipped_objective_summed_over_valid_tokens():
    for seed in range(20):
        torch.manual_seed(seed)
        new, old, advantage = torch.randn(3, 4, 7, dtype=torch.float64) * 0.3
        mask = torch.rand(4, 7) < 0.7
        loss, log_ratio, clipped = ppo.policy_loss(new, old, advantage, mask, 0.2)
        assert float(loss) == pytest.approx(naive_policy_loss(new, old, advantage, mask, 0.2))
        torch.testing.assert_close(log_ratio, torch.where(mask, new - old, 0))
        ratio = (new - old).exp()
        outside = ((ratio > 1.2) & (advantage > 0)) | ((ratio < 0.8) & (advantage < 0))
        assert torch.equal(clipped, outside & mask)


def test_policy_loss_has_a_right_gradient_and_none_where_the_clip_is_active_or_the_mask_off():
    torch.manual_seed(0)
    old, advantage = torch.randn(2, 3, 5, dtype=torch.float64) * 0.3
    mask = torch.rand(3, 5) < 0.7
    new = (old + 0.25 * torch.randn(3, 5, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ppo.policy_loss(x, old, advantage, mask, 0.2)[0], new)
    loss, _, clipped = ppo.policy_loss(new, old, advantage, mask, 0.2)
    loss.backward()
    assert (new.grad[clipped | ~mask] == 0).all() and (new.grad[mask & ~clipped] != 0).all()


def test_an_all_masked_micro_batch_gives_a_differentiable_zero():
    new = torch.randn(2, 3, requires_grad=True)
    mask = torch.zeros(2, 3, dtype=torch.bool)
    infinite = torch.full((2, 3), math.inf)
    loss, _, _ = ppo.policy_loss(new, -infinite, torch.zeros(2, 3), mask, 0.2)
    loss = loss + ppo.value_loss(new, torch.zeros(2, 3), torch.zeros(2, 3), mask, 0.2)
    loss.backward()
    assert loss.item() == 0 and (new.grad == 0).all()


def test_value_loss_takes_the_worse_of_clipped_and_unclipped():
    values, old, returns = torch.tensor([[1.0, 0.1]]), torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    # Token 0 has moved all the way to its target, but clipped it is at 0.2; token 1 is within the range.
    assert float(ppo.value_loss(values, old, returns, mask, 0.2)) == pytest.approx(0.5 * (0.8**2 + 0.9**2))
