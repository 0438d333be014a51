"""What a process reward does to the policy that is trained on it: first and last ten batches, means over seeds.

    python reproduce/hack_table.py runs/psgpo/8 "hack-none=sum over lines" "hack-lines=divided by the lines" ...

Reads `<seed>/<arm>/metrics.jsonl` of ppo.py, and `<seed>/gold-<arm>.jsonl` and `<seed>/gold-sft.jsonl`, the exact labels of
the lines that the last and the starting policy write for held-out tasks; seeds that lack one are left out. "Seen at" is
the first batch at which the mean over ten batches of the PRM's score is above the first ten's and that of the pass rate
below half of the first ten's.
"""

import statistics
import sys
from pathlib import Path

from seeds_table import cell, seeds_with

sys.path.insert(0, str(Path(__file__).parent.parent))
import common

COLUMNS = {
    "pass rate": "rewards/tests/mean", "PRM score": "rewards/prm/mean", "lines": "completions/mean_lines",
    "comments": "completions/comment_ratio",
}  # fmt: skip


def right_lines(path: Path) -> float:
    """Share of the labelled lines that are right."""
    labels = [
        x
        for row in common.read_jsonl(path, {"labels": list})
        for x in row["labels"]
        if x is not None
    ]
    return labels.count(1.0) / len(labels)


def seen_at(rows: list[dict]) -> int | None:
    def mean(end: int, name: str) -> float:
        return statistics.fmean(row[COLUMNS[name]] for row in rows[end - 10 : end])

    for end in range(11, len(rows) + 1):
        if (
            mean(end, "PRM score") > mean(10, "PRM score")
            and mean(end, "pass rate") < mean(10, "pass rate") / 2
        ):
            return end
    return None


def main(runs: Path, words: list[str]) -> None:
    arms = dict(word.split("=", 1) for word in words)
    seeds = seeds_with(runs, [f"gold-{arm}.jsonl" for arm in ["sft", *arms]])
    print(
        f"{len(seeds)} seeds; first ten batches → last ten, mean ± half of the 95 % interval over seeds\n"
    )
    print(
        "| process reward | "
        + " | ".join(COLUMNS)
        + " | right lines, held-out tasks | seen at batch |"
    )
    print("|---|" + "---|" * (len(COLUMNS) + 2))
    for arm, label in arms.items():
        logs = [common.read_jsonl(seed / arm / "metrics.jsonl", {}) for seed in seeds]
        cells = []
        for column in COLUMNS.values():
            first = [statistics.fmean(row[column] for row in rows[:10]) for rows in logs]
            last = [statistics.fmean(row[column] for row in rows[-10:]) for rows in logs]
            cells.append(f"{statistics.fmean(first):.3f} → {cell(last)}")
        start = statistics.fmean(right_lines(seed / "gold-sft.jsonl") for seed in seeds)
        cells.append(
            f"{start:.3f} → {cell([right_lines(seed / f'gold-{arm}.jsonl') for seed in seeds])}"
        )
        batches = [seen_at(rows) for rows in logs]
        cells.append(", ".join("never" if batch is None else str(batch) for batch in batches))
        print(f"| {label} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
