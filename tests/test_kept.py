"""reproduce/kept.py: results of experiments as small files, from which the same tables come."""

import json
import sys
from pathlib import Path

import pytest

import common

sys.path.insert(0, str(Path(__file__).parent.parent / "reproduce"))
import kept
import tables


def write_run(folder, rates, config, **last):
    log = [
        {"step": i, "episode": 4 * i, "rewards/tests/mean": rate, "grad_norm": 1.0}
        for i, rate in enumerate(rates, 1)
    ]
    common.write_jsonl(folder / "metrics.jsonl", [*log[:-1], log[-1] | last])
    common.write_text(folder / "run_config.json", json.dumps(config))
    common.write_text(folder / "config.json", "{}")  # of a run that has come to its end
    common.write_text(folder / "model.safetensors", "weights")


def write_seed(runs, seed):
    """A run with tests alone and one with a PRM, whose labels have cost 30 + 400 samples."""
    place = runs / "8" / seed
    common.write_jsonl(place / "search.jsonl", [{"task_id": "a"}, {"task_id": "b"}])
    common.write_jsonl(place / "search.jsonl.progress", [{"model_name_or_path": []}])
    report = json.dumps({"responses": 30, "completions": 400, "executions": 9})
    common.write_text(place / "search.report.json", report)
    common.write_text(
        place / "prm" / "run_config.json", json.dumps({"data": str(place / "search.jsonl")})
    )
    common.write_jsonl(place / "prm" / "metrics.jsonl", [{"step": 1, "loss": 0.5}])
    write_run(place / "plain", [0.1, 0.2] * 10, {"prm": None})
    write_run(place / "dense", [0.1, int(seed) / 20] * 10, {"prm": str(place / "prm")})
    for arm in ("plain", "dense"):
        common.write_text(place / f"eval-{arm}" / "report.json", '{"solved": 0.25}')
        common.write_text(place / f"eval-{arm}" / "run_config.json", '{"num_samples": 4}')
        common.write_jsonl(place / f"eval-{arm}" / "samples.jsonl", [{"completion": "x"}])
        common.write_text(runs / "jobs" / f"8-{seed}-{arm}.done", "")
    common.write_text(runs / "jobs" / f"sft-{seed}.done", "")
    common.write_text(runs / "settings", "BATCHES=20\n")


def printed_tables(runs, capsys):
    tables.main(["budget", str(runs / "8"), "plain=Plain", "dense=Dense"])
    claim = "dense helps=+8/dense -8/plain"
    tables.main(["contrasts", str(runs), "rewards/tests/mean", claim])
    return capsys.readouterr().out


def test_the_tables_of_kept_results_are_those_of_the_runs(tmp_path, capsys):
    runs, folder = tmp_path / "runs", tmp_path / "kept"
    for seed in ("10", "11", "12"):
        write_seed(runs, seed)
    common.write_text(runs / "jobs" / "mutations.done", "")  # of all seeds: made where they run
    expected = printed_tables(runs, capsys)
    assert "430" in expected  # what the labels have cost
    assert "| dense helps | 3 |" in expected  # the seeds
    kept.main(["pack", str(runs), str(folder), "10", "11"])
    kept.main(["pack", str(runs), str(folder), "12"])
    first = (folder / "10.tar.xz").read_bytes()
    kept.main(["pack", str(runs), str(folder), "10"])
    assert (folder / "10.tar.xz").read_bytes() == first
    runs.rename(tmp_path / "away")

    kept.main(["unpack", str(folder), str(runs)])
    assert printed_tables(runs, capsys) == expected
    assert (runs / "settings").read_text() == "BATCHES=20\n"
    found = {path.name for path in runs.rglob("*") if path.is_file()}
    assert not found & {"model.safetensors", "samples.jsonl", "search.jsonl", "mutations.done"}
    done = {path.name for path in (runs / "jobs").iterdir()}
    names = ("8-{}-plain", "8-{}-dense", "sft-{}")
    assert done == {f"{name.format(seed)}.done" for seed in (10, 11, 12) for name in names}
    assert "grad_norm" not in (runs / "8" / "10" / "plain" / "metrics.jsonl").read_text()


def test_runs_that_are_there_are_left_as_they_are(tmp_path, capsys):
    runs, folder = tmp_path / "runs", tmp_path / "kept"
    write_seed(runs, "10")
    kept.main(["pack", str(runs), str(folder), "10"])
    changed = runs / "8" / "10" / "plain" / "metrics.jsonl"
    changed.write_text("other\n")
    kept.main(["unpack", str(folder), str(runs)])
    assert changed.read_text() == "other\n"
    assert "has seed 10" in capsys.readouterr().out


def test_a_seed_without_results_is_refused_and_no_file_is_written(tmp_path):
    write_seed(tmp_path / "runs", "10")
    with pytest.raises(common.InputError, match="no report of seed 11"):
        kept.main(["pack", str(tmp_path / "runs"), str(tmp_path / "kept"), "11"])
    assert not list((tmp_path / "kept").iterdir())
    with pytest.raises(SystemExit, match="usage"):
        kept.main(["pack", str(tmp_path / "runs")])
