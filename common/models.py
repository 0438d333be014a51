"""Models and tokenizers: new tiny ones, and those of a folder or hub name."""

import functools
import json
from pathlib import Path

import torch
import transformers
from torch import nn

from common.distributed import device
from common.flags import InputError
from common.seeds import seed_of
from kernels import masking

transformers.utils.logging.disable_progress_bar()

# The classes of an outcome reward model and their rewards (CodeRL, Le et al., 2022, eq. 4).
OUTCOME_REWARDS = {"syntax_error": -1.0, "runtime_error": -0.6, "failed_test": -0.3, "passed": 1.0}


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


def check_model_folder(path: str | Path | None) -> None:
    """Raises InputError for a local folder without a model. Any other name may be a hub's."""
    if path is not None and Path(path).exists() and not (Path(path) / "config.json").is_file():
        raise InputError(f"{path}: not a model folder (it has no config.json)")


def _as_hub_name(path: str | Path) -> str:
    """For error messages: that a name without a folder was looked up at the hub."""
    return "" if Path(path).exists() else " (there is no such folder; tried as a hub name)"


def _load(auto_class, path: str | Path, **keywords):
    """from_pretrained with one clear InputError, every dropout at 0, and no remote code."""
    transformers.logging.set_verbosity_error()
    check_model_folder(path)
    try:
        config = transformers.AutoConfig.from_pretrained(path)
        for name, value in list(vars(config).items()):
            if "drop" in name and isinstance(value, (int, float)):
                setattr(config, name, 0.0)
        if "num_labels" in keywords and keywords["num_labels"] is None:
            four = getattr(config, "score_activation", "none") == "expected_outcome"
            keywords["num_labels"] = len(OUTCOME_REWARDS) if four else 1
        for name in ("num_labels", "classifier_dropout"):
            if name in keywords:
                setattr(config, name, keywords.pop(name))
        loaded = auto_class.from_pretrained(path, config=config, dtype=torch.float32, **keywords)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: no model can be loaded from here{_as_hub_name(path)}: "
            f"{str(error).splitlines()[0]}"
        ) from None
    except RuntimeError:  # tensors of other shapes than the config's
        raise InputError(
            f"{path}: its weights do not fit; is it a reward model with another number of outputs?"
        ) from None
    model = loaded[0] if isinstance(loaded, tuple) else loaded
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()  # a file's alignment would change last bits
    return loaded


def load_tokenizer(path: str | Path):
    """The tokenizer of a folder or hub name; InputError where there is none.

    The tokenizer's own files decide. AutoTokenizer would give a plain tokenizer the
    pre-tokenization of the model type in config.json (Qwen2's, say).
    """
    check_model_folder(path)
    settings = Path(path) / "tokenizer_config.json"
    kind = transformers.AutoTokenizer
    if settings.is_file():
        name = json.loads(settings.read_text(encoding="utf-8")).get("tokenizer_class")
        if name in ("TokenizersBackend", "PreTrainedTokenizerFast"):
            kind = transformers.PreTrainedTokenizerFast
    try:
        tokenizer = kind.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: no tokenizer can be loaded from here{_as_hub_name(path)}: "
            f"{str(error).splitlines()[0]}"
        ) from None
    if tokenizer.eos_token_id is None:
        raise InputError(f"{path}: the tokenizer has no end-of-sequence token")
    return tokenizer


def load_policy(path: str | Path):
    """A causal language model in float32 with every dropout at 0."""
    return _load(transformers.AutoModelForCausalLM, path)


def load_scorer(path: str | Path, num_labels: int | None = None):
    """A token classifier: a reward model or critic. From a policy's folder its head starts at zero.

    num_labels: outputs of a new head. None keeps the four of an outcome classifier, and is 1 for
    any other model.
    """
    model, info = _load(
        transformers.AutoModelForTokenClassification,
        path,
        num_labels=num_labels,
        classifier_dropout=0.0,
        output_loading_info=True,
    )
    activation = getattr(model.config, "score_activation", "none")
    if activation not in ("none", "sigmoid_signed", "expected_outcome"):
        raise InputError(f"{path}: config.json: score_activation {activation!r} is not known")
    heads = [name for name in info["missing_keys"] if name.startswith(("score.", "classifier."))]
    if set(info["missing_keys"]) - set(heads):
        raise InputError(
            f"{path}: weights are missing: {', '.join(sorted(info['missing_keys']))[:200]}"
        )
    for name in heads:
        nn.init.zeros_(model.get_parameter(name))
    return model


@functools.lru_cache(maxsize=2)
def line_table(tokenizer) -> masking.LineTable:
    """masking.line_table on this process's device, made once."""
    return masking.line_table(tokenizer).to(device())


def eos_ids(model, tokenizer) -> list[int]:
    """Every id that ends a completion: the tokenizer's, and all of the generation config's."""
    configured = model.generation_config.eos_token_id
    configured = configured if isinstance(configured, list) else [configured]
    return sorted({tokenizer.eos_token_id, *configured} - {None})


def head_of(model) -> nn.Linear:
    """The linear head of a token classifier: `score`, or `classifier` in older architectures."""
    heads = ("score", "classifier")
    return next(module for name, module in model.named_modules() if name in heads)


def load_critic(config, checkpoint: Path | None):
    """The critic: a token classifier whose logit is the value. In a new run config.value_init says
    where it starts: "prm": as config.prm, head and all; "policy": as the policy, with a head of
    zeros; "none": as the policy, with a random head, as TRL's starts."""
    if checkpoint:
        return load_scorer(checkpoint / "critic")
    path = config.prm if config.value_init == "prm" else config.model_name_or_path
    critic = load_scorer(path)
    if getattr(critic.config, "score_activation", "none") != "none":
        raise InputError(f"{path}: a critic's values are logits; its score_activation is not none")
    if config.value_init == "none":
        generator = torch.Generator().manual_seed(seed_of(config.seed, "value head"))
        std = getattr(critic.config, "initializer_range", 0.02)
        with torch.no_grad():
            head_of(critic).weight.normal_(0.0, std, generator=generator)
    return critic
