"""What `--help` prints: the stage's docstring, then its flags in groups.

A flag has its values, its default, and the words beside it in Config. The groups are those of
GROUPS; a flag of no group belongs to what the stage is about.
"""

import ast
import dataclasses
import inspect
import io
import textwrap
import tokenize
import types
import typing
from typing import Annotated

from common.flags import Range

GROUPS = {
    "model and prompts": """prompt_format system_prompt vocab_size hidden_size num_hidden_layers
        max_length fence""",
    "sampling": """num_prompts num_generations max_completion_length temperature top_p num_samples
        rollout_batch_size""",
    "training": """max_steps num_ppo_epochs num_iterations num_mini_batches train_batch_size
        learning_rate value_learning_rate warmup_steps lr_scheduler_type weight_decay max_grad_norm
        eval_fraction eval_steps""",
    "memory and speed": """per_device_train_batch_size per_device_eval_batch_size batch_size
        max_tokens_per_forward bf16 gradient_checkpointing torch_compile""",
    "sandbox": "sandbox_workers sandbox_timeout variant_timeout memory_mb packages details",
    "run": "save_steps save_total_limit seed",
}
WIDTH, INDENT = 100, 6  # columns


def values_of(annotation) -> str:
    """What a flag takes, in words: "at least 1", "a | b", "FILE"."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        return values_of(next(kind for kind in arguments if kind is not type(None)))
    if origin is list:
        return f"{values_of(arguments[0])} ..."
    if origin is typing.Literal:
        return " | ".join(map(str, arguments))
    if origin is Annotated:
        if isinstance(arguments[1], Range):
            return f"{arguments[0].__name__} {arguments[1].words}"
        return "FOLDER" if arguments[1] == "output folder" else "FILE"
    return {bool: "true | false", str: "TEXT"}.get(annotation, annotation.__name__)


def comments_of(config_class: type) -> dict[str, str]:
    """The words beside each field of a Config: comments above it, at its end, and below it, as far
    as they go on."""
    source = textwrap.dedent(inspect.getsource(config_class))
    fields = [node for node in ast.parse(source).body[0].body if isinstance(node, ast.AnnAssign)]
    comments = {}  # line: text
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip("# ")
    words, previous = {}, None
    for field in fields:
        own = [comments[n] for n in range(field.lineno, field.end_lineno + 1) if n in comments]
        first = previous.end_lineno + 1 if previous else 1
        above = [comments[n] for n in range(first, field.lineno) if n in comments]
        # Lines below the comment of the flag before go on with it, up to one that begins anew.
        new = next((i for i, text in enumerate(above) if text[0].isupper()), len(above))
        new = new if previous and own else 0
        if new:
            words[previous.target.id] += " " + " ".join(above[:new])
        words[field.target.id] = " ".join(above[new:] + own)
        previous = field
    return words


def default_of(field: dataclasses.Field) -> str:
    """The default in words; "required" without one."""
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
        return "default: " + (" ".join(map(str, value)) or "none")
    if field.default is dataclasses.MISSING:
        return "required"
    if isinstance(field.default, bool):
        return f"default: {str(field.default).lower()}"
    return "default: none" if field.default is None else f"default: {field.default}"


def usage(config_class: type) -> str:
    """The flags of a Config in groups, as `--help` prints them."""
    annotations = typing.get_type_hints(config_class, include_extras=True)
    group_of = {name: group for group, names in GROUPS.items() for name in names.split()}
    words = comments_of(config_class)
    groups = {"required": [], "this stage": [], **{group: [] for group in GROUPS}}
    for field in dataclasses.fields(config_class):
        default = default_of(field)
        group = "required" if default == "required" else group_of.get(field.name, "this stage")
        head = f"  --{field.name}  {values_of(annotations[field.name])}"
        if default != "required":
            head += f"  ({default})"
        indent = " " * INDENT
        text = textwrap.fill(
            words[field.name], WIDTH, initial_indent=indent, subsequent_indent=indent
        )
        groups[group] += [head, text] if text.strip() else [head]
    parts = [f"{group}:\n" + "\n".join(lines) for group, lines in groups.items() if lines]
    return "\n\n".join(parts)
