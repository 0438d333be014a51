"""What the methods share: lines of programs, rows of prm.jsonl and pairs.jsonl, runs to resume."""

import dataclasses
import hashlib
import json
import sys
from pathlib import Path

import common
import sandbox
from common import InputError


def lines_of(text: str) -> list[str]:
    """The lines of a text, each with its newline, as kernels.masking counts them.

    The last line may have no newline.
    """
    return common.lines_of(common.unix(text))


def is_code(line: str) -> bool:
    """Whether a line has more than white space and a comment."""
    return bool(line.strip()) and not line.lstrip().startswith("#")


def given_lines(task: dict) -> int:
    """How many lines of the program the task gives away (`prefix`): they are of no completion."""
    return task.get("prefix", "").count("\n")


def steps_of(task: dict) -> int | None:
    """The length of the task's reference, where the benchmark says so."""
    return task.get("meta", {}).get("steps")


def line_row(
    task: dict, lines: list[str], labels: list[float | None], origin: str, meta: dict
) -> dict:
    """One row of prm.jsonl: the lines of a completion and their labels."""
    row = {
        "prompt": task["prompt"],
        "completions": lines,
        "labels": labels,
        "task_id": task["task_id"],
        "origin": origin,
        "meta": meta,
    }
    return row | prefix_of(task)


def pair_row(task: dict, chosen: str, rejected: str, kind: str) -> dict:
    """One row of pairs.jsonl, without its `meta`."""
    return {
        "prompt": task["prompt"],
        "chosen": chosen,
        "rejected": rejected,
        "task_id": task["task_id"],
        "kind": kind,
    }


def prefix_of(task: dict) -> dict:
    """The field `prefix` of a row whose task has one."""
    return {"prefix": task["prefix"]} if task.get("prefix") else {}


def check_reference(row: dict, reason: str) -> None:
    """Raises ValueError for a row of tasks.jsonl that is no task, or has no reference program."""
    sandbox.check_task(row)
    if not isinstance(row.get("solution"), str):
        raise ValueError(f"field 'solution' must be str: {reason}")


def check_teacher(config, rules: str) -> None:
    """Raises InputError where --teacher_model does not go with --teacher; rules: the name of the
    embedded rules."""
    endpoint = config.teacher.startswith(("http://", "https://"))
    if config.teacher_model is not None and not endpoint:
        kind = "embedded rules" if config.teacher == rules else "a model folder or hub name"
        raise InputError(
            f"--teacher_model is for the URL of an endpoint; --teacher {config.teacher} is {kind}"
        )


def digest_of(value) -> str:
    """A digest of a value of JSON: an edited task has another one."""
    text = json.dumps(value, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def check_unique(tasks: list[dict], path: str) -> None:
    """Raises InputError where two tasks have one id."""
    if len({task["task_id"] for task in tasks}) < len(tasks):
        raise InputError(f"{path}: a task_id occurs twice")


def is_complete(config, more: str | None = None) -> bool:
    """Whether config.output_file holds the result of these flags, and of the input files as they
    are, with every verdict and answer. more: a second file of the result.

    Raises InputError where a file is the result of other flags, or of another program, or complete
    and of other contents of an input file. An earlier version's result, without digests, counts by
    its flags.
    """
    outputs = [Path(path) for path in (config.output_file, more) if path is not None]
    found = [path for path in outputs if path.exists()]
    beside = flags_beside(outputs[0])
    flags = (parsed(beside.read_text(encoding="utf-8")) if beside.is_file() else None) or {}
    complete, inputs = flags.pop("complete", True), flags.pop("inputs", None)
    now = common.input_digests(config)
    changed = [f"--{name}" for name in now if (inputs or now).get(name) != now[name]]
    reason = None
    if flags != dataclasses.asdict(config):
        reason = "made with other flags"
    elif complete and changed:  # verdicts that a result lacks may come with the samples
        reason = f"made from other contents of {', '.join(changed)}"
    if found and reason:
        raise InputError(f"{found[0]}: exists, {reason}; choose another --output_file or delete it")
    if found != outputs or not complete:
        return False
    known = "" if inputs else "; by its flags: an earlier version did not note its inputs' contents"
    print(f"{outputs[0]} is complete; nothing to do{known}")
    return True


def write_result(
    config, result: list[dict], lacking: int = 0, more: dict[str, list[dict]] | None = None
) -> None:
    """Writes config.output_file, and the flags beside it, for `is_complete`.

    lacking: the verdicts or answers that did not come; with one the result is not complete. more:
    the rows of a second file.
    """
    hold(config)
    inputs = common.input_digests(config)
    # Before the rows, too: a result that a kill leaves half written says that it is not complete.
    write_flags(config, {"complete": False, "inputs": inputs})
    for path, rows in (more or {}).items():
        common.write_jsonl(path, rows)
    common.write_jsonl(config.output_file, result)
    write_flags(config, ({"complete": False} if lacking else {}) | {"inputs": inputs})
    warn_of_lacking(config.output_file, lacking)


def warn_of_lacking(output: str | Path, lacking: int) -> None:
    """Says on stderr that a result is not complete."""
    if lacking:
        print(
            f"{output} lacks {lacking} verdicts or answers; the same command asks for them again",
            file=sys.stderr,
        )


def check_judged(batches: list[tuple[int, int]], place: str) -> None:
    """Raises InputError where the sandbox had no verdict on more than 5 % of the programs.

    batches: (programs, programs without a verdict) of each; place: the file that has the verdicts.
    """
    programs, unjudged = (sum(batch[part] for batch in batches) for part in (0, 1))
    if unjudged > common.MAX_UNJUDGED * programs:
        raise InputError(
            f"{place}: the sandbox had no verdict on {unjudged} of {programs} programs. "
            "The same command asks for them again"
        )


def flags_beside(output: Path) -> Path:
    return output.with_name(output.name + ".run_config.json")


def write_flags(config, more: dict) -> None:
    """Writes the file beside an output: the flags and `more`, which are the digests of the input
    files (`inputs`) and, of an output that is not complete, `complete`: false."""
    text = json.dumps(dataclasses.asdict(config) | more, indent=2) + "\n"
    common.write_text(flags_beside(Path(config.output_file)), text)


def hold(config) -> None:
    """Holds config.output_file; InputError where another run is at work on that file."""
    output = Path(config.output_file)
    common.lock(output.with_name(f".{output.name}.lock"), output)


def progress_of(config) -> Path:
    """The progress file, beside the output: a line with the flags, then a line for each result."""
    return Path(f"{config.output_file}.progress")


def read_progress(config, flags: dict, more: str | None = None) -> list[dict | None]:
    """The results in the progress file, in the order in which they came; None for a damaged line.
    more: a second file of the result.

    Raises InputError where the file belongs to a run with other flags, and for a result without a
    progress file: another program has written the result.
    """
    path = progress_of(config)
    if not path.is_file():
        for output in (config.output_file, more):
            if output is not None and Path(output).exists():
                raise InputError(f"{output}: exists, and {path} does not; choose another file")
        return []
    lines = [parsed(line) for line in common.whole_lines(path)]
    if lines[:1] != [flags]:
        raise InputError(
            f"{path}: holds a run with other flags; choose another --output_file or delete it"
        )
    return lines[1:]


def parsed(line: str) -> dict | None:
    """A line of a progress file; None for a damaged one."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def write_progress(config, flags: dict, results: list[dict | None]) -> None:
    """Writes the progress file anew, whole or not at all. InputError where another run is at work
    on the same output."""
    hold(config)
    common.write_jsonl(progress_of(config), [flags, *results])
