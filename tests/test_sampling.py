"""Sampling against teacher forcing, `generate`, and itself in other batches and layouts."""

import inspect
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from tokenizers import Tokenizer, decoders, models
from torch.distributed.fsdp import fully_shard
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MiniMaxConfig,
    MiniMaxForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from kernels import draws, sampling
from kernels.logprobs import completion_logprobs
from kernels.masking import completion_mask, line_table, stop_table
from kernels.sampling import check_sampling, sample

VOCAB = 64
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "initializer_range": 0.2,
}
LLAMA = {**SIZES, "intermediate_size": 64, "num_key_value_heads": 2}
EAGER = {**SIZES, "intermediate_size": 64, "attn_implementation": "eager"}
GPT2 = {
    "vocab_size": VOCAB,
    "n_embd": 32,
    "n_head": 4,
    "n_layer": 2,
    "n_positions": 64,
    "initializer_range": 0.2,
}
GPT_NEO = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_heads": 4,
    "num_layers": 2,
    "attention_types": [[["global", "local"], 1]],
    "window_size": 6,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
MAMBA = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
BLOOM = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "n_head": 4,
    "n_layer": 2,
    "initializer_range": 0.2,
}

MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**LLAMA)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**LLAMA, head_dim=8)),
    "eager": lambda: LlamaForCausalLM(LlamaConfig(**EAGER)),
    "absolute_positions": lambda: GPT2LMHeadModel(GPT2Config(**GPT2)),
    "sliding_window": lambda: MistralForCausalLM(MistralConfig(**LLAMA, sliding_window=6)),
    "no_position_ids": lambda: BloomForCausalLM(BloomConfig(**BLOOM)),
    "local_layers": lambda: GPTNeoForCausalLM(GPTNeoConfig(**GPT_NEO)),
    "alibi": lambda: FalconForCausalLM(FalconConfig(**SIZES, alibi=True)),
    "recurrent": lambda: MambaForCausalLM(MambaConfig(**MAMBA)),
}
PROMPTS = [[5, 6, 7], [9], [3, 3, 8, 11, 12, 13, 14], [20, 21], [5, 6, 7]]
EOS = [1, 2, 17, 18]


def build(name: str):
    torch.manual_seed(0)
    return MODELS[name]().eval()


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return build(request.param)


def teacher_forced(model, prompts, num_samples, ids, mask, temperature) -> torch.Tensor:
    """Log-probs (P * G, T) of a right-padded forward pass over prompt + completion."""
    width = max(map(len, prompts)) + ids.shape[1]
    rows = torch.zeros(len(ids), width, dtype=torch.long)
    counted = torch.zeros(len(ids), width, dtype=torch.bool)
    for i in range(len(ids)):
        prompt, n = prompts[i // num_samples], int(mask[i].sum())
        rows[i, : len(prompt) + n] = torch.cat([torch.tensor(prompt), ids[i, :n]])
        counted[i, len(prompt) : len(prompt) + n] = True
    logprobs = torch.zeros(mask.shape)
    with torch.no_grad():
        logprobs[mask] = completion_logprobs(model, rows, counted, temperature)[0][counted]
    return logprobs


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_rollout_logprobs_equal_teacher_forced_ones(model, temperature):
    ids, mask, logprobs = sample(model, PROMPTS, 4, 12, temperature, EOS, list(range(20)))
    lengths = mask.sum(1)
    assert lengths.min() < 6 and lengths.max() == 12  # rows are dropped on the way
    expected = teacher_forced(model, PROMPTS, 4, ids, mask, temperature)
    torch.testing.assert_close(logprobs, expected, rtol=0, atol=1e-5)


def test_greedy_equals_generate_prompt_by_prompt(model):
    ids, mask, logprobs = sample(model, PROMPTS, 2, 10, 0.0, EOS, [0] * 10)
    settings = {"do_sample": False, "eos_token_id": EOS, "pad_token_id": 0}
    for i, prompt in enumerate(PROMPTS):
        whole = model.generate(torch.tensor([prompt]), max_new_tokens=10, **settings)
        expected = whole[0, len(prompt) :]
        for row in (2 * i, 2 * i + 1):
            assert ids[row, mask[row]].tolist() == expected.tolist()
    expected = teacher_forced(model, PROMPTS, 2, ids, mask, 1.0)
    torch.testing.assert_close(logprobs, expected, rtol=0, atol=1e-5)


def cut(ids, mask):
    return [row[counted].tolist() for row, counted in zip(ids, mask, strict=True)]


def test_a_sample_depends_on_its_own_seed_and_not_on_the_batch(model):
    seeds = [100 + i for i in range(20)]
    ids, mask, logprobs = sample(model, PROMPTS, 4, 12, 1.0, EOS, seeds)
    together = cut(ids, mask)
    order = [3, 0, 4, 1, 2]
    prompts = [PROMPTS[p] for p in order]
    shuffled_seeds = [seeds[4 * p + g] for p in order for g in range(4)]
    shuffled = sample(model, prompts, 4, 12, 1.0, EOS, shuffled_seeds)
    assert cut(*shuffled[:2]) == [together[4 * p + g] for p in order for g in range(4)]
    for i in (0, 6, 11):
        alone = sample(model, [PROMPTS[i // 4]], 1, 12, 1.0, EOS, [seeds[i]])
        assert cut(*alone[:2]) == [together[i]]
        torch.testing.assert_close(alone[2][0], logprobs[i, : alone[2].shape[1]], rtol=0, atol=1e-5)
    assert together[:4] != together[16:]  # the same prompt with other seeds
    assert len({tuple(t) for t in together[:4]}) > 1


@pytest.mark.parametrize("compact", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("slots", [1, 2, 3, 6])
def test_sharing_a_row_and_dropping_the_finished_change_nothing(monkeypatch, slots, compact):
    model = build("llama")
    expected = sample(model, PROMPTS, 6, 14, 1.0, EOS, list(range(30)))
    monkeypatch.setattr(sampling, "_slots", lambda *_: slots)
    monkeypatch.setattr(sampling, "COMPACT", compact)
    got = sample(model, PROMPTS, 6, 14, 1.0, EOS, list(range(30)))
    assert torch.equal(got[0], expected[0]) and torch.equal(got[1], expected[1])
    torch.testing.assert_close(got[2], expected[2], rtol=0, atol=1e-5)


def test_rows_share_more_the_longer_the_prompt_is():
    assert sampling._slots(512, 8, 64) == 8
    assert sampling._slots(35, 4, 45) == 4
    assert sampling._slots(10, 8, 1000) == 1
    assert sampling._slots(512, 1, 64) == 1


def test_the_mask_ends_with_the_first_eos_of_several_also_if_it_is_the_padding():
    model = build("llama")
    ids, mask, logprobs = sample(model, PROMPTS, 8, 12, 1.0, EOS, list(range(40)), pad_id=EOS[0])
    assert torch.equal(mask, completion_mask(ids, EOS))
    assert (ids[~mask] == EOS[0]).all() and (logprobs[~mask] == 0).all()
    last = ids[torch.arange(40), mask.sum(1) - 1]
    ended = torch.isin(last, torch.tensor(EOS))
    assert set(last[ended].tolist()) == set(EOS)
    assert (mask.sum(1)[~ended] == 12).all()


def test_the_loop_ends_when_every_sample_has_ended():
    model = build("llama")
    ids, mask, _ = sample(model, PROMPTS, 2, 50, 1.0, list(range(0, VOCAB, 2)), list(range(10)))
    assert ids.shape == mask.shape and ids.shape[1] == mask.sum(1).max() < 50


def test_frequencies_of_token_pairs_are_their_probabilities_at_that_temperature():
    model = build("llama")
    n, temperature, prompt = 20_000, 0.7, [5, 6, 7]
    ids, _, _ = sample(model, [prompt], n, 2, temperature, [], list(range(n)))
    with torch.no_grad():
        rows = torch.tensor([[*prompt, a] for a in range(VOCAB)])
        logits = model(rows).logits[:, -2:].double()  # (V, 2, V)
    first, second = (logits / temperature).softmax(-1).unbind(1)
    p = first[0][:, None] * second  # (V, V)
    counts = torch.bincount(ids[:, 0] * VOCAB + ids[:, 1], minlength=VOCAB**2).view(VOCAB, VOCAB)
    z = (counts - n * p) / (n * p * (1 - p)).sqrt()
    assert z[n * p > 10].abs().max() < 5
    assert (n * p > 10).sum() > 100


def test_a_token_without_probability_is_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]]).expand(3, 4)
    uniform = torch.tensor([0.0, 0.25, 1 - 2**-53], dtype=torch.float64)
    token, logprob = draws.draw(logits, 1.0, uniform)
    assert set(token.tolist()) == {1, 2}
    torch.testing.assert_close(logprob, torch.full((3,), 0.5).log())


def test_a_continued_prefix_goes_on_as_the_whole():
    model = build("llama")
    whole, _, _ = sample(model, [PROMPTS[2]], 1, 12, 0.0, [], [0])
    for n in (1, 5, 11):
        rest, _, _ = sample(model, [PROMPTS[2] + whole[0, :n].tolist()], 1, 12 - n, 0.0, [], [0])
        assert rest[0].tolist() == whole[0, n:].tolist()


def test_a_stop_string_ends_the_sample_with_the_token_that_completes_it():
    letters = [*"<>/abcdefghijk\n", "ab", "b<", "/a"]
    # The tokenizer does not know the model's last 8 ids.
    words = letters + [f"w{i}" for i in range(VOCAB - 8 - len(letters))]
    vocabulary = {w: i for i, w in enumerate(words)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    stops = ["ab", "<", "a/a", "\n"]
    model = build("llama")
    stop = stop_table(line_table(tokenizer), stops)
    ids, mask, _ = sample(model, PROMPTS, 8, 20, 1.5, [], list(range(40)), stop=stop)
    free, _, _ = sample(model, PROMPTS, 8, 20, 1.5, [], list(range(40)))
    stopped = 0
    for row, counted, whole in zip(ids, mask, free, strict=True):
        texts = [tokenizer.decode([i]) if i < len(vocabulary) else "" for i in whole.tolist()]
        ends = [t for t in range(20) if any(s in "".join(texts[: t + 1]) for s in stops)]
        length = ends[0] + 1 if ends else 20
        assert counted.sum() == length and row[:length].tolist() == whole[:length].tolist()
        stopped += bool(ends)
    assert stopped > 10


class OtherNames(torch.nn.Module):
    """A model whose cache has the other one of the two names that releases of transformers use."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config = model, model.config
        self.get_input_embeddings = model.get_input_embeddings
        takes_cache = "cache" in inspect.signature(model.forward).parameters
        self.own, self.other = "cache", "past_key_values"
        if not takes_cache:
            self.own, self.other = self.other, self.own
        names = ["input_ids", "attention_mask", "position_ids", "use_cache", "logits_to_keep"]
        parameters = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in [*names, self.other]
        ]
        self.forward.__func__.__signature__ = inspect.Signature(
            [inspect.Parameter("self", 0), *parameters]
        )

    def forward(self, **kwargs):
        if self.other in kwargs:
            kwargs[self.own] = kwargs.pop(self.other)
        out = self.model(**kwargs)
        return SimpleNamespace(logits=out.logits, **{self.other: getattr(out, self.own)})


def test_the_cache_may_have_its_old_or_its_new_name():
    model = build("llama")
    expected = sample(model, PROMPTS, 2, 6, 1.0, EOS, list(range(10)))
    got = sample(OtherNames(model), PROMPTS, 2, 6, 1.0, EOS, list(range(10)))
    assert all(map(torch.equal, got, expected))


def test_a_model_that_takes_no_cache_is_refused(monkeypatch):
    model = build("llama")
    monkeypatch.setattr(model, "forward", lambda input_ids, attention_mask, use_cache: None)
    with pytest.raises(ValueError, match="LlamaForCausalLM takes no KV cache"):
        sample(model, PROMPTS, 1, 4, 1.0, [], list(range(5)))


def test_results_can_be_used_in_a_loss():
    model = build("llama")
    ids, _, logprobs = sample(model, PROMPTS, 1, 4, 1.0, [], list(range(5)))
    now = torch.log_softmax(model(ids).logits, -1)[:, :-1].gather(2, ids[:, 1:, None]).squeeze(2)
    (now - logprobs[:, 1:]).exp().mean().backward()


def test_no_prompts_give_no_samples():
    ids, mask, logprobs = sample(build("llama"), [], 4, 8, 1.0, EOS, [])
    assert ids.shape == mask.shape == logprobs.shape == (0, 0)
    assert (ids.dtype, mask.dtype, logprobs.dtype) == (torch.long, torch.bool, torch.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": [[1], []]}, "no tokens"),
        ({"seeds": [1]}, "4 seeds"),
        ({"temperature": -1.0}, "negative"),
    ],
)
def test_bad_input_is_refused(change, message):
    given = {
        "prompts": [[1], [2]],
        "num_samples": 2,
        "max_new_tokens": 3,
        "temperature": 1.0,
        "eos_ids": [],
        "seeds": [0] * 4,
    }
    with pytest.raises(ValueError, match=message):
        sample(build("llama"), **(given | change))


def forget_positions(model, args, keywords):
    """A hook: the tokens of a sample are read as if each were the first."""
    if keywords.get("cache", keywords.get("past_key_values")) is not None:
        keywords["position_ids"] = torch.zeros_like(keywords["position_ids"])
    return args, keywords


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_whose_cache_says_another_thing_than_the_whole_text_is_refused(dtype):
    model = build("llama").to(dtype).train()
    check_sampling(model)
    assert model.training
    model.register_forward_pre_hook(forget_positions, with_kwargs=True)
    with pytest.raises(ValueError, match="LlamaForCausalLM cannot be sampled from: with its KV"):
        check_sampling(model)
    minimax = MiniMaxForCausalLM(MiniMaxConfig(**LLAMA, head_dim=8, num_local_experts=2))
    with pytest.raises(ValueError, match="MiniMaxForCausalLM has a KV cache of its own"):
        check_sampling(minimax)


def test_a_sharded_model_samples_as_the_whole_one(tmp_path):
    expected = sample(build("llama"), PROMPTS, 2, 6, 1.0, EOS, list(range(10)))
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = build("llama")
        mesh = dist.init_device_mesh("cpu", (1,))
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        got = sample(model, PROMPTS, 2, 6, 1.0, EOS, list(range(10)))
        del model
    finally:
        dist.destroy_process_group()
    assert torch.equal(got[0], expected[0])
    torch.testing.assert_close(got[2], expected[2], rtol=0, atol=1e-5)
