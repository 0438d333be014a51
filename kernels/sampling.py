"""Sampling from a Hugging Face causal LM: one prefill a prompt, a KV cache that samples share.

A row of the decoding batch holds `slots` samples of one prompt side by side. Each step feeds the
row one token per sample, and an attention mask lets a sample see the prompt and its own tokens
alone. So the keys and values of the prompt are kept and read once per row and not once per sample;
on long prompts, reading them is what decoding costs.

P prompts, G samples of each, T new tokens at most, L tokens of the longest prompt, V vocabulary
entries; R rows of S slots, at first R S = P G.
"""

import inspect
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

# Drop finished samples once this share of the batch, or less, is left. Dropping copies the cache.
COMPACT = 0.8


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
    top_p: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sample `num_samples` completions of each prompt.

    prompts: P lists of token ids; a prompt may include the start of an answer.
    temperature: of the softmax; 0 is greedy decoding.
    eos_ids: a completion ends with the first of these ids.
    seeds: P * G, one a sample. The randomness of a sample comes from its own seed alone, so a
        sample does not depend on the batch around it.
    stop: a table of `masking.stop_table`. A completion also ends with the token that completes one
        of the table's strings.
    top_p: a token is drawn from the fewest tokens whose probabilities sum to top_p or more
        (nucleus sampling, Holtzman et al., 2020); in (0, 1], without effect on greedy decoding.
    progress: called after each step with the numbers of drawn tokens and of samples that ended.

    Returns ids (P * G, T) long, padded on the right with pad_id; mask (P * G, T) bool, on up to and
    including the token that ends the completion; logprobs (P * G, T) float32, log-probs of the ids
    under the distribution that they were drawn from (greedy: temperature 1), 0 where the mask is
    off. The samples of a prompt are next to each other. T is the longest completion's length.

    The model must be in eval mode. A model sharded by FSDP2 must be unsharded first: ranks leave
    the loop at different steps. ValueError for an empty prompt, a wrong number of seeds, a negative
    temperature, a top_p out of range, and a model without KV cache.
    """
    total = len(prompts) * num_samples
    if len(seeds) != total:
        raise ValueError(
            f"{len(prompts)} prompts x {num_samples} samples need {total} seeds, not {len(seeds)}"
        )
    if not all(prompts):
        raise ValueError("a prompt has no tokens")
    if temperature < 0:
        raise ValueError(f"temperature must not be negative, not {temperature}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, not {top_p}")
    device = model.get_input_embeddings().weight.device
    if total == 0:
        empty = torch.zeros((0, 0), device=device)
        return empty.long(), empty.bool(), empty
    eos = torch.tensor(eos_ids, dtype=torch.long, device=device)

    # Releases of transformers differ in the cache's name. A forward pass that ignores the cache
    # would let each token see itself alone.
    accepted = inspect.signature(model.forward).parameters
    cache_names = ("cache", "past_key_values", "cache_params")
    cache_name = next((name for name in cache_names if name in accepted), None)
    if cache_name is None:
        raise ValueError(f"{type(model).__name__} takes no KV cache")

    def forward(ids: Tensor, attention: Tensor | None, position: Tensor, **kwargs):
        kwargs = {"position_ids": position, **kwargs}
        kwargs = {name: x for name, x in kwargs.items() if name in accepted}
        return model(input_ids=ids, attention_mask=attention, use_cache=True, **kwargs)

    # Prefill: all prompts, padded on the left.
    longest = max(map(len, prompts))
    padded = [[pad_id] * (longest - len(p)) + p for p in prompts]
    prompt_ids = torch.tensor(padded, device=device)  # (P, L)
    lengths = torch.tensor([len(p) for p in prompts], device=device)
    real = torch.arange(longest, device=device) >= longest - lengths[:, None]  # (P, L) no padding
    out = forward(prompt_ids, real.long(), (real.cumsum(1) - 1).clamp(min=0), logits_to_keep=1)
    kv = getattr(out, cache_name, None)
    if type(kv).__name__ != "DynamicCache":  # one that keeps a part of the past elsewhere
        raise ValueError(f"{type(model).__name__} has a KV cache of its own, {type(kv).__name__}")

    # Samples share rows where we can write the attention mask: every layer sees all the past, the
    # attention code takes a mask of all keys, and the forward pass takes positions. ALiBi, and the
    # local layers of GPT-Neo, count the keys between two tokens, also those of other samples.
    full = [type(layer).__name__ == "DynamicLayer" for layer in kv.layers]
    counts_keys = getattr(model.config, "alibi", False) or "local" in getattr(
        model.config, "attention_layers", ()
    )
    takes_mask = model.config._attn_implementation in ("sdpa", "eager") and not counts_keys
    shared = all(full) and takes_mask and "position_ids" in accepted
    slots = _slots(longest, num_samples, max_new_tokens) if shared else 1
    rows_each = num_samples // slots
    _select(kv, torch.arange(len(prompts), device=device).repeat_interleave(rows_each))
    for layer, is_full in zip(kv.layers, full, strict=True):
        if is_full:
            _reserve(layer, slots * max_new_tokens)

    # The batch. `owner` is the sample (0 to P * G - 1) whose tokens a slot holds. A finished slot
    # has owner P * G, an entry more than there are samples, which is cut off at the end.
    owner = torch.arange(total, device=device).view(-1, slots)  # (R, S)
    logits = out.logits[:, -1].repeat_interleave(num_samples, 0).view(*owner.shape, -1)  # (R, S, V)
    position = lengths.repeat_interleave(rows_each)[:, None]  # (R, 1)
    real = real.repeat_interleave(rows_each, 0)  # (R, L)
    if shared:  # (R, 1, S, L + S T), added to the scores: 0 where a slot sees a key
        dtype = kv.layers[0].keys.dtype
        size = (len(owner), 1, slots, longest + slots * max_new_tokens)
        attention = torch.full(size, torch.finfo(dtype).min, dtype=dtype, device=device)
        attention[..., :longest].masked_fill_(real[:, None, None], 0)
    else:  # (R, L + T): 1 where the row's slot sees a key; recurrent layers alone take no mask
        attention = torch.cat([real, real.new_ones(len(owner), max_new_tokens)], 1).long()
    has_keys = any(hasattr(layer, "keys") for layer in kv.layers)
    state = torch.zeros_like(owner)  # (R, S) of `stop`
    uniforms = torch.zeros(total + 1, max_new_tokens, dtype=torch.float64)
    for i, seed in enumerate(seeds):
        uniforms[i].uniform_(generator=torch.Generator().manual_seed(seed))
    uniforms = uniforms.to(device)
    ids = torch.full((total + 1, max_new_tokens), pad_id, dtype=torch.long, device=device)
    mask = torch.zeros((total + 1, max_new_tokens), dtype=torch.bool, device=device)
    logprobs = torch.zeros((total + 1, max_new_tokens), device=device)

    length = longest  # of the cache
    drawing = total  # samples that have not ended
    for t in range(max_new_tokens):
        token, logprob = _draw(logits, temperature, uniforms[owner, t], top_p)  # (R, S)
        ids[owner, t], logprobs[owner, t], mask[owner, t] = token, logprob, True
        ended = torch.isin(token, eos)
        if stop is not None:
            state = stop[state, token.clamp(max=stop.shape[1] - 1)]
            ended |= state == len(stop) - 1
        owner = owner.masked_fill(ended, total)
        alive = owner < total
        left = alive.sum(1).tolist()  # samples of each row
        last = t + 1 == max_new_tokens or not any(left)
        if progress is not None:
            progress(drawing, drawing if last else drawing - sum(left))
        if last:
            break
        drawing = sum(left)

        # Drop rows without samples, and slots that no row needs.
        width = max(left)
        if width * sum(n > 0 for n in left) <= COMPACT * owner.numel():
            keep = torch.tensor([i for i, n in enumerate(left) if n], device=device)
            order = (~alive[keep]).int().argsort(dim=1, stable=True)[:, :width]  # the alive first
            owner, token, state = (x[keep].gather(1, order) for x in (owner, token, state))
            position = position[keep]
            attention = attention[keep]
            if shared:
                index = order[:, None, :, None].expand(-1, 1, -1, attention.shape[3])
                attention = attention.gather(2, index)
            if len(keep) < len(left):
                _select(kv, keep)

        # One more token a slot, which the slot itself alone sees.
        width = owner.shape[1]
        length += width
        if shared:
            attention[..., length - width : length].diagonal(dim1=2, dim2=3).fill_(0)
        positions = (position + t).expand_as(token)
        seen = attention[..., :length] if has_keys else None
        out = forward(token, seen, positions, **{cache_name: kv})
        logits = out.logits
    return ids[:total, : t + 1], mask[:total, : t + 1], logprobs[:total, : t + 1]


@torch.no_grad()
def check_sampling(model) -> None:
    """Refuse a causal LM whose samples are not drawn from what a forward pass over the text says.

    ValueError if log-probs while sampling, in a batch with padding and several samples a prompt,
    differ from those of a forward pass over each whole text: a cache that is read in another way,
    say, or tokens that see the tokens after them. Before sharding; the mode is restored.
    """
    vocabulary = len(model.get_input_embeddings().weight)
    prompts = [[(7 * i + n) % vocabulary for i in range(n)] for n in (11, 4)]
    name, mode = type(model).__name__, model.training
    model.eval()
    try:
        ids, _, logprobs = sample(model, prompts, 2, 16, 1.0, [], list(range(4)))
        worst = 0.0
        for prompt, rows, sampled in zip(prompts, ids.split(2), logprobs.split(2), strict=True):
            texts = torch.cat([torch.tensor([prompt] * 2, device=ids.device), rows], 1)  # (2, L)
            logits = model(input_ids=texts, use_cache=False).logits  # (2, L, V)
            whole = logits[:, len(prompt) - 1 : -1].float().log_softmax(-1)  # (2, 16, V)
            difference = whole.gather(2, rows[..., None])[..., 0] - sampled  # (2, 16)
            worst = max(worst, float(difference.abs().max()))
    except Exception as error:  # of every type, where an architecture does not fit
        raise ValueError(f"{name} cannot be sampled from: {' '.join(str(error).split())}") from None
    finally:
        model.train(mode)
    # Measured: 4e-5 in float32 (recurrent layers; 6e-6 without them), 0.05 in bfloat16.
    if not worst <= (3e-4 if logits.dtype in (torch.float32, torch.float64) else 0.3):
        raise ValueError(
            f"{name} cannot be sampled from: with its KV cache log-probs differ by {worst:.2g} "
            "from those of the whole text"
        )


def _slots(prompt: int, num_samples: int, max_new_tokens: int) -> int:
    """How many samples share a row: the divisor of num_samples with the least cost.

    A row scores each of its s samples against the prompt and the tokens of all s samples: prompt +
    s * max_new_tokens / 2 keys on average. A key costs each sample its arithmetic, 1, and its
    memory traffic, which the s samples share: measured on a CPU, 12 / s.
    """
    divisors = [s for s in range(1, num_samples + 1) if num_samples % s == 0]
    return min(divisors, key=lambda s: (prompt + s * max_new_tokens / 2) * (1 + 12 / s))


@cache
def _in_place(layer_class: type) -> type:
    """A cache layer class that writes new keys and values into reserved room, without a copy."""

    class InPlace(layer_class):
        def update(self, keys, values, *args, **kwargs):
            start, end = self.keys.shape[2], self.keys.shape[2] + keys.shape[2]
            k, v = self.buffers
            k[:, :, start:end], v[:, :, start:end] = keys, values
            self.keys, self.values = k[:, :, :end], v[:, :, :end]
            return self.keys, self.values

        def reorder_cache(self, indices):
            end = self.keys.shape[2]
            self.buffers = [x[indices] for x in self.buffers]
            self.keys, self.values = (x[:, :, :end] for x in self.buffers)

    return InPlace


def _select(kv, rows: Tensor) -> None:
    """Keep these rows of a KV cache, in this order; a row may be named several times."""
    for layer in kv.layers:
        layer.reorder_cache(rows)


def _reserve(layer, room: int) -> None:
    """Give a layer of the KV cache room for `room` more tokens. To the model nothing changes."""
    layer.buffers = [
        torch.cat([x, x.new_empty(*x.shape[:2], room, x.shape[3])], 2)
        for x in (layer.keys, layer.values)
    ]
    layer.__class__ = _in_place(type(layer))


def _nucleus(logp: Tensor, top_p: float) -> Tensor:
    """Log-probs (..., V) of the fewest tokens whose probabilities sum to top_p or more; the other
    tokens have -inf."""
    ordered, order = logp.sort(dim=-1, descending=True, stable=True)
    share = ordered.double().exp()
    before = share.cumsum(-1) - share  # of the likelier tokens
    outside = torch.zeros_like(before, dtype=torch.bool).scatter_(-1, order, before >= top_p)
    return torch.log_softmax(logp.masked_fill(outside, -torch.inf), -1)


def _draw(
    logits: Tensor, temperature: float, uniform: Tensor, top_p: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Next tokens and their log-probs, each (...): logits (..., V), uniform (...) in [0, 1).

    By inverse CDF in float64.
    """
    logp = torch.log_softmax(logits.float() / (temperature or 1.0), -1)
    if temperature == 0:
        token = logp.argmax(-1, keepdim=True)
    else:
        if top_p < 1:
            logp = _nucleus(logp, top_p)
        cdf = logp.double().exp_().cumsum_(-1)
        # 1 - uniform is in (0, 1]. The first entry that reaches this share of the total has a
        # probability above 0.
        token = torch.searchsorted(cdf, (1 - uniform[..., None]) * cdf[..., -1:])
        token.clamp_(max=logits.shape[-1] - 1)  # NaN logits: an id in range, whose log-prob is NaN
    return token.squeeze(-1), logp.gather(-1, token).squeeze(-1)
