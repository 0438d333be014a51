"""Command-line flags: a dataclass a stage, one field a flag. And the error that a user sees."""

import dataclasses
import difflib
import types
import typing


class InputError(Exception):
    """A flag, a file or a record of the user's is wrong. The text is the one line that they see."""


def parse_flags(config_class: type, argv: list[str]):
    """Builds a dataclass from `--flag value ...` (or `--flag=value`); annotations give the types.

    Types: str, int, float, bool, Literal[...], list[...] of these (several values after the flag),
    and `X | None` (the word `none`). A bool takes true or false, or nothing for true.
    Raises InputError for an unknown flag (and names the nearest one), a wrong type, a missing
    value, a missing required flag.
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
