"""Model folders and hub names: what kind of model they hold, and their weights, whole or refused.

A check before a run is a load in which zeros without storage stand for the tensors: `headers_only`
reads config.json and the safetensors headers, and finds what the load itself would find.
"""

import json
from pathlib import Path

import torch
import transformers
from safetensors import safe_open

from common.flags import InputError

transformers.utils.logging.disable_progress_bar()

# config.reward_model_kind says which of these a folder of ours holds; without it, a policy. A
# classifier of others does not say more than how it is read.
KINDS = {
    "policy": "a policy",
    "prm": "a line reward model (PRM)",
    "orm": "an outcome reward model (ORM)",
    "reasoning_rm": "a reasoning reward model",
    "critic": "a critic",
    "tokens": "a token classifier",
    "texts": "a sequence classifier",
}
# The kinds that a flag takes. "backbone": what a reward model's training may start from. A model
# that has learned from pairs can be an outcome reward model: the pairs may be whole programs.
ACCEPTED = {
    "policy": {"policy"},
    "prm": {"prm", "tokens"},
    "orm": {"orm", "reasoning_rm", "tokens", "texts"},
    "reasoning_rm": {"reasoning_rm", "tokens", "texts"},
    "critic": {"critic", "prm", "policy", "tokens"},
    "backbone": set(KINDS),
}
HEAD_FILE = "head.safetensors"  # the head of a common/reward_models.py `BackboneWithHead`


def find_file(path: str | Path, name: str) -> str | None:
    """A file of a folder, or of a hub name's cached download; None where there is none."""
    try:
        return transformers.utils.cached_file(path, name)
    except OSError:
        return None


def read_config(path: str | Path, wanted: str):
    """config.json of a folder or hub name, every dropout at 0; wanted: a key of ACCEPTED.

    InputError for a damaged file, and for a model of another kind than wanted.
    """
    transformers.logging.set_verbosity_error()
    if Path(path).exists() and not (Path(path) / "config.json").is_file():
        raise InputError(f"{path}: not a model folder (it has no config.json)")
    try:
        config = transformers.AutoConfig.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # a damaged config.json raises errors of every type
        raise not_loadable(path, "model", error) from None
    for name, value in list(vars(config).items()):
        if "drop" in name and isinstance(value, (int, float)):
            setattr(config, name, 0.0)
    if getattr(config, "quantization_config", None):
        raise InputError(f"{path}: its weights are quantised; full-precision weights are needed")
    if not _is_causal(config):
        raise InputError(
            f"{path}: {config.model_type} is no language model that reads from left to right"
        )
    kind = kind_of(path, config)
    if kind not in ACCEPTED[wanted]:
        raise InputError(f"{path}: holds {KINDS[kind]}, not {KINDS[wanted]}")
    return config


def not_loadable(path: str | Path, what: str, error: Exception) -> InputError:
    """The line that the user sees when a library could not load a model or tokenizer."""
    hub = "" if Path(path).exists() else " (there is no such folder; tried as a hub name)"
    words = " ".join(str(error).split()) or type(error).__name__
    return InputError(f"{path}: no {what} can be loaded from here{hub}: {words[:200]}")


def _is_causal(config) -> bool:
    """Whether a token never sees those after it, as far as a config says so."""
    masked = type(config) in transformers.MODEL_FOR_MASKED_LM_MAPPING
    return (
        type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
        and not getattr(config, "is_encoder_decoder", False)
        and not (masked and not getattr(config, "is_decoder", False))
        and getattr(config.get_text_config(), "use_bidirectional_attention", None)
        not in (True, "all")
    )


def kind_of(path: str | Path, config) -> str:
    """The kind of model (a key of KINDS) in a folder; InputError for a kind that is not known."""
    kind = getattr(config, "reward_model_kind", None)
    if kind is not None:
        if kind not in KINDS:
            raise InputError(f"{path}: config.json: reward_model_kind {kind!r} is not known")
        return kind
    if getattr(config, "score_activation", "none") == "expected_outcome":
        return "orm"
    architecture = (config.architectures or [""])[0]
    if architecture.endswith("ForSequenceClassification"):
        return "texts"
    return "tokens" if architecture.endswith("ForTokenClassification") else "policy"


def _shapes(path: str | Path) -> dict[str, list[int]]:
    """Shape of each tensor in the safetensors files of a folder or hub name."""
    whole = find_file(path, "model.safetensors")
    index = None if whole else find_file(path, "model.safetensors.index.json")
    if not whole and not index:
        raise ValueError("it has no model.safetensors")
    files = [whole]
    if index:
        names = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values()
        files = [transformers.utils.cached_file(path, name) for name in sorted(set(names))]
    shapes = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                names = tensors.keys()
                shapes |= {name: tensors.get_slice(name).get_shape() for name in names}
        except Exception as error:  # SafetensorError, which is no OSError
            raise ValueError(f"{Path(file).name} is damaged: {error}") from None
    return shapes


def load_weights(auto_class, path: str | Path, config, headers_only: bool = False):
    """A model in float32 whose class auto_class finds; of a policy's folder also a classifier.

    Returns the model and two lists of names: tensors of the model that the files do not hold, and
    tensors of the files that the model does not have. headers_only: every tensor is 0. InputError
    for damaged files, and for tensors of other shapes than the config's.
    """
    try:
        with torch.device("meta"):
            model_class = type(auto_class.from_config(config))
        shapes = _shapes(path)  # also before a load: no reader of tensors names the damaged file
        zero = torch.zeros(())
        model, info = model_class.from_pretrained(
            None if headers_only else path,
            config=config,
            state_dict={k: zero.expand(v) for k, v in shapes.items()} if headers_only else None,
            dtype=torch.float32,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are reported, and refused here
            output_loading_info=True,
        )
    except Exception as error:
        raise not_loadable(path, "model", error) from None
    for name, found, expected in sorted(info["mismatched_keys"]):
        raise InputError(
            f"{path}: its weights do not fit: {name} is {tuple(found)}, by config.json it is "
            f"{tuple(expected)}"
        )
    if not headers_only:
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()  # a file's alignment would change last bits
    return model, sorted(info["missing_keys"]), sorted(info["unexpected_keys"])


def refuse_names(path: str | Path, missing: list[str], unexpected: list[str]) -> None:
    """Raises InputError where a file's tensors are not those of the model."""
    for names, words in ((missing, "are missing"), (unexpected, "are not the model's")):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise InputError(f"{path}: tensors {words}: {', '.join(names[:3])}{more}")
