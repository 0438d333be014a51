"""Advantages against float64 loops that follow the definitions, and formulas of TRL and verl."""

import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from kernels.advantages import explained_variance, gae, group_advantages, whiten


def random_mask(rows: int, width: int, holes: bool, generator: torch.Generator) -> torch.Tensor:
    """Ragged rows (B, T): a prompt that is off, a completion that is on, padding that is off.

    With holes, tokens in the middle of the completion are off.
    """
    start = torch.randint(0, width + 1, (rows, 1), generator=generator)
    end = torch.randint(0, width + 1, (rows, 1), generator=generator)
    position = torch.arange(width)
    mask = (position >= start) & (position < end)
    if holes:
        mask &= torch.rand(rows, width, generator=generator) < 0.7
    return mask


def loop_gae(rewards, values, mask, gamma, lam):
    advantages = torch.zeros_like(rewards, dtype=torch.float64)
    for b in range(rewards.shape[0]):
        next_value, next_advantage = 0.0, 0.0
        for t in reversed(range(rewards.shape[1])):
            if mask[b, t]:
                delta = rewards[b, t].double() + gamma * next_value - values[b, t].double()
                decay = gamma * (lam[b, t].double() if isinstance(lam, torch.Tensor) else lam)
                advantages[b, t] = next_advantage = delta + decay * next_advantage
                next_value = values[b, t].double()
    return advantages, torch.where(mask, advantages + values, 0)


SHAPES = [(1, 1), (3, 2), (4, 7), (2, 64), (5, 65), (3, 200), (0, 5), (2, 0)]


GAMMA_LAM = [(1.0, 0.95), (1.0, 1.0), (0.9, 0.5), (0.0, 1.0), (1.0, 0.0)]


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize(("gamma", "lam"), GAMMA_LAM)
def test_gae_and_returns_are_those_of_the_reverse_loop_over_valid_tokens(gamma, lam, holes):
    generator = torch.Generator().manual_seed(0)
    for rows, width in SHAPES:
        rewards, values = torch.randn(2, rows, width, generator=generator)
        mask = random_mask(rows, width, holes, generator)
        expected_advantages, expected_returns = loop_gae(rewards, values, mask, gamma, lam)
        junk = torch.where(mask, 0, torch.nan)  # what is masked must not be read
        advantages, returns = gae(rewards + junk, values + junk, mask, gamma, lam)
        torch.testing.assert_close(advantages.double(), expected_advantages, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(returns.double(), expected_returns, rtol=1e-4, atol=1e-4)
        exact, _ = gae(rewards.double(), values.double(), mask, gamma, lam)
        torch.testing.assert_close(exact, expected_advantages, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("gamma", [1.0, 0.9, 0.0])
def test_gae_with_a_lambda_per_token_is_the_reverse_loop_with_it(gamma, holes):
    generator = torch.Generator().manual_seed(0)
    for rows, width in SHAPES:
        rewards, values = torch.randn(2, rows, width, generator=generator)
        which = torch.randint(0, 4, (rows, width), generator=generator)
        lam = torch.tensor([1.0, 0.8, 0.0, 0.5])[which]
        mask = random_mask(rows, width, holes, generator)
        expected_advantages, expected_returns = loop_gae(rewards, values, mask, gamma, lam)
        junk = torch.where(mask, 0, torch.nan)  # what is masked must not be read
        advantages, returns = gae(rewards + junk, values + junk, mask, gamma, lam + junk)
        torch.testing.assert_close(advantages.double(), expected_advantages, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(returns.double(), expected_returns, rtol=1e-4, atol=1e-4)
        rewards, values = rewards.double(), values.double()
        exact, _ = gae(rewards, values, mask, gamma, lam.double())
        torch.testing.assert_close(exact, expected_advantages, rtol=1e-12, atol=1e-12)
        one, _ = gae(rewards, values, mask, gamma, 0.5)
        same, _ = gae(rewards, values, mask, gamma, torch.full_like(rewards, 0.5))
        torch.testing.assert_close(same, one)


def test_gae_leaves_its_inputs_alone():
    rewards, values = torch.ones(2, 5), torch.ones(2, 5)
    mask = torch.tensor([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1]]).bool()
    gae(rewards, values, mask, 0.9, 0.9)
    assert (rewards == 1).all() and (values == 1).all() and mask.sum() == 7


def trl_gae(rewards, values, gamma, lam):
    """TRL, ppo_trainer.py, `train`: the loop over columns."""
    last, reversed_advantages = 0, []
    for t in reversed(range(rewards.shape[1])):
        next_values = values[:, t + 1] if t < rewards.shape[1] - 1 else 0.0
        delta = rewards[:, t] + gamma * next_values - values[:, t]
        last = delta + gamma * lam * last
        reversed_advantages.append(last)
    advantages = torch.stack(reversed_advantages[::-1], dim=1)
    return advantages, advantages + values


def verl_gae(rewards, values, mask, gamma, lam):
    """verl, core_algos.py, `compute_gae_advantage_return`, without its whitening."""
    next_values, last, reversed_advantages = 0, 0, []
    mask = mask.to(rewards.dtype)
    for t in reversed(range(rewards.shape[-1])):
        delta = rewards[:, t] + gamma * next_values - values[:, t]
        step = delta + gamma * lam * last
        next_values = values[:, t] * mask[:, t] + (1 - mask[:, t]) * next_values
        last = step * mask[:, t] + (1 - mask[:, t]) * last
        reversed_advantages.append(last)
    advantages = torch.stack(reversed_advantages[::-1], dim=1)
    return advantages, advantages + values


def test_gae_equals_trl_on_full_rows_and_verl_on_rows_with_holes():
    generator = torch.Generator().manual_seed(1)
    rewards, values = torch.randn(2, 6, 33, generator=generator, dtype=torch.float64)
    full = torch.ones(6, 33, dtype=torch.bool)
    ours, theirs = gae(rewards, values, full, 0.99, 0.95), trl_gae(rewards, values, 0.99, 0.95)
    torch.testing.assert_close(ours, theirs)
    mask = random_mask(6, 33, True, generator)
    ours = gae(rewards, values, mask, 0.99, 0.95)
    theirs = verl_gae(rewards, values, mask, 0.99, 0.95)
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x[mask], y[mask])


def naive_group(rewards, groups, scale, eps=1e-4):
    out = torch.zeros_like(rewards, dtype=torch.float64)
    for g in groups.unique():
        members = [i for i in range(len(rewards)) if groups[i] == g and not rewards[i].isnan()]
        r = rewards[members].double()
        if len(r) < 2 or r.max() == r.min():
            continue
        for i, x in zip(members, r, strict=True):
            if scale == "std":
                out[i] = (x - r.mean()) / (r.std() + eps)
            elif scale == "none":
                out[i] = x - r.mean()
            else:
                out[i] = x - (r.sum() - x) / (len(r) - 1)
    return out


@pytest.mark.parametrize("scale", ["std", "none", "leave_one_out"])
def test_group_advantages_follow_their_definition_for_groups_in_any_order(scale):
    generator = torch.Generator().manual_seed(2)
    for n in (0, 1, 2, 17, 64):
        rewards = torch.randint(0, 3, (n,), generator=generator).float()
        rewards[torch.rand(n, generator=generator) < 0.2] = torch.nan
        groups = torch.randint(-3, max(1, n // 4), (n,), generator=generator) * 1_000_003
        got = group_advantages(rewards, groups, scale)
        assert got.dtype == rewards.dtype
        expected = naive_group(rewards, groups, scale)
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-6)


def test_group_advantages_equal_trl_and_verl():
    generator = torch.Generator().manual_seed(3)
    rewards = torch.rand(6, 8, generator=generator)
    groups = torch.arange(6).repeat_interleave(8)
    mean, std = rewards.mean(1, keepdim=True), rewards.std(1, keepdim=True)
    trl = (rewards - mean) / (std + 1e-4)  # grpo_trainer.py, scale_rewards="group"
    verl = (rewards - mean) / (std + 1e-6)  # core_algos.py, compute_grpo_outcome_advantage
    # core_algos.py, compute_rloo_outcome_advantage; TRL, rloo_trainer.py
    rloo = rewards * 8 / 7 - mean * 8 / 7
    flat = rewards.flatten()
    torch.testing.assert_close(group_advantages(flat, groups), trl.flatten())
    torch.testing.assert_close(group_advantages(flat, groups, eps=1e-6), verl.flatten())
    torch.testing.assert_close(group_advantages(flat, groups, "none"), (rewards - mean).flatten())
    torch.testing.assert_close(group_advantages(flat, groups, "leave_one_out"), rloo.flatten())


@pytest.mark.parametrize("scale", ["std", "none", "leave_one_out"])
def test_a_group_without_a_difference_gets_exactly_zero(scale):
    nan = float("nan")
    rewards = torch.tensor([0.1] * 7 + [0.3, nan, nan, nan, 0.7, 0.7, nan])
    groups = torch.tensor([0] * 7 + [1, 1, 2, 2, 3, 3, 3])
    assert group_advantages(rewards, groups, scale).tolist() == [0.0] * 14
    for n in range(2, 50):  # the mean of n equal numbers can differ from them in the last bit
        rewards = torch.full((n,), 0.1, dtype=torch.float64)
        assert (group_advantages(rewards, torch.zeros(n, dtype=torch.long), scale) == 0).all()


def test_tiny_differences_do_not_become_large_advantages():
    rewards = torch.tensor([0.1, 0.1, 0.1, 0.1 + 1e-7])
    assert group_advantages(rewards, torch.zeros(4, dtype=torch.long)).abs().max() < 1e-2


def test_an_unknown_scale_is_refused():
    with pytest.raises(ValueError, match="leave_one_out"):
        group_advantages(torch.ones(2), torch.zeros(2, dtype=torch.long), "variance")


def test_whiten_has_unit_variance_and_moves_the_mean_only_if_asked():
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(5, 9, generator=generator) * 3 + 100
    mask = random_mask(5, 9, True, generator)
    valid = x[mask].double()
    shifted = whiten(x, mask)
    # TRL, core, `masked_whiten`, and verl, torch_functional.py: Bessel's correction, 1e-8 under
    # the root
    trl = (valid - valid.mean()) * torch.rsqrt(valid.var() + 1e-8)
    torch.testing.assert_close(shifted[mask].double(), trl, rtol=1e-5, atol=1e-5)
    assert (shifted[~mask] == 0).all()
    scaled = whiten(x, mask, shift_mean=False)
    torch.testing.assert_close(scaled[mask].double(), valid / valid.std(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shift_mean", [True, False])
@pytest.mark.parametrize("values", [[], [0.1], [0.1, 0.1, 0.1], [0.0, 0.0]])
def test_whiten_does_not_blow_up_what_does_not_vary(values, shift_mean):
    x = torch.tensor([[*values, 7.0]])
    mask = torch.tensor([[True] * len(values) + [False]])
    expected = [[0.0 if shift_mean else v for v in values] + [0.0]]
    torch.testing.assert_close(whiten(x, mask, shift_mean), torch.tensor(expected))


def test_explained_variance_is_one_for_perfect_values_and_zero_for_constant_ones():
    generator = torch.Generator().manual_seed(5)
    returns = torch.randn(4, 6, generator=generator)
    mask = random_mask(4, 6, False, generator)
    mask[0] = True
    assert explained_variance(returns, returns, mask) == 1
    constant = explained_variance(torch.ones(4, 6), returns, mask)
    torch.testing.assert_close(constant, torch.tensor(0.0))
    values = torch.randn(4, 6, generator=generator)
    expected = 1 - (returns - values)[mask].var() / returns[mask].var()
    torch.testing.assert_close(explained_variance(values, returns, mask), expected)
    assert explained_variance(values, torch.full((4, 6), 0.1), mask).isnan()
    assert explained_variance(values, returns, torch.zeros(4, 6, dtype=torch.bool)).isnan()


def parts_of_a_batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(4, 6, generator=generator) + torch.tensor([[0.0], [0.0], [50.0], [50.0]])
    mask = random_mask(4, 6, True, generator)
    mask[1] = True
    return x, mask


def on_one_of_two_ranks(rank: int, port: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    x, mask = (part[rank * 2 : rank * 2 + 2] for part in parts_of_a_batch())
    result = whiten(x, mask), whiten(x, mask, False), explained_variance(x * 0.9, x, mask)
    torch.save(result, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_statistics_are_those_of_all_ranks(tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.spawn(on_one_of_two_ranks, (port, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    x, mask = parts_of_a_batch()
    torch.testing.assert_close(torch.cat([first[0], second[0]]), whiten(x, mask))
    torch.testing.assert_close(torch.cat([first[1], second[1]]), whiten(x, mask, False))
    expected = explained_variance(x * 0.9, x, mask)
    torch.testing.assert_close(first[2], expected)
    torch.testing.assert_close(second[2], expected)
