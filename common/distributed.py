"""torch.distributed: ranks, and sums over ranks."""

import gc
import json
import os
import threading
import time
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.nn.functional as F

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


def check_environment() -> None:
    """Raises InputError where torchrun's variables are there in part, or are no ranks."""
    found = [name for name in ("RANK", "WORLD_SIZE") if name in os.environ]
    if not found:
        return
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        value = os.environ.get(name, "")
        if not value or (not value.isdecimal() and name != "MASTER_ADDR"):
            raise InputError(
                f"the environment has {found[0]}, but {name} is {value!r}: start the script with "
                "torchrun, or alone without these variables"
            )
    if rank() >= world_size():
        raise InputError(f"RANK {rank()} is not below WORLD_SIZE {world_size()}")


def end_with_parent() -> None:
    """Ends this rank when torchrun is gone: the rank would go on, or wait for the others, unseen,
    and hold its memory. (PR_SET_PDEATHSIG would act when a thread of the parent ends.)"""
    parent = os.getppid()

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def start_distributed(alone: bool = False) -> None:
    """Joins torchrun's process group, if there is one: NCCL on GPU, gloo on CPU. alone: starts a
    group of this one process, which FSDP2 needs as well."""
    check_environment()
    if world_size() > 1:
        end_with_parent()
    on_gpu = device().type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device())
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


def check_batch(size: int) -> None:
    """InputError for a batch that does not divide over the processes: ranks that train step
    together."""
    if size % world_size():
        raise InputError(f"a batch of {size} does not divide over {world_size()} processes")


def my_share(rows: list, even: bool = True) -> list:
    """This rank's contiguous share of rows. Shares differ by one row at most; even: by none
    (`check_batch`)."""
    if even:
        check_batch(len(rows))
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
    dist.all_gather(texts, F.pad(mine, (0, longest - len(mine))))
    parts = [bytes(text[: int(n)].cpu().numpy()) for text, n in zip(texts, sizes, strict=True)]
    return [row for part in parts for row in json.loads(part)]


def wait_for_all() -> None:
    """Returns once every rank is here."""
    if dist.is_initialized():
        dist.barrier()
