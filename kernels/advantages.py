"""Advantages: GAE and discounted returns by a doubling scan, group-relative advantages, whitening over all ranks."""

import torch
import torch.distributed as dist
from torch import Tensor


def _reverse_scan(x: Tensor, c: float) -> Tensor:
    """A[:, t] = x[:, t] + c * A[:, t + 1] for x (B, T), in log2(T) shifted additions (Hillis and Steele, 1986).

    After a round each position holds the sum of the s terms from it on; the next round adds the s after those. Writes
    over x.
    """
    y, step = torch.empty_like(x), 1
    while step < x.shape[1] and c != 0:
        torch.add(x[:, :-step], x[:, step:], alpha=c, out=y[:, :-step])
        y[:, -step:] = x[:, -step:]
        x, y, c, step = y, x, c * c, step * 2
    return x


def _reverse_scan_each(x: Tensor, c: Tensor) -> Tensor:
    """A[:, t] = x[:, t] + c[:, t] * A[:, t + 1] for x, c (B, T), by the same doubling; c becomes the products of s."""
    step = 1
    while step < x.shape[1]:
        x = torch.cat([x[:, :-step] + c[:, :-step] * x[:, step:], x[:, -step:]], 1)
        c = torch.cat([c[:, :-step] * c[:, step:], c[:, -step:]], 1)
        step *= 2
    return x


def _without_holes(mask: Tensor, *tensors: Tensor) -> tuple[Tensor | None, Tensor, list[Tensor]]:
    """Move the valid tokens of each row together if a row has masked positions between them.

    Returns (order, mask, tensors): order (B, T) is None when nothing had to move, else what undoes it by scatter.
    """
    starts = mask[:, 1:] & ~mask[:, :-1]
    if not (starts.sum(1) + mask[:, :1].sum(1) > 1).any():
        return None, mask, list(tensors)
    order = (~mask).int().argsort(dim=1, stable=True)
    return order, mask.gather(1, order), [x.gather(1, order) for x in tensors]


def _back(x: Tensor, order: Tensor | None) -> Tensor:
    return x if order is None else torch.empty_like(x).scatter_(1, order, x)


@torch.no_grad()
def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al., 2016, eq. 16) over the valid tokens of each row.

    rewards, values (B, T), mask (B, T) bool -> advantages, returns (B, T), 0 where the mask is off. Masked positions
    are skipped wherever they are: the valid tokens are one sequence, and the value after the last of them is 0.
    lam (B, T) gives each token its own: the advantage of the next valid token enters that of token t times gamma lam_t.
    """
    each = [lam] if isinstance(lam, Tensor) else []
    order, valid, (r, v, *each) = _without_holes(mask, rewards, values, *each)
    r, v = torch.where(valid, r, 0), torch.where(valid, v, 0)
    delta = r - v
    delta[:, :-1].add_(
        v[:, 1:], alpha=gamma
    )  # 0 after the last valid token; what is before the first stays there
    decay = torch.where(valid, gamma * each[0], 0) if each else gamma * lam
    scanned = _reverse_scan_each(delta, decay) if each else _reverse_scan(delta, decay)
    advantages = torch.where(mask, _back(scanned, order), 0)
    return advantages, torch.where(mask, advantages + values, 0)


@torch.no_grad()
def discounted_returns(rewards: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """Discounted rewards from each valid token on: rewards (B, T), mask (B, T) bool -> (B, T), 0 where masked."""
    order, valid, (r,) = _without_holes(mask, rewards)
    return torch.where(mask, _back(_reverse_scan(torch.where(valid, r, 0), gamma), order), 0)


@torch.no_grad()
def group_advantages(
    rewards: Tensor, groups: Tensor, scale: str = "std", eps: float = 1e-4
) -> Tensor:
    """Rewards relative to their group. rewards (N,), groups (N,) long, any ids in any order -> (N,).

    scale "std": (r - mean) / (std + eps), std with Bessel's correction (GRPO, Shao et al., 2024); "none": r - mean
    (Dr. GRPO, Liu et al., 2025); "leave_one_out": r - mean of the others (RLOO, Ahmadian et al., 2024).
    A NaN reward is no reward: that sample gets 0 and does not count in its group. A group of one, or of equal rewards,
    gets exactly 0. ValueError for another scale.
    """
    if scale not in ("std", "none", "leave_one_out"):
        raise ValueError(f'scale must be "std", "none" or "leave_one_out", not {scale!r}')
    given = ~rewards.isnan()
    _, index = groups.unique(return_inverse=True)
    r = torch.where(
        given, rewards, 0
    ).double()  # fp32 residue over a std of nearly 0 has become an advantage of 4000
    num = int(index.max()) + 1 if len(index) else 0

    def total(x: Tensor) -> Tensor:
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
    """Count, mean and variance (Bessel's correction) of the valid entries over all ranks, float64 scalars."""
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
    """Scale the valid entries of x (any shape), mask bool, to unit variance over all ranks; 0 where masked.

    With shift_mean the mean goes to 0; without, x is only scaled (TRL and verl add the mean back to the scaled
    deviation, which is not a scaling). Entries that do not vary, or a single one, are not scaled. Every rank must
    call it.
    """
    _, mean, var = _moments(x, mask)
    inverse = torch.where(var > 1e-12 * mean.square(), (var + eps).rsqrt(), 1.0)
    return torch.where(mask, (x - mean if shift_mean else x) * inverse, 0).to(x.dtype)


@torch.no_grad()
def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns) over the valid entries of all ranks: a scalar, NaN for equal returns."""
    _, mean, total = _moments(returns, mask)
    _, _, residual = _moments(returns - values, mask)
    return torch.where(total > 1e-12 * mean.square(), 1 - residual / total, torch.nan).float()
