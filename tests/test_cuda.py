"""On a CUDA GPU: kernels against float64, decoding by CUDA graph, bfloat16, stages that train."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from safetensors.torch import load_file

import common
import plot
from common import tensors
from kernels import advantages, draws, lexer, logprobs, masking, sampling

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
DEVICE = common.device()
BF16 = SimpleNamespace(bf16=True, gradient_checkpointing=False)


@pytest.fixture(autouse=True)
def group_of_one():
    """The process group that `shard` starts ends with each test; TF32 is off at its start."""
    torch.set_float32_matmul_precision("highest")
    yield
    common.end_distributed()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model with grouped-query heads, on disk, with a tokenizer."""
    place = tmp_path_factory.mktemp("cuda") / "policy"
    tokenizer = common.new_tokenizer([Path(common.__file__).read_text()], 400)
    config = transformers.Qwen2Config(
        vocab_size=9000,  # a CDF by blocks
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    transformers.Qwen2ForCausalLM(config).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def load(folder: Path, dtype: torch.dtype):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return model.to(DEVICE).eval()


def error_of(got: torch.Tensor, exact: torch.Tensor) -> float:
    return float((got.detach().double() - exact.detach()).norm() / exact.detach().norm())


@pytest.mark.parametrize(
    ("dtype", "of_values", "of_gradients"),
    [(torch.float32, 1e-6, 1e-5), (torch.bfloat16, 1e-5, 1e-2)],
)
def test_log_probs_and_gradients_are_those_of_float64(dtype, of_values, of_gradients):
    tokens, hidden_size, vocabulary = 3000, 256, 40000  # several tiles each way, one cut short
    generator = torch.Generator(DEVICE).manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, device=DEVICE, generator=generator)

    hidden = normal(tokens, hidden_size).to(dtype).requires_grad_()
    weight = (normal(vocabulary, hidden_size) / hidden_size**0.5).to(dtype).requires_grad_()
    targets = torch.randint(0, vocabulary, (tokens,), device=DEVICE, generator=generator)
    of_logprobs, of_entropy = normal(tokens), normal(tokens)
    logprob, entropy = logprobs.token_logprobs(hidden, weight, targets, 0.8)
    ((logprob * of_logprobs).sum() + (entropy * of_entropy).sum()).backward()
    hidden64 = hidden.detach().double().requires_grad_()
    weight64 = weight.detach().double().requires_grad_()
    logp = (hidden64 @ weight64.T / 0.8).log_softmax(-1)
    logprob64, entropy64 = logp.gather(1, targets[:, None])[:, 0], -(logp.exp() * logp).sum(-1)
    ((logprob64 * of_logprobs).sum() + (entropy64 * of_entropy).sum()).backward()
    errors = [error_of(logprob, logprob64), error_of(entropy, entropy64)]
    assert max(errors) < of_values, errors
    errors = [error_of(hidden.grad, hidden64.grad), error_of(weight.grad, weight64.grad)]
    assert max(errors) < of_gradients, errors


def test_advantages_are_those_of_the_cpu():
    generator = torch.Generator().manual_seed(1)
    rewards, values = torch.randn(2, 64, 300, generator=generator)
    mask = torch.rand(64, 300, generator=generator) < 0.9
    inputs = (rewards, values, mask)
    on_cpu = advantages.gae(*inputs, 0.99, 0.95)
    on_gpu = advantages.gae(*(x.to(DEVICE) for x in inputs), 0.99, 0.95)
    for got, expected in zip(on_gpu, on_cpu, strict=True):
        torch.testing.assert_close(got.cpu(), expected, rtol=1e-4, atol=1e-4)
    white = advantages.whiten(on_cpu[0].to(DEVICE), mask.to(DEVICE)).cpu()
    torch.testing.assert_close(white, advantages.whiten(on_cpu[0], mask), rtol=1e-4, atol=1e-4)
    groups = torch.arange(64) // 4
    got = advantages.group_advantages(rewards[:, 0].to(DEVICE), groups.to(DEVICE)).cpu()
    torch.testing.assert_close(got, advantages.group_advantages(rewards[:, 0], groups))


def test_lines_are_those_of_the_cpu(folder):
    tokenizer = common.load_tokenizer(folder)
    table = masking.line_table(tokenizer)
    ids = torch.tensor(tokenizer(Path(common.__file__).read_text()).input_ids[:1600]).view(8, 200)
    mask = torch.ones_like(ids).bool()
    for function, more in ((masking.line_ends, ()), (lexer.code_ends, ())):
        got = function(ids.to(DEVICE), mask.to(DEVICE), table.to(DEVICE), *more)
        assert torch.equal(got.cpu(), function(ids, mask, table, *more))


@pytest.mark.parametrize("vocabulary", [100, 9001])
def test_a_draw_is_the_entry_whose_share_of_the_cdf_holds_the_uniform_number(vocabulary):
    generator = torch.Generator(DEVICE).manual_seed(2)
    logits = torch.randn(512, vocabulary, device=DEVICE, generator=generator) * 2
    uniform = torch.rand(512, dtype=torch.float64, device=DEVICE, generator=generator)
    token, logprob = draws.draw(logits, 0.7, uniform)
    p = (logits.double() / 0.7).softmax(-1)
    above = p.cumsum(-1).gather(1, token[:, None])[:, 0]
    below = above - p.gather(1, token[:, None])[:, 0]
    assert bool(((1 - uniform > below - 1e-6) & (1 - uniform <= above + 1e-6)).all())
    torch.testing.assert_close(logprob.double().exp(), above - below, rtol=1e-4, atol=1e-9)


@torch.no_grad()
def teacher_forced(model, prompts, ids, mask) -> torch.Tensor:
    """Log-probs (N, T) of completions by forward passes over one whole text each."""
    out = torch.zeros(mask.shape, device=DEVICE)
    each = len(ids) // len(prompts)
    for i, length in enumerate(mask.sum(1).tolist()):
        prompt = prompts[i // each]
        text = torch.tensor([prompt + ids[i, :length].tolist()], device=DEVICE)
        logits = model(input_ids=text, use_cache=False).logits[0, len(prompt) - 1 : -1]
        out[i, :length] = (
            logits.float().log_softmax(-1).gather(1, text[0, len(prompt) :, None])[:, 0]
        )
    return out


ROLLOUT = dict(num_samples=4, max_new_tokens=300, temperature=1.0)
PROMPTS = [[5 + (7 * i + n) % 380 for i in range(n)] for n in (230, 7, 120, 31)]


@pytest.mark.parametrize("ending", [10, 300])  # entries of 9,000 that end a completion
def test_a_recorded_step_draws_the_tokens_of_the_plain_loop(folder, ending, monkeypatch):
    model = load(folder, torch.float32)
    replays = []
    replay = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(
        torch.cuda.CUDAGraph, "replay", lambda graph: (replays.append(1), replay(graph))[1]
    )
    rollout = {**ROLLOUT, "eos_ids": list(range(400, 400 + ending)), "seeds": list(range(16))}
    plain = sampling.sample(model, PROMPTS, **rollout, _static=False)
    assert not replays
    static = sampling.sample(model, PROMPTS, **rollout)
    assert len(replays) > 20
    assert torch.equal(static[1], plain[1])
    assert torch.equal(static[0], plain[0])
    forced = teacher_forced(model, PROMPTS, *static[:2])
    assert float(((forced - static[2]).abs() * static[1]).max()) < 2e-4


def test_bfloat16_samples_have_the_log_probs_of_a_forward_pass_within_its_rounding(folder):
    model = load(folder, torch.bfloat16)
    rollout = {**ROLLOUT, "eos_ids": [1], "seeds": list(range(16))}
    ids, mask, sampled = sampling.sample(model, PROMPTS, **rollout)
    difference = (teacher_forced(model, PROMPTS, ids, mask) - sampled).abs()[mask]
    assert 0 < float(difference.mean()) < 0.02 and float(difference.max()) < 0.3


ROWS = list(range(16))


def roll_out_and_score(policy, folder):
    """A rollout, and its log-probs (N, T) with a graph; they are the bits of those without."""
    tokenizer = common.load_tokenizer(folder)
    rollout = common.roll_out(policy, tokenizer, PROMPTS, 4, 80, 1.0, ROWS)
    with torch.no_grad():
        old, _ = common.logprobs_of(policy, rollout, ROWS, 1.0)
    new, _ = common.logprobs_of(policy, rollout, ROWS, 1.0)
    assert torch.equal(old, new)  # the first ratio is exactly 1
    return rollout, new


def test_a_sharded_bfloat16_policy_samples_scores_and_trains(folder):
    policy = common.shard(common.load_policy(folder, BF16).eval(), BF16, trained=True)
    rollout, new = roll_out_and_score(policy, folder)
    difference = ((new - rollout.logprobs).abs() * rollout.mask).sum() / rollout.mask.sum()
    assert float(difference) < 0.02
    new.sum().backward()
    in_bf16 = {name: p.grad.full_tensor() for name, p in policy.named_parameters()}
    exact = SimpleNamespace(bf16=False)
    plain = common.shard(common.load_policy(folder, exact).eval(), exact, trained=True)
    common.logprobs_of(plain, rollout, ROWS, 1.0)[0].sum().backward()
    for name, parameter in plain.named_parameters():
        assert error_of(in_bf16[name], parameter.grad.double()) < 0.05, name


@pytest.mark.parametrize("bf16", [True, False])
def test_a_compiled_policy_samples_scores_and_learns_as_a_plain_one(folder, bf16):
    flags = {"bf16": bf16, "gradient_checkpointing": bf16}
    configs = [SimpleNamespace(**flags, torch_compile=x) for x in (False, True)]
    plain, fused = (common.shard(common.load_policy(folder, x).eval(), x, True) for x in configs)
    rollout, new = roll_out_and_score(fused, folder)
    expected, _ = common.logprobs_of(plain, rollout, ROWS, 1.0)
    limit = 0.02 if bf16 else 2e-4
    for other in (rollout.logprobs, expected):
        assert float(((new - other).abs() * rollout.mask).sum() / rollout.mask.sum()) < limit
    new.sum().backward(), expected.sum().backward()
    pairs = zip(fused.named_parameters(), plain.named_parameters(), strict=True)
    for (name, parameter), (_, other) in pairs:
        error = error_of(tensors.whole(parameter.grad), tensors.whole(other.grad).double())
        assert error < (0.05 if bf16 else 1e-3), name


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("name", ["sft", "train_prm", "ppo", "grpo"])
def test_a_stage_runs_and_goes_on_from_its_checkpoint(stages, name, bf16):
    flags = {"bf16": bf16, "gradient_checkpointing": bf16}
    stage, config = getattr(stages, name)(f"{name}-cuda-{bf16}", **flags)
    stage.main(config)
    output = Path(config.output_dir)
    state = load_file(output / "model.safetensors")
    rows = common.logged_metrics(output)
    (output / "config.json").unlink()  # as if the run had been killed after its checkpoint
    stage.main(config)
    for key, tensor in load_file(output / "model.safetensors").items():
        assert tensor.isfinite().all()
        torch.testing.assert_close(tensor, state[key], rtol=1e-2, atol=1e-3)
    if name in ("ppo", "grpo"):
        limit = 0.02 if bf16 else 1e-3
        assert all(row["sampling/sampling_logp_difference/mean"] < limit for row in rows)
        assert all(row["val/ratio"] == pytest.approx(1.0, abs=0.2) for row in rows)


@pytest.mark.parametrize("bf16", [True, False])
def test_products_of_float32_are_rounded_to_tf32_in_runs_in_bfloat16_alone(folder, bf16):
    common.replicate(common.load_policy(folder), SimpleNamespace(bf16=bf16))
    assert torch.get_float32_matmul_precision() == ("high" if bf16 else "highest")


def test_a_page_with_scores_is_drawn(stages, tmp_path):
    output = str(tmp_path / "page.html")
    plot.main(plot.Config(output, page=stages.path("prm.jsonl"), prm=stages.path("prm")))
    assert "<html" in Path(output).read_text()
