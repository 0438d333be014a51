"""Figures: the curves that are drawn, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest

import common
import plot
from common import InputError


def run_folder(folder, values, column="rewards/tests/mean"):
    folder.mkdir()
    rows = [
        {"step": i + 1, "episode": 10 * (i + 1), column: value} for i, value in enumerate(values)
    ]
    common.write_jsonl(folder / "metrics.jsonl", rows)
    return str(folder)


def test_smoothing_is_the_mean_of_the_last_values_up_to_each():
    values = np.random.default_rng(0).uniform(size=12)
    for window in (1, 3, 20):
        expected = [values[max(0, i - window + 1) : i + 1].mean() for i in range(12)]
        assert plot.smoothed(values, window) == pytest.approx(expected)


def test_a_group_is_the_mean_of_its_seeds_with_a_95_percent_band(tmp_path):
    a = run_folder(tmp_path / "a", [0.1, 0.4, 0.5])
    b = run_folder(
        tmp_path / "b", [0.3, None, 0.9]
    )  # a row without the metric is left out, for the whole group
    config, metric = plot.Config("x.png", x="episode"), ["rewards/tests/mean"]
    label, x, mean, half = plot.read_group(f"two seeds={a},{b}", *metric, config)
    assert label == "two seeds" and x.tolist() == [10, 30] and mean == pytest.approx([0.2, 0.7])
    t = 12.706204736174698  # of one degree of freedom; sd / sqrt(2) is 0.1 and 0.2
    assert half == pytest.approx([t * 0.1, t * 0.2])
    label, x, mean, half = plot.read_group(a, *metric, config)
    assert label == a and mean.tolist() == [0.1, 0.4, 0.5] and not half.any()


def test_the_figures_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    a, b = run_folder(tmp_path / "a", [0.1, 0.4]), run_folder(tmp_path / "b", [0.2, 0.3])
    plot.main(plot.Config(str(tmp_path / "curves.png"), runs=[a, f"both={a},{b}"], smooth=2))
    bins = [
        {"count": 2, "probability": 0.2, "positive": 0.5},
        {"count": 0, "probability": None, "positive": None},
    ]
    report = {
        "histogram": {"edges": [-1, 0, 1], "positive": [0, 2], "negative": [3, 1]},
        "calibration": {"bins": bins},
    }
    common.write_text(tmp_path / "report.json", json.dumps(report))
    plot.main(plot.Config(str(tmp_path / "prm.svg"), report=str(tmp_path / "report.json")))
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG") and "<svg" in (
        tmp_path / "prm.svg"
    ).read_text()
    with pytest.raises(InputError, match="--output_file"):
        plot.main(plot.Config(str(tmp_path / "prm.what"), report=str(tmp_path / "report.json")))


def eval_folder(folder, passing, by_steps=None):
    """A folder of eval.py: four samples of each task, the first `passing` of which pass."""
    folder.mkdir()
    rows = [
        {"task_id": f"t/{task}", "status": "passed" if sample < count else "failed"}
        for task, count in enumerate(passing)
        for sample in range(4)
    ]
    rows.append({"task_id": "t/0", "status": "harness_error"})
    common.write_jsonl(folder / "verdicts.jsonl", rows)
    report = {"pass@1": 0.5} | ({"by_steps": by_steps} if by_steps else {})
    common.write_text(folder / "report.json", json.dumps(report))
    return str(folder)


def test_pass_at_k_is_the_mean_over_tasks_up_to_the_fewest_judged_samples(tmp_path):
    folder = eval_folder(tmp_path / "a", [0, 1, 4])
    expected = {k: (0 + k / 4 + 1) / 3 for k in (1, 2, 3, 4)}
    assert plot.read_pass_at_k(folder) == pytest.approx(expected)
    rows = common.read_jsonl(tmp_path / "a" / "verdicts.jsonl", {})
    common.write_jsonl(tmp_path / "a" / "verdicts.jsonl", rows[1:])  # three of the first task
    assert list(plot.read_pass_at_k(folder)) == [1, 2, 3]


def test_evaluations_are_drawn_by_k_and_by_steps(tmp_path):
    pytest.importorskip("matplotlib")
    steps = {n: {"pass@1": 0.5, "low": 0.4, "high": 0.7} for n in ("2", "10", "None")}
    steps["12"] = {"pass@1": None, "low": None, "high": None}  # no sample has a verdict
    a = eval_folder(tmp_path / "a", [1, 2], steps)
    b = eval_folder(tmp_path / "b", [2, 3], steps)
    plain = eval_folder(tmp_path / "c", [2, 3])
    assert plot.read_steps(a) == {2: (0.5, 0.4, 0.7), 10: (0.5, 0.4, 0.7)}
    for name, words in (
        ("two", [f"x={a},{b}", f"y={a}"]),
        ("plain", [plain]),
        ("mixed", [a, plain]),
    ):
        plot.main(plot.Config(str(tmp_path / f"{name}.svg"), evals=words))
        text = (tmp_path / f"{name}.svg").read_text()
        assert ">pass@k<" in text and (">pass@1<" in text) == (name != "plain")


def test_metrics_are_panels_and_a_figure_drawn_twice_is_the_same_file(tmp_path):
    pytest.importorskip("matplotlib")
    a = run_folder(tmp_path / "a", [0.1, 0.4])
    texts = []
    for name in ("one.svg", "two.svg"):
        plot.main(
            plot.Config(str(tmp_path / name), runs=[a], metric=["rewards/tests/mean", "episode"])
        )
        texts.append((tmp_path / name).read_bytes())
    assert texts[0] == texts[1] and b">rewards/tests/mean<" in texts[0]


def test_a_page_shows_each_line_with_its_label_and_score_and_runs_nothing(tmp_path):
    row = {
        "task_id": "t/<0>",
        "prompt": "sort & count\n",
        "completions": ["def f(x):\n", "    return x < 1\n", "    # hm \x06\ud800\n"],
        "labels": [1.0, -1.0, None],
        "origin": "mutate",
    }
    page = common.program_page("<script>", [row], [[0.9, 0.25, float("nan")]])
    assert "<script" not in page and "&lt;script&gt;" in page and "http" not in page
    assert "t/&lt;0&gt; <span>mutate" in page and "sort &amp; count" in page
    first, second, third = [line for line in page.splitlines() if 'class="code"' in line]
    assert "+1<" in first and "+0.90" in first and "differ" not in first
    assert "    return x &lt; 1<" in second and "−1<" in second and 'class="differ"' in second
    assert "left:50.0%;width:12.5%" in second  # 0.25 of the right half
    assert "# hm \ufffd\ufffd<" in third and "bar" not in third and "differ" not in third
    assert "prefers-color-scheme: dark" in page


@pytest.mark.parametrize("with_prm", [False, True])
def test_a_page_is_of_labelled_rows_or_of_completions(tmp_path, with_prm, stages):
    rows = [
        {"task_id": f"t/{i}", "prompt": "p\n", "completion": "def f(x):\n    return x\n"}
        for i in range(3)
    ]
    common.write_jsonl(tmp_path / "completions.jsonl", rows)
    flags = {"prm": stages.path("prm") if with_prm else None, "num_programs": 2}
    for source in (str(tmp_path / "completions.jsonl"), stages.path("prm.jsonl")):
        plot.main(plot.Config(str(tmp_path / "page.html"), page=source, **flags))
        page = (tmp_path / "page.html").read_text()
        assert page.count("<section>") == 2 and ('class="bar' in page) == with_prm
        assert ('<td class="right">+1' in page) == (source == stages.path("prm.jsonl"))
    config = plot.Config(
        str(tmp_path / "page.html"), page=str(tmp_path / "completions.jsonl"), task_id=["t/2"]
    )
    plot.main(config)
    assert "t/2" in (tmp_path / "page.html").read_text()
    plot.main(dataclasses.replace(config, task_id=[], num_programs=1, last=True))
    page = (tmp_path / "page.html").read_text()
    assert "t/2" in page and "t/1" not in page
    for flags, message in (
        ({"task_id": ["t/9"]}, "no row of --task_id t/9"),
        ({"output_file": "x.png"}, r"ends in \.html"),
        ({"page": None, "runs": ["a"], "prm": "x"}, "--prm goes with --page"),
    ):
        with pytest.raises(InputError, match=message):
            plot.main(dataclasses.replace(config, **flags))


def test_what_cannot_be_drawn_is_refused(tmp_path, monkeypatch):
    a = run_folder(tmp_path / "a", [0.1, 0.4])
    common.write_text(tmp_path / "report.json", "{}")
    for flags, message in (
        ({}, "give either --runs or --report"),
        (
            {"runs": [a], "metric": ["reward"]},
            "no row has both 'step' and 'reward'; columns: step, episode, rewards/tests/mean",
        ),
        ({"runs": [a + "x"]}, r"ax/metrics\.jsonl: no such file"),
        ({"report": str(tmp_path / "report.json")}, "field 'histogram' is missing"),
    ):
        if flags:
            pytest.importorskip("matplotlib")
        with pytest.raises(InputError, match=message):
            plot.main(plot.Config(str(tmp_path / "x.png"), **flags))
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"plot\.py needs matplotlib: pip install matplotlib"):
        plot.main(plot.Config(str(tmp_path / "x.png"), runs=[a]))


def test_the_prose_around_a_program_has_no_score_on_a_page(tmp_path, stages):
    text = "Here:\n```python\nx = 1\ny = 2\n```\n"
    row = {"task_id": "t/1", "prompt": "count", "completion": text, "solution": "x = 1\ny = 2\n"}
    common.write_jsonl(tmp_path / "verdicts.jsonl", [row])
    output = tmp_path / "page.html"
    plot.main(
        plot.Config(str(output), page=str(tmp_path / "verdicts.jsonl"), prm=stages.path("prm"))
    )
    assert output.read_text().count('class="code"') == 5
    assert output.read_text().count('class="bar') == 2
