"""Figures from the files of runs; needs matplotlib (requirements-dev.txt).

--runs    Learning curves: columns of metrics.jsonl against the step, or against another column, a
          panel a metric. A run is a folder. A group "label=folder,folder" of seeds is drawn as the
          mean over its runs with a 95 % band, Student's t over the runs at each step.
--evals   Folders of eval.py, groups as above: pass@k against k, mean over tasks; and pass@1 by the
          number of steps, where tasks have one. Intervals are those of the report for one folder,
          and Student's t over the folders of a group.
--report  The scores of a reward model (PRLCoder's Figure 4): their histogram by class, and their
          calibration, where the report has it.
--page    Programs line by line, with their labels and with the scores that --prm gives: one HTML
          page that opens from disk. The file is a prm.jsonl, or has a `completion` in each row:
          completions.jsonl, verdicts.jsonl. Such rows have no labels. A page needs no matplotlib.

    python plot.py --runs runs/a runs/b --metric rewards/tests/mean --smooth 5 --output_file a.png
    python plot.py --runs tests=runs/a-s0,runs/a-s1 prm=runs/b-s0,runs/b-s1 --x episode \\
        --output_file b.png
    python plot.py --runs runs/a --metric rewards/prm/mean rewards/tests/mean --output_file c.png
    python plot.py --evals SFT=runs/eval-sft PPO=runs/eval-ppo --output_file evals.png
    python plot.py --report runs/prm/report.json --output_file prm.png
    python plot.py --page prm.jsonl --prm runs/prm --output_file programs.html

In c.png a PRM is over-optimised where the left curve rises and the right curve falls.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import common
from common import InputError, InputFile, OutputFile, PositiveInt

STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": "cycler('color', ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00'])",
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "plot",  # the same figure is the same file
}


@dataclass
class Config:
    output_file: OutputFile  # the figure; its ending gives the format: png, pdf, svg; html: --page
    runs: list[str] = field(default_factory=list)  # run folders, or label=folder,folder,...
    metric: list[str] = field(  # columns of metrics.jsonl, a panel each
        default_factory=lambda: ["rewards/tests/mean"]
    )
    x: str = "step"  # the column on the other axis
    smooth: PositiveInt = 1  # mean over this many rows up to each one
    evals: list[str] = field(default_factory=list)  # or folders of eval.py, grouped as --runs
    report: InputFile | None = None  # or report.json of a reward model
    page: InputFile | None = None  # or programs, shown line by line
    prm: str | None = None  # page: line reward model whose scores are shown
    task_id: list[str] = field(default_factory=list)  # page: tasks that are shown; none: all
    num_programs: PositiveInt = 10  # page: programs that are shown, the first ones ...
    last: bool = False  # ... or the last ones


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over the last `window` values up to each one (fewer at the start); (N,) -> (N,)."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - window, 0)
    return (sums[end] - sums[start]) / (end - start)


def read_curve(folder: str, metric: str, config: Config) -> dict[float, float]:
    """x -> smoothed y of a run, without the rows that lack the metric."""
    path = Path(folder) / "metrics.jsonl"
    rows = common.read_jsonl(path, {})
    pairs = [(row.get(config.x), row.get(metric)) for row in rows]
    pairs = [pair for pair in pairs if None not in pair]
    if not pairs:
        columns = ", ".join(rows[-1])
        raise InputError(f"{path}: no row has both {config.x!r} and {metric!r}; columns: {columns}")
    x, y = np.array(pairs, dtype=float).T
    return dict(zip(x, smoothed(y, config.smooth), strict=True))


def read_pass_at_k(folder: str) -> dict[int, float]:
    """k -> mean pass@k over the tasks, for each k up to the fewest judged samples of a task."""
    counts = {}  # [judged, passing] of a task
    fields = {"task_id": str, "status": str}
    for row in common.read_jsonl(Path(folder) / "verdicts.jsonl", fields):
        if row["status"] != "harness_error":
            count = counts.setdefault(row["task_id"], [0, 0])
            count[0] += 1
            count[1] += row["status"] == "passed"
    fewest = min((n for n, _ in counts.values()), default=0)
    return {
        k: float(np.mean([common.pass_at_k(n, c, k) for n, c in counts.values()]))
        for k in range(1, fewest + 1)
    }


def read_steps(folder: str) -> dict[int, tuple[float, float, float]]:
    """Number of steps -> pass@1 and its interval (low, high), where there are verdicts; empty where
    tasks have no steps."""
    report = read_report(Path(folder) / "report.json", "pass@1")
    steps = report.get("by_steps", {}).items()
    steps = ((n, row) for n, row in steps if n.isdigit() and row["pass@1"] is not None)
    return {int(n): (row["pass@1"], row["low"], row["high"]) for n, row in steps}


def read_report(path: Path, name: str) -> dict:
    """A report.json that has a number or table of this name."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    report = json.loads(path.read_text(encoding="utf-8"))
    if name not in report:
        kind = "reward model" if name == "histogram" else "policy"
        raise InputError(f"{path}: field {name!r} is missing; not a {kind}'s report")
    return report


def group_of(word: str) -> tuple[str, list[str]]:
    """The label and the folders of "label=folder,folder"; a folder alone is its own label."""
    label, equals, folders = word.partition("=")
    return label, (folders if equals else word).split(",")


def mean_of_runs(word: str, read, x_name: str) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
    """Label of a group; x, mean and half width of the band, each (N,), at the N values of x that
    all of its runs share. read: folder -> {x: y}."""
    label, folders = group_of(word)
    curves = [read(folder) for folder in folders]
    x = sorted(set.intersection(*(set(curve) for curve in curves)))
    if not x:
        raise InputError(f"{word}: the runs share no {x_name!r}")
    values = np.array([[curve[value] for value in x] for curve in curves])  # (runs, N)
    n = len(values)
    half = np.zeros(len(x))
    if n > 1:
        half = common.student_quantile(n - 1) * values.std(0, ddof=1) / math.sqrt(n)
    return label, np.array(x), values.mean(0), half


def read_group(word: str, metric: str, config: Config):
    """`mean_of_runs` of a metric's learning curves."""
    return mean_of_runs(word, lambda folder: read_curve(folder, metric, config), config.x)


def draw_curve(axes, label: str, x, mean, half, **style) -> None:
    (line,) = axes.plot(x, mean, label=label, **style)
    if half.any():
        low, high = mean - half, mean + half
        axes.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)


def draw_runs(pyplot, config: Config):
    panels = [
        [read_group(word, metric, config) for word in config.runs] for metric in config.metric
    ]
    figure, all_axes = pyplot.subplots(
        1, len(panels), figsize=(6 if len(panels) == 1 else 4.5 * len(panels), 4), squeeze=False
    )
    for axes, metric, groups in zip(all_axes[0], config.metric, panels, strict=True):
        for label, x, mean, half in groups:
            draw_curve(axes, label, x, mean, half)
        axes.set(xlabel=config.x, ylabel=metric)
    all_axes[0][0].legend()
    return figure


def draw_evals(pyplot, config: Config):
    curves = [mean_of_runs(word, read_pass_at_k, "k") for word in config.evals]
    steps = [[read_steps(folder) for folder in group_of(word)[1]] for word in config.evals]
    known = sorted(set.union(*(set(own) for group in steps for own in group)))
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), width_ratios=(2, 3))
    for label, k, mean, half in curves:
        draw_curve(left, label, k, mean, half, marker="o")
    left.set(xlabel="k", ylabel="pass@k", ylim=(0, 1), xticks=curves[0][1])
    left.legend()
    width = 0.8 / len(steps)
    for number, ((label, *_), group) in enumerate(zip(curves, steps, strict=True)):
        shared = [n for n in known if all(n in own for own in group)]
        values = np.array([[own[n] for n in shared] for own in group])  # (runs, N, 3)
        middle, low, high = values.mean(0).T if shared else np.zeros((3, 0))
        if len(group) > 1 and shared:
            spread = values[..., 0].std(0, ddof=1) / math.sqrt(len(group))
            half = common.student_quantile(len(group) - 1) * spread
            low, high = middle - half, middle + half
        at = np.array(shared) + (number - (len(steps) - 1) / 2) * width
        error = np.maximum([middle - low, high - middle], 0)
        right.bar(at, middle, width, yerr=error, label=label, error_kw={"elinewidth": 0.8})
    right.set(xlabel="steps", ylabel="pass@1", ylim=(0, 1), xticks=known, visible=bool(known))
    return figure


def draw_report(pyplot, config: Config):
    report = read_report(Path(config.report), "histogram")
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 4))
    edges = report["histogram"]["edges"]
    for name, color in (("negative", "#d55e00"), ("positive", "#0072b2")):
        counts = report["histogram"][name]
        left.stairs(counts, edges, fill=True, alpha=0.5, label=name, color=color)
    left.set(xlabel="score", ylabel="count")
    left.legend()
    bins = [row for row in report.get("calibration", {}).get("bins", []) if row["count"]]
    right.plot([0, 1], [0, 1], color="grey", linewidth=1)
    right.plot([row["probability"] for row in bins], [row["positive"] for row in bins], marker="o")
    right.set(xlabel="score as probability", ylabel="share of positives", visible=bool(bins))
    return figure


def page_of(config: Config) -> str:
    """The HTML of --page (common/pages.py)."""
    rows = common.read_jsonl(config.page, {"prompt": str, "task_id": str})
    wanted = [row for row in rows if not config.task_id or row["task_id"] in config.task_id]
    number = config.num_programs
    wanted = wanted[-number:] if config.last else wanted[:number]
    for row in wanted:
        if "completion" in row and "labels" not in row:
            row["completions"] = common.lines_of(row["completion"])
            row["labels"] = [None] * len(row["completions"])
        if len(row.get("labels", [])) != len(row.get("completions", [None])):
            raise InputError(f"{config.page}: a row has neither labelled lines nor a completion")
    if not wanted:
        raise InputError(f"{config.page}: no row of --task_id {' '.join(config.task_id)}")
    scores = None
    if config.prm is not None:
        common.check_model("prm", config.prm)
        model = common.replicate(common.load_scorer(config.prm).eval())
        tokenizer = common.load_tokenizer(config.prm)
        common.check_line_tokens(config.prm, model, tokenizer)
        texts = ["".join(row["completions"]) for row in wanted]
        scores = common.score_text_lines(model, tokenizer, wanted, texts, 32, path=config.prm)
        for row, text, values in zip(wanted, texts, scores, strict=True):
            for i, line in enumerate(common.program_lines(row.get("solution", text), text)):
                values[i] = math.nan if line is None else values[i]  # prose has no score
    return common.program_page(Path(config.page).name, wanted, scores)


def main(config: Config) -> None:
    given = [bool(config.runs), config.report is not None, bool(config.evals), bool(config.page)]
    if sum(given) != 1:
        raise InputError("give either --runs or --report, or --evals, or --page")
    if config.prm is not None and config.page is None:
        raise InputError("--prm goes with --page")
    if config.page is not None:
        if Path(config.output_file).suffix != ".html":
            raise InputError("--page writes an --output_file that ends in .html")
        common.write_text(config.output_file, page_of(config))
        print(config.output_file)
        return
    try:
        import matplotlib
    except ImportError:
        raise InputError("plot.py needs matplotlib: pip install matplotlib") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context(STYLE):
        draw = draw_runs if config.runs else draw_evals if config.evals else draw_report
        figure = draw(pyplot, config)
        figure.tight_layout()
        dated = {"Date": None} if str(config.output_file).endswith(".svg") else {}
        try:
            figure.savefig(config.output_file, metadata=dated)
        except (OSError, ValueError) as error:
            raise InputError(f"--output_file {config.output_file}: {error}") from None
        pyplot.close(figure)
    print(config.output_file)


if __name__ == "__main__":
    common.run(main, Config)
