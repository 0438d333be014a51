"""Samples and their verdicts, kept as they come: a run that was cut off judges no program again.

A file of samples may be longer than memory: its rows are read one after the other, more than once.

A verdict is filed under a digest of what decides it: the tests and limits of the task, the program,
and the sandbox itself. So a longer file of samples, another value of k or another folder finds the
verdict, and a test that was changed does not. Equal programs of a task have one verdict.
`harness_error` is no verdict: the next run asks again.
"""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from pathlib import Path

import sandbox
from common.distributed import rank, wait_for_all, world_size
from common.files import cut_torn_line, iter_jsonl, json_line
from common.flags import InputError
from common.programs import extract_program
from common.runs import progress_bar

PROGRESS = "verdicts-*.progress"  # a file a process; * is its rank
DECISIVE = [field for field in sandbox.FIELDS if field != "task_id"]  # of a task
WINDOW = 32  # programs a worker that wait in the sandbox, however many there are


def judged_text(row: dict) -> str:
    """A sample's completion after what its prompt opened (`opening`, where a template did)."""
    return row.get("opening", "") + row["completion"]


def check_sample(row: dict) -> None:
    """Raises ValueError for a sample without a program, or of another type than text."""
    if not isinstance(row.get("solution", row.get("completion")), str):
        raise ValueError("field 'solution' or 'completion' must be str")


def check_known_task(row: dict, tasks) -> None:
    """Raises ValueError for a sample of none of the tasks; tasks: a container of their ids."""
    if row["task_id"] not in tasks:
        raise ValueError(f"field 'task_id': no task {row['task_id']!r}")


def unknown_samples(path: str, tasks: dict[str, dict]) -> dict:
    """For the report: samples of tasks that are not in `tasks`, which count nowhere. InputError for
    a damaged row, or a task without a sample."""
    numbers = Counter(row["task_id"] for row in iter_jsonl(path, {"task_id": str}, check_sample))
    missing = [name for name in tasks if not numbers[name]]
    if missing:
        raise InputError(f"{path}: {len(missing)} tasks have no sample, {missing[0]} among them")
    names = sorted(numbers.keys() - tasks.keys())
    if not names:
        return {}
    count = sum(numbers[name] for name in names)
    if rank() == 0:
        listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        print(f"{path}: {count} samples of {len(names)} unknown tasks are left out: {listed}")
    return {"unknown": {"samples": count, "task_ids": names}}


def read_samples(path: str | Path, tasks: dict[str, dict]) -> Iterator[dict]:
    """The samples of known tasks, one after the other, each with its number and its program."""
    numbers = Counter()
    for row in iter_jsonl(path, {"task_id": str}, check_sample):
        task = tasks.get(row["task_id"])
        if task is None:
            continue
        if "solution" not in row:
            row["solution"] = extract_program(task, judged_text(row))
        row["sample"] = numbers[row["task_id"]]
        numbers[row["task_id"]] += 1
        yield row


class VerdictLog:
    """The verdicts that are kept in some folders; new ones go to the first folder.

    workers: programs judged at the same time, by each process. limits: of sandbox.Sandbox.
    """

    def __init__(self, folders: list[Path], workers: int, **limits):
        self.folders = list(dict.fromkeys(folder.resolve() for folder in folders))
        self.workers, self.limits = workers, limits
        self.lines: dict[str, bytes] = {}  # verdicts as they stand in the files
        self.tasks: dict[int, tuple] = {}  # by id: the task, and the digest of what decides
        self.rules = hashlib.blake2b(digest_size=16)
        for path in sorted(
            [Path(sandbox.__file__), *Path(sandbox.__file__).parent.glob("jail/*.py")]
        ):
            self.rules.update(path.read_bytes())
        versions = sandbox.versions(limits.get("packages", []))
        self.rules.update(json.dumps([sys.version, limits, versions]).encode())

    def key(self, task: dict, program: str) -> str:
        """The digest under which the verdict on a program is filed."""
        if id(task) not in self.tasks:
            digest = self.rules.copy()
            digest.update(json.dumps([task.get(field) for field in DECISIVE]).encode())
            self.tasks[id(task)] = task, digest
        digest = self.tasks[id(task)][1].copy()
        digest.update(program.encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def read(self) -> None:
        """Reads all verdicts that the folders hold. A damaged line holds none."""
        self.lines = {}
        for folder in self.folders:
            for path in sorted(folder.glob(PROGRESS)):
                with open(path, "rb") as file:
                    for line in file:
                        try:
                            row = json.loads(line)
                            key, unjudged = row["key"], row["status"] == "harness_error"
                        except (ValueError, KeyError, TypeError):
                            continue
                        if not (unjudged and key in self.lines):
                            self.lines[key] = line

    def has(self, key: str) -> bool:
        return key in self.lines and json.loads(self.lines[key])["status"] != "harness_error"

    def judge(self, jobs: Callable[[], Iterable[tuple[dict, str]]], desc: str) -> None:
        """Judges the (task, program) pairs of jobs() that have no verdict yet. jobs() is read more
        than once, and never held as a whole. All ranks call together, and each judges its share."""
        self.read()
        wait_for_all()  # no rank appends before all have read: they divide the same work
        keys = dict.fromkeys(self.key(*job) for job in jobs())
        waiting = [key for key in keys if not self.has(key)]
        mine = set(waiting[rank() :: world_size()])
        bar = progress_bar(desc, len(keys), len(keys) - len(waiting))
        if mine:
            self.judge_share(jobs, mine, bar)
        bar.close()
        wait_for_all()
        self.read()

    def judge_share(self, jobs: Callable, mine: set[str], bar) -> None:
        """Judges the jobs whose keys are `mine`; each verdict is written as it comes."""
        path = self.folders[0] / PROGRESS.replace("*", str(rank()))
        path.touch()
        cut_torn_line(path)
        pending = {}  # keys by future
        with (
            sandbox.Sandbox(self.workers, **self.limits) as runner,
            open(path, "a", encoding="utf-8", newline="\n") as file,
        ):
            for task, program in jobs():
                key = self.key(task, program)
                if key not in mine:
                    continue
                mine.remove(key)
                pending[runner.submit(task, program)] = key
                while pending and (len(pending) >= WINDOW * self.workers or not mine):
                    for future in wait(pending, return_when=FIRST_COMPLETED).done:
                        file.write(json_line({"key": pending.pop(future)} | future.result()))
                        bar.update(world_size())
                    file.flush()

    def verdict(self, task: dict, program: str) -> dict:
        """The verdict on a program, `harness_error` where there is none; after `judge`."""
        row = json.loads(self.lines[self.key(task, program)])
        del row["key"]
        return row
