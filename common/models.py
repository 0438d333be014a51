"""Models and tokenizers: new tiny ones, and those of a folder or hub name."""

import functools
import json
from pathlib import Path

import torch
import transformers

from common.checkpoints import (
    how_to_load,
    load_weights,
    not_loadable,
    read_config,
    refuse_names,
)
from common.distributed import device
from common.flags import InputError
from common.seeds import seed_of
from kernels import kv_cache, masking


def new_tokenizer(texts: list[str], vocab_size: int) -> transformers.PreTrainedTokenizerFast:
    """A byte-level BPE trained on texts. Merges cross spaces: phrases and code lines are tokens.

    Before merging, text is cut into digit runs and the rest of each line with its newline. So a
    number is a token of its own, and a newline ends a larger token, as in real tokenizers.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    cut = pre_tokenizers.Split(Regex(r"\d+|[^\n\d]*\n|[^\n\d]+"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "<eos>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=alphabet,
        show_progress=False,
        max_token_length=48,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>"
    )


def new_model(
    tokenizer, hidden_size: int, num_hidden_layers: int, seed: int, num_labels: int | None = None
):
    """A small Llama whose random weights are a function of the seed: a policy with tied embeddings,
    or a token classifier where num_labels is given."""
    heads = max(1, hidden_size // 32)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=hidden_size * 11 // 4,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        num_labels=num_labels or 2,
        classifier_dropout=0.0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "initial weights"))
        if num_labels:
            return transformers.LlamaForTokenClassification(config)
        return transformers.LlamaForCausalLM(config)


def load_tokenizer(path: str | Path):
    """The tokenizer of a folder or hub name; InputError where there is none.

    The tokenizer's own files decide. AutoTokenizer would give a plain tokenizer the
    pre-tokenization of the model type in config.json (Qwen2's, say).
    """
    settings = Path(path) / "tokenizer_config.json"
    kind = transformers.AutoTokenizer
    try:
        if settings.is_file():
            name = json.loads(settings.read_text(encoding="utf-8")).get("tokenizer_class")
            if name in ("TokenizersBackend", "PreTrainedTokenizerFast"):
                kind = transformers.PreTrainedTokenizerFast
        tokenizer = kind.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # a damaged tokenizer.json raises errors of every type
        raise not_loadable(path, "tokenizer", error) from None
    if tokenizer.eos_token_id is None:
        raise InputError(f"{path}: the tokenizer has no end-of-sequence token")
    for name in ("is_local", "local_files_only"):  # how it was loaded is no part of what is saved
        tokenizer.init_kwargs.pop(name, None)
    return tokenizer


def load_policy(path: str | Path, run_config=None, headers_only: bool = False):
    """A causal language model in float32 with every dropout at 0; run_config and headers_only: as
    in `checkpoints.how_to_load`."""
    config = read_config(path, "policy")
    auto_class = transformers.AutoModelForCausalLM
    weights = how_to_load(headers_only, run_config)
    model, missing, unexpected = load_weights(auto_class, path, config, weights)
    refuse_names(path, missing, unexpected)
    return model


def shares_prompts(model) -> bool:
    """Whether several samples of a prompt can share a row of the model's forward pass
    (`batches.pad_rollout`): the mask, of a kind that SDPA takes, decides which tokens see each
    other, and no layer is recurrent or sees a window of the row."""
    config = model.config
    kinds = set(getattr(config, "layer_types", None) or ())
    windows = ("sliding_window", "attention_chunk_size")
    return (
        config._attn_implementation == "sdpa"
        and kinds <= {"full_attention", "attention"}
        and not any(getattr(config, name, None) for name in windows)
        and kv_cache.mask_decides(model)
    )


@functools.lru_cache(maxsize=2)
def line_table(tokenizer) -> masking.LineTable:
    """masking.line_table on this process's device, made once."""
    return masking.line_table(tokenizer).to(device())


def eos_ids(model, tokenizer) -> list[int]:
    """Every id that ends a completion: the tokenizer's, and all of the generation config's."""
    configured = model.generation_config.eos_token_id
    configured = configured if isinstance(configured, list) else [configured]
    return sorted({tokenizer.eos_token_id, *configured} - {None})
