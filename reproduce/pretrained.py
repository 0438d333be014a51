"""The tables of reproduce/pretrained.sh: python reproduce/pretrained.py RUNS

pass@1 has a 95 % interval over tasks (common.pass_rate). "First" and "last" are the mean pass
rates of an arm's first and last third of batches, on its own samples, ± half of the 95 % interval
over batches (Student's t). What is not there yet is left out.
"""

import json
import statistics
import sys
from pathlib import Path

# Before the folder of this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tables

import common


def read_report(folder: Path) -> dict:
    return tables.read_report(folder) if (folder / "report.json").is_file() else {}


def print_table(title: str, header: list[str], rows: list[list[str]]) -> None:
    if rows:
        print(f"\n{title}\n")
        tables.print_table(header, rows)


def rate(report: dict) -> str:
    return common.format_interval(report, "pass@1")


def evaluations(runs: Path) -> list[list[str]]:
    """pass@1 and pass@8 of each policy, on validation and test tasks."""
    rows = []
    names = [("model", runs), ("sft", runs)]
    for seed in sorted(runs.glob("seed-*")):
        found = sorted(path.parent.name for path in seed.glob("*/run_config.json"))
        arms = [name for name in found if not name.startswith(("validation-", "test-"))]
        names += [(name, seed) for name in arms]
    for name, folder in names:
        cells = [name if folder == runs else f"{name}, {folder.name}"]
        reports = [read_report(folder / f"{split}-{name}") for split in ("validation", "test")]
        for report in reports:
            cells += [rate(report), f"{report['pass@8']:.3f}"] if report else ["-", "-"]
        if any(reports):
            rows.append(cells)
    return rows


def training(runs: Path) -> list[list[str]]:
    """How each arm's own samples changed, and what they cost."""
    rows = []
    for path in sorted(runs.glob("seed-*/*/metrics.jsonl")):
        log = common.logged_metrics(path.parent)
        rates = [row["rewards/tests/mean"] for row in log if row["rewards/tests/mean"] is not None]
        third = max(1, len(rates) // 3)
        samples = log[-1]["episode"]
        length = statistics.mean(row["completions/mean_length"] for row in log)
        seconds = sum(row["step_time"] for row in log)
        scores = [row["rewards/prm/mean"] for row in log if row.get("rewards/prm/mean") is not None]
        scored = f"{scores[0]:+.3f} to {scores[-1]:+.3f}" if any(scores) else ""
        name = f"{path.parent.name}, {path.parents[1].name}"
        cells = [name, f"{len(log)}", f"{samples:,}", f"{samples * length:,.0f}"]
        cells += [tables.cell(rates[:third]), tables.cell(rates[-third:]), scored]
        gap = statistics.mean(row["sampling/sampling_logp_difference/mean"] for row in log)
        rows.append([*cells, f"{gap:.1e}", f"{seconds / len(log):.1f}"])
    return rows


def reward_models(runs: Path) -> list[list[str]]:
    """Accuracy and AUC on held-out tasks, beside the majority."""
    rows = []
    for name in ("prm-mutate", "prm-search", "orm"):
        report = read_report(runs / name)
        if report:
            number = report.get("eval_lines") or report.get("eval_rows") or report.get("eval_texts")
            wanted = ("eval_accuracy", "eval_majority", "eval_auc")
            cells = [common.format_number(report.get(key)) for key in wanted]
            rows.append([name, common.format_number(number), *cells])
    return rows


def best_of_8(runs: Path) -> list[list[str]]:
    rows = []
    for name in ("model", "sft"):
        for ranker, row in read_report(runs / f"best-of-8-{name}").get("rankers", {}).items():
            gain = ""
            if "gain" in row:
                gain = f"{row['gain']:+.3f} [{row['gain_low']:+.3f}, {row['gain_high']:+.3f}]"
            rows.append([name, ranker, rate(row), gain])
    return rows


def main() -> None:
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit("usage: python reproduce/pretrained.py RUNS")
    runs = Path(sys.argv[1])
    columns = ["validation pass@1", "pass@8", "test pass@1", "pass@8"]
    print_table("Policies", ["", *columns], evaluations(runs))
    columns = ["batches", "samples", "tokens", "pass rate, first", "last", "PRM score"]
    columns += ["log-prob gap", "seconds a batch"]
    print_table("Training", ["", *columns], training(runs))
    columns = ["held out", "accuracy", "majority", "AUC"]
    print_table("Reward models", ["", *columns], reward_models(runs))
    print_table("Best of 8", ["samples of", "ranked by", "pass@1", "gain"], best_of_8(runs))
    search = runs / "search.report.json"
    if search.is_file():
        report = tables.read_json(search)
        numbers = {name: value for name, value in report.items() if not isinstance(value, list)}
        print("\nSearch: " + json.dumps(numbers))


if __name__ == "__main__":
    main()
