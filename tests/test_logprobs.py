"""Log-probs, entropies and their gradients against log_softmax in float64; of models too."""

import types
from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

import common
from kernels.logprobs import check_plain_head, completion_logprobs, token_logprobs


def naive(hidden, weight, targets, temperature):
    logp = F.log_softmax(hidden @ weight.T / temperature, dim=1)
    return logp.gather(1, targets[:, None]).squeeze(1), -(logp.exp() * logp).sum(1)


SHAPES = [  # tokens, hidden size, vocabulary entries, tile
    (0, 4, 7, (3, 3)),
    (1, 1, 1, (1, 1)),
    (5, 8, 33, (2, 8)),
    (64, 16, 50, (64, 50)),
    (130, 8, 300, None),
]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_values_and_gradients_are_those_of_log_softmax_in_float64(temperature):
    generator = torch.Generator().manual_seed(0)
    for n, width, vocab, tile in SHAPES:
        hidden = torch.randn(n, width, generator=generator) * 3
        weight = torch.randn(vocab, width, generator=generator)
        targets = torch.randint(0, vocab, (n,), generator=generator)
        gradients = torch.randn(2, n, generator=generator)
        tiled = partial(token_logprobs, tile=tile)
        results = []
        for function, dtype in ((tiled, torch.float32), (naive, torch.float64)):
            h, w = (x.detach().to(dtype, copy=True).requires_grad_() for x in (hidden, weight))
            outputs = function(h, w, targets, temperature)
            torch.autograd.backward(outputs, gradients.to(dtype).unbind())
            results.append((*outputs, h.grad, w.grad))
        for ours, expected in zip(*results, strict=True):
            assert ours.dtype == torch.float32
            torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tile", [(1, 4), (3, 4), (100, 100)])
def test_gradcheck_with_ragged_last_tiles(tile):
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(7, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 11, (7,), generator=generator)
    logprobs = partial(token_logprobs, targets=targets, temperature=0.7, tile=tile)
    # Both outputs, and each without a gradient for the other.
    for picked in (slice(0, 2), slice(0, 1), slice(1, 2)):

        def outputs(h, w, picked=picked):
            return logprobs(h, w)[picked]

        assert torch.autograd.gradcheck(outputs, (hidden, weight))
    assert torch.autograd.gradcheck(lambda h: logprobs(h, weight.detach()), hidden)
    assert torch.autograd.gradcheck(lambda w: logprobs(hidden.detach(), w), weight)


def test_extreme_logits_stay_finite():
    hidden = torch.tensor([[1e4], [-1e4], [0.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [0.0], [-1.0]], requires_grad=True)
    logprobs, entropy = token_logprobs(hidden, weight, torch.tensor([0, 0, 1]))
    torch.testing.assert_close(logprobs, torch.tensor([0.0, -2e4, -1.0986123]))
    torch.testing.assert_close(entropy, torch.tensor([0.0, 0.0, 1.0986123]))
    (logprobs.sum() + entropy.sum()).backward()
    assert hidden.grad.isfinite().all() and weight.grad.isfinite().all()


def test_equals_trl_selective_log_softmax_and_verl_entropy():
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(20, 8, generator=generator)
    weight = torch.randn(40, 8, generator=generator)
    targets = torch.randint(0, 40, (20,), generator=generator)
    logits = hidden @ weight.T / 0.9
    # TRL, trainer/utils.py, `selective_log_softmax`
    logsumexp = torch.stack([torch.logsumexp(row, -1) for row in logits])
    trl = logits.gather(-1, targets[:, None]).squeeze(-1) - logsumexp
    # verl, torch_functional.py, `entropy_from_logits`
    verl = torch.logsumexp(logits, dim=-1) - torch.sum(F.softmax(logits, dim=-1) * logits, dim=-1)
    logprobs, entropy = token_logprobs(hidden, weight, targets, 0.9)
    torch.testing.assert_close(logprobs, trl)
    torch.testing.assert_close(entropy, verl)


def test_bf16_input_is_reduced_in_fp32():
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(300, 32, generator=generator).bfloat16().requires_grad_()
    weight = (torch.randn(500, 32, generator=generator) / 4).bfloat16().requires_grad_()
    targets = torch.randint(0, 500, (300,), generator=generator)
    logprobs, entropy = token_logprobs(hidden, weight, targets)
    (logprobs.sum() + 0.1 * entropy.sum()).backward()
    h, w = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    expected, expected_entropy = naive(h, w, targets, 1.0)
    (expected.sum() + 0.1 * expected_entropy.sum()).backward()
    assert logprobs.dtype == entropy.dtype == torch.float32 and weight.grad.dtype == torch.bfloat16
    # A logit of size 8 rounds to 2^-6 in bf16. The sums over 500 entries and 300 tokens must not
    # add to this error.
    torch.testing.assert_close(logprobs.double(), expected, rtol=0, atol=2**-5)
    torch.testing.assert_close(entropy.double(), expected_entropy, rtol=0, atol=2**-5)
    for ours, expected in ((hidden.grad, h.grad), (weight.grad, w.grad)):
        assert (ours.double() - expected).norm() < 0.01 * expected.norm()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_large_logits_of_bf16_input_are_not_rounded(temperature):
    generator = torch.Generator().manual_seed(5)
    hidden = torch.randn(100, 64, generator=generator)
    weight = torch.randn(700, 64, generator=generator)
    logits = hidden @ weight.T
    hidden *= 70 / logits.amax(1, keepdim=True)  # each row's largest logit is 70
    hidden, weight = (x.bfloat16().requires_grad_() for x in (hidden, weight))
    targets = logits.topk(3).indices[:, 2]
    logprobs, entropy = token_logprobs(hidden, weight, targets, temperature, tile=(64, 512))
    h, w = (x.detach().double().requires_grad_() for x in (hidden, weight))
    expected, expected_entropy = naive(h, w, targets, temperature)
    # Logits in bfloat16 would be up to 0.25 off.
    torch.testing.assert_close(logprobs.double(), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(entropy.double(), expected_entropy, rtol=0, atol=1e-4)
    logprobs.sum().backward()
    expected.sum().backward()
    for ours, exact in ((hidden.grad, h.grad), (weight.grad, w.grad)):
        assert (ours.double() - exact).norm() < 0.003 * exact.norm()  # bfloat16's own rounding


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature"):
        token_logprobs(torch.ones(1, 2), torch.ones(3, 2), torch.tensor([0]), temperature)


SIZES = {"vocab_size": 60, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2}
LLAMA = {**SIZES, "intermediate_size": 64, "num_key_value_heads": 2}
GPT2 = {"vocab_size": 60, "n_embd": 32, "n_head": 4, "n_layer": 2}


def llama(**kwargs) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**LLAMA, initializer_range=0.3, **kwargs))


def ragged_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded prompt + completion rows (B, L), padded with ids, and the completions' mask."""
    generator = torch.Generator().manual_seed(4)
    ids = torch.randint(0, 60, (6, 17), generator=generator)
    mask = torch.zeros(6, 17, dtype=torch.bool)
    for row, (start, end) in enumerate([(3, 17), (5, 6), (1, 12), (9, 9), (2, 15), (16, 17)]):
        mask[row, start:end] = True
    mask[4, 7:9] = False
    return ids, mask


@pytest.mark.parametrize("tied", [True, False])
def test_completion_logprobs_and_all_gradients_equal_the_models_own_logits(tied):
    ids, mask = ragged_batch()
    gradients = []
    for fused in (True, False):
        model = llama(tie_word_embeddings=tied)
        if fused:
            logprobs, entropy = completion_logprobs(model, ids, mask, 0.8)
        else:
            logp = F.log_softmax(model(ids).logits[:, :-1].double() / 0.8, -1)
            logprobs = F.pad(logp.gather(2, ids[:, 1:, None]).squeeze(2), (1, 0)) * mask
            entropy = F.pad(-(logp.exp() * logp).sum(-1), (1, 0)) * mask
        (logprobs.sum() - 0.3 * entropy.sum()).backward()
        outputs = [logprobs, entropy, *(p.grad for p in model.parameters())]
        gradients.append([x.double() for x in outputs])
    assert (gradients[0][0][~mask] == 0).all() and (gradients[0][1][~mask] == 0).all()
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_what_is_padded_does_not_matter():
    ids, mask = ragged_batch()
    model = llama()
    last = mask.long() * torch.arange(ids.shape[1])
    padding = torch.arange(ids.shape[1]) > last.amax(1, keepdim=True)
    with torch.no_grad():
        first, _ = completion_logprobs(model, ids, mask)
        second, _ = completion_logprobs(model, ids.masked_fill(padding, 0), mask)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize("budget", [17, 40, 1000])
def test_gradients_do_not_depend_on_the_split_into_micro_batches(budget):
    ids, mask = ragged_batch()
    lengths = (mask.long() * torch.arange(1, 18)).amax(1).tolist()
    whole, split = llama(), llama()
    completion_logprobs(whole, ids, mask)[0].sum().div(mask.sum()).backward()
    for rows in common.batches_by_length(lengths, 100, budget):
        width = max(1, max(lengths[i] for i in rows))
        logprobs, _ = completion_logprobs(split, ids[rows, :width], mask[rows, :width])
        (logprobs.sum() / mask.sum()).backward()
    for a, b in zip(whole.parameters(), split.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)


def test_an_all_masked_batch_is_a_zero_connected_to_every_parameter():
    model = llama()
    ids, mask = ragged_batch()
    logprobs, entropy = completion_logprobs(model, ids, torch.zeros_like(mask))
    assert (logprobs == 0).all() and (entropy == 0).all()
    (logprobs.sum() + entropy.sum()).backward()
    assert all(p.grad is not None and (p.grad == 0).all() for p in model.parameters())


def test_a_first_token_that_counts_is_refused():
    ids, mask = ragged_batch()
    mask[2, 0] = True
    with pytest.raises(ValueError, match="first token"):
        completion_logprobs(llama(), ids, mask)


def test_works_as_a_method_of_a_sharded_model(tmp_path):
    ids, mask = ragged_batch()
    plain = llama(tie_word_embeddings=True)
    expected, _ = completion_logprobs(plain, ids, mask)
    expected.sum().backward()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mesh = dist.init_device_mesh("cpu", (1,))
        model = llama(tie_word_embeddings=True)
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        model.completion_logprobs = types.MethodType(completion_logprobs, model)
        register_fsdp_forward_method(model, "completion_logprobs")
        # The second batch adds no gradients, and finds the parameters sharded again.
        for batch_mask in (mask, torch.zeros_like(mask)):
            logprobs, _ = model.completion_logprobs(ids, batch_mask)
            logprobs.sum().backward()
            torch.testing.assert_close(logprobs, expected * batch_mask)
        for a, b in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(a.grad.full_tensor(), b.grad)
        del model
    finally:
        dist.destroy_process_group()


def plain_models():
    yield llama()
    yield Qwen2ForCausalLM(Qwen2Config(**LLAMA, tie_word_embeddings=True))
    yield GPT2LMHeadModel(GPT2Config(**GPT2))


def test_plain_heads_pass_the_check_and_keep_their_mode():
    for model in plain_models():
        for mode in (True, False):
            model.train(mode)
            check_plain_head(model)
            assert model.training == mode


def test_heads_that_do_more_are_refused():
    gemma = Gemma2Config(**LLAMA, head_dim=8, final_logit_softcapping=30.0)
    cohere = CohereConfig(**LLAMA, logit_scale=0.0625)
    for model in (Gemma2ForCausalLM(gemma), CohereForCausalLM(cohere)):
        with pytest.raises(ValueError, match="after the output layer"):
            check_plain_head(model)
    with pytest.raises(ValueError, match="bias"):
        check_plain_head(GPTJForCausalLM(GPTJConfig(**GPT2, rotary_dim=8)))
