"""Tiny random models of many architectures: each is right as policy, and as critic or reward model,
or it is refused in one line.

Right: log-probs while sampling are those of teacher forcing. Two layouts of the KV cache: several
samples of a prompt share a row ("shared"), or a row holds one sample ("row").
"""

import pytest
import torch
import transformers

import common
from kernels import sampling

pytestmark = pytest.mark.slow

LINES = ["def f(x):\n    return x + 1\n", "for i in range(10):\n    print(i)\n"] * 20
PROMPTS = ["def f(x):\n", "for i in range(10):\n    print(i)\nfor i in range(10):\n"]
TOKENS, SAMPLES = 16, 4

SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "initializer_range": 0.15,
    "max_position_embeddings": 512,
}
GROUPED = SIZES | {"intermediate_size": 128, "num_key_value_heads": 2}
HEADED = GROUPED | {"head_dim": 16}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
GPT = {"n_embd": 64, "n_head": 4, "n_layer": 3, "n_positions": 256, "initializer_range": 0.15}
LATENT = GROUPED | {
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
LINEAR = {
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
SSM = {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8, "initializer_range": 0.15}
BAMBA = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 1}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}
YARN |= {"original_max_position_embeddings": 32}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 8,
    "long_factor": [1.5 + 0.3 * i for i in range(8)],
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
SHORT = {"max_position_embeddings": 16}  # as many as TOKENS
FOUR = {"num_hidden_layers": 4}  # the fourth has attention

# Name (its first word is the class's prefix), sizes, and what comes out: "shared", "row", or a part
# of the line by which the architecture is refused.
ARCHITECTURES = [
    ("Qwen2", GROUPED, "shared"),
    ("Qwen2 tied", GROUPED | {"tie_word_embeddings": True}, "shared"),
    (
        "Qwen2 sliding",
        GROUPED | {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
        "row",
    ),
    ("Qwen2 yarn", GROUPED | {"rope_parameters": YARN}, "shared"),
    ("Qwen2Moe", GROUPED | EXPERTS | {"shared_expert_intermediate_size": 64}, "shared"),
    ("Qwen3", HEADED, "shared"),
    ("Qwen3Moe", HEADED | EXPERTS, "shared"),
    (
        "Qwen3Next",
        HEADED | EXPERTS | LINEAR | FOUR | {"shared_expert_intermediate_size": 64},
        "row",
    ),
    ("Qwen3_5 Text", HEADED | LINEAR | FOUR, "row"),
    ("Llama", GROUPED, "shared"),
    ("Llama llama3", GROUPED | {"rope_parameters": LLAMA3}, "shared"),
    ("Llama dynamic", GROUPED | SHORT | {"rope_parameters": DYNAMIC}, "change with the batch"),
    ("Llama eager", GROUPED | {"attn_implementation": "eager"}, "shared"),
    ("Phi3", GROUPED, "shared"),
    (
        "Phi3 longrope",
        GROUPED | {"rope_parameters": LONGROPE, "original_max_position_embeddings": 16},
        "change with the batch",
    ),
    (
        "Phi3 longrope within",
        GROUPED | {"rope_parameters": LONGROPE, "original_max_position_embeddings": 128},
        "shared",
    ),
    ("Phi3 sliding", GROUPED | {"sliding_window": 8}, "row"),
    ("Phi", GROUPED, "has a bias"),
    ("Phimoe", GROUPED | LOCAL_EXPERTS, "shared"),
    ("Mistral sliding", GROUPED | {"sliding_window": 8}, "row"),
    ("Mistral", GROUPED | {"sliding_window": None}, "shared"),
    ("Ministral", HEADED | {"sliding_window": 8}, "row"),
    ("Mixtral", GROUPED | LOCAL_EXPERTS, "shared"),
    ("Gemma", HEADED, "shared"),
    ("Gemma2", HEADED | {"sliding_window": 8}, "changes its logits"),
    ("Gemma2 plain", HEADED | {"sliding_window": 8, "final_logit_softcapping": None}, "row"),
    ("Gemma3 Text", HEADED | {"sliding_window": 8}, "row"),
    (
        "Gemma3 Text both ways",
        HEADED | {"use_bidirectional_attention": True},
        "reads from left to right",
    ),
    ("Olmo", GROUPED, "shared"),
    ("Olmo2", GROUPED, "shared"),
    ("Olmo3", GROUPED | {"sliding_window": 8}, "row"),
    ("Olmoe", GROUPED | {"num_experts": 4, "num_experts_per_tok": 2}, "shared"),
    ("OlmoHybrid", GROUPED, "row"),
    ("GPTNeoX", SIZES | {"intermediate_size": 128}, "shared"),
    (
        "GPTNeo",
        {
            "hidden_size": 64,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 6,
            "max_position_embeddings": 128,
            "initializer_range": 0.15,
        },
        "row",
    ),
    ("GPT2", GPT, "shared"),
    ("GPT2 short", GPT | {"n_positions": 16}, "it has no positions"),
    ("GPTJ", GPT | {"rotary_dim": 8}, "has a bias"),
    ("GPTBigCode", GPT | {"multi_query": True}, "shared"),
    ("OpenAIGPT", GPT, "takes no KV cache"),
    ("CodeGen", GPT | {"rotary_dim": 8}, "has a bias"),
    ("Starcoder2", GROUPED | {"sliding_window": 8}, "row"),
    (
        "OPT",
        SIZES | {"ffn_dim": 128, "word_embed_proj_dim": 32, "init_std": 0.15},
        "shared",
    ),
    (
        "OPT short",
        SIZES | SHORT | {"ffn_dim": 128, "word_embed_proj_dim": 64},
        "it has no positions",
    ),
    (
        "Bloom",
        {"hidden_size": 64, "n_head": 4, "n_layer": 3, "initializer_range": 0.15},
        "row",
    ),
    ("Falcon", SIZES, "shared"),
    ("Falcon alibi", SIZES | {"alibi": True}, "row"),
    ("Mpt", {"d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 128}, "row"),
    ("Mpt short", {"d_model": 64, "n_heads": 4, "max_seq_len": 16}, "it has no positions"),
    ("StableLm", GROUPED, "shared"),
    ("DeepseekV2", LATENT | {"q_lora_rank": None}, "shared"),
    ("DeepseekV3", LATENT | {"q_lora_rank": 24}, "shared"),
    ("Cohere", GROUPED, "changes its logits"),
    ("Cohere plain", GROUPED | {"logit_scale": 1.0}, "shared"),
    ("Granite", GROUPED | {"logits_scaling": 8.0}, "changes its logits"),
    ("Granite plain", GROUPED, "shared"),
    ("SmolLM3", GROUPED, "shared"),
    ("Glm", HEADED, "shared"),
    ("Glm4", HEADED, "shared"),
    ("GptOss", HEADED | LOCAL_EXPERTS | {"sliding_window": 8}, "row"),
    ("SeedOss", HEADED, "shared"),
    ("Ernie4_5", HEADED, "shared"),
    ("HunYuanDenseV1", HEADED, "shared"),
    ("Nemotron", GROUPED, "shared"),
    ("Exaone4", GROUPED | {"sliding_window": 8, "sliding_window_pattern": 4}, "row"),
    ("Arcee", GROUPED, "shared"),
    ("Persimmon", SIZES | {"intermediate_size": 128}, "shared"),
    ("Helium", HEADED, "shared"),
    ("Lfm2", GROUPED | {"layer_types": ["conv", "full_attention", "conv"]}, "row"),
    ("Mamba", SSM, "row"),
    ("FalconMamba", SSM, "row"),
    ("Mamba2", SSM | {"num_heads": 8, "head_dim": 16, "n_groups": 2}, "row"),
    (
        "Jamba",
        GROUPED
        | {
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "use_mamba_kernels": False,
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
        },
        "row",
    ),
    ("Bamba", GROUPED | BAMBA | {"attn_layer_indices": [1]}, "row"),
    ("FalconH1", HEADED | BAMBA | {"mamba_d_ssm": 128}, "row"),
    (
        "GraniteMoeHybrid",
        GROUPED
        | BAMBA
        | {
            "num_local_experts": 0,
            "shared_intermediate_size": 64,
            "layer_types": ["mamba", "attention", "mamba"],
        },
        "row",
    ),
    # Of these two, a forward pass with a cache differs from one without it, also in transformers.
    (
        "Zamba2",
        SIZES
        | {
            "num_hidden_layers": 4,
            "intermediate_size": 128,
            "mamba_d_state": 16,
            "mamba_headdim": 16,
            "n_mamba_heads": 8,
            "mamba_ngroups": 1,
            "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
            "num_mem_blocks": 1,
        },
        "cannot be sampled from: with its KV cache log-probs differ",
    ),
    (
        "NemotronH",
        {name: size for name, size in HEADED.items() if name != "num_hidden_layers"}
        | {
            "layers_block_type": ["mamba", "attention", "mlp"],
            "mamba_num_heads": 8,
            "mamba_head_dim": 16,
            "ssm_state_size": 16,
            "n_groups": 2,
        },
        "cannot be sampled from: with its KV cache log-probs differ",
    ),
    ("MiniMax", HEADED | LOCAL_EXPERTS | {"block_size": 8}, "a KV cache of its own"),
    (
        "RecurrentGemma",
        GROUPED | {"attention_window_size": 8, "lru_width": 64},
        "changes its logits",
    ),
    (
        "Llama4 Text",
        HEADED | {"intermediate_size_mlp": 128, "num_local_experts": 2},
        "does not name its backbone",
    ),
    ("Rwkv", {"hidden_size": 64, "num_hidden_layers": 2}, "takes no KV cache"),
    ("XLNet", {"d_model": 64, "n_head": 4, "n_layer": 2, "d_inner": 128}, "has a bias"),
    ("Bert", SIZES | {"intermediate_size": 128}, "reads from left to right"),
    ("T5", {"d_model": 64, "d_ff": 128, "num_layers": 2}, "reads from left to right"),
]
HEADS = {
    "GPT2": "GPT2LMHeadModel",
    "OpenAIGPT": "OpenAIGPTLMHeadModel",
    "XLNet": "XLNetLMHeadModel",
}
HEADS |= {"Bert": "BertLMHeadModel", "T5": "T5ForConditionalGeneration"}
# Recurrent layers: a prompt is read in chunks, a sample token by token, which rounds differently.
CHUNKED = ("Qwen3Next", "Qwen3_5 Text", "OlmoHybrid")


@pytest.fixture(scope="module")
def tokenizer():
    return common.new_tokenizer(LINES, 320)


def build(name: str, sizes: dict, tokenizer):
    """A random model of the architecture; the folder's config.json says so as a hub's would."""
    family, *rest = name.split()
    text = "Text" if "Text" in rest else ""
    config = getattr(transformers, f"{family}{text}Config")(
        vocab_size=len(tokenizer),
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **sizes,
    )
    torch.manual_seed(0)
    return getattr(transformers, HEADS.get(family, f"{family}ForCausalLM"))(config).eval()


@torch.no_grad()
def check_policy(folder, tokenizer, monkeypatch) -> tuple[str, float]:
    """The layout of the cache, and the largest difference of log-probs."""
    tasks = [{"task_id": str(i), "prompt": prompt} for i, prompt in enumerate(PROMPTS)]
    common.check_model("policy", folder, TOKENS, tasks)
    policy = common.shard(common.load_policy(folder).eval())
    called, slots = [], sampling._slots
    monkeypatch.setattr(sampling, "_slots", lambda *sizes: called.append(1) or slots(*sizes))
    prompts = [tokenizer(prompt).input_ids for prompt in PROMPTS]
    rollout = common.roll_out(
        policy, tokenizer, prompts, SAMPLES, TOKENS, 1.0, list(range(len(prompts) * SAMPLES))
    )
    differences = []
    for samples in (1, SAMPLES):  # a row of a forward pass
        rows = list(range(len(rollout.ids)))
        read = rollout._replace(samples_a_row=samples)
        logprobs, _ = common.logprobs_of(policy, read, rows, 1.0)
        differences.append(((logprobs - rollout.logprobs).abs() * rollout.mask).max().item())
    assert common.shares_prompts(policy) == bool(called)
    return "shared" if called else "row", max(differences)


@torch.no_grad()
def check_reward_model(folder, tokenizer, path) -> None:
    """A reward model from the policy's folder: its initial scores are 0; saved, it is the same."""
    ids = torch.arange(24)[None] % len(tokenizer)
    model = common.shard(common.load_scorer(folder).eval())
    assert model(input_ids=ids).logits.shape == (1, 24, 1)
    assert (model(input_ids=ids).logits == 0).all()
    common.head_of(model).weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    model.config.reward_model_kind = "prm"
    common.save_model(model, tokenizer, path)
    common.check_model("prm", path)
    again = common.load_scorer(path).eval()
    scores = common.scores_of(model, ids)
    assert scores.std() > 1e-3 and torch.equal(common.scores_of(again, ids), scores)
    changed = ids.clone()
    changed[:, 12:] = 5  # what comes later changes no score
    torch.testing.assert_close(common.scores_of(model, changed)[:, :12], scores[:, :12])
    with pytest.raises(common.InputError, match="holds a line reward model"):
        common.check_model("policy", path)


@pytest.mark.parametrize(
    ("name", "sizes", "outcome"), ARCHITECTURES, ids=[row[0] for row in ARCHITECTURES]
)
def test_an_architecture_is_right_or_refused(
    name, sizes, outcome, tokenizer, tmp_path, monkeypatch
):
    model = build(name, sizes, tokenizer)
    model.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    del model
    if outcome not in ("shared", "row"):
        with pytest.raises(common.InputError, match=outcome) as refusal:
            check_policy(tmp_path / "policy", tokenizer, monkeypatch)
        assert "\n" not in str(refusal.value)
        return
    layout, difference = check_policy(tmp_path / "policy", tokenizer, monkeypatch)
    assert layout == outcome
    assert difference <= (1e-4 if name in CHUNKED else 1e-5)
    check_reward_model(tmp_path / "policy", tokenizer, tmp_path / "prm")
