"""JSONL and text files: read whole and checked, written whole or not at all. Locks and digests."""

import fcntl
import gzip
import hashlib
import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from common.flags import InputError

DIGESTS = "digests.json"  # of a folder's files
LOCKS = {}  # lock files that this process holds; an flock ends with the open file
OPTIONAL = {"prefix": str, "opening": str, "meta": dict}  # fields that a row of any file may have


def read_jsonl(path: str | Path, fields: dict, check=None) -> list[dict]:
    """Rows of a JSONL file, all checked before any is used: `iter_jsonl`."""
    return list(iter_jsonl(path, fields, check))


def iter_jsonl(path: str | Path, fields: dict, check=None) -> Iterator[dict]:
    """Rows of a JSONL file, one after the other; a file that ends in .gz is unpacked.

    `fields` maps a required field to its type or a tuple of types; type(None) allows null.
    `check(row)` may raise ValueError with more. A field of OPTIONAL that is null counts as absent.
    Raises InputError with file, line and field; a file without rows is an error.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    number, opened = 0, gzip.open if str(path).endswith(".gz") else open
    try:
        with opened(path, "rb") as file:
            for number, line in enumerate(file, 1):
                yield _row_of(line, f"{path}:{number}", fields, check)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: not a whole gzip file: {error}") from None
    if not number:
        raise InputError(f"{path}: no rows")


def _row_of(line: bytes, place: str, fields: dict, check) -> dict:
    """The row of a line, checked; InputError names the place."""
    try:
        row = json.loads(line.decode())
    except (ValueError, RecursionError) as error:  # also integers of thousands of digits
        raise InputError(f"{place}: not a JSON object: {error}") from None
    if not isinstance(row, dict):
        raise InputError(f"{place}: not a JSON object but {type(row).__name__}")
    row = {name: x for name, x in row.items() if x is not None or name not in OPTIONAL}
    try:
        check_fields(row, fields | {name: kind for name, kind in OPTIONAL.items() if name in row})
        if check is not None:
            check(row)
    except ValueError as error:
        raise InputError(f"{place}: {error}") from None
    return row


def check_fields(row: dict, fields: dict) -> None:
    """Raises ValueError for a row without one of the fields, or with a field of another type."""
    for field, kind in fields.items():
        if field not in row:
            raise ValueError(f"field {field!r} is missing")
        bool_as_number = isinstance(row[field], bool) and kind in (int, float)
        if not isinstance(row[field], kind) or bool_as_number:
            kinds = kind if isinstance(kind, tuple) else (kind,)
            wanted = " or ".join("null" if k is type(None) else k.__name__ for k in kinds)
            got = json.dumps(row[field])[:60]
            raise ValueError(f"field {field!r} must be {wanted}, got {got}")


def whole_lines(path: str | Path) -> list[str]:
    """The lines of a log, each with its newline, without a last line that was cut off."""
    # Only "\n" ends a line: a JSON string may hold what str.splitlines splits at. A damaged byte
    # is left to those who read the line.
    with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
        return [line for line in file if line.endswith("\n")]


def whole_rows(path: str | Path) -> Iterator[dict]:
    """The rows of a log, one after the other, without a last line that was cut off. InputError for
    a line that is damaged otherwise."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if line.endswith(b"\n"):
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise InputError(f"{path}:{number}: not a JSON object: {error}") from None


def cut_torn_line(path: Path) -> None:
    """Cuts off a last line that a killed process has left without its end."""
    with open(path, "rb+") as file:
        file.truncate(sum(len(line) for line in file if line.endswith(b"\n")))


def write_text(path: str | Path, text: str) -> None:
    """Writes a file whole or not at all: beside its name, synced, renamed."""
    _write_whole(path, [text])


def _write_whole(path: str | Path, parts: Iterable[str]) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.tmp")  # after a kill the next write takes its place
    with open(beside, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def json_line(row: dict) -> str:
    """A row of JSONL. NaN and infinity become null, since JSON does not have them. A half of a
    surrogate pair, which UTF-8 does not have, is escaped."""
    line = json.dumps(null_for_nan(row), ensure_ascii=False, allow_nan=False) + "\n"
    try:
        line.encode()
    except UnicodeEncodeError:
        line = json.dumps(null_for_nan(row), allow_nan=False) + "\n"
    return line


def write_jsonl(path: str | Path, rows: Iterable[dict]) -> None:
    """Writes rows as JSONL, whole or not at all."""
    _write_whole(path, map(json_line, rows))


def append_jsonl(path: str | Path, rows: list[dict]) -> None:
    """Appends rows to a log."""
    with open(path, "a", encoding="utf-8", newline="\n") as file:
        file.write("".join(map(json_line, rows)))


def null_for_nan(value):
    """A value of JSON, as deep as it goes, with None for each number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: null_for_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [null_for_nan(item) for item in value]
    return value


def lock(path: str | Path, what: str | Path) -> None:
    """Holds a lock file until this process ends, however it ends. InputError where another process
    holds it. what: the folder or file that the lock stands for."""
    path = Path(path)
    if path.resolve() in LOCKS:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise InputError(f"{what}: another run is at work here; wait, or stop that run") from None
    LOCKS[path.resolve()] = file


def _digests(folder: Path) -> dict[str, str]:
    """The BLAKE2 digest of each file of a folder, by the file's name in the folder."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != DIGESTS:
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "blake2b").hexdigest()
            digests[str(path.relative_to(folder))] = digest
    return digests


def write_digests(folder: Path) -> None:
    """Notes the digests of a folder's files in the folder, for `damage_of`."""
    write_text(folder / DIGESTS, json.dumps(_digests(folder), indent=2) + "\n")


def damage_of(folder: Path) -> str | None:
    """What is wrong with a folder's files; None where all are as they were when `write_digests` saw
    them. A folder without digests (a checkpoint of an earlier release) counts as whole."""
    path = folder / DIGESTS
    if not path.is_file():
        return None
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return f"{DIGESTS} is damaged"
    found = _digests(folder)
    for name in sorted(written.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if written.get(name) != found[name]:
            return f"{name} is damaged"
    return None
