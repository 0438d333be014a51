"""Figures from the files of runs; needs matplotlib (requirements-dev.txt).

Learning curves: a column of metrics.jsonl against the step, or against any other column. A run is a
folder. A group "label=folder,folder" of seeds is drawn as the mean over its runs with a 95 % band,
Student's t over the runs at each step.

    python plot.py --runs runs/a runs/b --metric rewards/tests/mean --smooth 5 --output_file a.png
    python plot.py --runs tests=runs/a-s0,runs/a-s1 prm=runs/b-s0,runs/b-s1 --x episode \\
        --output_file b.png

The scores of a reward model (PRLCoder's Figure 4): their histogram by class, and their calibration,
where the report has it:

    python plot.py --report runs/prm/report.json --output_file prm.png
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import common
from common import InputError, InputFile, OutputFile, PositiveInt


@dataclass
class Config:
    output_file: OutputFile  # the figure; its ending gives the format: png, pdf, svg
    runs: list[str] = field(default_factory=list)  # run folders, or label=folder,folder,...
    metric: str = "rewards/tests/mean"  # a column of metrics.jsonl
    x: str = "step"  # the column on the other axis
    smooth: PositiveInt = 1  # mean over this many rows up to each one
    report: InputFile | None = None  # or report.json of a reward model


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over the last `window` values up to each one (fewer at the start); (N,) -> (N,)."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - window, 0)
    return (sums[end] - sums[start]) / (end - start)


def read_curve(folder: str, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """The x and smoothed y values of a run, without the rows that lack the metric."""
    path = Path(folder) / "metrics.jsonl"
    rows = common.read_jsonl(path, {})
    pairs = [(row.get(config.x), row.get(config.metric)) for row in rows]
    pairs = [pair for pair in pairs if None not in pair]
    if not pairs:
        columns = ", ".join(rows[-1])
        raise InputError(
            f"{path}: no row has both {config.x!r} and {config.metric!r}; columns: {columns}"
        )
    x, y = np.array(pairs, dtype=float).T
    return x, smoothed(y, config.smooth)


def read_group(word: str, config: Config) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
    """Label of a group; x, mean and half width of the band, each (N,), at the N values of x that
    all of its runs share."""
    label, equals, folders = word.partition("=")
    curves = [
        dict(zip(*read_curve(folder, config), strict=True))
        for folder in (folders if equals else word).split(",")
    ]
    x = sorted(set.intersection(*(set(curve) for curve in curves)))
    if not x:
        raise InputError(f"--runs {word}: the runs share no {config.x!r}")
    values = np.array([[curve[value] for value in x] for curve in curves])  # (runs, N)
    n = len(values)
    half = np.zeros(len(x))
    if n > 1:
        half = common.student_quantile(n - 1) * values.std(0, ddof=1) / math.sqrt(n)
    return label, np.array(x), values.mean(0), half


def main(config: Config) -> None:
    if bool(config.runs) == (config.report is not None):
        raise InputError("give either --runs or --report")
    try:
        import matplotlib
    except ImportError:
        raise InputError("plot.py needs matplotlib: pip install matplotlib") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    if config.runs:
        groups = [read_group(word, config) for word in config.runs]
        figure, axes = pyplot.subplots(figsize=(6, 4))
        for label, x, mean, half in groups:
            (line,) = axes.plot(x, mean, label=label)
            if half.any():
                axes.fill_between(
                    x, mean - half, mean + half, color=line.get_color(), alpha=0.2, linewidth=0
                )
        axes.set(xlabel=config.x, ylabel=config.metric)
        axes.legend()
    else:
        if not Path(config.report).is_file():
            raise InputError(f"{config.report}: no such file")
        report = json.loads(Path(config.report).read_text(encoding="utf-8"))
        if "histogram" not in report:
            raise InputError(
                f"{config.report}: field 'histogram' is missing; not a reward model's report"
            )
        figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 4))
        edges = report["histogram"]["edges"]
        for name in ("negative", "positive"):
            left.stairs(report["histogram"][name], edges, fill=True, alpha=0.5, label=name)
        left.set(xlabel="score", ylabel="count")
        left.legend()
        bins = [row for row in report.get("calibration", {}).get("bins", []) if row["count"]]
        right.plot([0, 1], [0, 1], color="grey", linewidth=1)
        right.plot(
            [row["probability"] for row in bins], [row["positive"] for row in bins], marker="o"
        )
        right.set(xlabel="score as probability", ylabel="share of positives", visible=bool(bins))
    figure.tight_layout()
    try:
        figure.savefig(config.output_file)
    except (OSError, ValueError) as error:
        raise InputError(f"--output_file {config.output_file}: {error}") from None
    print(config.output_file)


if __name__ == "__main__":
    common.run(main, Config)
