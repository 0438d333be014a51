"""PPO: the reward's composition, the two losses, against naive float64 forms; flags; the critic."""

import dataclasses
import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import common
import ppo


def config_of(**flags):
    return ppo.Config(tasks="", model_name_or_path="", output_dir="", **flags)


def random_batch(seed, batch=6, width=12):
    """outcome, passed, process, ends, code, mask: as compose_rewards takes them."""
    rng = random.Random(seed)
    lengths = [rng.randint(1, width) for _ in range(batch)]
    mask = torch.tensor([[t < n for t in range(width)] for n in lengths])
    ends = torch.tensor(
        [[t < n and (rng.random() < 0.4 or t == n - 1) for t in range(width)] for n in lengths]
    )
    code = ends & torch.tensor([[rng.random() < 0.7 for _ in range(width)] for _ in lengths])
    process = torch.tensor([[rng.gauss(0, 2) for _ in range(width)] for _ in lengths])
    passed = torch.tensor([rng.random() < 0.5 for _ in lengths])
    return passed.float(), passed, process, ends, code, mask


def naive_rewards(outcome, passed, process, ends, code, mask, config):
    rewards = [[0.0] * mask.shape[1] for _ in outcome]
    for b in range(len(outcome)):
        places = [
            t for t in range(mask.shape[1]) if (code if config.neutral_comments else ends)[b, t]
        ]
        tests_count = config.outcome_reward == "tests"
        weight = config.lambda_pass if passed[b] and tests_count else config.lambda_fail
        norm = {
            "lines": max(int(ends[b].sum()), 1),
            "scored_lines": max(len(places), 1),
            "constant": config.process_norm_lines,
            "none": 1,
        }[config.process_norm]
        scores = [float(process[b, t]) for t in places]
        if config.process_clip:
            scores = [
                max(-config.process_clip, min(config.process_clip, score)) for score in scores
            ]
        for t, score in zip(places, scores, strict=True):
            rewards[b][t] += weight * score / norm
        rewards[b][int(mask[b].sum()) - 1] += float(outcome[b])
    return torch.tensor(rewards)


@pytest.mark.parametrize("norm", ["lines", "scored_lines", "constant", "none"])
@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("neutral", [False, True])
def test_rewards_are_the_sum_over_lines_and_the_outcome_at_the_last_token(norm, clip, neutral):
    for seed in range(10):
        batch = random_batch(seed)
        for outcome_reward in ("tests", "none"):
            config = config_of(
                process_norm=norm,
                process_clip=clip,
                neutral_comments=neutral,
                outcome_reward=outcome_reward,
            )
            expected = naive_rewards(*batch, config)
            torch.testing.assert_close(ppo.compose_rewards(*batch, config), expected)


@st.composite
def responses(draw):
    """A batch of two responses, the first failing, the second passing; any lines and scores."""
    width = draw(st.integers(1, 20))
    lengths = [draw(st.integers(1, width)) for _ in range(2)]
    ends = torch.tensor([[t < n and draw(st.booleans()) for t in range(width)] for n in lengths])
    code = ends & torch.tensor([[draw(st.booleans()) for _ in range(width)] for _ in lengths])
    score = st.floats(-1e6, 1e6, allow_nan=False, width=32)
    process = torch.tensor([[draw(score) for _ in range(width)] for _ in lengths])
    mask = torch.tensor([[t < n for t in range(width)] for n in lengths])
    return process, ends, code, mask


@settings(max_examples=200, deadline=None)
@given(responses(), st.sampled_from(["lines", "scored_lines"]), st.booleans())
def test_a_failing_response_never_earns_more_than_a_passing_one(batch, norm, neutral):
    passed = torch.tensor([False, True])
    config = config_of(process_norm=norm, neutral_comments=neutral)
    failing, passing = ppo.compose_rewards(passed.float(), passed, *batch, config).sum(1).tolist()
    assert failing <= 0.25 + 1e-6 and passing >= 0.975 - 1e-6


@settings(max_examples=200, deadline=None)
@given(responses(), st.sampled_from(["lines", "scored_lines", "constant", "none"]), st.booleans())
def test_rewards_fall_on_scored_line_ends_and_the_last_token_and_sum_to_the_scalar(
    batch, norm, neutral
):
    passed = torch.tensor([False, True])
    config = config_of(process_norm=norm, neutral_comments=neutral)
    process, ends, code, mask = batch
    rewards = ppo.compose_rewards(passed.float(), passed, *batch, config)
    lines = code if neutral else ends
    last = torch.zeros_like(mask).scatter(1, mask.sum(1, keepdim=True) - 1, True) & passed[:, None]
    assert (rewards[~(lines | last)] == 0).all()
    for b, weight in enumerate((0.25, 0.025)):
        scores = process[b][lines[b]].clamp(-1, 1).tolist()
        norms = {
            "lines": int(ends[b].sum()),
            "scored_lines": len(scores),
            "constant": 8.0,
            "none": 1,
        }
        expected = float(passed[b]) + weight * sum(scores) / max(norms[norm], 1)
        assert float(rewards[b].sum()) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("outcome_reward", ["none", "orm"])
def test_no_test_result_leaks_into_a_reward_that_has_none(outcome_reward):
    _, passed, *batch = random_batch(3)
    outcome = torch.randn(len(passed)) if outcome_reward == "orm" else torch.zeros(len(passed))
    config = config_of(outcome_reward=outcome_reward)
    first = ppo.compose_rewards(outcome, passed, *batch, config)
    assert torch.equal(first, ppo.compose_rewards(outcome, ~passed, *batch, config))
    same = dataclasses.replace(config, lambda_pass=7.0)
    assert torch.equal(first, ppo.compose_rewards(outcome, passed, *batch, same))


def total_of(scores, code, **flags):
    """Total process reward of a failing response of one line a token, with these scores."""
    ends = torch.ones(1, len(scores), dtype=torch.bool)
    process, code = torch.tensor([scores]), torch.tensor([code]).bool()
    config = config_of(lambda_fail=1.0, **flags)
    return float(
        ppo.compose_rewards(
            torch.zeros(1), torch.zeros(1).bool(), process, ends, code, ends, config
        ).sum()
    )


def test_padding_with_well_scored_lines_pays_without_the_norm_and_not_with_it():
    for norm, factor in (("none", 2), ("lines", 1)):
        long, short = ([0.5] * n for n in (8, 4))
        ratio = total_of(long, [1] * 8, process_norm=norm) / total_of(
            short, [1] * 4, process_norm=norm
        )
        assert ratio == pytest.approx(factor)


@pytest.mark.parametrize("score", [-1.0, 0.5, 1.0])
def test_padding_with_neutral_comments_pays_under_the_paper_s_norm_and_never_per_scored_line(
    score,
):
    bare, padded = ([score] * 4, [1] * 4), ([score] * 4 + [0.0] * 12, [1] * 4 + [0] * 12)
    scored = {"process_norm": "scored_lines", "neutral_comments": True}
    assert total_of(*padded, **scored) == pytest.approx(total_of(*bare, **scored))
    paper = {"process_norm": "lines"}
    assert abs(total_of(*padded, **paper)) < abs(
        total_of(*bare, **paper)
    )  # so comments pay on a program of bad lines


def test_neutral_comments_have_no_score_whatever_the_prm_gives_them():
    flags = {"process_norm": "scored_lines", "neutral_comments": True}
    assert total_of([0.2, 1.0, 0.4, -1.0], [1, 0, 1, 0], **flags) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"value_init": "prm"}, "needs --prm"),
        ({"outcome_reward": "none"}, "no other reward"),
        ({"outcome_reward": "orm"}, "go together"),
        ({"orm": "x"}, "go together"),
        ({"process_norm": "scored_lines"}, "needs --neutral_comments"),
        ({"num_prompts": 5}, "multiple of --num_mini_batches"),
    ],
)
def test_flags_that_do_not_fit_together_are_refused(flags, message):
    with pytest.raises(common.InputError, match=message):
        ppo.check_flags(config_of(**flags))


def test_flags_that_fit_together_are_not():
    ppo.check_flags(config_of())
    ppo.check_flags(config_of(outcome_reward="none", prm="a", value_init="prm"))


def history_of(scores, rates):
    rows = zip(scores, rates, strict=True)
    return [{"rewards/prm/mean": score, "rewards/tests/mean": rate} for score, rate in rows]


def test_the_warning_needs_a_higher_score_and_a_lower_pass_rate_over_ten_updates():
    up, down = [i / 10 for i in range(10)], [1 - i / 10 for i in range(10)]

    def warns(scores, rates):
        return common.is_over_optimised(history_of(scores, rates))

    assert warns(up, down)
    assert warns([5.0, *up], [0.0, *down])  # of more updates, the last ten count
    assert not warns(up, up) and not warns(down, down)
    assert not warns(down, up) and not warns([0.0] * 10, down)
    assert not warns(up[:9], down[:9])


@pytest.fixture(scope="module")
def tokenizer():
    return common.new_tokenizer(["x = 1\n", "if x:\n    y = 2\n"], 320)


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    """A policy and a PRM whose head is not zero."""
    folder = tmp_path_factory.mktemp("models")
    for name, num_labels in (("policy", None), ("prm", 1)):
        model = common.new_model(
            tokenizer, 32, 1, 0, **({"num_labels": num_labels} if num_labels else {})
        )
        if num_labels:
            torch.nn.init.normal_(model.score.weight)
            torch.nn.init.constant_(model.score.bias, 0.3)
        model.save_pretrained(folder / name)
    return folder


def critic_of(folder, **flags):
    config = ppo.Config("", str(folder / "policy"), "", prm=str(folder / "prm"), **flags)
    return common.load_critic(config, None)


def test_the_critic_starts_as_asked(folder):
    ids = torch.arange(20)[None]
    scores = common.load_scorer(folder / "prm")(input_ids=ids).logits
    assert torch.equal(critic_of(folder, value_init="prm")(input_ids=ids).logits, scores)
    assert (critic_of(folder, value_init="policy")(input_ids=ids).logits == 0).all()
    random_head = critic_of(folder, value_init="none")
    weight = random_head.score.weight
    assert 0.01 < weight.std().item() < 0.04
    assert torch.equal(weight, critic_of(folder, value_init="none").score.weight)
    assert not torch.equal(weight, critic_of(folder, value_init="none", seed=1).score.weight)
    policy = common.load_policy(folder / "policy")
    assert torch.equal(random_head.model.embed_tokens.weight, policy.model.embed_tokens.weight)


def test_a_fitted_critic_is_the_least_squares_line_through_the_returns_of_valid_tokens(folder):
    generator = torch.Generator().manual_seed(0)
    values, noise = torch.rand(6, 9, generator=generator), torch.randn(6, 9, generator=generator)
    mask = torch.rand(6, 9, generator=generator) < 0.7
    returns = torch.where(mask, 0.2 * values - 0.1 + 0.01 * noise, 99.0)
    scale, shift = common.fit_returns(values, returns, mask)
    design = torch.stack([values[mask], torch.ones(int(mask.sum()))], 1).double()
    expected = torch.linalg.lstsq(design, returns[mask].double()[:, None]).solution.flatten()
    found = torch.tensor([scale, shift]).double()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    zero, mean = common.fit_returns(-values, returns, mask)  # they rank the wrong way round
    assert zero == 0 and mean == pytest.approx(float(returns[mask].mean()))
    critic, ids = critic_of(folder, value_init="prm"), torch.arange(20)[None]
    before = critic(input_ids=ids).logits
    new_values = common.fit_critic(critic, values, returns, mask)
    torch.testing.assert_close(new_values, scale * values + shift)
    torch.testing.assert_close(critic(input_ids=ids).logits, scale * before + shift)


def test_a_fit_that_leaves_nothing_of_the_prm_s_head_is_said(folder, capsys):
    values, returns = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[0.0, 0.5, 1.0]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    common.fit_critic(critic_of(folder, value_init="prm"), -values, returns, mask)
    assert capsys.readouterr().out == "--value_init prm: value = 0.5 * score + 0.5\n"
    critic = critic_of(folder, value_init="prm")
    new_values = common.fit_critic(critic, values, returns, mask)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "--value_init prm: value = 0 * score + 0.5" and len(said) == 2
    assert said[1].startswith("warning: ") and said[1].endswith("the head starts at 0")
    assert not critic.score.weight.any() and (new_values == 0.5).all()


def test_a_reward_model_with_another_scale_is_no_critic(folder, tmp_path):
    model = common.load_scorer(folder / "prm")
    model.config.score_activation = "sigmoid_signed"
    model.save_pretrained(tmp_path)
    config = ppo.Config("", str(folder / "policy"), "", prm=str(tmp_path), value_init="prm")
    with pytest.raises(common.InputError, match="score_activation"):
        common.load_critic(config, None)


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
        loss, log_ratio, clipped = ppo.policy_loss(new, old, advantage, mask, 0.2, 0.2)
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
    assert torch.autograd.gradcheck(
        lambda x: ppo.policy_loss(x, old, advantage, mask, 0.2, 0.2)[0], new
    )
    loss, _, clipped = ppo.policy_loss(new, old, advantage, mask, 0.2, 0.2)
    loss.backward()
    assert (new.grad[clipped | ~mask] == 0).all() and (new.grad[mask & ~clipped] != 0).all()


def test_an_all_masked_micro_batch_gives_a_differentiable_zero():
    new = torch.randn(2, 3, requires_grad=True)
    mask = torch.zeros(2, 3, dtype=torch.bool)
    infinite = torch.full((2, 3), math.inf)
    loss, _, _ = ppo.policy_loss(new, -infinite, torch.zeros(2, 3), mask, 0.2, 0.2)
    loss = loss + ppo.value_loss(new, torch.zeros(2, 3), torch.zeros(2, 3), mask, 0.2)
    loss.backward()
    assert loss.item() == 0 and (new.grad == 0).all()


def test_value_loss_takes_the_worse_of_clipped_and_unclipped():
    values, old, returns = (
        torch.tensor([[1.0, 0.1]]),
        torch.tensor([[0.0, 0.0]]),
        torch.tensor([[1.0, 1.0]]),
    )
    mask = torch.ones(1, 2, dtype=torch.bool)
    # Token 0 has moved to its target, but clipped it is at 0.2; token 1 is within the range.
    assert float(ppo.value_loss(values, old, returns, mask, 0.2)) == pytest.approx(
        0.5 * (0.8**2 + 0.9**2)
    )


def test_a_value_moves_without_limit_where_the_clip_range_is_zero():
    values = torch.tensor([[1.0, 0.1, -2.0]], requires_grad=True)
    old, returns = torch.zeros(1, 3), torch.tensor([[2.0, 1.0, 1.0]])
    loss = ppo.value_loss(values, old, returns, torch.ones(1, 3, dtype=torch.bool), 0.0)
    loss.backward()
    assert float(loss) == pytest.approx(0.5 * (1.0 + 0.9**2 + 9.0))
    assert values.grad.flatten().tolist() == pytest.approx([-1.0, -0.9, -3.0])


def test_the_critic_s_explained_variance_is_of_returns_without_its_own_values(stages, monkeypatch):
    seen = []

    def spy(values, returns, mask):
        seen.append((returns, mask))
        return torch.tensor(0.0)

    monkeypatch.setattr(ppo, "explained_variance", spy)
    flags = {"prm": None, "value_init": "none", "kl_coef": 0.0, "lam": 0.5, "max_steps": 1}
    stage, config = stages.ppo("monte-carlo", **flags)
    stage.main(config)
    ((returns, mask),) = seen
    rows = common.read_jsonl(f"{config.output_dir}/completions.jsonl", {})
    for row, own, valid in zip(rows, returns, mask, strict=True):  # the reward of the tests alone
        torch.testing.assert_close(own[valid], torch.full((int(valid.sum()),), row["reward"]))


def test_a_critic_that_sees_nothing_explains_no_variance_of_monte_carlo_returns():
    """What lambda-returns made of values of the place alone: most is "explained"."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(64, 300, dtype=torch.bool)
    rewards = torch.zeros(64, 300)
    rewards[:, -1] = (torch.rand(64, generator=generator) < 0.3).float()
    blind = torch.linspace(0, 0.3, 300).expand(64, -1)  # of the place alone
    _, monte_carlo = ppo.gae(rewards, 0 * blind, mask, 1.0, lam=1.0)
    _, mixed = ppo.gae(rewards, blind, mask, 1.0, lam=0.95)
    assert ppo.explained_variance(blind, mixed, mask) > 0.5
    assert ppo.explained_variance(blind, monte_carlo, mask) < 0.01
