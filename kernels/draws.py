"""Drawing a token from logits by the inverse of the CDF: one uniform number, one token.

V vocabulary entries. A draw is a function of the logits and of the uniform number alone.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# A CDF over more entries than WHOLE is a CDF over blocks, and one within the block that is drawn.
WHOLE, BLOCK = 8192, 64


def draw(
    logits: Tensor, temperature: float, uniform: Tensor, top_p: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Next tokens and their log-probs, each (...): logits (..., V), uniform (...) in [0, 1)."""
    logits = logits.float()
    if temperature not in (0, 1):
        logits = logits / temperature
    share = 1 - uniform[..., None]  # in (0, 1]
    if temperature and top_p == 1 and logits.shape[-1] > WHOLE:  # fewer passes over the vocabulary
        p = torch.softmax(logits, -1)
        token = _inverse_cdf_by_blocks(p, share)
        return token.squeeze(-1), p.gather(-1, token).log().squeeze(-1)
    logp = torch.log_softmax(logits, -1)
    if temperature == 0:
        token = logp.argmax(-1, keepdim=True)
    else:
        if top_p < 1:
            logp = _nucleus(logp, top_p)
        if logp.shape[-1] <= WHOLE:
            token = _inverse_cdf(logp.double().exp_(), share)
        else:
            token = _inverse_cdf_by_blocks(logp.exp(), share)
    return token.squeeze(-1), logp.gather(-1, token).squeeze(-1)


def _nucleus(logp: Tensor, top_p: float) -> Tensor:
    """Log-probs (..., V) of the fewest tokens whose probabilities sum to top_p or more; the other
    tokens have -inf."""
    ordered, order = logp.sort(dim=-1, descending=True, stable=True)
    share = ordered.double().exp_()
    before = share.cumsum(-1).sub_(share)  # of the likelier tokens
    outside = torch.zeros_like(before, dtype=torch.bool).scatter_(-1, order, before >= top_p)
    return torch.log_softmax(logp.masked_fill(outside, -torch.inf), -1)


def _inverse_cdf(p: Tensor, share: Tensor) -> Tensor:
    """The first entry at which the running sum reaches this share, in (0, 1], of the total.

    p (..., V) float64, is overwritten; share (..., 1) float64 -> (..., 1) long. The entry has p
    above 0. NaN gives an entry in range.
    """
    cdf = p.cumsum_(-1)
    return torch.searchsorted(cdf, share * cdf[..., -1:]).clamp_(max=p.shape[-1] - 1)


def _inverse_cdf_by_blocks(p: Tensor, share: Tensor) -> Tensor:
    """`_inverse_cdf` of p (..., V) float32: the block of entries first, then the entry.

    Sums within a block are float32, over blocks and in the block that is drawn float64: each
    entry's chance is right up to float32's rounding. A float64 CDF over a large vocabulary costs
    several times the memory traffic of the logits.
    """
    vocabulary = p.shape[-1]
    if vocabulary % BLOCK:
        p = F.pad(p, (0, -vocabulary % BLOCK))
    p = p.unflatten(-1, (-1, BLOCK))  # (..., V / BLOCK, BLOCK)
    mass = p.sum(-1).double()
    cdf = mass.cumsum(-1)
    target = share * cdf[..., -1:]
    block = torch.searchsorted(cdf, target).clamp_(max=mass.shape[-1] - 1)  # (..., 1)
    mass = mass.gather(-1, block)
    before = cdf.gather(-1, block) - mass
    share = ((target - before) / mass).clamp(2**-53, 1)  # of the block's own mass
    index = block[..., None].expand(*block.shape, BLOCK)
    entry = _inverse_cdf(p.gather(-2, index).squeeze(-2).double(), share)
    return (block * BLOCK + entry).clamp_(max=vocabulary - 1)
