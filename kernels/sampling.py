"""Sampling from a Hugging Face causal LM: one prefill per prompt, and one KV cache for several samples of a prompt.

A row of the decoding batch holds `slots` samples of one prompt side by side: each step feeds it one token per sample,
and an attention mask lets a sample see the prompt and its own tokens only. So the keys and values of the prompt are
kept and read once per row and not once per sample, which is what decoding on long prompts costs.
"""

import inspect
from functools import cache

import torch
from torch import Tensor

COMPACT = 0.8  # drop finished samples once this share of the batch, or less, is left: dropping copies the cache


@torch.no_grad()
def sample(
    model,
    prompts: list[list[int]],
    num_samples: int,
    max_new_tokens: int,
    temperature: float,
    eos_ids: list[int],
    seeds: list[int],
    pad_id: int = 0,
    stop: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sample `num_samples` completions of each prompt; the samples of a prompt are next to each other.

    prompts: P lists of token ids; a prompt may include the start of an answer, to be continued. seeds: one per sample,
    P * G of them; a sample's randomness comes from its own seed alone, so it does not depend on the batch around it.
    temperature 0 is greedy decoding. stop: a table of masking.stop_table; a completion also ends with the token that
    completes one of its strings.

    Returns, right-padded to the longest completion: ids (P * G, T) long, padded with pad_id; mask (P * G, T) bool, on
    up to and including the first of `eos_ids`; logprobs (P * G, T) fp32 of the sampled ids under the distribution
    that they were drawn from (greedy: temperature 1), 0 where the mask is off.

    The model must be in eval mode. Ranks leave the loop at different steps, so a model sharded by FSDP2 must be
    unsharded first. ValueError for an empty prompt, a wrong number of seeds, a negative temperature, a model without cache.
    """
    rows = len(prompts) * num_samples
    if len(seeds) != rows:
        raise ValueError(
            f"{len(prompts)} prompts x {num_samples} samples need {rows} seeds, not {len(seeds)}"
        )
    if not all(prompts):
        raise ValueError("a prompt has no tokens")
    if temperature < 0:
        raise ValueError(f"temperature must not be negative, not {temperature}")
    device = model.get_input_embeddings().weight.device
    if rows == 0:
        empty = torch.zeros((0, 0), device=device)
        return empty.long(), empty.bool(), empty
    eos = torch.tensor(eos_ids, dtype=torch.long, device=device)

    longest = max(map(len, prompts))
    prompt_ids = torch.tensor(
        [[pad_id] * (longest - len(p)) + p for p in prompts], device=device
    )  # (P, L)
    lengths = torch.tensor([len(p) for p in prompts], device=device)
    real = (
        torch.arange(longest, device=device) >= longest - lengths[:, None]
    )  # (P, L), False at the padding
    accepted = inspect.signature(model.forward).parameters
    # transformers has renamed it; a cache that a model's forward drops would leave each token alone with itself
    cache_name = next((name for name in ("cache", "past_key_values") if name in accepted), None)
    if cache_name is None:
        raise ValueError(f"{type(model).__name__} takes no KV cache")

    def forward(ids: Tensor, attention: Tensor, position: Tensor, **kwargs):
        kwargs = {"position_ids": position, **kwargs}
        kwargs = {name: x for name, x in kwargs.items() if name in accepted}
        return model(input_ids=ids, attention_mask=attention, use_cache=True, **kwargs)

    out = forward(prompt_ids, real.long(), (real.cumsum(1) - 1).clamp(min=0), logits_to_keep=1)
    kv = getattr(out, cache_name)
    full = [type(layer).__name__ == "DynamicLayer" for layer in kv.layers]
    # A mask of our own needs attention to all the past, by code that takes one, and positions that we can name.
    explicit = (
        all(full)
        and model.config._attn_implementation in ("sdpa", "eager")
        and "position_ids" in accepted
    )
    slots = _slots(longest, num_samples, max_new_tokens) if explicit else 1
    kv.batch_repeat_interleave(num_samples // slots)
    for layer, plain in zip(kv.layers, full, strict=True):
        if plain:
            _reserve(layer, slots * max_new_tokens)

    # The layout of the batch: R rows of S slots. `row` (R, S) is the result that a slot belongs to; a finished sample
    # writes to one result too many, which is cut off at the end.
    row = torch.arange(rows, device=device).view(-1, slots)
    logits = out.logits[:, -1].repeat_interleave(num_samples, 0).view(*row.shape, -1)  # (R, S, V)
    position = lengths.repeat_interleave(num_samples // slots)[:, None]  # (R, 1)
    real = real.repeat_interleave(num_samples // slots, 0)
    if explicit:
        dtype = kv.layers[0].keys.dtype
        unseen = torch.finfo(dtype).min
        size = (len(row), 1, slots, longest + slots * max_new_tokens)
        attention = torch.full(
            size, unseen, dtype=dtype, device=device
        )  # added to the scores; 0 where a slot sees a key
        attention[..., :longest].masked_fill_(real[:, None, None], 0)
    else:
        attention = torch.cat([real, real.new_ones(len(row), max_new_tokens)], 1).long()
    state = torch.zeros_like(row)
    uniforms = torch.zeros(rows + 1, max_new_tokens, dtype=torch.float64)
    for i, seed in enumerate(seeds):
        uniforms[i].uniform_(generator=torch.Generator().manual_seed(seed))
    uniforms = uniforms.to(device)
    ids = torch.full((rows + 1, max_new_tokens), pad_id, dtype=torch.long, device=device)
    mask = torch.zeros((rows + 1, max_new_tokens), dtype=torch.bool, device=device)
    logprobs = torch.zeros((rows + 1, max_new_tokens), device=device)

    length = longest
    for t in range(max_new_tokens):
        token, logprob = _draw(logits, temperature, uniforms[row, t])  # (R, S)
        ids[row, t], logprobs[row, t], mask[row, t] = token, logprob, True
        ended = torch.isin(token, eos)
        if stop is not None:
            state = stop[state, token.clamp(max=stop.shape[1] - 1)]
            ended |= state == len(stop) - 1
        row = row.masked_fill(ended, rows)
        alive = row < rows
        left = alive.sum(1).tolist()
        if t + 1 == max_new_tokens or not any(left):
            break
        width = max(left)
        if width * sum(n > 0 for n in left) <= COMPACT * row.numel():
            keep = torch.tensor([i for i, n in enumerate(left) if n], device=device)
            order = (
                (~alive[keep]).int().argsort(dim=1, stable=True)[:, :width]
            )  # the samples still alive first
            row, token, state = (x[keep].gather(1, order) for x in (row, token, state))
            position = position[keep]
            attention = attention[keep]
            if explicit:
                attention = attention.gather(
                    2, order[:, None, :, None].expand(-1, 1, -1, attention.shape[3])
                )
            if len(keep) < len(left):
                kv.batch_select_indices(keep)
        width = row.shape[1]
        length += width
        if explicit:
            attention[..., length - width : length].diagonal(dim1=2, dim2=3).fill_(0)
        out = forward(
            token, attention[..., :length], (position + t).expand_as(token), **{cache_name: kv}
        )
        logits = out.logits
    return ids[:rows, : t + 1], mask[:rows, : t + 1], logprobs[:rows, : t + 1]


def _slots(prompt: int, num_samples: int, max_new_tokens: int) -> int:
    """How many samples share a row: a divisor of num_samples.

    A row scores each of its samples against the prompt and all its samples' tokens, so sharing costs arithmetic on
    scores that the mask then hides, and saves memory traffic. Both are per key, and on CPU the traffic of one key
    measured as the arithmetic of about 12.
    """
    divisors = [s for s in range(1, num_samples + 1) if num_samples % s == 0]
    return min(divisors, key=lambda s: (prompt + s * max_new_tokens / 2) * (1 + 12 / s))


@cache
def _in_place(layer_class: type) -> type:
    """A class of cache layer that writes new keys and values into room reserved for them, and copies no others."""

    class InPlace(layer_class):
        def update(self, keys, values, *args, **kwargs):
            start, end = self.keys.shape[2], self.keys.shape[2] + keys.shape[2]
            k, v = self.buffers
            k[:, :, start:end], v[:, :, start:end] = keys, values
            self.keys, self.values = k[:, :, :end], v[:, :, :end]
            return self.keys, self.values

        def batch_select_indices(self, indices):
            end = self.keys.shape[2]
            self.buffers = [x[indices] for x in self.buffers]
            self.keys, self.values = (x[:, :, :end] for x in self.buffers)

    return InPlace


def _reserve(layer, room: int) -> None:
    """Give a layer of the KV cache room for `room` more tokens. The model goes on with its own cache, and sees nothing."""
    layer.buffers = [
        torch.cat([x, x.new_empty(*x.shape[:2], room, x.shape[3])], 2)
        for x in (layer.keys, layer.values)
    ]
    layer.__class__ = _in_place(type(layer))


def _draw(logits: Tensor, temperature: float, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Next tokens and their log-probs, shaped as uniform (...), from logits (..., V) by inverse CDF in float64."""
    logp = torch.log_softmax(logits.float() / (temperature or 1.0), -1)
    if temperature == 0:
        token = logp.argmax(-1, keepdim=True)
    else:
        cdf = logp.double().exp_().cumsum_(-1)
        # 1 - uniform is in (0, 1]: the first entry to reach that share of the total has a probability above 0.
        token = torch.searchsorted(cdf, (1 - uniform[..., None]) * cdf[..., -1:])
        token.clamp_(max=logits.shape[-1] - 1)  # NaN logits: an id in range, whose log-prob is NaN
    return token.squeeze(-1), logp.gather(-1, token).squeeze(-1)
