"""The tables of related.sh: what each related system brings over PPO or GRPO from tests.

    python reproduce/related.py runs/related "$ARMS"

RUNS/<seed> holds val-<arm>-<batch> and eval-<arm> of eval.py, and the run folder <arm>. "area" is
the area under the curve of pass@1 on the validation tasks, over the samples, by trapezoids from the
supervised policy on (val-sft-0). Differences are paired, seed by seed, over the seeds that have
both arms; "mean ± half" is half of a 95 % interval (Student's t). "not shown": the interval holds
0, or there is one seed. With many arms some intervals miss the truth: one in twenty, on average.

The second table is of CodeRL's critic sampling: eval-first has eight samples a task, eval-second-*
eight others, eval-both-* the two together, and eval-sixteen as many as both from the prompt alone.
"""

import difflib
import re
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))
import tables

from common import InputError
from studies import run as studies

ARM = re.compile(r"^ *([\w.-]+) *\| *([^|\n]+?) *\| *(\S+) *([^\n]*)$", re.MULTILINE)
# Of some arms; of the others, the plain run of the same stage, or of ppo.py.
BASES = {"prune": "prune-random", "ircoco": "own-samples"}
BASES |= dict.fromkeys(("rltf", "rltf-coarse", "rltf-adaptive", "coderl"), "grpo-supervised")


def changed_lines(names: list[str]) -> int:
    """Lines that the studies take away or add."""
    changed = 0
    for old, new in (hunk for name in names for hunk in studies.read_study(name).hunks):
        matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
        same = sum(block.size for block in matcher.get_matching_blocks())
        changed += len(old) + len(new) - 2 * same
    return changed


def area_of(seed: Path, arm: str) -> float | None:
    """Area under an arm's curve on one seed; None where a part of it is missing."""
    points = {0: seed / "val-sft-0"}
    for folder in seed.glob(f"val-{arm}-*"):
        batch = folder.name.removeprefix(f"val-{arm}-")
        if batch.isdigit():
            points[int(batch)] = folder
    whole = (seed / f"eval-{arm}" / "report.json").is_file()
    if not whole or not all((folder / "report.json").is_file() for folder in points.values()):
        return None
    batches = sorted(points)
    rates = [tables.read_report(points[batch])["pass@1"] for batch in batches]
    steps = zip(batches, batches[1:], rates, rates[1:], strict=False)
    return sum((end - start) * (a + b) / 2 for start, end, a, b in steps) / batches[-1]


def paired(values: dict[str, float], base: dict[str, float]) -> list[float]:
    """The differences over the seeds of both."""
    return [values[seed] - base[seed] for seed in values if seed in base]


def compared(differences: list[float]) -> str:
    if len(differences) < 2:
        return "not shown"
    return tables.cell(differences, "+") + ("" if tables.is_shown(differences) else ", not shown")


def table(runs: Path, text: str) -> None:
    seeds = sorted(path for path in runs.iterdir() if path.name.isdigit()) if runs.is_dir() else []
    arms = tables.read_arms([text])
    found = {name: (function, words.split()) for name, _, function, words in ARM.findall(text)}
    areas, tests = {}, {}
    for arm in arms:
        each = {seed.name: area_of(seed, arm) for seed in seeds}
        areas[arm] = {seed: area for seed, area in each.items() if area is not None}
        reports = {seed: tables.read_report(runs / seed / f"eval-{arm}") for seed in areas[arm]}
        tests[arm] = {seed: report["pass@1"] for seed, report in reports.items()}
    rows, contrasts = [], {}
    for arm, (label, samples) in arms.items():
        if not areas[arm]:
            continue
        function, words = found[arm]
        flags = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
        names = words[:flags]
        base = BASES.get(arm, f"{function if function in ('ppo', 'grpo') else 'ppo'}-tests")
        is_base = arm == base
        area_gain, test_gain = (paired(of[arm], of.get(base, {})) for of in (areas, tests))
        if not is_base and area_gain:
            contrasts[label] = area_gain
        log = runs / next(iter(areas[arm])) / arm / "metrics.jsonl"
        if samples is None and log.is_file():
            samples = tables.read_metrics(log.parent)[-1].get("episode")
        rows.append(
            [
                label,
                " ".join(f"`{name}`" for name in names),
                str(changed_lines(names)) if names else "",
                f"{samples:,}" if samples else "",
                str(len(areas[arm])),
                tables.cell(list(areas[arm].values())),
                "" if is_base else compared(area_gain),
                tables.cell(list(tests[arm].values())),
                "" if is_base else compared(test_gain),
            ]
        )
    if not rows:
        raise InputError(f"{runs}: no seed has a whole arm")
    print(
        "Area under the curve of pass@1 on validation tasks, and pass@1 on held-out tasks at the "
        "end; mean ± half of the 95 % interval over seeds. GRPO's arms against GRPO from tests, "
        "RLTF and CodeRL against GRPO with the same supervised loss, pruned tasks against random "
        "ones, IRCoCo against the same samples without its rewards, all others against PPO from "
        "tests. Samples of the last row: references\n"
    )
    header = ["system", "study", "lines", "samples", "seeds", "area", "area, against its base"]
    right = ("lines", "samples", "seeds")
    tables.print_table([*header, "pass@1 at the end", "pass@1, against its base"], rows, right)
    seen = [tables.would_be_seen(values) for values in contrasts.values() if len(values) > 1]
    if seen:
        print(
            f"\nShown in area among all {len(contrasts)} contrasts, with a chance of 5 % that one "
            f"is false: {'; '.join(tables.shown_together(contrasts)) or 'none'}. A contrast would "
            f"show, with probability 0.8, a true difference of {statistics.median(seen):.3f} "
            f"(median; {min(seen):.3f} to {max(seen):.3f})."
        )


SECOND = {
    "first": "as the first eight",
    "references": "of the policy that learned the references",
    "refined": "refined where one passes the example, else from the prompt",
    "repaired": "refined where one passes the example, else repaired (references)",
}


def inference_table(runs: Path) -> None:
    """Solved tasks of 16 samples, by what the last eight start from."""
    reports = runs.glob("[0-9]*/eval-both-repaired/report.json")
    seeds = sorted(path.parent.parent for path in reports)
    if not seeds:
        return

    def rates(name: str, measure: str) -> dict[str, float]:
        return {s.name: tables.read_report(s / f"eval-{name}")[measure] for s in seeds}

    rows, base = [], rates("sixteen", "pass@16")
    for name, label in SECOND.items():
        one = rates("first" if name == "first" else f"second-{name}", "pass@1")
        both = base if name == "first" else rates(f"both-{name}", "pass@16")
        gain = "" if name == "first" else compared(paired(both, base))
        rows.append(
            [label, tables.cell(list(one.values())), tables.cell(list(both.values())), gain]
        )
    print(
        f"\nCodeRL's policy at inference: eight samples of the prompt, then eight others; "
        f"{len(seeds)} seeds, mean ± half of the 95 % interval over seeds\n"
    )
    header = [
        "the other eight",
        "pass@1 of these",
        "pass@16 of all",
        "pass@16, against the first row",
    ]
    tables.print_table(header, rows)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        table(Path(sys.argv[1]), sys.argv[2])
        inference_table(Path(sys.argv[1]))
    except InputError as error:
        sys.exit(f"related.py: {error}")
