"""torch.distributed: ranks, and sums over ranks."""

import gc
import os
from datetime import timedelta

import torch
import torch.distributed as dist

from common.flags import InputError

# Ranks wait for one another while rank 0 writes a checkpoint, or while one rank's programs run.
TIMEOUT = timedelta(hours=1)


def rank() -> int:
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def bf16(config=None) -> bool:
    """Whether a run computes in bfloat16: its flag `bf16`, and without one whether on a GPU."""
    flag = getattr(config, "bf16", None)
    return device().type == "cuda" if flag is None else flag


def start_distributed(alone: bool = False) -> None:
    """Joins torchrun's process group, if there is one: NCCL on GPU, gloo on CPU. alone: starts a
    group of this one process, which FSDP2 needs as well."""
    on_gpu = device().type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device())
        torch.set_float32_matmul_precision("high")  # TF32 for what stays in float32
    if world_size() > 1 or alone:
        group = {"store": dist.HashStore(), "rank": 0, "world_size": 1} if alone else {}
        backend, device_id = ("nccl", device()) if on_gpu else ("gloo", None)
        dist.init_process_group(backend, timeout=TIMEOUT, device_id=device_id, **group)


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


def all_std(x: torch.Tensor, mask: torch.Tensor) -> float:
    """Standard deviation of the valid entries of x (N,) over all ranks; 0 without any."""
    x = torch.where(mask, x, 0)
    n, total, squares = all_sum(mask.sum(), x.sum(), x.double().square().sum())
    n = max(n, 1.0)
    return max(0.0, squares / n - (total / n) ** 2) ** 0.5


def my_share(rows: list) -> list:
    """This rank's contiguous share of rows. Ranks step together: InputError for unequal shares."""
    if len(rows) % world_size():
        raise InputError(f"a batch of {len(rows)} does not divide over {world_size()} processes")
    size = len(rows) // world_size()
    return rows[rank() * size : (rank() + 1) * size]
