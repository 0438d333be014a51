"""Figures: the curves that are drawn, and what is refused."""

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
    config = plot.Config("x.png", x="episode")
    label, x, mean, half = plot.read_group(f"two seeds={a},{b}", config)
    assert label == "two seeds" and x.tolist() == [10, 30] and mean == pytest.approx([0.2, 0.7])
    t = 12.706204736174698  # of one degree of freedom; sd / sqrt(2) is 0.1 and 0.2
    assert half == pytest.approx([t * 0.1, t * 0.2])
    label, x, mean, half = plot.read_group(a, config)
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


def test_what_cannot_be_drawn_is_refused(tmp_path, monkeypatch):
    a = run_folder(tmp_path / "a", [0.1, 0.4])
    common.write_text(tmp_path / "report.json", "{}")
    for flags, message in (
        ({}, "give either --runs or --report"),
        (
            {"runs": [a], "metric": "reward"},
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
