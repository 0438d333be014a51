"""A run: its entry point, its folder, its log, its checkpoints."""

import errno
import json
import math
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

import sandbox
from common.batches import Rollout, Verdicts
from common.checkpoints import save_weights
from common.distributed import (
    all_sum,
    end_distributed,
    gather_rows,
    rank,
    start_distributed,
    wait_for_all,
)
from common.files import append_jsonl, damage_of, lock, whole_lines, write_digests, write_text
from common.flags import InputError, check_paths, defaults, flags_of, input_digests, parse_flags
from common.reports import is_over_optimised
from common.reward_models import BackboneWithHead
from common.tensors import read_into, save_tensors, tensors_in
from common.usage import usage

LOGS = ("metrics.jsonl", "completions.jsonl")
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
DISK_ERRORS += (errno.EIO,)
RANK_WAIT = 5  # seconds in which torchrun ends the other ranks after rank 0
MAX_UNJUDGED = 0.05  # share of programs without a verdict, of 10 batches or of a result
OVER_OPTIMISED = "warning: over the last 10 updates the PRM's score rose and the pass rate fell"


def run(main, config_class: type) -> None:
    """Entry point of a stage: flags, process group, main(config), a clean end.

    Bad input (InputError) is one line on stderr and exit code 2, as are a sandbox that cannot
    start, a task that it cannot judge, and a disk that is full or cannot be written to. An
    interrupt (Ctrl-C) is one line and exit code 130.
    """
    if "--help" in sys.argv[1:] or "-h" in sys.argv[1:]:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `--help | head` ends without a traceback
        print(sys.modules[main.__module__].__doc__, usage(config_class), sep="\n")
        return
    try:
        config = parse_flags(config_class, sys.argv[1:])
        check_paths(config)
        start_distributed()
        main(config)
    except (InputError, sandbox.SandboxError, sandbox.TaskError) as error:
        _end(f"error: {error}", 2)
    except KeyboardInterrupt:
        _end("interrupted; the same command goes on from the last checkpoint", 130)
    except Exception as error:
        number = _errno_of(error)
        if number not in DISK_ERRORS:
            raise
        place = getattr(error, "filename", None) or "a file of the run"
        _end(f"error: {place}: {os.strerror(number)}; the same command goes on later", 2)
    end_distributed()


def _errno_of(error: Exception) -> int | None:
    """The number of an operating system's error. Of tokenizers' and safetensors' errors the text
    has the number."""
    told = re.search(r"\(os error (\d+)\)", str(error))
    return int(told[1]) if told else getattr(error, "errno", None)


def _end(line: str, code: int) -> None:
    """Ends the process with a line on stderr. Without the interpreter's own end: gloo's threads,
    which an exception leaves behind, would abort it.

    What stops all ranks is said once: torchrun ends the others when rank 0 has ended. What stops
    another rank alone is said by that rank.
    """
    name = Path(sys.argv[0]).name
    if rank() > 0:
        time.sleep(RANK_WAIT)
        name += f" (rank {rank()})"
    print(f"{name}: {line}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


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


def progress_bar(desc: str, total: int, initial: int = 0) -> tqdm:
    """A bar on rank 0, drawn at most once a second: a log file of the bar stays readable. Where the
    total is 0 there is no bar."""
    disable = rank() != 0 or total == 0
    return tqdm(
        desc=desc, total=total, initial=initial, mininterval=1.0, miniters=0, disable=disable
    )


def sampling_progress(bar: tqdm) -> Callable[[int, int], None]:
    """`progress` of kernels/sampling.py for a bar that counts samples: the bar moves as samples
    end, and shows the tokens drawn a second."""
    tokens, started = 0, time.perf_counter()

    def progress(drawn: int, ended: int) -> None:
        nonlocal tokens
        tokens += drawn
        rate = tokens / (time.perf_counter() - started)
        bar.set_postfix_str(f"{rate:.0f} tokens/s", refresh=False)
        bar.update(ended)

    return progress


def _checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a run folder, oldest first."""
    return sorted(folder.glob("checkpoint-*[0-9]"), key=lambda path: int(path.name.split("-")[1]))


def open_run(
    config, complete: str = "config.json", free: tuple[str, ...] = (), growing: str | None = None
) -> Path | None:
    """Looks at config.output_dir; returns the checkpoint to go on from, or None. Writes nothing.

    A finished run, known by the file `complete`, which is written last, ends the process with a
    word; not so an evaluation whose report lacks verdicts or answers. A run, also a finished one,
    may go on with other values of the flags `free` and other contents of the file of the flag
    `growing`. InputError for a folder where another run is at work, that holds a run with other
    flags or contents of input files, or files that no run of this stage has written.
    """
    folder, flags, changed, grown = Path(config.output_dir), flags_of(config), [], False
    run_config = folder / "run_config.json"
    if run_config.is_file():
        try:
            # An earlier release noted no inputs, and lacked flags: their defaults change nothing.
            before = defaults(config) | json.loads(run_config.read_text(encoding="utf-8"))
            inputs = before.pop("inputs", {})
            names = sorted(flags.keys() | before.keys())
        except (ValueError, TypeError):
            raise InputError(f"{run_config}: damaged; delete that folder, or mend it") from None
        changed = [name for name in names if before.get(name) != flags.get(name)]
        now, what = input_digests(config) if inputs else {}, None
        grown = now.get(growing) != inputs.get(growing)
        if other := [x for x in now if now[x] != inputs.get(x) and x != growing]:
            what = f"of other contents of --{other[0]}"
        if blocking := [name for name in changed if name not in free]:
            was, value = (values.get(blocking[0]) for values in (before, flags))
            what = f"with other flags (--{blocking[0]} was {was!r}, is {value!r})"
        if what:
            where = "choose another --output_dir or delete that folder"
            raise InputError(f"{folder}: holds a run {what}; {where}")
    elif foreign := [name for name in ("config.json", *LOGS) if (folder / name).exists()]:
        what = "a model" if foreign[0] == "config.json" else f"a {foreign[0]}"
        raise InputError(
            f"{folder}: holds {what}, but no run of this stage; choose another --output_dir"
        )
    if not changed and not grown and (folder / complete).is_file() and _is_whole(folder / complete):
        if rank() == 0:
            print(f"{folder} is complete; nothing to do")
        end_distributed()
        sys.exit(0)
    step = 0
    if rank() == 0:  # one process reads the files; the others hear of the step
        if (folder / ".lock").is_file():  # a run at work deletes checkpoints while they are read
            lock(folder / ".lock", folder)
        for checkpoint in reversed(_checkpoints(folder)):
            damage = damage_of(checkpoint)
            if damage is None:
                step = int(checkpoint.name.split("-")[1])
                break
            print(f"{checkpoint}: {damage}; this checkpoint is passed over", file=sys.stderr)
    step = int(all_sum(step)[0])
    return folder / f"checkpoint-{step}" if step else None


def _is_whole(path: Path) -> bool:
    """Whether the file that marks a run as complete is whole. A report that says that verdicts or
    answers are missing is not: the run asks again."""
    if path.name != "report.json":
        return True
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        return not report.get("unjudged") and not report.get("missing_answers")
    except (ValueError, AttributeError):
        return False


def begin_run(config, checkpoint: Path | None = None) -> None:
    """Makes config.output_dir the folder of this run, once inputs and models are read.

    The flags are printed and kept in run_config.json (config.json is the model's). The folder is
    locked: InputError where another process is at work there. Steps after the checkpoint leave the
    logs, since they run, and log, again.
    """
    folder, step = Path(config.output_dir), 0
    if checkpoint is not None:
        step = int(checkpoint.name.split("-")[1])
    if rank() == 0:
        lock(folder / ".lock", folder)
        print(json.dumps(flags_of(config), indent=2))
        noted = flags_of(config) | {"inputs": input_digests(config)}
        write_text(folder / "run_config.json", json.dumps(noted, indent=2) + "\n")
        for leftover in [*folder.glob("checkpoint-*.tmp"), folder / "final.tmp"]:
            shutil.rmtree(leftover, ignore_errors=True)
        _delete_old_checkpoints(config, checkpoint)
        for log_file in (folder / name for name in LOGS):
            if log_file.is_file():
                kept = [line for line in whole_lines(log_file) if _step_of(line, log_file) <= step]
                write_text(log_file, "".join(kept))
            elif step:
                print(f"{log_file}: missing; the run goes on without its past", file=sys.stderr)
    wait_for_all()


def _step_of(line: str, log_file: Path) -> float:
    """The step of a line of a log; infinite for a line that is damaged, which leaves the log."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        print(f"{log_file}: a damaged line is left out", file=sys.stderr)
        return math.inf


def logged_metrics(output_dir: str | Path) -> list[dict]:
    """The rows of a run's metrics.jsonl so far; none in a new run."""
    path = Path(output_dir) / "metrics.jsonl"
    return [json.loads(line) for line in whole_lines(path)] if path.is_file() else []


def log(
    config,
    bar: tqdm,
    step: int,
    metrics: dict,
    rollout: Rollout,
    verdicts: Verdicts,
    columns: dict[str, list],
) -> dict[str, float]:
    """Logs a batch of reinforcement learning: metrics.jsonl, completions.jsonl, the bar.

    metrics: a pair (sum, count) becomes sum / count over all ranks, NaN where the count is 0; a
    tensor becomes its sum over all ranks; a number stands. columns: a list of N values for each
    further field of completions.jsonl, which has the samples of all ranks in the batch's order.
    After each tenth batch a PRM that is over-optimised is warned of. Returns the metrics as
    numbers, the same on every rank.
    """
    summed = {name: value for name, value in metrics.items() if isinstance(value, tuple)}
    totals = {name: value for name, value in metrics.items() if isinstance(value, torch.Tensor)}
    flat = [number for pair in summed.values() for number in pair] + list(totals.values())
    numbers = iter(all_sum(*flat))
    reduced = {}
    for name in summed:
        total, count = next(numbers), next(numbers)
        reduced[name] = total / count if count else math.nan
    reduced |= dict(zip(totals, numbers, strict=True))
    row = {"step": step + 1} | {name: reduced.get(name, value) for name, value in metrics.items()}
    samples = [
        {
            "step": step + 1,
            "task_id": task["task_id"],
            "prompt": task["prompt"],
            "completion": text,
            "status": verdict["status"],
        }
        | {name: column[i] for name, column in columns.items()}
        for i, (task, text, verdict) in enumerate(
            zip(rollout.tasks, rollout.texts, verdicts.rows, strict=True)
        )
    ]
    samples, unjudged = gather_rows(samples), 0.0
    tenth = row["step"] % 10 == 0
    if rank() == 0:
        append_jsonl(f"{config.output_dir}/metrics.jsonl", [row])
        append_jsonl(f"{config.output_dir}/completions.jsonl", samples)
        passed, reward = row["rewards/tests/mean"], row["reward"]
        if tenth:
            history = logged_metrics(config.output_dir)
            if "rewards/prm/mean" in row and is_over_optimised(history):
                bar.write(OVER_OPTIMISED)
            if len(history) >= 10:
                errors = sum(batch["harness_errors"] for batch in history[-10:])
                unjudged = errors / (10 * config.num_prompts * config.num_generations)
        bar.set_postfix(passed=f"{passed:.2f}", reward=f"{reward:.2f}", refresh=False)
        bar.update()
    if tenth and all_sum(unjudged)[0] > MAX_UNJUDGED:
        raise InputError(
            f"the sandbox had no verdict on more than {MAX_UNJUDGED:.0%} of the programs of 10 "
            "batches (harness_errors in metrics.jsonl). The same command goes on from the last "
            "checkpoint"
        )
    return row


def log_row(config, bar: tqdm, row: dict, **shown: str) -> None:
    """Logs an optimiser step of supervised training, on rank 0: a row of metrics.jsonl, and the bar
    with the values `shown`."""
    if rank() == 0:
        append_jsonl(f"{config.output_dir}/metrics.jsonl", [row])
        bar.set_postfix(**shown, refresh=False)
        bar.update()


def _sync(folder: Path) -> None:
    """Flushes every file of a folder, and the folder itself, to disk."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def _save_pretrained(model, folder: Path) -> None:
    """Writes a model in the layout of Hugging Face, gathered tensor by tensor."""
    if isinstance(model, BackboneWithHead):
        model.save_pretrained(folder)
    else:
        save_weights(model, folder)


def save_model(model, tokenizer, folder: str | Path) -> None:
    """Puts the final model and tokenizer at the top of the run folder. The move of config.json, the
    last one, marks the run as complete."""
    folder = Path(folder)
    beside = folder / "final.tmp"
    _save_pretrained(model, beside)
    if rank() == 0:
        tokenizer.save_pretrained(beside)
        _sync(beside)
        for path in sorted(beside.iterdir(), key=lambda path: path.name == "config.json"):
            os.replace(path, folder / path.name)
        beside.rmdir()
    wait_for_all()


def save_checkpoint(config, step: int, models: dict, optimizers: dict, tokenizer) -> None:
    """Writes checkpoint-<step>/, whole or not at all; the last config.save_total_limit ones stay.

    `models` maps names to models; the first model stands at the top of the folder, in the layout of
    Hugging Face, the others in subfolders of their names. `optimizers` has the same names. The
    optimizers' moments go to trainer.safetensors, or to several files (`save_tensors`). Randomness
    is stateless: a resumed run needs no more than these and the step.
    """
    folder = Path(config.output_dir) / f"checkpoint-{step}"
    beside = folder.with_name(f"{folder.name}.tmp")
    moments = {}
    for place, (name, model) in enumerate(models.items()):
        _save_pretrained(model, beside / name if place else beside)
        for parameter_name, parameter in model.named_parameters():
            for key, value in optimizers[name].state.get(parameter, {}).items():
                moments[f"{name}/{parameter_name}/{key}"] = value
    save_tensors(beside, "trainer", moments)
    if rank() == 0:
        tokenizer.save_pretrained(beside)
        write_text(beside / "trainer_state.json", json.dumps({"global_step": step}) + "\n")
        write_digests(beside)
        _sync(beside)
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(beside, folder)
        _delete_old_checkpoints(config)
    wait_for_all()


def _delete_old_checkpoints(config, kept: Path | None = None) -> None:
    """Leaves the last config.save_total_limit checkpoints (0: all), and the one to go on from."""
    if getattr(config, "save_total_limit", 0) > 0:
        for old in _checkpoints(Path(config.output_dir))[: -config.save_total_limit]:
            if old != kept:
                shutil.rmtree(old)


def load_optimizers(checkpoint: Path, models: dict, optimizers: dict) -> int:
    """Restores the optimizers' moments from checkpoint-<step>/ and returns the step.

    InputError for a damaged checkpoint, and for moments of a tensor that the models lack.
    """
    try:
        files = tensors_in(checkpoint, "trainer")
        for name, model in models.items():
            for parameter_name, parameter in model.named_parameters():
                for key in ("step", "exp_avg", "exp_avg_sq"):
                    moment = f"{name}/{parameter_name}/{key}"
                    if moment in files:
                        if key == "step":
                            value = torch.zeros((), device=parameter.device)
                        else:
                            value = torch.zeros_like(parameter, requires_grad=False)
                        read_into(value, files.pop(moment)[0], moment)
                        optimizers[name].state[parameter][key] = value
        if files:
            raise ValueError(f"the models do not have the tensor of {min(files)}")
        return json.loads((checkpoint / "trainer_state.json").read_text("utf-8"))["global_step"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{checkpoint}: cannot be resumed from: {error}") from None
