"""The draw of a token against a CDF in float64, over small and large vocabularies."""

import math

import pytest
import torch

from kernels.draws import WHOLE, draw

LARGE = [8193, 10_000, 49_152]  # of more entries than one CDF holds; not all a multiple of a block


def logits_of(vocabulary: int) -> dict[str, torch.Tensor]:
    """Logits (V,) of several forms."""
    generator = torch.Generator().manual_seed(vocabulary)
    normal = torch.randn(vocabulary, generator=generator)
    one = torch.full((vocabulary,), -torch.inf)
    one[vocabulary - 1] = 3.0
    two = torch.full((vocabulary,), -100.0)
    two[0] = two[vocabulary // 2] = 0.0
    return {
        "normal": normal,
        "peaked": normal * 20,
        "flat": torch.zeros(vocabulary),
        "ascending": torch.linspace(-60, 60, vocabulary),
        "descending": torch.linspace(60, -60, vocabulary),
        "most are impossible": torch.where(normal > 2, normal, -torch.inf),
        "ties of bfloat16": (normal * 4).bfloat16().float(),
        "one": one,
        "two far apart": two,
    }


def uniforms_of(count: int) -> torch.Tensor:
    """Numbers (count + 4,) in [0, 1), the smallest and the largest among them."""
    generator = torch.Generator().manual_seed(1)
    uniform = torch.rand(count, generator=generator, dtype=torch.float64)
    ends = torch.tensor([0.0, 2**-53, 0.5, 1 - 2**-53], dtype=torch.float64)
    return torch.cat([uniform, ends])


@pytest.mark.parametrize("vocabulary", LARGE)
def test_a_draw_over_blocks_is_that_of_one_cdf(vocabulary):
    uniform = uniforms_of(300)
    for form, logits in logits_of(vocabulary).items():
        rows = logits.expand(len(uniform), -1)
        token, logprob = draw(rows, 1.0, uniform)
        p = logits.log_softmax(-1).double().exp()
        cdf = p.cumsum(-1) / p.sum()
        assert (p[token] > 0).all(), form
        below = torch.where(token > 0, cdf[token - 1], 0)
        # Off by float32's rounding of a probability at most, as a share of all.
        share = 1 - uniform
        assert (below - 5e-7 <= share).all() and (share <= cdf[token] + 5e-7).all(), form
        exact = torch.searchsorted(cdf, share).clamp(max=vocabulary - 1)
        assert (token == exact).double().mean() > 0.95, form
        torch.testing.assert_close(logprob, logits.log_softmax(-1)[token], msg=form)


def test_frequencies_over_blocks_are_the_probabilities():
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(10_000, generator=generator) * 5
    n = 20_000
    uniform = torch.rand(n, generator=generator, dtype=torch.float64)
    token = torch.cat([draw(logits.expand(500, -1), 0.9, u)[0] for u in uniform.split(500)])
    p = (logits.double() / 0.9).softmax(-1)
    likely = n * p > 10
    counts = torch.bincount(token, minlength=10_000)
    z = (counts - n * p) / (n * p * (1 - p)).sqrt()
    assert likely.sum() > 20 and z[likely].abs().max() < 5
    rest, others = n * p[~likely].sum(), counts[~likely].sum()
    assert (others - rest).abs() < 5 * rest.sqrt()


def test_a_small_vocabulary_has_one_cdf_in_float64():
    generator = torch.Generator().manual_seed(3)
    for vocabulary in (768, WHOLE):
        logits = torch.randn(304, vocabulary, generator=generator) * 3
        uniform = uniforms_of(300)
        cdf = logits.log_softmax(-1).double().exp().cumsum(-1)
        expected = torch.searchsorted(cdf, (1 - uniform[:, None]) * cdf[:, -1:]).squeeze(1)
        assert torch.equal(draw(logits, 1.0, uniform)[0], expected)


@pytest.mark.parametrize("vocabulary", [100, 10_000])
def test_logits_that_are_nan_give_an_id_in_range_and_no_log_prob(vocabulary):
    logits = torch.full((3, vocabulary), torch.nan)
    token, logprob = draw(logits, 1.0, uniforms_of(0)[:3])
    assert ((token >= 0) & (token < vocabulary)).all() and logprob.isnan().all()


@pytest.mark.parametrize("vocabulary", [50, 10_000])
@pytest.mark.parametrize("top_p", [0.3, 0.9])
def test_a_nucleus_is_the_fewest_likeliest_tokens(vocabulary, top_p):
    generator = torch.Generator().manual_seed(4)
    logits = (torch.randn(vocabulary, generator=generator) * 3).bfloat16().float()  # with ties
    logp = logits.log_softmax(-1)
    kept, mass = [], 0.0
    for index in sorted(range(vocabulary), key=lambda i: -logp[i].item()):
        if mass >= top_p:
            break
        kept.append(index)
        mass += math.exp(logp[index].item())
    uniform = uniforms_of(300)
    token, logprob = draw(logits.expand(len(uniform), -1), 1.0, uniform, top_p)
    assert set(token.tolist()) <= set(kept)
    expected = logp[token] - math.log(mass)
    torch.testing.assert_close(logprob, expected, rtol=0, atol=1e-5)
