"""Plumbing that every stage shares: flags, JSONL, seeds, torch.distributed, models, checkpoints, logs, prompts.

No algorithm lives here. A stage reads:

    def main(config): ...
    if __name__ == "__main__":
        common.run(main, Config)
"""

import dataclasses
import difflib
import functools
import gc
import hashlib
import inspect
import json
import math
import os
import re
import shutil
import sys
import types
import typing
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from tqdm import tqdm

from kernels import masking, sampling
from kernels.logprobs import check_plain_head, completion_logprobs

transformers.utils.logging.disable_progress_bar()

PROMPT_FIELDS = {"task_id": str, "prompt": str}
OUTCOME_REWARDS = {
    "syntax_error": -1.0,
    "runtime_error": -0.6,
    "failed_test": -0.3,
    "passed": 1.0,
}  # CodeRL


class InputError(Exception):
    """Something the user gave is wrong: a flag, a file, a record. Its text is the one line that they see."""


def parse_flags(config_class: type, argv: list[str]):
    """Builds a dataclass from `--flag value ...` (or `--flag=value`); annotations give the types.

    Types: str, int, float, bool, Literal[...], list[...] of these (several values after the flag), and `X | None`
    (the word `none`). A bool takes true/false, or nothing for true. Raises InputError: unknown flag (the nearest one
    is named), wrong type, missing value, missing required flag.
    """
    annotations = typing.get_type_hints(config_class)
    values, position = {}, 0
    while position < len(argv):
        if not argv[position].startswith("--"):
            raise InputError(f"expected a flag that starts with --, got {argv[position]!r}")
        name, equals, inline = argv[position][2:].partition("=")
        position += 1
        if name not in annotations:
            near = difflib.get_close_matches(name, annotations, n=1, cutoff=0.5)
            hint = f"; did you mean --{near[0]}?" if near else ""
            raise InputError(f"unknown flag --{name}{hint} (--help lists all flags)")
        if name in values:
            raise InputError(f"--{name} is given twice")
        words = [inline] if equals else []
        while not equals and position < len(argv) and not argv[position].startswith("--"):
            words.append(argv[position])
            position += 1
        values[name] = _convert(name, words, annotations[name])
    for field in dataclasses.fields(config_class):
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if required and field.name not in values:
            raise InputError(f"--{field.name} is required (--help lists all flags)")
    return config_class(**values)


def _convert(name: str, words: list[str], annotation):
    """The value of one flag from its words; InputError says what was expected."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is list:
        if not words:
            raise InputError(f"--{name} needs at least one value")
        return [_convert(name, [word], arguments[0]) for word in words]
    if origin is types.UnionType:
        inner = next(kind for kind in arguments if kind is not type(None))
        return None if words == ["none"] else _convert(name, words, inner)
    if annotation is bool and not words:
        return True
    if len(words) != 1:
        raise InputError(f"--{name} takes one value, got {len(words)}")
    word = words[0]
    if origin is typing.Literal:
        if word not in arguments:
            raise InputError(f"--{name} must be one of {', '.join(arguments)}, got {word!r}")
        return word
    if annotation is bool:
        if word.lower() not in ("true", "false"):
            raise InputError(f"--{name} must be true or false, got {word!r}")
        return word.lower() == "true"
    try:
        return annotation(word)
    except ValueError:
        raise InputError(f"--{name} must be of type {annotation.__name__}, got {word!r}") from None


def run(main, config_class: type) -> None:
    """Entry point of a stage: flags, process group, main(config), a clean end. Bad input is one line and exit code 2."""
    if "--help" in sys.argv[1:] or "-h" in sys.argv[1:]:
        print(sys.modules[main.__module__].__doc__, inspect.getsource(config_class), sep="\n")
        return
    try:
        config = parse_flags(config_class, sys.argv[1:])
        start_distributed()
        main(config)
    except InputError as error:
        if rank() == 0:
            print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(
            2
        )  # an exception may have left gloo threads behind, which would abort the interpreter's exit
    end_distributed()


def chosen(flag: str, modules: dict, argv: list[str]):
    """The module that `--flag NAME` (or `--flag=NAME`) names; InputError where it names none."""
    words = " ".join(argv).replace("=", " ").split()
    name = words[words.index(f"--{flag}") + 1] if f"--{flag}" in words[:-1] else None
    if name not in modules:
        got = f"; got {name!r}" if name else ""
        raise InputError(f"--{flag} is required, one of {', '.join(modules)}{got}")
    return modules[name]


def run_chosen(flag: str, modules: dict) -> None:
    """Entry point of a stage that is a switch over modules, each with its `main` and `Config`.

    `--help` without the flag prints the stage's own docstring.
    """
    if f"--{flag}" not in " ".join(sys.argv) and {"--help", "-h"} & set(sys.argv):
        print(sys.modules["__main__"].__doc__)
        return
    try:
        module = chosen(flag, modules, sys.argv[1:])
    except InputError as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        sys.exit(2)
    run(module.main, module.Config)


def read_jsonl(path: str | Path, fields: dict, check=None) -> list[dict]:
    """Rows of a JSONL file, all checked before any is used.

    `fields` maps a required field to its type or a tuple of types (type(None) allows null); `check(row)` may raise
    ValueError with more. Raises InputError naming file, line and field; an empty file is an error.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    rows = []
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line.decode())
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise InputError(f"{path}:{number}: not a JSON object: {error}") from None
            if not isinstance(row, dict):
                raise InputError(f"{path}:{number}: not a JSON object but {type(row).__name__}")
            for field, kind in fields.items():
                if field not in row:
                    raise InputError(f"{path}:{number}: field {field!r} is missing")
                if not isinstance(row[field], kind) or (
                    isinstance(row[field], bool) and kind in (int, float)
                ):
                    kinds = kind if isinstance(kind, tuple) else (kind,)
                    wanted = " or ".join("null" if k is type(None) else k.__name__ for k in kinds)
                    raise InputError(
                        f"{path}:{number}: field {field!r} must be {wanted}, got {json.dumps(row[field])[:60]}"
                    )
            if check is not None:
                try:
                    check(row)
                except ValueError as error:
                    raise InputError(f"{path}:{number}: {error}") from None
            rows.append(row)
    if not rows:
        raise InputError(f"{path}: no rows")
    return rows


def unix(text: str) -> str:
    """Text with the line ends that Python itself would see: each CRLF and each lone CR is a newline."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def whole_lines(path: str | Path) -> list[str]:
    """The lines of a log, each with its newline, short of a last one that was cut off while it was written."""
    with open(
        path, encoding="utf-8", newline="\n"
    ) as file:  # a JSON string may hold what str.splitlines splits at
        return [line for line in file if line.endswith("\n")]


def write_text(path: str | Path, text: str) -> None:
    """Writes a file whole or not at all: beside its name, synced, renamed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with open(beside, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def write_jsonl(path: str | Path, rows: list[dict]) -> None:
    """Writes rows as JSONL, whole or not at all."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def append_jsonl(path: str | Path, rows: list[dict]) -> None:
    """Appends rows to a log."""
    with open(path, "a", encoding="utf-8", newline="\n") as file:
        file.writelines(
            json.dumps(without_nan(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows
        )


def without_nan(row: dict) -> dict:
    """The row with null for every number that is none: JSON has no NaN."""
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in row.items()
    }


def seed_of(run_seed: int, purpose: str, *index: int | str) -> int:
    """A 63-bit seed that is a function of its arguments alone, so that a resumed run draws what the first would have."""
    text = json.dumps([run_seed, purpose, *index])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def shuffled(count: int, run_seed: int, purpose: str, *index: int) -> list[int]:
    """A permutation of range(count) that depends on its arguments alone."""
    generator = torch.Generator().manual_seed(seed_of(run_seed, purpose, *index))
    return torch.randperm(count, generator=generator).tolist()


def draw(count: int, size: int, step: int, run_seed: int, purpose: str) -> list[int]:
    """Indices of the step's batch: `size` successive ones of an endless row of shuffled epochs over range(count)."""
    first = step * size
    epochs = {
        i // count: shuffled(count, run_seed, purpose, i // count)
        for i in (first, first + size - 1)
    }
    for epoch in range(
        first // count, (first + size - 1) // count + 1
    ):  # more than two when count < size
        epochs.setdefault(epoch, shuffled(count, run_seed, purpose, epoch))
    return [epochs[i // count][i % count] for i in range(first, first + size)]


def lr_at(
    step: int, learning_rate: float, warmup_steps: int, max_steps: int, lr_scheduler_type: str
) -> float:
    """Learning rate of a step (0-based): linear warm-up, then constant, linear to zero, or cosine to zero."""
    if step < warmup_steps:
        return learning_rate * (step + 1) / warmup_steps
    left = 1 - (step - warmup_steps) / max(1, max_steps - warmup_steps)
    return (
        learning_rate
        * {"constant": 1.0, "linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left)}[
            lr_scheduler_type
        ]
    )


def progress_bar(desc: str, total: int, initial: int = 0) -> tqdm:
    """A bar on rank 0, drawn at most once a second, so that a log file of it stays readable."""
    return tqdm(desc=desc, total=total, initial=initial, mininterval=1.0, disable=rank() != 0)


def rank() -> int:
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def device() -> torch.device:
    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


def start_distributed() -> None:
    """Joins the process group when torchrun started this process (RANK is set): NCCL on GPU, gloo on CPU."""
    if device().type == "cuda":
        torch.cuda.set_device(device())
    if world_size() > 1:
        dist.init_process_group("nccl" if device().type == "cuda" else "gloo")


def end_distributed() -> None:
    """Leaves the process group; the caller's models and optimizers must be gone by now, or gloo aborts at exit."""
    if dist.is_initialized():
        gc.collect()  # a model bound to its own method is a cycle
        dist.barrier()
        dist.destroy_process_group()


def all_sum(*values: float | torch.Tensor) -> list[float]:
    """Sum of each value over all ranks, in float64."""
    total = torch.tensor([float(value) for value in values], dtype=torch.float64, device=device())
    if dist.is_initialized():
        dist.all_reduce(total)
    return total.tolist()


def my_share(rows: list) -> list:
    """This rank's contiguous share of rows; InputError where they do not divide evenly (ranks must step together)."""
    if len(rows) % world_size():
        raise InputError(f"a batch of {len(rows)} does not divide over {world_size()} processes")
    size = len(rows) // world_size()
    return rows[rank() * size : (rank() + 1) * size]


def shard(model: nn.Module) -> nn.Module:
    """Shards a model over all ranks with FSDP2 (one process: as it is), layer by layer, on this process's device.

    Parameters stay whole from the forward to the end of the backward, so that a rollout, which has no backward,
    gathers them once and not at each token. A policy also gets the method `completion_logprobs`.
    """
    model.to(device())
    if model.get_output_embeddings() is not None:
        try:
            check_plain_head(model)
        except ValueError as error:
            raise InputError(str(error)) from None
        model.completion_logprobs = types.MethodType(completion_logprobs, model)
    if world_size() > 1:
        layer_names = set(model._no_split_modules or [])
        for module in list(model.modules()):
            if type(module).__name__ in layer_names:
                fully_shard(module, reshard_after_forward=False)
        fully_shard(model, reshard_after_forward=False)
        if hasattr(model, "completion_logprobs"):
            register_fsdp_forward_method(model, "completion_logprobs")
    return model


def unshard(model: nn.Module) -> None:
    """Gathers a sharded model's parameters, before a rollout; a model that is not sharded stays as it is."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.unshard()


def reshard(model: nn.Module) -> None:
    """Frees what a forward has gathered of a sharded model, before its parameters (the shards) are changed in place."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def clip_gradients(model: nn.Module, max_norm: float) -> float:
    """Clips by the norm over all parameters and ranks; returns the norm before clipping."""
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def new_tokenizer(texts: list[str], vocab_size: int) -> transformers.PreTrainedTokenizerFast:
    """A byte-level BPE trained on texts, whose merges may cross spaces: whole phrases and code lines become tokens.

    Text is cut before merging into digit runs and the rest of each line with its newline: a number is a unit of its
    own, and a newline sits at the end of a larger token, as in the tokenizers of real models.
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
    """A small Llama with random weights, a function of the seed: a policy with tied embeddings, or, where num_labels is
    given, a token classifier."""
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
        return (
            transformers.LlamaForTokenClassification
            if num_labels
            else transformers.LlamaForCausalLM
        )(config)


def check_model_folder(path: str | Path | None) -> None:
    """Raises InputError for a local folder that holds no model; a name that does not exist here may be a hub's."""
    if path is not None and Path(path).exists() and not (Path(path) / "config.json").is_file():
        raise InputError(f"{path}: not a model folder (it has no config.json)")


def _load(auto_class, path: str | Path, **keywords):
    """from_pretrained with one clear InputError, every dropout at zero, and no remote code."""
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
            f"{path}: no model can be loaded from here: {str(error).splitlines()[0]}"
        ) from None
    except RuntimeError:  # tensors of other shapes than the config's
        raise InputError(
            f"{path}: its weights do not fit; is it a reward model with another number of outputs?"
        ) from None
    model = loaded[0] if isinstance(loaded, tuple) else loaded
    for parameter in (
        model.parameters()
    ):  # a file's tensors may be less aligned than new ones, which changes last bits
        parameter.data = parameter.data.clone()
    return loaded


def load_tokenizer(path: str | Path):
    """The tokenizer of a folder or hub name, with one clear InputError. What its file says stands: AutoTokenizer would
    replace a plain tokenizer's pre-tokenization by that of the model type in config.json (Qwen2's, say)."""
    check_model_folder(path)
    settings = Path(path) / "tokenizer_config.json"
    name = (
        json.loads(settings.read_text(encoding="utf-8")).get("tokenizer_class")
        if settings.is_file()
        else None
    )
    plain = name in ("TokenizersBackend", "PreTrainedTokenizerFast")
    try:
        tokenizer = (
            transformers.PreTrainedTokenizerFast if plain else transformers.AutoTokenizer
        ).from_pretrained(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: no tokenizer can be loaded from here: {str(error).splitlines()[0]}"
        ) from None
    if tokenizer.eos_token_id is None:
        raise InputError(f"{path}: the tokenizer has no end-of-sequence token")
    return tokenizer


def load_policy(path: str | Path):
    """A causal language model in float32 with every dropout at zero."""
    return _load(transformers.AutoModelForCausalLM, path)


def load_scorer(path: str | Path, num_labels: int | None = None):
    """A token classifier with one output: a reward model or critic. From a policy's folder its head starts at zero.

    num_labels: outputs of a head that is to be new; None keeps the four of an outcome classifier, and is else 1.
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


def scores_of_logits(logits: torch.Tensor, score_activation: str) -> torch.Tensor:
    """Scores (...) of a reward model's logits (..., C): as they are; 2 sigmoid - 1; or the expected CodeRL reward."""
    if score_activation == "expected_outcome":
        rewards = logits.new_tensor(list(OUTCOME_REWARDS.values()))
        return (logits.softmax(-1) @ rewards).clamp(-1, 1)  # rounding may lead outside
    return (
        torch.tanh(logits.squeeze(-1) / 2)
        if score_activation == "sigmoid_signed"
        else logits.squeeze(-1)
    )


def scores_of(model, input_ids: torch.Tensor) -> torch.Tensor:
    """Scores (B, L) float32 of a reward model after each token of input_ids (B, L), as reinforcement learning reads
    them: config.score_activation, set by train_prm.py, says how; a model without it is read as it is."""
    logits = model(input_ids=input_ids).logits.float()  # (B, L, C)
    return scores_of_logits(logits, getattr(model.config, "score_activation", "none"))


@torch.no_grad()
def score_texts(
    model, tokenizer, tasks: list[dict], texts: list[str], batch_size: int
) -> torch.Tensor:
    """Scores (N,) of a reward model for texts that follow their tasks' prompts: at the last token of each, or, where
    config.score_pooling is "lines" (train_prm.py), the mean of those at the ends of its lines."""
    prompts = [encode_prompt(tokenizer, task) for task in tasks]
    rows = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    pooled = getattr(model.config, "score_pooling", "last") == "lines"
    scores = torch.zeros(len(rows), device=device())
    order = sorted(range(len(rows)), key=lambda i: len(prompts[i]) + len(rows[i]))
    for start in range(0, len(order), batch_size):
        micro = order[start : start + batch_size]
        ids, mask = pad_pairs(
            [prompts[i] for i in micro], [rows[i] for i in micro]
        )  # (B, L), (B, L)
        read = scores_of(model, ids)  # (B, L)
        if pooled:
            scores[micro] = masking.mean_over_lines(read, ids, mask, line_table(tokenizer))
        else:
            last = torch.tensor(
                [[len(prompts[i]) + len(rows[i]) - 1] for i in micro], device=read.device
            )
            scores[micro] = read.gather(1, last).squeeze(1)
    return scores


@functools.lru_cache(maxsize=2)
def line_table(tokenizer) -> masking.LineTable:
    """masking.line_table on this process's device, made once."""
    return masking.line_table(tokenizer).to(device())


def eos_ids(model, tokenizer) -> list[int]:
    """Every id that ends a completion: the tokenizer's and all of the generation config's."""
    configured = model.generation_config.eos_token_id
    configured = configured if isinstance(configured, list) else [configured]
    return sorted({tokenizer.eos_token_id, *configured} - {None})


def encode_prompt(tokenizer, task: dict) -> list[int]:
    """Token ids of what the model is given: the chat template where the tokenizer has one, the plain text else.

    In the plain format a newline follows the prompt, except where the completion goes on in mid-program (`prefix`).
    """
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": task["prompt"]}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return tokenizer(text, add_special_tokens=False).input_ids
    text = task["prompt"] if task.get("prefix") else task["prompt"].rstrip("\n") + "\n"
    bos = (
        [tokenizer.bos_token_id]
        if getattr(tokenizer, "add_bos_token", False) and tokenizer.bos_token_id is not None
        else []
    )
    return bos + tokenizer(text, add_special_tokens=False).input_ids


def encode_completion(tokenizer, text: str) -> list[int]:
    """Token ids of a completion that is given as text (training data, never a rollout), with the EOS that ends it."""
    return [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]


def extract_program(task: dict, completion: str) -> str:
    """The whole program in a completion: inside <answer>, inside the first code fence, after the task's prefix."""
    answer = re.search(r"<answer>\n?(.*?)(</answer>|\Z)", completion, re.DOTALL)
    text = answer.group(1) if answer else completion
    fence = re.search(r"```[a-zA-Z0-9]*\n(.*?)(```|\Z)", text, re.DOTALL)
    if fence:
        return fence.group(1)
    return task.get("prefix", "") + text


FORMAT = re.compile(r"\s*<think>(.*?)</think>\s*<answer>.*?</answer>\s*", re.DOTALL)


def reasoning_of(text: str) -> str | None:
    """The text between the think tags of a completion in the think and answer format; None for any other."""
    match = FORMAT.fullmatch(text)
    if match is None or any(
        text.count(tag) != 1 for tag in ("<think>", "</think>", "<answer>", "</answer>")
    ):
        return None
    return match.group(1)


def pad(rows: list[list], value=0, dtype=torch.long) -> torch.Tensor:
    """Ragged rows as one right-padded tensor (B, L) on this process's device."""
    width = max((len(row) for row in rows), default=0)
    return torch.tensor(
        [row + [value] * (width - len(row)) for row in rows], dtype=dtype, device=device()
    )


def pad_pairs(
    prompts: list[list[int]], texts: list[list[int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts and the texts that follow them as input_ids (B, L), right-padded, and the texts' mask (B, L) bool."""
    input_ids = pad([p + t for p, t in zip(prompts, texts, strict=True)])
    mask = pad([[0] * len(p) + [1] * len(t) for p, t in zip(prompts, texts, strict=True)]).bool()
    return input_ids, mask


class Rollout(NamedTuple):
    """N completions, the samples of a prompt next to each other. Tensors are right-padded to the longest completion."""

    prompts: list[list[int]]  # N rows of token ids
    completions: list[list[int]]  # N rows of token ids, EOS included
    texts: list[str]  # the completions as text
    ids: torch.Tensor  # (N, T) the completions again
    mask: torch.Tensor  # (N, T) bool, on for the completion's tokens
    logprobs: torch.Tensor  # (N, T) of the tokens when they were sampled


def roll_out(
    policy,
    tokenizer,
    prompts: list[list[int]],
    num_generations: int,
    max_length: int,
    temperature: float,
    seeds: list[int],
) -> Rollout:
    """Samples num_generations completions of each prompt; one seed a sample."""
    unshard(policy)
    ids, mask, logprobs = sampling.sample(
        policy, prompts, num_generations, max_length, temperature, eos_ids(policy, tokenizer), seeds
    )
    completions = [
        row[:length] for row, length in zip(ids.tolist(), mask.sum(1).tolist(), strict=True)
    ]
    texts = tokenizer.batch_decode(completions, skip_special_tokens=True)
    repeated = [prompt for prompt in prompts for _ in range(num_generations)]
    return Rollout(repeated, completions, texts, ids, mask, logprobs)


def pack(rollout: Rollout, rows: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Some rows of a rollout as one batch for a forward pass, prompt and completion right-padded together.

    Returns input_ids (B, L); the completion's mask (B, L); and the place in the row (B, T) of completion token t, so
    that x.gather(1, places) brings a (B, L) result to the rollout's (B, T).
    """
    prompts = [rollout.prompts[i] for i in rows]
    input_ids, mask = pad_pairs(prompts, [rollout.completions[i] for i in rows])
    starts = torch.tensor([[len(p)] for p in prompts], device=input_ids.device)
    places = starts + torch.arange(rollout.ids.shape[1], device=input_ids.device)
    return input_ids, mask, places.clamp(max=input_ids.shape[1] - 1)


def _checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a run folder, oldest first."""
    return sorted(folder.glob("checkpoint-*[0-9]"), key=lambda path: int(path.name.split("-")[1]))


def open_run(config, complete: str = "config.json") -> Path | None:
    """Opens config.output_dir for this run and returns the checkpoint to go on from, None for a new run.

    The flags are printed and kept in run_config.json (config.json is the model's). A finished run, known by the file
    `complete`, which is written last, ends the process with a word. A folder that holds a run with other flags is an
    InputError, so that no result is mixed or lost.
    """
    folder, flags = Path(config.output_dir), dataclasses.asdict(config)
    kept = folder / "run_config.json"
    if kept.is_file():
        before = json.loads(kept.read_text(encoding="utf-8"))
        changed = [
            name for name in flags.keys() | before.keys() if before.get(name) != flags.get(name)
        ]
        if changed:
            name = sorted(changed)[0]
            raise InputError(
                f"{folder}: holds a run with other flags (--{name} was {before.get(name)!r}, is {flags.get(name)!r}); "
                "choose another --output_dir or delete that folder"
            )
    elif (folder / "config.json").is_file():
        raise InputError(
            f"{folder}: holds a model, but no run of this stage; choose another --output_dir"
        )
    if (folder / complete).is_file():
        if rank() == 0:
            print(f"{folder} is complete; nothing to do")
        end_distributed()
        sys.exit(0)
    if rank() == 0:
        print(json.dumps(flags, indent=2))
        folder.mkdir(parents=True, exist_ok=True)
        write_text(kept, json.dumps(flags, indent=2) + "\n")
        for leftover in folder.glob("*.tmp"):
            shutil.rmtree(leftover)
    checkpoints = _checkpoints(folder)
    step = int(checkpoints[-1].name.split("-")[1]) if checkpoints else 0
    if rank() == 0:
        for log in (
            "metrics.jsonl",
            "completions.jsonl",
        ):  # lines after the checkpoint will be written again
            if (folder / log).is_file():
                kept = [
                    line for line in whole_lines(folder / log) if json.loads(line)["step"] <= step
                ]
                write_text(folder / log, "".join(kept))
    if dist.is_initialized():
        dist.barrier()
    return checkpoints[-1] if checkpoints else None


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor on the CPU; a sharded one is gathered first (all ranks must call this together)."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().cpu()


def _sync(folder: Path) -> None:
    """Flushes every file of a folder, and the folder itself, to disk."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def _save_pretrained(model, folder: Path) -> None:
    state = {name: _whole(tensor) for name, tensor in model.state_dict().items()}
    if rank() == 0:
        if getattr(
            model.config, "tie_word_embeddings", False
        ):  # gathered copies no longer share memory
            for name in model._tied_weights_keys or []:
                state.pop(name, None)
        model.save_pretrained(
            folder, state_dict={name: tensor.contiguous() for name, tensor in state.items()}
        )


def save_model(model, tokenizer, folder: str | Path) -> None:
    """Puts the final model and tokenizer at the top of the run folder; its config.json, moved last, marks it complete."""
    folder = Path(folder)
    beside = folder / "final.tmp"
    _save_pretrained(model, beside)
    if rank() == 0:
        tokenizer.save_pretrained(beside)
        _sync(beside)
        for path in sorted(beside.iterdir(), key=lambda path: path.name == "config.json"):
            os.replace(path, folder / path.name)
        beside.rmdir()
    if dist.is_initialized():
        dist.barrier()


def save_checkpoint(
    output_dir, step: int, models: dict, optimizers: dict, tokenizer, save_total_limit: int
) -> None:
    """Writes checkpoint-<step>/ in the layout of Hugging Face, whole or not at all, and drops the oldest ones.

    `models` maps a subfolder ("" for the policy) to a model, `optimizers` the same names to their optimizers. Their
    moments go to trainer.safetensors; randomness is stateless, so the step is all the rest that a resumed run needs.
    """
    folder = Path(output_dir) / f"checkpoint-{step}"
    beside = folder.with_name(f"{folder.name}.tmp")
    moments = {}
    for name, model in models.items():
        _save_pretrained(model, beside / name)
        for parameter_name, parameter in model.named_parameters():
            for key, value in optimizers[name].state.get(parameter, {}).items():
                moments[f"{name}/{parameter_name}/{key}"] = _whole(value).clone()
    if rank() == 0:
        tokenizer.save_pretrained(beside)
        save_file(moments, beside / "trainer.safetensors")
        write_text(beside / "trainer_state.json", json.dumps({"global_step": step}) + "\n")
        _sync(beside)
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(beside, folder)
        for old in _checkpoints(folder.parent)[:-save_total_limit] if save_total_limit > 0 else []:
            shutil.rmtree(old)
    if dist.is_initialized():
        dist.barrier()


def load_optimizers(checkpoint: Path, models: dict, optimizers: dict) -> int:
    """Restores the optimizers' moments from checkpoint-<step>/ and returns the step; InputError if it is damaged."""
    try:
        step = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))[
            "global_step"
        ]
        with safe_open(checkpoint / "trainer.safetensors", framework="pt") as moments:
            keys = set(moments.keys())
            for name, model in models.items():
                for parameter_name, parameter in model.named_parameters():
                    state = {}
                    for key in ("step", "exp_avg", "exp_avg_sq"):
                        if f"{name}/{parameter_name}/{key}" not in keys:
                            continue
                        value = moments.get_tensor(f"{name}/{parameter_name}/{key}")
                        if key != "step":
                            value = value.to(parameter.device)
                            if isinstance(parameter, DTensor):
                                value = distribute_tensor(
                                    value, parameter.device_mesh, parameter.placements
                                )
                        state[key] = value
                    if state:
                        optimizers[name].state[parameter] = state
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{checkpoint}: cannot be resumed from: {error}") from None
    return step
