"""Command-line flags: a dataclass a stage, one field a flag. And the error that a user sees.

A field's annotation says what the flag takes: its type, its range, which file it names.

    tasks: InputFile
    num_prompts: PositiveInt = 16
    prm: str | None = None
"""

import dataclasses
import difflib
import hashlib
import math
import os
import types
import typing
from pathlib import Path
from typing import Annotated, NamedTuple


class InputError(Exception):
    """A flag, a file or a record of the user's is wrong. The text is the one line that they see."""


class Range(NamedTuple):
    """The numbers that a flag takes. Every number is finite, also without a range."""

    words: str
    low: float
    above: bool = False  # low itself is out of range
    high: float = math.inf


PositiveInt = Annotated[int, Range("at least 1", 1)]
NonNegativeInt = Annotated[int, Range("at least 0", 0)]
PositiveFloat = Annotated[float, Range("above 0", 0, above=True)]
NonNegativeFloat = Annotated[float, Range("at least 0", 0)]
UnitFloat = Annotated[float, Range("in [0, 1]", 0, high=1)]
PositiveUnitFloat = Annotated[float, Range("in (0, 1]", 0, above=True, high=1)]
GroupSize = Annotated[int, Range("at least 2: a group compares its samples", 2)]

InputFile = Annotated[str, "input file"]  # exists, and can be read
OutputFile = Annotated[str, "output file"]  # can be written; no other flag names the same file
OutputDir = Annotated[str, "output folder"]  # is a folder, or can become one


def parse_flags(config_class: type, argv: list[str]):
    """Builds a dataclass from `--flag value ...` (or `--flag=value`); annotations give the types.

    Types: str, int, float, bool, Literal[...], the annotated types above, list[...] of these
    (several values after the flag, each once), and `X | None` (the word `none`). A bool takes true
    or false, or nothing for true. Raises InputError for an unknown flag (and names the nearest
    one), a wrong type, a number out of range, a missing value, a missing required flag.
    """
    annotations = typing.get_type_hints(config_class, include_extras=True)
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
        values = [_convert(name, [word], arguments[0]) for word in words]
        for number, value in enumerate(values):
            if value in values[:number]:
                raise InputError(f"--{name} has {words[number]} twice")
        return values
    if origin in (types.UnionType, typing.Union):
        inner = next(kind for kind in arguments if kind is not type(None))
        return None if words == ["none"] else _convert(name, words, inner)
    if origin is Annotated:
        value = _convert(name, words, arguments[0])
        if isinstance(arguments[1], Range):
            _check_range(name, value, arguments[1])
        return value
    if annotation is bool and not words:
        return True
    if len(words) != 1:
        raise InputError(f"--{name} takes one value, got {len(words)}")
    word = words[0]
    if origin is typing.Literal:
        choices = {str(choice): choice for choice in arguments}
        if word not in choices:
            raise InputError(f"--{name} must be one of {', '.join(choices)}, got {word!r}")
        return choices[word]
    if annotation is bool:
        if word.lower() not in ("true", "false"):
            raise InputError(f"--{name} must be true or false, got {word!r}")
        return word.lower() == "true"
    try:
        value = annotation(word)
    except ValueError:
        raise InputError(f"--{name} must be of type {annotation.__name__}, got {word!r}") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"--{name} must be a finite number, got {word!r}")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:  # of a tensor or a seed
        raise InputError(f"--{name} must fit into 64 bits, got {word!r}")
    if isinstance(value, str) and (not value.strip() or "\0" in value):
        raise InputError(f"--{name} must not be empty" if not value.strip() else f"--{name}: NUL")
    return value


def _check_range(name: str, value: float, allowed: Range) -> None:
    low_enough = value <= allowed.high
    high_enough = value > allowed.low if allowed.above else value >= allowed.low
    if not (low_enough and high_enough):
        raise InputError(f"--{name} must be {allowed.words}, got {value}")


def _kinds(annotation) -> set[str]:
    """The kinds of file or folder that an annotation names, also in a list or a union."""
    if typing.get_origin(annotation) is Annotated:
        return {kind for kind in typing.get_args(annotation)[1:] if isinstance(kind, str)}
    return set().union(*map(_kinds, typing.get_args(annotation)))


def check_paths(config) -> None:
    """Raises InputError for an input that cannot be read, an output that cannot be written, a file
    that two flags name of which one is an output, and an input among the files of an output
    folder, which a run may write anew."""
    annotations = typing.get_type_hints(type(config), include_extras=True)
    named: dict[Path, tuple[str, str]] = {}  # a path, the flag that named it first, its kind
    for name, annotation in annotations.items():
        value = getattr(config, name)
        for kind in _kinds(annotation) if value is not None else ():
            for path in value if isinstance(value, list) else [value]:
                if kind == "input file":
                    _check_input(name, Path(path))
                else:
                    _check_output(name, Path(path), kind)
                other, other_kind = named.setdefault(Path(path).resolve(), (name, kind))
                if other != name and {kind, other_kind} != {"input file"}:
                    raise InputError(f"--{name} and --{other} are the same: {path}")
    folders = {path: name for path, (name, kind) in named.items() if kind == "output folder"}
    for path, (name, kind) in named.items():
        if kind == "input file" and path.parent in folders:
            folder = folders[path.parent]
            raise InputError(f"--{name}: {path} lies in --{folder}, whose files a run writes")


def flags_of(config) -> dict:
    """The values of the flags, by name; the studies too, since a forked stage is another run."""
    studies = {"studies": config.studies} if hasattr(config, "studies") else {}
    return dataclasses.asdict(config) | studies  # studies/run.py sets `studies`


def defaults(config) -> dict:
    """The default values of the flags that have one, by the flag's name."""
    missing, found = dataclasses.MISSING, {}
    for field in dataclasses.fields(config):
        if field.default is not missing:
            found[field.name] = field.default
        elif field.default_factory is not missing:
            found[field.name] = field.default_factory()
    return found


def input_digests(config) -> dict[str, list[str]]:
    """The BLAKE2 digests of the files that each flag of input files names, by the flag's name."""
    digests = {}
    for name, annotation in typing.get_type_hints(type(config), include_extras=True).items():
        value = getattr(config, name)
        if "input file" in _kinds(annotation) and value is not None:
            digests[name] = []
            for path in value if isinstance(value, list) else [value]:
                with open(path, "rb") as file:
                    digests[name].append(hashlib.file_digest(file, "blake2b").hexdigest())
    return digests


def _check_input(name: str, path: Path) -> None:
    if not path.exists():
        raise InputError(f"--{name}: {path}: no such file")
    if path.is_dir():
        raise InputError(f"--{name}: {path} is a folder, not a file")
    if not os.access(path, os.R_OK):
        raise InputError(f"--{name}: {path} cannot be read: permission denied")


def _check_output(name: str, path: Path, kind: str) -> None:
    if kind == "output file" and path.is_dir():
        raise InputError(f"--{name}: {path} is a folder, not a file")
    folder = path if kind == "output folder" else path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise InputError(f"--{name}: {folder} is a file, not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"--{name}: {folder} cannot be written to: permission denied")
