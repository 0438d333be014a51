"""Model folders and hub names: what kind of model they hold, and their weights, whole or refused.

A check before a run is a load in which zeros without storage stand for the tensors: it reads
config.json and the safetensors headers, and finds what the load itself would find. A model that
will be sharded is loaded in the same way, and each process then reads its own part (`fill`).
"""

from pathlib import Path

import torch
import transformers
from torch import nn

from common.distributed import bf16, rank, world_size
from common.flags import InputError
from common.tensors import MAX_FILE_SIZE, find_file, read_into, save_tensors, tensors_in, whole

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
HEADS = ("score", "classifier")  # the head's name in a token classifier


def head_of(model) -> nn.Linear:
    """The linear head of a token classifier: `score`, or `classifier` in older architectures."""
    return next(module for name, module in model.named_modules() if name in HEADS)


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


def how_to_load(headers_only: bool, run_config=None) -> str:
    """The argument `weights` of `load_weights`: "late" for the models of a run, given by its flags,
    that computes in bfloat16 or has several processes; `sharding.shard` reads them."""
    if headers_only:
        return "headers"
    late = run_config is not None and (bf16(run_config) or world_size() > 1)
    return "late" if late else "whole"


def load_weights(auto_class, path: str | Path, config, weights: str = "whole"):
    """A model in float32 whose class auto_class finds; of a policy's folder also a classifier.

    Returns the model and two lists of names: tensors of the model that the files do not hold, and
    tensors of the files that the model does not have. weights: "whole"; "headers": every tensor is
    0, without storage; "late": parameters are on meta, where they are sharded without memory, until
    `fill`. Models whose tensors are not those of the files, one to one, are never late: where
    transformers converts tensors (joins those of experts, say), every process loads the whole model
    first. InputError for damaged files, and for tensors of other shapes than the config's.
    """
    try:
        with torch.device("meta"):
            model_class = type(auto_class.from_config(config))
        files = tensors_in(path)  # also before a load: no reader of tensors names the damaged file
        stand_ins = {  # numbers without storage, which say what parameter a tensor becomes
            name: torch.tensor(float(number * (weights == "late"))).expand(shape)
            for number, (name, (_, shape)) in enumerate(files.items())
        }
        model, info = model_class.from_pretrained(
            path if weights == "whole" else None,
            config=config,
            state_dict=None if weights == "whole" else stand_ins,
            dtype=torch.float32,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are reported, and refused here
            output_loading_info=True,
        )
        # With stand-ins transformers was not told the folder, which may name more EOS ids.
        generation = weights != "whole" and find_file(path, "generation_config.json")
        if generation and model.can_generate():
            folder = Path(generation).parent
            model.generation_config = transformers.GenerationConfig.from_pretrained(folder)
    except Exception as error:
        raise not_loadable(path, "model", error) from None
    for name, found, expected in sorted(info["mismatched_keys"]):
        raise InputError(
            f"{path}: its weights do not fit: {name} is {tuple(found)}, by config.json it is "
            f"{tuple(expected)}"
        )
    if weights == "late":
        if not _is_as_in_files(model):
            return load_weights(auto_class, path, config)
        _put_on_meta(model, files, info["missing_keys"])
    if weights == "whole":
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()  # a file's alignment would change last bits
    return model, sorted(info["missing_keys"]), sorted(info["unexpected_keys"])


def _is_as_in_files(model) -> bool:
    """Whether the model's tensors are those of its files, one to one, and parameters."""
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return model.state_dict().keys() <= names and not getattr(model, "_weight_conversions", None)


def _put_on_meta(model, files: dict[str, tuple[str, list[int]]], missing: set[str]) -> None:
    """Puts parameters whose values are the numbers of a file's tensors on meta, and notes file and
    tensor in `model.weight_files`. missing: parameters that no file holds stay as they are."""
    names, on_meta, model.weight_files = list(files), {}, {}
    for name, parameter in model.named_parameters():
        if name not in missing:
            tensor = names[int(parameter[(0,) * parameter.dim()])]
            model.weight_files[name] = (files[tensor][0], tensor)
            on_meta[parameter] = nn.Parameter(torch.empty(parameter.shape, device="meta"))
    _replace(model, on_meta)


def _replace(model, new: dict[nn.Parameter, nn.Parameter]) -> None:
    """Puts new parameters in the place of old ones; a tied one stands in several places."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter in new:
                setattr(module, name, new[parameter])


def fill(model, device, prefixes: tuple[str, ...] = ("",)) -> None:
    """Reads the parameters that `load_weights` has left on meta, tensor by tensor, from the files;
    of a sharded model each process reads its own rows. prefixes: of the names to be read."""
    filled = {}
    for name, parameter in model.named_parameters():
        if parameter.is_meta and name.startswith(prefixes):
            filled[parameter] = nn.Parameter(torch.empty_like(parameter, device=device))
            read_into(filled[parameter], *model.weight_files[name])
    _replace(model, filled)


def save_weights(model, folder: Path, max_size: int = MAX_FILE_SIZE) -> None:
    """Writes config.json, generation_config.json and the weights, in the layout of Hugging Face, in
    files of at most max_size bytes (common/tensors.py). All ranks must call this together.

    Where transformers converts a file's tensors, it converts them back: rank 0 then holds the whole
    model once.
    """
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    tied -= {name for name, _ in model.named_parameters()}
    state = {name: x for name, x in model.state_dict().items() if name not in tied}
    if rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
    if getattr(model, "_weight_conversions", None):
        state = {name: whole(x).contiguous() for name, x in state.items()}
        if rank() == 0:
            model.save_pretrained(folder, state_dict=state, max_shard_size=max_size)
        return
    if rank() == 0:
        model.config.architectures = [type(model).__name__.removeprefix("FSDP")]
        model.config.dtype = str(model.dtype).removeprefix("torch.")
        model.config.save_pretrained(folder)
        if model.can_generate():
            model.generation_config.save_pretrained(folder)
    save_tensors(folder, "model", state, max_size)


def refuse_names(path: str | Path, missing: list[str], unexpected: list[str]) -> None:
    """Raises InputError where a file's tensors are not those of the model."""
    for names, words in ((missing, "are missing"), (unexpected, "are not the model's")):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise InputError(f"{path}: tensors {words}: {', '.join(names[:3])}{more}")
