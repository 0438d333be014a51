"""Advantages: GAE by a doubling scan, group-relative advantages, whitening over all ranks."""

import torch
import torch.distributed as dist
from torch import Tensor


def _reverse_scan(x: Tensor, c: float) -> Tensor:
    """A_t = x_t + c A_(t+1) along each row: x (B, T) -> (B, T), in log2(T) rounds. Overwrites x.

    Doubling (Hillis and Steele, 1986): after rounds of 1, 2, 4, ... up to s / 2, column t holds
    x_t + c x_(t+1) + ... + c^(s-1) x_(t+s-1); the round of s adds c^s times column t + s.
    """
    y, s = torch.empty_like(x), 1
    while s < x.shape[1] and c != 0:
        torch.add(x[:, :-s], x[:, s:], alpha=c, out=y[:, :-s])
        y[:, -s:] = x[:, -s:]
        x, y, c, s = y, x, c * c, s * 2
    return x


def _reverse_scan_each(x: Tensor, c: Tensor) -> Tensor:
    """A_t = x_t + c_t A_(t+1) along each row: x, c (B, T) -> (B, T), by the same doubling.

    Before the round of s, column t of c holds the product c_t c_(t+1) ... c_(t+s-1).
    """
    s = 1
    while s < x.shape[1]:
        x = torch.cat([x[:, :-s] + c[:, :-s] * x[:, s:], x[:, -s:]], 1)
        c = torch.cat([c[:, :-s] * c[:, s:], c[:, -s:]], 1)
        s *= 2
    return x


def _closing_order(mask: Tensor) -> Tensor | None:
    """Columns (B, T) that bring the valid tokens of each row together, or None without holes."""
    starts = mask[:, 1:] & ~mask[:, :-1]
    if not (starts.sum(1) + mask[:, :1].sum(1) > 1).any():
        return None
    return (~mask).int().argsort(dim=1, stable=True)


def _close(x: Tensor, order: Tensor | None) -> Tensor:
    return x if order is None else x.gather(1, order)


def _reopen(x: Tensor, order: Tensor | None) -> Tensor:
    return x if order is None else torch.empty_like(x).scatter_(1, order, x)


@torch.no_grad()
def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al., 2016, eq. 16).

    With the n valid tokens of a row as t = 0, ..., n - 1, and V_n = A_n = 0:

        delta_t = r_t + gamma V_(t+1) - V_t
        A_t = delta_t + gamma lam_t A_(t+1)
        returns_t = A_t + V_t

    rewards r and values V (B, T); mask (B, T) bool, on for valid tokens, with or without holes;
    lam is one number for all tokens, or lam_t (B, T). Returns advantages A (B, T) and returns
    (B, T), 0 where the mask is off. What stands at masked positions, NaN too, plays no part.
    """
    order = _closing_order(mask)
    valid = _close(mask, order)
    r = torch.where(valid, _close(rewards, order), 0)
    v = torch.where(valid, _close(values, order), 0)
    # v is 0 after the last valid token. Before the first valid token delta need not be 0: the scan
    # runs to the left, so this delta reaches no valid token.
    delta = r - v
    delta[:, :-1].add_(v[:, 1:], alpha=gamma)
    if isinstance(lam, Tensor):
        decay = torch.where(valid, gamma * _close(lam, order), 0)
        advantages = _reverse_scan_each(delta, decay)
    else:
        advantages = _reverse_scan(delta, gamma * lam)
    advantages = torch.where(mask, _reopen(advantages, order), 0)
    return advantages, torch.where(mask, advantages + values, 0)


@torch.no_grad()
def group_advantages(
    rewards: Tensor, groups: Tensor, scale: str = "std", eps: float = 1e-4
) -> Tensor:
    """Rewards r (N,) relative to their groups (N,) long, any ids in any order: (N,).

    "std": (r - mean) / (std + eps), std with Bessel's correction (GRPO, Shao et al., 2024).
    "none": r - mean (Dr. GRPO, Liu et al., 2025).
    "leave_one_out": r - mean of the group's other rewards (RLOO, Ahmadian et al., 2024).

    A sample whose reward is NaN gets 0 and does not count in its group. In a group of one, or of
    equal rewards, every sample gets exactly 0. ValueError for another scale.
    """
    if scale not in ("std", "none", "leave_one_out"):
        raise ValueError(f'scale must be "std", "none" or "leave_one_out", not {scale!r}')
    given = ~rewards.isnan()
    _, index = groups.unique(return_inverse=True)
    num = int(index.max()) + 1 if len(index) else 0
    # In float32 a rounding error over a std of nearly 0 can become an advantage of 4000.
    r = torch.where(given, rewards, 0).double()

    def total(x: Tensor) -> Tensor:
        """The sum over each sample's group: (N,) -> (N,)."""
        return x.new_zeros(num).index_add_(0, index, x)[index]

    n = total(given.double())
    centred = r - total(r) / n.clamp(min=1)
    if scale == "std":
        std = (total(centred.square().where(given, 0)) / (n - 1).clamp(min=1)).sqrt()
        centred = centred / (std + eps)
    elif scale == "leave_one_out":
        centred = centred * n / (n - 1).clamp(min=1)
    low, high = r.new_full((num,), torch.inf), r.new_full((num,), -torch.inf)
    low.scatter_reduce_(0, index[given], r[given], "amin")
    high.scatter_reduce_(0, index[given], r[given], "amax")
    return torch.where(given & (high > low)[index], centred, 0).to(rewards.dtype)


def _moments(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and variance (Bessel's correction) of the valid entries of all ranks, float64."""
    x = torch.where(mask, x, 0).double()
    n_sum = torch.stack([mask.sum().double(), x.sum()])
    if dist.is_initialized():
        dist.all_reduce(n_sum)
    n, mean = n_sum[0], n_sum[1] / n_sum[0].clamp(min=1)
    squares = torch.where(mask, x - mean, 0).square().sum()
    if dist.is_initialized():
        dist.all_reduce(squares)
    return n, mean, squares / (n - 1).clamp(min=1)


@torch.no_grad()
def whiten(x: Tensor, mask: Tensor, shift_mean: bool = True, eps: float = 1e-8) -> Tensor:
    """(x - mean) / sqrt(var + eps), over the valid entries of all ranks; 0 where the mask is off.

    x, mask (bool) and the result have one shape, any. With shift_mean=False: x / sqrt(var + eps).
    (TRL and verl return (x - mean) / sqrt(var + eps) + mean there, which is no scaling of x.)
    The divisor is 1 for a single entry and for entries that do not vary. Every rank must call
    this function.
    """
    _, mean, var = _moments(x, mask)
    inverse = torch.where(var > 1e-12 * mean.square(), (var + eps).rsqrt(), 1.0)
    return torch.where(mask, (x - mean if shift_mean else x) * inverse, 0).to(x.dtype)


@torch.no_grad()
def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns), over the valid entries of all ranks: a scalar.

    values, returns, mask (bool) of one shape, any. NaN if all returns are equal. Every rank must
    call this function.
    """
    _, mean, total = _moments(returns, mask)
    _, _, residual = _moments(returns - values, mask)
    return torch.where(total > 1e-12 * mean.square(), 1 - residual / total, torch.nan).float()
