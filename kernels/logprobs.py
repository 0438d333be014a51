"""Token log-probabilities and entropies straight from hidden states and the output matrix.

N tokens, hidden size H, V vocabulary entries. The (N, V) logits never exist as a whole: forward
and backward walk over tiles of tokens x vocabulary entries, and backward computes each tile of
logits again. Forward adds the tiles up by a running maximum and sum (Milakov and Gimelshein, 2018).
With logits z = h W^T / temperature, p = softmax(z) and entropy S = -sum_j p_j log p_j:

    d log p_y / d z_j = 1[j = y] - p_j
    d S / d z_j = -p_j (log p_j + S)

The same idea in other tiles: TRL `chunked_logprob`, verl `FusedLinearForPPO`, Liger
`fused_linear_ppo`.
"""

from functools import cache

import torch
from torch import Tensor, nn

# Tokens and vocabulary entries of a tile. On a CPU the 2 MB of a tile stay in the cache between
# the operations on the tile; a GPU wants fewer and larger tiles.
CPU_TILE, GPU_TILE = (1024, 512), (2048, 16384)


def _buffers(hidden: Tensor, weight: Tensor, tile: tuple[int, int], dtype: torch.dtype, fused):
    """Room for two tiles, (2, entries of a tile); for one where the operations are fused."""
    size = min(tile[0], len(hidden)) * min(tile[1], len(weight))
    return torch.empty(1 if fused else 2, size, dtype=dtype, device=hidden.device)


def _logits(hidden: Tensor, weight: Tensor, temperature: float, buffer: Tensor) -> Tensor:
    """hidden (n, H) @ weight (m, H)^T / temperature -> (n, m), in `buffer` and its dtype.

    The product is not rounded to the dtype of hidden: at 70, bfloat16 is up to 0.25 off.
    """
    z = buffer[: len(hidden) * len(weight)].view(len(hidden), len(weight))
    scale = {"beta": 0, "alpha": 1 / temperature, "out": z}
    if hidden.dtype != z.dtype and z.is_cuda:
        return torch.addmm(z, hidden, weight.T, out_dtype=z.dtype, **scale)
    return torch.addmm(z, hidden.to(z.dtype), weight.T.to(z.dtype), **scale)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, in the dtype of `total` and `a`.

    The product is not rounded to the dtype of b: the rounding errors of hundreds of tiles would
    add up.
    """
    if b.dtype == total.dtype:
        total.addmm_(a, b)
    elif total.is_cuda:
        torch.addmm(total, a.to(b.dtype), b, out_dtype=total.dtype, out=total)
    else:
        total.addmm_(a, b.to(total.dtype))


def _at_target(z: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """Column (n, 1) clamped into the tile z (n, m), and whether it was in the tile (n, 1) bool."""
    return column.clamp(0, z.shape[1] - 1), (column >= 0) & (column < z.shape[1])


# What is done with a tile, twice: an operation at a time, in place; and as an expression of which
# torch.compile makes one kernel that reads the tile once (a GPU's time goes to reading tiles).
# Tensors are (n, 1), but the tile z (n, m) of logits. `column` is where the target stands from the
# tile's first entry on.


@cache
def compiled(function):
    return torch.compile(function)


def _add_tile(z, column, peak, total, weighted, z_y):
    """The running sums of the forward pass after one more tile."""
    clamped, in_tile = _at_target(z, column)
    z_y = torch.where(in_tile, z.gather(1, clamped), z_y)
    old, peak = peak, torch.maximum(peak, z.amax(1, keepdim=True))
    shift, z = old - peak, z - peak
    e = z.exp()
    weighted = (weighted + total * shift) * shift.exp() + (e * z).sum(1, keepdim=True)
    total = total * shift.exp() + e.sum(1, keepdim=True)
    return peak, total, weighted, z_y


def _add_tile_in_place(z, column, peak, total, weighted, z_y, buffer):
    column, in_tile = _at_target(z, column)
    z_y = torch.where(in_tile, z.gather(1, column), z_y)
    old, peak = peak, torch.maximum(peak, z.amax(1, keepdim=True))
    z -= peak
    e = torch.exp(z, out=buffer[: z.numel()].view_as(z))
    shift = old - peak
    weighted = (weighted + total * shift) * shift.exp()
    weighted = weighted + torch.linalg.vecdot(e, z)[:, None]
    total = total * shift.exp() + e.sum(1, keepdim=True)
    return peak, total, weighted, z_y


def _gradient(z, column, logz, entropy, g, g_entropy, dtype):
    """The gradient of a tile, dz = (1[target] - p) g - p (log p + S) g_S, in `dtype`."""
    logp = z - logz
    p = logp.exp()
    is_target = torch.arange(z.shape[1], device=z.device) == column
    dz = (is_target.to(z.dtype) - p) * g
    if g_entropy is not None:
        dz = dz - p * (logp + entropy) * g_entropy
    return dz.to(dtype)


def _gradient_in_place(z, column, logz, entropy, g, g_entropy, buffer):
    z -= logz  # log p
    # dz = -p g, or with a gradient g_S of the entropy -p ((log p + S) g_S + g)
    if g_entropy is None:
        dz = z.exp_().mul_(-g)
    else:
        p = torch.exp(z, out=buffer[: z.numel()].view_as(z))
        dz = z.add_(entropy).mul_(g_entropy).add_(g).mul_(p).neg_()
    column, in_tile = _at_target(z, column)
    return dz.scatter_add_(1, column, torch.where(in_tile, g, 0))


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, targets, temperature, tile, fused):
        ctx.set_materialize_grads(False)
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        logprobs, entropy, logz = torch.empty(3, len(hidden), dtype=dtype, device=hidden.device)
        buffers = _buffers(hidden, weight, tile, dtype, fused)
        with torch.autocast(hidden.device.type, enabled=False):
            for i in range(0, len(hidden), tile[0]):
                rows = slice(i, i + tile[0])
                h, y = hidden[rows], targets[rows]
                # Over the tiles so far, with z' = z - peak: the maximum of z, the sums of e^z' and
                # z' e^z', and z at the target. All (n, 1).
                peak = h.new_full((len(h), 1), torch.finfo(dtype).min, dtype=dtype)
                total, weighted, z_y = torch.zeros(3, len(h), 1, dtype=dtype, device=h.device)
                for j in range(0, len(weight), tile[1]):
                    w = weight[j : j + tile[1]]
                    z = _logits(h, w, temperature, buffers[0])
                    inputs = (z, y[:, None] - j, peak, total, weighted, z_y)
                    if fused:
                        peak, total, weighted, z_y = compiled(_add_tile)(*inputs)
                    else:
                        inputs = (*inputs, buffers[1])
                        peak, total, weighted, z_y = _add_tile_in_place(*inputs)
                log_total = total.log()
                logz[rows] = (log_total + peak).squeeze(1)
                logprobs[rows] = (z_y - peak - log_total).squeeze(1)
                entropy[rows] = (log_total - weighted / total).squeeze(1)
        ctx.save_for_backward(hidden, weight, targets, logz, entropy)
        ctx.temperature, ctx.tile, ctx.fused = temperature, tile, fused
        return logprobs, entropy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_logprobs: Tensor | None, grad_entropy: Tensor | None):
        hidden, weight, targets, logz, entropy = ctx.saved_tensors
        tile, dtype = ctx.tile, logz.dtype
        if grad_logprobs is None:
            grad_logprobs = torch.zeros_like(logz)
        grad_hidden = torch.zeros_like(hidden, dtype=dtype) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight, dtype=dtype) if ctx.needs_input_grad[1] else None
        buffers = _buffers(hidden, weight, tile, dtype, ctx.fused)
        with torch.autocast(hidden.device.type, enabled=False):
            for i in range(0, len(hidden), tile[0]):
                rows = slice(i, i + tile[0])
                h, y, g = hidden[rows], targets[rows], grad_logprobs[rows, None]
                g_entropy = None if grad_entropy is None else grad_entropy[rows, None]
                if ctx.fused:
                    g = g / ctx.temperature
                    g_entropy = None if g_entropy is None else g_entropy / ctx.temperature
                for j in range(0, len(weight), tile[1]):
                    columns = slice(j, j + tile[1])
                    w = weight[columns]
                    z = _logits(h, w, ctx.temperature, buffers[0])
                    inputs = (z, y[:, None] - j, logz[rows, None], entropy[rows, None], g)
                    if ctx.fused:
                        factor = w.dtype if w.is_cuda else dtype  # as `_add_product` wants
                        dz = compiled(_gradient)(*inputs, g_entropy, factor)
                    else:
                        dz = _gradient_in_place(*inputs, g_entropy, buffers[1])
                        if ctx.temperature != 1:
                            dz /= ctx.temperature
                    if grad_hidden is not None:
                        _add_product(grad_hidden[rows], dz, w)
                    if grad_weight is not None:
                        _add_product(grad_weight[columns], dz.T, h)
        grad_hidden = None if grad_hidden is None else grad_hidden.to(hidden.dtype)
        grad_weight = None if grad_weight is None else grad_weight.to(weight.dtype)
        return grad_hidden, grad_weight, None, None, None, None


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    tile: tuple[int, int] | None = None,
    fused: bool = False,
) -> tuple[Tensor, Tensor]:
    """Log-prob of each target and entropy of each distribution softmax(hidden W^T / temperature).

    hidden (N, H) and weight W (V, H) of one dtype, targets (N,) long -> logprobs (N,), entropy
    (N,), in nats, float32 (float64 for float64 input). Both outputs have exact gradients for
    `hidden` and `weight`. N = 0 is fine. `weight` may be tied to the embedding: autograd adds the
    two contributions. `tile` is tokens x vocabulary entries. `fused`: torch.compile makes the
    kernels that read a tile, in some seconds at first. ValueError unless temperature > 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    tile = tile or (CPU_TILE if hidden.device.type == "cpu" else GPU_TILE)
    return _TokenLogprobs.apply(hidden, weight, targets, temperature, tile, fused)


def completion_logprobs(
    model: nn.Module,
    input_ids: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    fused: bool = False,
    targets: Tensor | None = None,
    before: Tensor | None = None,
    **inputs: Tensor,
) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies of the tokens that count, under a Hugging Face causal LM.

    The model's head must be plain (`check_plain_head`). input_ids (B, L) long, right-padded; mask
    (B, L) bool: token t counts where mask[b, t] is on, and position t - 1 predicts token t. Or
    mask, targets and before (R, T): targets, long, are the tokens, and before, long, says where
    among the B L tokens the one stands that predicts each. inputs: of the model, besides. fused: as
    in `token_logprobs`. Returns logprobs and entropy in the mask's shape, float32, 0 where the mask
    is off. Right padding needs no attention mask: a causal model never looks right. If no token
    counts, both results are zeros that are connected to the parameters.

    Under FSDP2 bind this function to the sharded model, so that its hooks gather the parameters:
    `model.completion_logprobs = types.MethodType(completion_logprobs, model)`, then
    `torch.distributed.fsdp.register_fsdp_forward_method(model, "completion_logprobs")`.

    ValueError if the first token of a row is said to count: nothing predicts that token.
    """
    if before is None:
        if mask[:, 0].any():
            raise ValueError("mask[:, 0] must be off: nothing predicts the first token of a row")
        targets = input_ids
        before = torch.arange(input_ids.numel(), device=input_ids.device).view_as(input_ids) - 1
    body = model.base_model(input_ids=input_ids, use_cache=False, **inputs)
    weight = model.get_output_embeddings().weight
    # (N, H) of the N tokens that count
    hidden = body.last_hidden_state.flatten(0, 1)[before[mask]].to(weight.dtype)
    logprobs, entropy = token_logprobs(hidden, weight, targets[mask], temperature, fused=fused)
    zeros = logprobs.new_zeros(mask.shape)
    return zeros.masked_scatter(mask, logprobs), zeros.masked_scatter(mask, entropy)


@torch.no_grad()
def check_plain_head(model: nn.Module) -> None:
    """Refuse a causal LM whose logits are more than hidden W^T; before sharding.

    ValueError if the head has a bias, if something stands between backbone and head, or if the
    logits are changed after the head (softcapping, a scale). For the last of these, large made-up
    logits are sent through the rest of the forward pass: an untrained model's logits are so small
    that a soft cap would leave them nearly unchanged.
    """
    name = type(model).__name__
    head = model.get_output_embeddings()
    if head is None:
        raise ValueError(f"{name} has no output embeddings")
    if model.base_model is model:
        raise ValueError(f"{name} does not name its backbone: not supported")
    seen = {}

    def probe(module, args, output):
        seen["hidden"], seen["logits"] = args[0], output
        seen["planted"] = torch.linspace(-100, 100, output.numel()).to(output).view_as(output)
        return seen["planted"]

    ids = torch.arange(4, device=head.weight.device)[None] % head.weight.shape[0]
    mode = model.training
    model.eval()
    hook = head.register_forward_hook(probe)
    try:
        logits = model(input_ids=ids, use_cache=False).logits
    finally:
        hook.remove()
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    model.train(mode)

    def close(x: Tensor, y: Tensor, scale: float) -> bool:
        return torch.allclose(x.float(), y.float(), rtol=1e-2, atol=1e-2 * scale)

    if getattr(head, "bias", None) is not None:
        raise ValueError(
            f"the output layer of {name} has a bias; "
            "completion_logprobs needs logits = hidden @ W^T"
        )
    if "planted" not in seen or not close(logits, seen["planted"], 1.0):
        raise ValueError(
            f"{name} changes its logits after the output layer (softcapping or a scale): "
            "not supported"
        )
    if not close(seen["hidden"], hidden, hidden.float().abs().max().item()):
        raise ValueError(
            f"{name} changes the hidden states between backbone and output layer: not supported"
        )
    plain = (hidden @ head.weight.T).float()
    if not close(seen["logits"], plain, plain.abs().max().item()):
        raise ValueError(f"the output layer of {name} is not hidden @ W^T; this is not supported")
