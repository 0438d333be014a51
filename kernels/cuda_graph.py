"""A decoding step as a CUDA graph."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def recorded(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Runs a step, and returns a function that runs the step again: on CUDA as a CUDA graph.

    torch's notes on CUDA graphs ask for a step on a side stream before the one that is recorded,
    which itself runs nothing. Other threads (NCCL's watchdog) may use CUDA meanwhile.
    """
    if device.type != "cuda":
        step()
        return step
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        step()
    return graph.replay


def can_be_recorded(model) -> bool:
    """Whether a forward pass asks nothing of the host: transformers says which may be compiled as
    one graph. Positions of two types look at the longest text of the batch."""
    ropes = {str(getattr(module, "rope_type", None)) for module in model.modules()}
    asks = any("dynamic" in rope or "longrope" in rope for rope in ropes)
    return getattr(model, "_can_compile_fullgraph", False) and not asks


def of_any_size(step: Callable, kv) -> Callable:
    """A compiled step(token (R, 1), mask (R, 1, 1, L), position (R, 1)) with a static KV cache, of
    which torch.compile makes one version for all R and L above 1, not one version each."""

    def run(token: Tensor, mask: Tensor, position: Tensor):
        for x in (token, position):
            torch._dynamo.maybe_mark_dynamic(x, 0)
        torch._dynamo.maybe_mark_dynamic(mask, [0, 3])
        for layer in kv.layers:
            for x in (layer.keys, layer.values):  # (R, K, L, D)
                torch._dynamo.maybe_mark_dynamic(x, [0, 2])
        return step(token, mask, position)

    return run


@contextmanager
def without_hooks(model) -> Iterator[None]:
    """Forward passes that run no hook of a module: those that are known are in the way of a graph.

    FSDP2's make the streams of its collectives wait for the current stream, and would so draw these
    streams into the graph. An unsharded model needs neither the collectives nor the hooks' casts:
    the unsharded parameters have the dtype of the computation. Activation checkpointing's ask the
    random number generator for its state, which is refused while a graph is recorded.
    """
    modules = list(model.modules())
    hooks = [(module._forward_pre_hooks, module._forward_hooks) for module in modules]
    try:
        for module in modules:
            module._forward_pre_hooks, module._forward_hooks = OrderedDict(), OrderedDict()
        yield
    finally:
        for module, (before, after) in zip(modules, hooks, strict=True):
            module._forward_pre_hooks, module._forward_hooks = before, after
