"""--torch_compile: compiled models sample, score and learn as plain models do.

What a stage's own code can get wrong is what torch traces, and how often. So most tests compile
with a backend that runs what was traced; a slow test has torch's compiler write its kernels.
"""

import shutil
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import transformers

import common
from common import compiling, tensors
from kernels import logprobs, sampling

PROMPTS = [[5 + (7 * i + n) % 280 for i in range(n)] for n in (30, 7, 12, 31)]


@pytest.fixture
def start_anew():
    torch._dynamo.reset()
    logprobs.compiled.cache_clear()
    yield
    logprobs.compiled.cache_clear()
    torch._dynamo.reset()
    common.end_distributed()


@pytest.fixture
def traced(monkeypatch, start_anew) -> list[int]:
    """Gets an entry for each graph that is traced; the graph runs as it is."""
    graphs = []

    def backend(graph, inputs, **options):
        graphs.append(1)
        return graph.forward

    compile_with = partial(torch.compile, backend=backend)
    monkeypatch.setattr(torch, "compile", compile_with)
    compiling.check_compiler()  # once a process
    graphs.clear()
    return graphs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A policy with grouped-query heads."""
    place = tmp_path_factory.mktemp("compiled")
    config = transformers.Qwen2Config(
        vocab_size=700,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=0.05,
    )
    torch.manual_seed(0)
    transformers.Qwen2ForCausalLM(config).save_pretrained(place)
    return place


def policy_of(folder, torch_compile: bool, bf16: bool = False, checkpointing: bool = False):
    flags = {"bf16": bf16, "gradient_checkpointing": checkpointing, "torch_compile": torch_compile}
    config = SimpleNamespace(**flags)
    return common.shard(common.load_policy(folder, config).eval(), config, trained=True)


def gradients_of(policy, ids, mask) -> dict[str, torch.Tensor]:
    logprob, entropy = policy.completion_logprobs(ids, mask)
    (logprob.sum() + 0.1 * entropy.sum()).backward()
    found = {name: tensors.whole(p.grad) for name, p in policy.named_parameters()}
    policy.zero_grad()
    return found


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_fused_tiles_give_the_values_and_gradients_of_float64(temperature, monkeypatch):
    monkeypatch.setattr(logprobs, "compiled", lambda function: function)
    generator = torch.Generator().manual_seed(0)
    for n, width, vocab, tile in ((1, 1, 1, (1, 1)), (5, 8, 33, (2, 8)), (130, 8, 300, (64, 128))):
        hidden = torch.randn(n, width, generator=generator) * 3
        weight = torch.randn(vocab, width, generator=generator)
        targets = torch.randint(0, vocab, (n,), generator=generator)
        weights = torch.randn(2, n, generator=generator)
        for of_entropy in (True, False):
            h, w = (x.clone().requires_grad_() for x in (hidden, weight))
            got = logprobs.token_logprobs(h, w, targets, temperature, tile, fused=True)
            h64, w64 = (x.double().requires_grad_() for x in (hidden, weight))
            logp = F.log_softmax(h64 @ w64.T / temperature, dim=1)
            exact = logp.gather(1, targets[:, None])[:, 0], -(logp.exp() * logp).sum(1)
            for x, y in zip(got, exact, strict=True):
                torch.testing.assert_close(x.double(), y, rtol=1e-4, atol=1e-4)
            for logprob, entropy in (got, exact):
                loss = (logprob * weights[0]).sum()
                (loss + (entropy * weights[1]).sum() if of_entropy else loss).backward()
            for x, y in ((h, h64), (w, w64)):
                torch.testing.assert_close(x.grad.double(), y.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bf16", [False, True])
def test_a_compiled_policy_draws_the_tokens_of_a_plain_one(folder, traced, bf16):
    rollout = {"num_samples": 4, "temperature": 1.0, "eos_ids": list(range(40, 60))}
    plain, fused = (policy_of(folder, torch_compile, bf16) for torch_compile in (False, True))
    for policy in (plain, fused):
        common.unshard(policy)
    longer = [PROMPTS[0] * 9, *PROMPTS, PROMPTS[3] * 20]  # more rows, and other sizes of the cache
    for prompts, new_tokens in ((PROMPTS, 90), (longer, 40), (PROMPTS[:1], 70)):
        inputs = {**rollout, "max_new_tokens": new_tokens, "seeds": list(range(4 * len(prompts)))}
        for static in (True, False):
            expected = sampling.sample(plain, prompts, **inputs, _static=static)
            got = sampling.sample(fused, prompts, **inputs, _static=static)
            assert all(torch.equal(x, y) for x, y in zip(got, expected, strict=True))
    assert len(traced) == 1  # a decoding step, for all numbers of rows and tokens


@pytest.mark.parametrize(("bf16", "checkpointing"), [(False, True), (True, False)])
def test_a_compiled_policy_has_the_gradients_of_a_plain_one(folder, traced, bf16, checkpointing):
    plain, fused = (policy_of(folder, flag, bf16, checkpointing) for flag in (False, True))
    assert [n for n, _ in fused.named_parameters()] == [n for n, _ in plain.named_parameters()]
    generator = torch.Generator().manual_seed(1)
    counts = []
    for rows, length in ((6, 40), (5, 40), (4, 33), (3, 21), (6, 40), (2, 30)):
        ids = torch.randint(0, 700, (rows, length), generator=generator)
        mask = (torch.arange(length) >= 5).expand(rows, length)
        expected, got = gradients_of(plain, ids, mask), gradients_of(fused, ids, mask)
        for name, gradient in expected.items():
            assert (got[name] - gradient).norm() <= 1e-4 * gradient.norm(), name
        with torch.no_grad():
            expected, got = (p.completion_logprobs(ids, mask)[0] for p in (plain, fused))
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        counts.append(len(traced))
    assert counts[0] > 0 and counts[-1] == counts[2]  # no graph for each new shape, or layer


@pytest.mark.parametrize("name", ["train_prm", "ppo"])
def test_a_stage_logs_the_same_metrics_with_the_flag(stages, traced, name):
    rows = []
    for flag in (False, True):
        stage, config = getattr(stages, name)(f"{name}-compiled-{flag}", torch_compile=flag)
        assert not traced
        stage.main(config)
        rows.append(common.logged_metrics(config.output_dir))
    assert traced
    for plain, fused in zip(*rows, strict=True):
        for key in plain.keys() - {"step_time"}:
            assert fused[key] == pytest.approx(plain[key], rel=1e-3, abs=1e-4), key


def test_a_machine_without_a_compiler_is_told_so_before_the_run_begins(stages, monkeypatch):
    def fail(function, **options):
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    monkeypatch.setattr(torch, "compile", fail)
    compiling.check_compiler.cache_clear()
    stage, config = stages.sft("no-compiler", torch_compile=True)
    with pytest.raises(common.InputError, match=r"^--torch_compile: Failed to find C compiler\.$"):
        stage.main(config)
    assert not (stages.folder / "no-compiler").exists()


@pytest.mark.slow
def test_what_the_compiler_writes_has_the_gradients_of_a_plain_policy(folder, start_anew):
    if not shutil.which("g++"):
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    plain, fused = (policy_of(folder, torch_compile) for torch_compile in (False, True))
    ids = torch.randint(0, 700, (4, 30), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(30) >= 5).expand(4, 30)
    expected, got = gradients_of(plain, ids, mask), gradients_of(fused, ids, mask)
    for name, gradient in expected.items():
        assert (got[name] - gradient).norm() <= 1e-4 * gradient.norm(), name
