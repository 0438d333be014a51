"""torch.distributed: ranks, sums over ranks, sharded models (FSDP2)."""

import gc
import json
import os
import types

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from common.flags import InputError
from kernels.logprobs import check_plain_head, completion_logprobs


def rank() -> int:
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def start_distributed() -> None:
    """Joins torchrun's process group, if there is one: NCCL on GPU, gloo on CPU."""
    if device().type == "cuda":
        torch.cuda.set_device(device())
    if world_size() > 1:
        dist.init_process_group("nccl" if device().type == "cuda" else "gloo")


def end_distributed() -> None:
    """Leaves the process group. Models and optimizers must be gone by then, or gloo aborts."""
    if dist.is_initialized():
        gc.collect()  # a model bound to its own method is a cycle
        dist.barrier()
        dist.destroy_process_group()


def all_sum(*values: float | torch.Tensor) -> list[float]:
    """Sum of each value over all ranks, in float64."""
    total = torch.tensor([float(value) for value in values], dtype=torch.float64, device=device())
    if dist.is_initialized():
        dist.all_reduce(total)
    return total.tolist()


def all_max(value: int) -> int:
    """Greatest value over all ranks."""
    greatest = torch.tensor(value, device=device())
    if dist.is_initialized():
        dist.all_reduce(greatest, dist.ReduceOp.MAX)
    return int(greatest)


def all_std(x: torch.Tensor, mask: torch.Tensor) -> float:
    """Standard deviation of the valid entries of x (N,) over all ranks; 0 without any."""
    x = torch.where(mask, x, 0)
    n, total, squares = all_sum(mask.sum(), x.sum(), x.double().square().sum())
    n = max(n, 1.0)
    return max(0.0, squares / n - (total / n) ** 2) ** 0.5


def my_share(rows: list, even: bool = True) -> list:
    """This rank's contiguous share of rows. Shares differ by one row at most.

    even: InputError for shares that differ, since ranks that train step together.
    """
    if even and len(rows) % world_size():
        raise InputError(f"a batch of {len(rows)} does not divide over {world_size()} processes")
    start, end = (len(rows) * place // world_size() for place in (rank(), rank() + 1))
    return rows[start:end]


def gather_rows(rows: list) -> list:
    """The rows of all ranks on every rank, those of rank 0 first: what `my_share` splits is whole
    again. Rows travel as JSON, so a tuple arrives as a list. All ranks must call this together."""
    if not dist.is_initialized():
        return rows
    mine = torch.frombuffer(bytearray(json.dumps(rows).encode()), dtype=torch.uint8).to(device())
    sizes = [torch.zeros(1, dtype=torch.long, device=device()) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([len(mine)], device=device()))
    longest = max(map(int, sizes))
    texts = [torch.zeros(longest, dtype=torch.uint8, device=device()) for _ in sizes]
    dist.all_gather(texts, nn.functional.pad(mine, (0, longest - len(mine))))
    parts = [bytes(text[: int(n)].cpu().numpy()) for text, n in zip(texts, sizes, strict=True)]
    return [row for part in parts for row in json.loads(part)]


def wait_for_all() -> None:
    """Returns once every rank is here."""
    if dist.is_initialized():
        dist.barrier()


def shard(model: nn.Module) -> nn.Module:
    """Moves a model to this process's device, and shards it over several ranks (FSDP2), by layers.

    Parameters stay whole from the forward to the end of the backward: a rollout, which has no
    backward, gathers them once and not at each token. A policy gets the method
    `completion_logprobs` (kernels/logprobs.py); InputError for one that the kernels do not cover.
    """
    model.to(device())
    if model.get_output_embeddings() is not None:
        try:
            check_plain_head(model)
        except ValueError as error:
            raise InputError(str(error)) from None
        model.completion_logprobs = types.MethodType(completion_logprobs, model)
    if world_size() > 1:
        layer_names = set(model._no_split_modules or [])
        for module in list(model.modules()):
            if type(module).__name__ in layer_names:
                fully_shard(module, reshard_after_forward=False)
        fully_shard(model, reshard_after_forward=False)
        if hasattr(model, "completion_logprobs"):
            register_fsdp_forward_method(model, "completion_logprobs")
    return model


def replicate(model: nn.Module) -> nn.Module:
    """Moves a model that is not trained to this process's device, whole, in bfloat16 on CUDA.

    Every rank has a copy, of 2 bytes a parameter, and decodes at its own pace. A sharded model
    would gather its parameters in each step of a loop that ranks leave at different steps.
    """
    if device().type == "cuda":
        for parameter in model.parameters():  # buffers, as rotary frequencies, stay in float32
            parameter.data = parameter.data.bfloat16()
    model.to(device())
    return model


def unshard(model: nn.Module) -> None:
    """Gathers a sharded model's parameters before a rollout. Other models stay as they are."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.unshard()


def reshard(model: nn.Module) -> None:
    """Frees what a forward has gathered, before the parameters (the shards) change in place."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def clip_gradients(model: nn.Module, max_norm: float) -> float:
    """Clips by the norm over all parameters and ranks; returns the norm before clipping."""
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
