"""Reasoning reward models on held-out pairs, by what has been done to the worse text, and on sound against unsound samples.

    python reproduce/pairs_table.py runs/recode "rm=labelled lines, then ranking" "rm-all=ranking alone" ...

Reads `<seed>/eval-<name>-pairs/report.json` and `<seed>/eval-<name>-benchmark/report.json` of eval.py. Means over the seeds
that have them; the interval is that of a proportion, Wilson's, over the pairs of one seed (the first).
"""

import json
import statistics
import sys
from pathlib import Path


def with_interval(reports: list[dict]) -> str:
    mean = statistics.fmean(report["accuracy"] for report in reports)
    return f"{mean:.3f} [{reports[0]['low']:.3f}, {reports[0]['high']:.3f}]"


def main(runs: Path, words: list[str]) -> None:
    reports = {}
    for word in words:
        name, label = word.split("=", 1)
        folders = sorted(path.parent for path in runs.glob(f"*/eval-{name}-pairs"))
        reports[label] = [
            [
                json.loads(
                    (folder / f"eval-{name}-{on}" / "report.json").read_text(encoding="utf-8")
                )
                for folder in folders
            ]
            for on in ("pairs", "benchmark")
        ]
    first = next(iter(reports.values()))[0][0]
    parts = [(by, part) for by in ("by_kind", "by_operator") for part in first[by]]
    print(
        f"Share of held-out pairs in which the better reasoning has the higher score; {first['pairs']} pairs a seed\n"
    )
    print(
        "| reward model | seeds | all | "
        + " | ".join(part.replace("_", " ") for _, part in parts)
        + " | policy samples |"
    )
    print("|---|---:|---|" + "---|" * (len(parts) + 1))
    for label, (pairs, benchmark) in reports.items():
        cells = [with_interval(pairs)]
        cells += [
            f"{statistics.fmean(row[by][part]['accuracy'] for row in pairs):.3f}"
            for by, part in parts
        ]
        cells.append(with_interval(benchmark))
        print(f"| {label} | {len(pairs)} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
