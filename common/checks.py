"""What is checked of models and tasks before a run writes its first file.

A model is checked from headers, without weights.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from common.flags import InputError
from common.models import load_policy, load_tokenizer
from common.reward_models import load_scorer
from common.texts import encode_prompt, prompt_format_of

# Modules and buffers with a row a position: a longer text has no row.
POSITION_TABLES = {"wpe", "embed_positions", "positions_embed"}


def check_model(
    wanted: str,
    path: str | Path | None,
    num_tokens: int = 0,
    tasks: list[dict] | tuple = (),
    run_config=None,
    encode: Callable | None = None,
) -> None:
    """Raises InputError for a model that a stage could not work with; a path of None is no model.

    wanted: a key of checkpoints.ACCEPTED. num_tokens: of the longest text; with tasks, of the
    longest completion that follows one of the tasks' prompts. A policy's prompts have the format of
    run_config, or are what encode(tokenizer, task) says; a reward model's prompts have the format
    that its config.json names.
    """
    if path is None:
        return
    if wanted == "policy":
        model = load_policy(path, headers_only=True)
    else:
        model = load_scorer(path, wanted=wanted, headers_only=True)
    tokenizer = load_tokenizer(path)
    last_id, rows = max(tokenizer.get_vocab().values()), len(model.get_input_embeddings().weight)
    if last_id >= rows:
        raise InputError(
            f"{path}: its tokenizer has ids up to {last_id}, its embedding has {rows} rows"
        )
    if position_limit(model)[0] is not None:  # prompts take a while to encode
        prompt_format = prompt_format_of(run_config if wanted == "policy" else model.config)
        encode = encode or partial(encode_prompt, prompt_format=prompt_format)
        prompts = [encode(tokenizer, task) for task in tasks]
        check_length(path, model, max(map(len, prompts), default=0) + num_tokens)


def check_packages(config, tasks: list[dict]) -> None:
    """Raises InputError where the tasks of config.tasks need packages that --packages lacks.

    What untrusted programs may import, and read, the user says, and not a file of tasks.
    """
    needed = {name for task in tasks for name in task.get("packages") or []}
    if missing := " ".join(sorted(needed - set(config.packages))):
        raise InputError(f"{config.tasks}: its tasks need --packages {missing}")


def check_length(path: str | Path, model, num_tokens: int) -> None:
    """Raises InputError for a text of so many tokens that the model from path cannot read."""
    limit, reason = position_limit(model)
    if limit is not None and num_tokens > limit:
        raise InputError(f"{path}: a text may have {num_tokens} tokens; beyond {limit} {reason}")


def position_limit(model) -> tuple[int | None, str]:
    """The tokens of the longest text that a model can read, and what is wrong with longer ones;
    None where longer ones are read as well, at least by the letter."""
    config = model.config.get_text_config()
    named = {
        name.rpartition(".")[2] for name, _ in [*model.named_modules(), *model.named_buffers()]
    }
    if named & POSITION_TABLES:
        return config.max_position_embeddings, "it has no positions"
    if config.model_type == "mpt":  # a bias for each distance
        return config.max_seq_len, "it has no positions"
    ropes = getattr(config, "rope_parameters", None) or {}
    for rope in (ropes, *ropes.values()):  # one for all layers, or one a type of layer
        kind = rope.get("rope_type") if isinstance(rope, dict) else None
        reason = f"its positions ({kind}) change with the batch"
        if kind == "dynamic":
            return config.max_position_embeddings, reason
        if kind == "longrope":
            return rope["original_max_position_embeddings"], reason
    return None, ""
