"""--torch_compile: torch.compile fuses the kernels of a model's passes."""

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from common.distributed import device
from common.flags import InputError


def compile_passes(model: nn.Module, layers: list[nn.Module]) -> None:
    """Compiles the forward and backward passes of the layers; gives a policy a `decoding_forward`,
    which kernels/sampling.py decodes with.

    Hooks of a layer (of FSDP2, of activation checkpointing) stay outside of what is compiled.
    Layers of one kind share a version; passes with and without gradients have a version each.
    Which version reads a batch depends on the batches before: a run that was cut off goes on to the
    same result up to rounding.
    """
    check_compiler()
    torch._dynamo.config.recompile_limit = 64
    for layer in layers:
        layer.forward = _compiled(layer.forward)
    if model.get_output_embeddings() is not None:
        model.decoding_forward = decoding_forward(model)


def _compiled(function: Callable) -> Callable:
    """What is compiled rounds to bfloat16 where the plain function does, so that rollouts, scores
    and updates read the same log-probs. On a CPU these differ from the plain ones by up to 1e-6,
    and without the option by up to 2e-2."""
    return torch.compile(function, options={"emulate_precision_casts": True})


@cache
def check_compiler() -> None:
    """InputError where torch.compile cannot compile anything, for want of a C++ compiler, say."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(8, device=device()))
    except Exception as error:  # the compilers of CPUs and GPUs raise errors of their own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise InputError(f"--torch_compile: {reason}") from None


def decoding_forward(model: nn.Module) -> Callable:
    """The forward pass of one token a row with a KV cache, compiled as a whole."""
    step = _compiled(model.forward)

    def forward(**inputs):
        ALL_ATTENTION_FUNCTIONS["sdpa"] = _attend_by_groups
        try:
            return step(**inputs)
        finally:
            del ALL_ATTENTION_FUNCTIONS["sdpa"]  # transformers' own is there again

    return forward


def _attend_by_groups(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """Attention of one token a row: query (R, H, 1, D), key and value (R, K, L, D), where H / K
    query heads read the same keys, and a mask (R, 1, 1, L) -> (R, 1, H, D).

    In what is compiled, transformers' own copies keys and values once a query head.
    """
    rows, heads, _, width = query.shape
    query = query.reshape(rows, key.shape[1], -1, width)  # a group of heads as if they were tokens
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, scale=scaling)
    return out.reshape(rows, 1, heads, -1), None
