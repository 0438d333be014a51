"""Results of experiments as small files: what the tables are made of, a seed a file.

    python reproduce/kept.py pack runs/evidence/psgpo docs/results/runs/psgpo 10 11
    python reproduce/kept.py unpack docs/results/runs/psgpo runs/evidence/psgpo
    TASKS=runs/evidence/tasks/psgpo RUNS=runs/evidence/psgpo bash reproduce/psgpo/main.sh tables

A file holds the reports, flags and config.json of a seed's runs, what the labels of each arm have
cost, and of the logs the columns that the tables read. Its jobs count as done, so that the script
goes on with other seeds. Models, samples and labels are not held: the table of labels, the measures
of plans and the column "ever solved" know the seeds alone that ran on this machine. A seed is a
number of two digits or more (a folder of one digit is a number of steps).
"""

import io
import json
import os
import sys
import tarfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before the folder of this file

import tables

import common
from common import InputError

COLUMNS = {"step", "episode", "objective/kl", "critic/vf_explained_var", "completions/mean_length"}
COLUMNS |= {"label_samples", "label_programs"}
COLUMNS |= {*tables.HACK_COLUMNS.values(), *tables.RECODE_COLUMNS.values()}
USAGE = "usage: python reproduce/kept.py pack RUNS FOLDER SEED ... | unpack FOLDER RUNS"


def files_of(runs: Path, seed: str) -> dict[str, str]:
    """What is kept of a seed: text by path under `runs`. InputError: the seed has no report."""
    kept, settings = {}, runs / "settings"
    if settings.is_file():
        kept["settings"] = settings.read_text(encoding="utf-8")
    for path in sorted(runs.rglob("*")):
        name = str(path.relative_to(runs))
        if path.suffix == ".done" and f"-{seed}-" in f"-{path.stem}-":
            kept[name] = ""
        if seed not in path.relative_to(runs).parts[:-1] or "checkpoint" in name:
            continue
        if path.name.endswith("report.json") or path.name in ("run_config.json", "config.json"):
            kept[name] = path.read_text(encoding="utf-8")
        if path.name == "metrics.jsonl":
            rows = common.whole_rows(path)
            log = [{key: row[key] for key in row if key in COLUMNS} for row in rows]
            if log and "episode" in log[-1]:  # of a policy: reward models have their report
                kept[name] = "".join(json.dumps(row) + "\n" for row in log)
                costs = str(path.parent.relative_to(runs) / tables.LABEL_COSTS)
                kept[costs] = json.dumps(tables.label_costs(path.parent))
    if not any(name.endswith("report.json") for name in kept):
        raise InputError(f"{runs}: no report of seed {seed}")
    return kept


def pack(runs: Path, folder: Path, seeds: list[str]) -> None:
    """FOLDER/<seed>.tar.xz of each seed; the same results give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        kept, beside = files_of(runs, seed), folder / f".{seed}.tmp"
        with tarfile.open(beside, "w:xz") as file:
            for name, text in kept.items():
                member = tarfile.TarInfo(name)
                member.size = len(text.encode())
                file.addfile(member, io.BytesIO(text.encode()))
        os.replace(beside, folder / f"{seed}.tar.xz")


def unpack(folder: Path, runs: Path) -> None:
    """The seeds of FOLDER in RUNS, but for those that RUNS has already."""
    for path in sorted(folder.glob("*.tar.xz")):
        seed = path.name.removesuffix(".tar.xz")
        if any(found.name == seed for found in runs.rglob(seed)):
            print(f"{runs} has seed {seed}: left as it is")
            continue
        with tarfile.open(path) as file:
            file.extractall(runs, filter="data")


def main(argv: list[str]) -> None:
    if argv[:1] == ["pack"] and len(argv) > 3:
        pack(Path(argv[1]), Path(argv[2]), argv[3:])
    elif argv[:1] == ["unpack"] and len(argv) == 3:
        unpack(Path(argv[1]), Path(argv[2]))
    else:
        sys.exit(USAGE)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
