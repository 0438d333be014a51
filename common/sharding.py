"""Models on this process's device: in bfloat16 or float32, whole or sharded over ranks (FSDP2)."""

import math
import sys
import types
import warnings
from functools import partial

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed._composable import checkpoint
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor

from common.checkpoints import fill, head_of
from common.compiling import compile_passes
from common.distributed import bf16, device, rank, start_distributed, world_size
from common.flags import InputError
from kernels.logprobs import check_plain_head, completion_logprobs

MAX_SKIPPED = 3  # optimiser steps in a row whose gradients are not finite
# A head's result is a view, which nothing changes in place.
warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")


def shard(model: nn.Module, config=None, trained: bool = False) -> nn.Module:
    """Brings a model to this process's device, in the precision that `bf16(config)` says.

    In bfloat16 a frozen model's weights are bfloat16. A trained model's weights stay float32
    (masters), FSDP2 casts them for each forward pass, and gradients are summed over ranks in
    float32. The linear head of a reward model or critic stays float32, and so do its logits.
    Over several ranks every model is sharded by layers: a layer's parameters are gathered for its
    forward pass, and again for its backward pass (see `unshard` for a rollout). A trained bfloat16
    model of one process is sharded over a group of one. Parameters on meta are read from their
    files (`checkpoints.fill`), those of this rank alone.

    config.gradient_checkpointing: a trained model keeps the inputs of its layers alone, and its
    backward pass computes the rest again. config.torch_compile: torch.compile fuses the kernels of
    a layer, of a decoding step, and of `completion_logprobs`, the method that a policy gets
    (kernels/logprobs.py); InputError for a policy that this method does not cover.
    """
    in_bf16, is_policy = bf16(config), model.get_output_embeddings() is not None
    head = _set_precision(model, in_bf16, trained)
    names = set(model._no_split_modules or [])
    layers = [module for module in model.modules() if type(module).__name__ in names]
    if trained and getattr(config, "gradient_checkpointing", False):
        for layer in layers:
            checkpoint(layer)
    if world_size() > 1 or (in_bf16 and trained):
        if not dist.is_initialized():
            start_distributed(alone=True)
        precision = MixedPrecisionPolicy()
        if in_bf16:
            precision = MixedPrecisionPolicy(torch.bfloat16, reduce_dtype=torch.float32)
        for layer in layers:
            fully_shard(layer, mp_policy=precision, reshard_after_forward=True)
        if head is not None:
            fully_shard(head, reshard_after_forward=True)
        fully_shard(model, mp_policy=precision, reshard_after_forward=True)
        fill(model, device())
    else:
        fill(model, device())
        model.to(device())
    if is_policy:
        unshard(model)
        try:
            check_plain_head(model)
        except ValueError as error:
            raise InputError(str(error)) from None
        reshard(model)
        fused = getattr(config, "torch_compile", False)
        method = partial(completion_logprobs, fused=fused)
        model.completion_logprobs = types.MethodType(method, model)
        if isinstance(model, FSDPModule):
            register_fsdp_forward_method(model, "completion_logprobs")
    if getattr(config, "torch_compile", False):
        compile_passes(model, layers)
    return model


def replicate(model: nn.Module, config=None) -> nn.Module:
    """Brings a model that is not trained to this process's device, whole, in the precision that
    `bf16(config)` says.

    Every rank has a copy and decodes at its own pace. A sharded model would gather its parameters
    in each step of a loop that ranks leave at different steps.
    """
    _set_precision(model, bf16(config), trained=False)
    fill(model, device())
    return model.to(device())


def _set_precision(model: nn.Module, in_bf16: bool, trained: bool) -> nn.Linear | None:
    """Casts the weights of a frozen model; lets the linear head of a reward model or critic compute
    in float32. Returns the head, None of a policy."""
    if in_bf16 and device().type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 for what stays in float32
    head = None if model.get_output_embeddings() is not None else head_of(model)
    if head is not None:
        model.config.use_cache = False  # every text is read in one pass
    if in_bf16 and head is not None:
        head.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
    if in_bf16 and not trained:
        in_float32 = set() if head is None else set(head.parameters())
        for parameter in set(model.parameters()) - in_float32:
            parameter.data = parameter.data.bfloat16()
    return head


def unshard(model: nn.Module) -> None:
    """Gathers a sharded model's parameters for a rollout, until `reshard`: a rollout needs them at
    each token, and ranks end theirs at different tokens. Other models stay as they are."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_reshard_after_forward(False, recurse=False)
            module.unshard()


def reshard(model: nn.Module) -> None:
    """Frees what `unshard` or a forward has gathered, as before the parameters (the shards) change
    in place."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_reshard_after_forward(True, recurse=False)
            module.reshard()


def adamw(model: nn.Module, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over a model that `shard` has returned; its kernels are fused on a GPU."""
    fused = True if device().type == "cuda" else None
    return torch.optim.AdamW(model.parameters(), weight_decay=weight_decay, fused=fused)


def clip_gradients(model: nn.Module, max_norm: float) -> float:
    """Clips by the norm over all parameters and ranks; returns the norm before clipping."""
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def take_step(model: nn.Module, optimizer: torch.optim.Optimizer, max_norm: float) -> float:
    """One optimiser step with clipped gradients, which are gone afterwards; returns their norm.

    A step whose gradients are not finite is skipped, with a word: the weights stay as they are.
    InputError at the third such step in a row.
    """
    norm = clip_gradients(model, max_norm)
    skipped = 0 if math.isfinite(norm) else getattr(optimizer, "skipped", 0) + 1
    optimizer.skipped = skipped
    if not skipped:
        optimizer.step()
    elif rank() == 0:
        print(f"the norm of the gradients is {norm}; this step is skipped", file=sys.stderr)
    optimizer.zero_grad()
    if skipped == MAX_SKIPPED:
        raise InputError(
            f"{skipped} steps in a row had gradients that are not finite; a smaller "
            "--learning_rate may help. The same command goes on from the last checkpoint"
        )
    return norm


def lr_at(
    step: int,
    learning_rate: float,
    warmup_steps: int,
    max_steps: int,
    lr_scheduler_type: str = "constant",
) -> float:
    """Learning rate of a step (from 0): linear warm-up, then constant, or linear or cosine to 0."""
    if step < warmup_steps:
        return learning_rate * (step + 1) / warmup_steps
    left = 1 - (step - warmup_steps) / max(1, max_steps - warmup_steps)
    cosine = 0.5 - 0.5 * math.cos(math.pi * left)
    return learning_rate * {"constant": 1.0, "linear": left, "cosine": cosine}[lr_scheduler_type]


def set_lr(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
