"""safetensors files: written tensor by tensor as ranks gather them, read slice by slice."""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
import transformers
from safetensors import safe_open
from torch.distributed.tensor import DTensor

from common.distributed import rank, world_size
from common.files import write_text

MAX_FILE_SIZE = 5 * 10**9  # bytes of a file's tensors; a larger tensor has a file of its own
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def find_file(path: str | Path, name: str) -> str | None:
    """A file of a folder, or of a hub name's cached download; None where there is none."""
    try:
        return transformers.utils.cached_file(path, name)
    except OSError:
        return None


def tensors_in(path: str | Path, stem: str = "model") -> dict[str, tuple[str, list[int]]]:
    """File and shape of each tensor in stem.safetensors, or in the files that
    stem.safetensors.index.json names, of a folder or hub name. ValueError where there are none."""
    whole = find_file(path, f"{stem}.safetensors")
    index = None if whole else find_file(path, f"{stem}.safetensors.index.json")
    if not whole and not index:
        raise ValueError(f"it has no {stem}.safetensors")
    files = [whole]
    if index:
        names = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values()
        files = [transformers.utils.cached_file(path, name) for name in sorted(set(names))]
    found = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                names = tensors.keys()
                found |= {name: (file, tensors.get_slice(name).get_shape()) for name in names}
        except Exception as error:  # SafetensorError, which is no OSError
            raise ValueError(f"{Path(file).name} is damaged: {error}") from None
    return found


@torch.no_grad()
def read_into(tensor: torch.Tensor, file: str, name: str) -> None:
    """Copies a file's tensor into `tensor`, of a sharded one the rows that this process holds.

    The file is opened for this one tensor: what is mapped of it leaves the memory again.
    """
    with safe_open(file, framework="pt") as tensors:
        if not isinstance(tensor, DTensor):
            tensor.copy_(tensors.get_tensor(name))
            return
        rows, local = -(-len(tensor) // world_size()), tensor.to_local()  # FSDP2's Shard(0)
        if len(local):
            start = rank() * rows
            local.copy_(tensors.get_slice(name)[start : start + len(local)])


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor on the CPU; a sharded one is gathered first (all ranks must call this together)."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().cpu()


def save_tensors(
    folder: Path, stem: str, tensors: dict[str, torch.Tensor], max_size: int = MAX_FILE_SIZE
) -> None:
    """Writes stem.safetensors; where that would have more than max_size bytes several files,
    stem-00001-of-0000N.safetensors, and an index. All ranks must call this together.

    Ranks send their rows of one tensor after another, and rank 0 writes them as they arrive: the
    header needs shapes and dtypes alone. The layout is that of safetensors and, of the index, that
    of transformers.
    """
    files, size = [[]], 0  # wide dtypes first: every tensor is aligned
    for name in sorted(tensors, key=lambda name: (-tensors[name].element_size(), name)):
        num_bytes = _num_bytes(tensors[name])
        if files[-1] and size + num_bytes > max_size:
            files.append([])
            size = 0
        files[-1].append(name)
        size += num_bytes
    weight_map = {}
    for number, names in enumerate(files, 1):
        part = f"-{number:05d}-of-{len(files):05d}" if len(files) > 1 else ""
        file = f"{stem}{part}.safetensors"
        weight_map |= dict.fromkeys(names, file)
        with open(folder / file, "wb") if rank() == 0 else nullcontext() as out:
            if out:
                out.write(_header({name: tensors[name] for name in names}))
            for name in names:
                for part in _parts(tensors[name]):
                    out.write(part.contiguous().view(-1).view(torch.uint8).numpy())
    if len(files) > 1 and rank() == 0:
        total = sum(map(_num_bytes, tensors.values()))
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_text(folder / f"{stem}.safetensors.index.json", json.dumps(index, indent=2) + "\n")


def _parts(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """On rank 0, a tensor's rows in order, on the CPU: those of rank 0, rank 1 and so on. The other
    ranks send theirs to rank 0. A tensor that is not sharded is one part."""
    local = (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()
    if rank() == 0:
        yield local.cpu()
    if not isinstance(tensor, DTensor):
        return
    if rank() > 0 and len(local):
        dist.send(local.contiguous(), dst=0)
    rows, left = len(local), len(tensor) - len(local)  # rank 0 has as many as any
    for other in range(1, world_size() if rank() == 0 else 1):
        part = local.new_empty(min(rows, left), *tensor.shape[1:])
        left -= len(part)
        if len(part):
            dist.recv(part, src=other)
            yield part.cpu()


def _num_bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _header(tensors: dict[str, torch.Tensor]) -> bytes:
    """The beginning of a safetensors file in which the tensors follow in this order."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in tensors.items():
        start, end = end, end + _num_bytes(tensor)
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the first tensor is aligned
    return len(text).to_bytes(8, "little") + text
