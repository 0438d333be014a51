"""Runs a study: a stage with one or more diffs of this folder applied in memory.

    python studies/run.py                                   # the studies, a line each
    python studies/run.py ensemble --help                   # the flags of the forked stage
    python studies/run.py ensemble --prm runs/a runs/b ...  # the flags are those of the stage
    python studies/run.py gspo --show                       # prints the forked stage
    python studies/run.py gspo --write my_grpo.py           # keeps the forked stage
    torchrun --standalone --nproc_per_node=2 studies/run.py gspo ...

A study is a file NAME.diff: a header in words (paper, idea, command, what came out), then a unified
diff of one stage. Several names are applied in their order. A hunk is applied where its old lines
stand, whatever their line number; it must fit exactly once, or the run ends with one line. A new
study: --write a fork, change it, and put a header above the output of

    diff -u --label ppo.py --label ppo.py ppo.py my_ppo.py
"""

import linecache
import sys
import types
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # where the modules of the stages are

import common  # noqa: E402
from common import InputError  # noqa: E402

STUDIES = ROOT / "studies"


class Study(NamedTuple):
    name: str
    header: str  # what stands above the diff
    stage: str  # the file that the diff changes, "ppo.py"
    hunks: list[tuple[list[str], list[str]]]  # old and new lines of each hunk, without line ends


def read_study(name: str) -> Study:
    """The study of a name. InputError: an unknown name, or a file that is no diff of a stage."""
    path = STUDIES / f"{name}.diff"
    if not path.is_file():
        known = ", ".join(sorted(path.stem for path in STUDIES.glob("*.diff")))
        raise InputError(f"no study {name!r}; there are {known}")
    header, stage, hunks = [], None, []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        mark, text = line[:1], line[1:]
        if stage is None and line.startswith("--- "):
            stage = line.split()[1]
        elif stage is None:
            header.append(line)
        elif line.startswith("+++ ") and not hunks:
            if line.split()[1] != stage:
                raise InputError(f"{path}:{number}: a study changes one file, {stage}")
        elif line.startswith("@@"):
            hunks.append(([], []))
        elif hunks and mark in (" ", "-", "+", ""):
            if mark != "+":
                hunks[-1][0].append(text)
            if mark != "-":
                hunks[-1][1].append(text)
        else:
            raise InputError(f"{path}:{number}: not a line of a unified diff: {line!r}")
    if not hunks:
        raise InputError(f"{path}: holds no unified diff")
    return Study(name, "\n".join(header).strip(), stage, hunks)


def apply(study: Study, source: str) -> str:
    """The source with the study's hunks; InputError where a hunk does not fit exactly once."""
    lines = source.splitlines()
    for number, (old, new) in enumerate(study.hunks, 1):
        last = len(lines) - len(old)
        places = [i for i in range(last + 1) if lines[i : i + len(old)] == old]
        if len(places) != 1:
            fits = "fits nowhere" if not places else f"fits at {len(places)} places"
            raise InputError(
                f"studies/{study.name}.diff: hunk {number} {fits} in {study.stage}; "
                "the stage, or a study named before this one, has changed lines there"
            )
        lines[places[0] : places[0] + len(old)] = new
    return "\n".join(lines) + "\n"


def fork(names: list[str]) -> tuple[str, str]:
    """The stage that the studies change, and its source with all of them."""
    studies = [read_study(name) for name in names]
    stages = {study.stage for study in studies}
    if len(stages) > 1:
        raise InputError(
            f"{' and '.join(names)} change different stages, {', '.join(sorted(stages))}"
        )
    source = (ROOT / studies[0].stage).read_text(encoding="utf-8")
    for study in studies:
        source = apply(study, source)
    return studies[0].stage, source


def load(names: list[str]) -> types.ModuleType:
    """The forked stage as a module."""
    stage, source = fork(names)
    module = types.ModuleType(f"{Path(stage).stem}_{'_'.join(names)}")
    module.__file__ = f"{stage} with {', '.join(names)}"
    sys.modules[module.__name__] = module
    # Tracebacks and --help read the forked source from here.
    lines = source.splitlines(keepends=True)
    linecache.cache[module.__file__] = (len(source), None, lines, module.__file__)
    exec(compile(source, module.__file__, "exec"), module.__dict__)
    module.Config.studies = names  # kept in run_config.json: a study's run is no run of the stage
    return module


def main(argv: list[str]) -> None:
    count = next((i for i, word in enumerate(argv) if word.startswith("-")), len(argv))
    names, flags = argv[:count], argv[count:]
    try:
        if not names and flags in (["--help"], ["-h"]):
            print(__doc__.strip())
            return
        if not names and flags:
            raise InputError("names of studies come before the flags; without any they are listed")
        if not names:
            for path in sorted(STUDIES.glob("*.diff")):
                study = read_study(path.stem)
                idea = (study.header or "(no header above the diff yet)").splitlines()[0]
                print(f"{study.name:22}{study.stage:9}{idea}")
            return
        if flags == ["--show"]:
            print(fork(names)[1], end="")
            return
        if flags[:1] == ["--write"]:
            if len(flags) != 2 or Path(flags[1]).exists():
                raise InputError("--write takes one name of a file that does not exist")
            common.write_text(flags[1], fork(names)[1])
            return
        module = load(names)
    except InputError as error:
        sys.exit(f"run.py: error: {error}")
    sys.argv = [f"run.py {' '.join(names)}", *flags]
    common.run(module.main, module.Config)


if __name__ == "__main__":
    main(sys.argv[1:])
