"""The layers of a transformers DynamicCache: rows, reserved room, writing at a fixed address."""

import inspect
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor


def is_full(layer) -> bool:
    """Whether a layer of a KV cache keeps all the past, and nothing else."""
    return type(layer).__name__ == "DynamicLayer"


def mask_decides(model) -> bool:
    """Whether what attention_mask and position_ids say is all that decides which tokens of a row
    see each other, and how. ALiBi, and the local layers of GPT-Neo, count the keys between two
    tokens, also those of other samples."""
    config = model.config
    counts_keys = getattr(config, "alibi", False) or "local" in getattr(
        config, "attention_layers", ()
    )
    takes_mask = config._attn_implementation in ("sdpa", "eager") and not counts_keys
    accepted = inspect.signature(model.forward).parameters
    return takes_mask and {"attention_mask", "position_ids"} <= set(accepted)


def attention_mask(kv, real: Tensor, slots: int, size: int) -> Tensor:
    """What is added to attention scores, (R, 1, S, size): 0 where a slot sees a key; at first the
    prompt, where `real` (R, L) is on."""
    dtype = kv.layers[0].keys.dtype
    shape = (len(real), 1, slots, size)
    attention = torch.full(shape, torch.finfo(dtype).min, dtype=dtype, device=real.device)
    attention[..., : real.shape[1]].masked_fill_(real[:, None, None], 0)
    return attention


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


def select(kv, rows: Tensor) -> None:
    """Keep these rows of a KV cache, in this order; a row may be named several times."""
    for layer in kv.layers:
        layer.reorder_cache(rows)


def reserve(layer, room: int) -> None:
    """Give a layer of the KV cache room for `room` more tokens. To the model nothing changes."""
    layer.buffers = [
        torch.cat([x, x.new_empty(*x.shape[:2], room, x.shape[3])], 2)
        for x in (layer.keys, layer.values)
    ]
    layer.__class__ = _in_place(type(layer))


@cache
def _static(layer_class: type) -> type:
    """A cache layer class that writes keys and values at the position in a tensor, `at` (1,)."""

    class Static(layer_class):
        def update(self, keys, values, *args, **kwargs):
            self.keys.index_copy_(2, self.at, keys)
            self.values.index_copy_(2, self.at, values)
            return self.keys, self.values

        def reorder_cache(self, indices):
            self.keys, self.values = self.keys[indices], self.values[indices]

    return Static


def make_static(layer, repeats: int, size: int, at: Tensor) -> None:
    """Repeats each row of a layer of the KV cache, with room for `size` tokens in all; zeros, since
    what the mask hides is still multiplied by 0."""
    buffers = []
    for x in (layer.keys, layer.values):
        rows, heads, length, width = x.shape
        buffer = x.new_zeros(rows * repeats, heads, size, width)
        buffer.unflatten(0, (rows, repeats))[..., :length, :] = x[:, None]
        buffers.append(buffer)
    layer.at, layer.keys, layer.values = at, *buffers
    layer.__class__ = _static(type(layer))


def grow(layer, size: int) -> None:
    """Gives a layer of `make_static` room for `size` tokens in all."""
    more = size - layer.keys.shape[2]
    layer.keys, layer.values = (F.pad(x, (0, 0, 0, more)) for x in (layer.keys, layer.values))
