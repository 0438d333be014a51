"""Sampling from a Hugging Face causal LM: one prefill a prompt, then a token a sample and step.

Two loops decode, and draw the same tokens:

`_decode`: a row of the batch holds `slots` samples of one prompt side by side. Each step feeds the
row one token per sample, and an attention mask lets a sample see the prompt and its own tokens
alone. So the keys and values of the prompt are kept and read once per row and not once per sample;
on long prompts, reading them is what decoding costs on a CPU.

`_decode_static`: a row holds one sample, and a step has the same shapes and addresses as the step
before. So a GPU can record the step as a CUDA graph, and a step is one launch in the place of
hundreds. The host looks at the samples every few tokens alone. tests/test_cuda.py runs this loop on
a GPU, other tests on a CPU; bench/results/h200.md has its speed.

P prompts, G samples of each, T new tokens at most, L tokens of the longest prompt, V vocabulary
entries; R rows of S slots, at first R S = P G.
"""

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.cuda_graph import can_be_recorded, of_any_size, recorded, without_hooks
from kernels.draws import draw
from kernels.kv_cache import (
    attention_mask,
    grow,
    is_full,
    make_static,
    mask_decides,
    reserve,
    select,
)

# Drop finished samples once this share of the batch, or less, is left. Dropping copies the cache;
# with a static cache a CUDA graph is also recorded anew, which launches two steps kernel by kernel.
COMPACT, STATIC_COMPACT = 0.8, 0.5

# With a static cache: tokens between two looks at which samples have ended, and by how many tokens
# the part of the cache that a step reads grows.
LOOK, GROW = 32, 256


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
    _static: bool | None = None,
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
    progress: called every few steps with the numbers of tokens that were drawn, and of samples that
        ended, since the call before.
    _static: decode with a static cache; by default on CUDA.

    Returns ids (P * G, T) long, padded on the right with pad_id; mask (P * G, T) bool, on up to and
    including the token that ends the completion; logprobs (P * G, T) float32, log-probs of the ids
    under the distribution that they were drawn from (greedy: temperature 1), 0 where the mask is
    off. The samples of a prompt are next to each other. T is the longest completion's length.

    The model must be in eval mode. A model sharded by FSDP2 must be unsharded first, and must stay
    so after a forward pass: ranks leave the loop at different steps. ValueError for an empty
    prompt, a wrong number of seeds, a negative temperature, a top_p out of range, and a model
    without KV cache.
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
    # Releases of transformers differ in the cache's name. A forward pass that ignores the cache
    # would let each token see itself alone.
    accepted = inspect.signature(model.forward).parameters
    cache_names = ("cache", "past_key_values", "cache_params")
    cache_name = next((name for name in cache_names if name in accepted), None)
    if cache_name is None:
        raise ValueError(f"{type(model).__name__} takes no KV cache")

    def forward(run, ids: Tensor, attention: Tensor | None, position: Tensor, **kwargs):
        kwargs = {"position_ids": position, **kwargs}
        kwargs = {name: x for name, x in kwargs.items() if name in accepted}
        return run(input_ids=ids, attention_mask=attention, use_cache=True, **kwargs)

    # common/compiling.py: layers compiled for texts without a cache, and a step for decoding. With
    # a cache each layer would be compiled for itself.
    compiled = getattr(model, "decoding_forward", None)
    eager = partial(torch.compiler.set_stance, "force_eager") if compiled else nullcontext

    # Prefill: all prompts, padded on the left.
    longest = max(map(len, prompts))
    padded = [[pad_id] * (longest - len(p)) + p for p in prompts]
    prompt_ids = torch.tensor(padded, device=device)  # (P, L)
    lengths = torch.tensor([len(p) for p in prompts], device=device)
    real = torch.arange(longest, device=device) >= longest - lengths[:, None]  # (P, L) no padding
    place = (real.cumsum(1) - 1).clamp(min=0)
    with eager():
        out = forward(model, prompt_ids, real.long(), place, logits_to_keep=1)
    kv = getattr(out, cache_name, None)
    if type(kv).__name__ != "DynamicCache":  # one that keeps a part of the past elsewhere
        raise ValueError(f"{type(model).__name__} has a KV cache of its own, {type(kv).__name__}")

    # Samples share rows where we can write the attention mask, and every layer sees all the past.
    shared = all(map(is_full, kv.layers)) and mask_decides(model)
    if _static is None:
        _static = device.type == "cuda"

    samples = _Samples(
        seeds, max_new_tokens, temperature, top_p, eos_ids, stop, pad_id, progress, device
    )
    prefilled = (out.logits[:, -1], real, num_samples)
    if _static and shared and can_be_recorded(model):
        step = partial(forward, compiled or model, **{cache_name: kv})
        if compiled:
            step = of_any_size(step, kv)
        with without_hooks(model):
            _decode_static(step, kv, samples, *prefilled)
    else:
        with eager():
            step = partial(forward, model, **{cache_name: kv})
            _decode(step, kv, samples, *prefilled, shared)
    return samples.results()


class _Samples:
    """The samples so far, and the rules by which tokens are drawn and samples end.

    Each slot of a decoding batch has an `owner`, the sample (0 to P * G - 1) whose tokens the slot
    holds. A finished slot has owner P * G, an entry more than there are samples, which `results`
    cuts off.
    """

    def __init__(
        self, seeds, max_new_tokens, temperature, top_p, eos_ids, stop, pad_id, progress, device
    ):
        self.total, self.max_new_tokens = len(seeds), max_new_tokens
        self.temperature, self.top_p, self.stop = temperature, top_p, stop
        self.eos = torch.tensor(eos_ids, dtype=torch.long, device=device)
        size = (self.total + 1, max_new_tokens)
        uniforms = torch.zeros(size, dtype=torch.float64)
        for i, seed in enumerate(seeds):
            uniforms[i].uniform_(generator=torch.Generator().manual_seed(seed))
        self.uniforms = uniforms.to(device)
        self.ids = torch.full(size, pad_id, dtype=torch.long, device=device)
        self.mask = torch.zeros(size, dtype=torch.bool, device=device)
        self.logprobs = torch.zeros(size, device=device)
        self.progress = progress or (lambda drawn, ended: None)

    def draw(
        self, logits: Tensor, owner: Tensor, state: Tensor, t: int | Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draws token number t, an int or a tensor (1,), of each slot; notes the tokens.

        logits (R, S, V), owner and state of `stop` (R, S) -> token, owner, state, all (R, S).
        """
        token, logprob = draw(logits, self.temperature, self.uniforms[owner, t], self.top_p)
        self.ids[owner, t], self.logprobs[owner, t] = token, logprob
        self.mask[owner, t] = owner < self.total
        ended = (token[..., None] == self.eos).any(-1)
        if self.stop is not None:
            state = self.stop[state, token.clamp(max=self.stop.shape[1] - 1)]
            ended |= state == len(self.stop) - 1
        return token, owner.masked_fill(ended, self.total), state

    def results(self) -> tuple[Tensor, Tensor, Tensor]:
        """ids, mask and logprobs (P * G, T), where T is the longest sample's length."""
        length = int(self.mask[:-1].sum(1).max())
        return tuple(x[:-1, :length] for x in (self.ids, self.mask, self.logprobs))


def _decode(
    step: Callable, kv, samples: _Samples, logits: Tensor, real: Tensor, num_samples: int, shared
) -> None:
    """Draws all tokens, with a KV cache that grows.

    step: the forward pass with the cache. logits (P, V) of the first tokens; real (P, L) is off for
    the padding of prompts; shared: samples of a prompt may share a row.
    """
    total, max_new_tokens, longest = samples.total, samples.max_new_tokens, real.shape[1]
    slots = _slots(longest, num_samples, max_new_tokens) if shared else 1
    rows_each = num_samples // slots
    select(kv, torch.arange(len(real), device=real.device).repeat_interleave(rows_each))
    for layer in filter(is_full, kv.layers):
        reserve(layer, slots * max_new_tokens)

    owner = torch.arange(total, device=real.device).view(-1, slots)  # (R, S)
    logits = logits.repeat_interleave(num_samples, 0).view(*owner.shape, -1)  # (R, S, V)
    position = real.sum(1).repeat_interleave(rows_each)[:, None]  # (R, 1)
    real = real.repeat_interleave(rows_each, 0)  # (R, L)
    if shared:
        attention = attention_mask(kv, real, slots, longest + slots * max_new_tokens)
    else:  # (R, L + T): 1 where the row's slot sees a key; recurrent layers alone take no mask
        attention = torch.cat([real, real.new_ones(len(owner), max_new_tokens)], 1).long()
    has_keys = any(hasattr(layer, "keys") for layer in kv.layers)
    state = torch.zeros_like(owner)  # (R, S) of `stop`

    length = longest  # of the cache
    drawing = total  # samples that have not ended
    for t in range(max_new_tokens):
        token, owner, state = samples.draw(logits, owner, state, t)  # (R, S)
        alive = owner < total
        left = alive.sum(1).tolist()  # samples of each row
        last = t + 1 == max_new_tokens or not any(left)
        samples.progress(drawing, drawing if last else drawing - sum(left))
        if last:
            break
        drawing = sum(left)

        # Drop rows without samples, and slots that no row needs.
        width = max(left)
        if width * sum(n > 0 for n in left) <= COMPACT * owner.numel():
            keep = torch.tensor([i for i, n in enumerate(left) if n], device=owner.device)
            order = (~alive[keep]).int().argsort(dim=1, stable=True)[:, :width]  # the alive first
            owner, token, state = (x[keep].gather(1, order) for x in (owner, token, state))
            position = position[keep]
            attention = attention[keep]
            if shared:
                index = order[:, None, :, None].expand(-1, 1, -1, attention.shape[3])
                attention = attention.gather(2, index)
            if len(keep) < len(left):
                select(kv, keep)

        # One more token a slot, which the slot itself alone sees.
        width = owner.shape[1]
        length += width
        if shared:
            attention[..., length - width : length].diagonal(dim1=2, dim2=3).fill_(0)
        positions = (position + t).expand_as(token)
        seen = attention[..., :length] if has_keys else None
        logits = step(token, seen, positions).logits


def _decode_static(
    step: Callable, kv, samples: _Samples, logits: Tensor, real: Tensor, num_samples: int
) -> None:
    """As `_decode`, one slot a row: each step writes and reads the same tensors, and asks nothing
    of the host."""
    total, max_new_tokens, longest = samples.total, samples.max_new_tokens, real.shape[1]
    seen = -(-longest // GROW) * GROW  # tokens that a step reads, with those still to come
    at = torch.full((1,), longest, device=real.device)  # where the next keys and values go
    t = torch.zeros_like(at)  # the number of the next token
    for layer in kv.layers:
        make_static(layer, num_samples, seen, at)
    real = real.repeat_interleave(num_samples, 0)  # (R, L)
    attention = attention_mask(kv, real, 1, seen)
    position = real.sum(1, keepdim=True)  # (R, 1) of the token that is fed
    owner = torch.arange(total, device=real.device)[:, None]
    state = torch.zeros_like(owner)  # of `stop`
    first = logits.repeat_interleave(num_samples, 0)[:, None]  # (R, 1, V)
    token, owner, state = samples.draw(first, owner, state, t)
    del first

    def decode_token() -> None:
        attention.index_fill_(3, at, 0)
        logits = step(token, attention, position).logits
        for number in (at, position, t):
            number.add_(1)
        drawn = samples.draw(logits, owner, state, t)
        for x, new in zip((token, owner, state), drawn, strict=True):
            x.copy_(new)

    decode = None
    done, counted, drawing = 1, 0, total  # tokens a row; tokens and samples of the last look
    while True:
        alive = owner[:, 0] < total
        left = int(alive.sum())
        last = done == max_new_tokens or not left
        drawn = int(samples.mask[:-1].sum())
        samples.progress(drawn - counted, drawing if last else drawing - left)
        if last:
            break
        counted, drawing = drawn, left
        steps = min(LOOK, max_new_tokens - done)
        needed = -(-(longest + done + steps) // GROW) * GROW
        rows = max(left, 2)  # torch.compile has a version of its own for a single row
        if needed > seen or rows <= STATIC_COMPACT * len(owner):
            decode = None  # frees the graph's memory
            if rows < len(owner):
                keep = (~alive).int().argsort(stable=True)[:rows]
                tensors = (token, owner, state, position, attention)
                token, owner, state, position, attention = (x[keep] for x in tensors)
                select(kv, keep)
            if needed > seen:
                hidden = torch.finfo(attention.dtype).min
                attention = F.pad(attention, (0, needed - seen), value=hidden)
                for layer in kv.layers:
                    grow(layer, needed)
                seen = needed
        run = steps
        if decode is None:
            decode, run = recorded(decode_token, owner.device), steps - 1
        for _ in range(run):
            decode()
        done += steps


@torch.no_grad()
def check_sampling(model) -> None:
    """Refuse a causal LM whose samples are not drawn from what a forward pass over the text says.

    ValueError if log-probs while sampling, in a batch with padding and several samples a prompt,
    differ from those of a forward pass over each whole text: a cache that is read in another way,
    say, or tokens that see the tokens after them. A model sharded by FSDP2 must be unsharded, as
    for `sample`; the mode is restored.
    """
    vocabulary = len(model.get_input_embeddings().weight)
    prompts = [[(7 * i + n) % vocabulary for i in range(n)] for n in (11, 4)]
    name, mode = type(model).__name__, model.training
    model.eval()
    try:
        ids, _, logprobs = sample(model, prompts, 2, 16, 1.0, [], list(range(4)))
        differences = []  # (2, 16) for each prompt
        for prompt, rows, sampled in zip(prompts, ids.split(2), logprobs.split(2), strict=True):
            texts = torch.cat([torch.tensor([prompt] * 2, device=ids.device), rows], 1)  # (2, L)
            logits = model(input_ids=texts, use_cache=False).logits  # (2, L, V)
            whole = logits[:, len(prompt) - 1 : -1].float().log_softmax(-1)  # (2, 16, V)
            differences.append((whole.gather(2, rows[..., None])[..., 0] - sampled).abs())
    except Exception as error:  # of every type, where an architecture does not fit
        raise ValueError(f"{name} cannot be sampled from: {' '.join(str(error).split())}") from None
    finally:
        model.train(mode)
    # Measured in float32: a maximum of 4e-5 (recurrent layers; 6e-6 without them). In bfloat16:
    # means of 0.04 to 0.06, maxima of 0.18 to 0.26 (SmolLM2-135M).
    difference, limit = float(torch.cat(differences).max()), 3e-4
    if logits.dtype not in (torch.float32, torch.float64):
        difference, limit = float(torch.cat(differences).mean()), 0.2
    if not difference <= limit:
        raise ValueError(
            f"{name} cannot be sampled from: with its KV cache log-probs differ by "
            f"{difference:.2g} from those of the whole text"
        )


def _slots(prompt: int, num_samples: int, max_new_tokens: int) -> int:
    """How many samples share a row: the divisor of num_samples with the least cost.

    A row scores each of its s samples against the prompt and the tokens of all s samples: prompt +
    s * max_new_tokens / 2 keys on average. A key costs each sample its arithmetic, 1, and its
    memory traffic, which the s samples share: measured on a CPU, 12 / s.
    """
    divisors = [s for s in range(1, num_samples + 1) if num_samples % s == 0]
    return min(divisors, key=lambda s: (prompt + s * max_new_tokens / 2) * (1 + 12 / s))
