"""Evaluation, search and logs over processes: files do not depend on how many there are."""

import json
from pathlib import Path

import pytest
from small_stages import run_on_processes

import common
import eval as evaluation
from prm_data import search


def rows_of(path):
    """The rows of a JSONL file without their times."""
    return [
        {key: value for key, value in json.loads(line).items() if key != "seconds"}
        for line in open(path)
    ]


def run(count, script, config):
    result = run_on_processes(count, script, config, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "terminate called" not in result.stderr
    return result


def eval_config(stages, output):
    return evaluation.Config(
        stages.path("train.jsonl"),
        stages.path(output),
        stages.path("sft"),
        num_samples=3,
        max_completion_length=24,
        k=[1, 2],
        batch_size=2,
    )


@pytest.fixture(scope="module")
def evaluated(stages):
    """The folder of an evaluation in one process: 16 tasks, 3 samples of each."""
    config = eval_config(stages, "eval-one")
    evaluation.main(config)
    return Path(config.output_dir)


@pytest.mark.parametrize(
    ("count", "kept"),
    # The first run ends between two samples of a task, or within a batch; the last one is whole.
    [
        (2, 0),
        pytest.param(4, 7, marks=pytest.mark.slow),
        pytest.param(2, 48, marks=pytest.mark.slow),
    ],
)
def test_samples_and_verdicts_do_not_depend_on_the_number_of_processes(
    stages, evaluated, count, kept
):
    config = eval_config(stages, f"eval-{count}-{kept}")
    folder = Path(config.output_dir)
    lines = (evaluated / "samples.jsonl").read_text().splitlines(keepends=True)
    if kept:  # an evaluation in one process was cut off here, in mid-line
        folder.mkdir()
        common.write_text(folder / "run_config.json", json.dumps(vars(config)))
        cut = lines[kept][:40] if kept < len(lines) else ""
        (folder / "samples.jsonl").write_text("".join(lines[:kept]) + cut)
    result = run(count, "eval.py", config)
    assert (folder / "samples.jsonl").read_text() == "".join(lines)
    one, several = (rows_of(place / "verdicts.jsonl") for place in (evaluated, folder))
    assert several == one and {row["status"] for row in one} > {"passed"}
    assert (folder / "report.json").read_text() == (evaluated / "report.json").read_text()
    assert result.stdout.count("all        pass@1") == 1  # rank 0 alone reports


def test_arms_are_compared_in_one_process(stages, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = evaluation.Config(compare=["a", "b"], output_dir=stages.path("compare"))
    with pytest.raises(common.InputError, match="--compare runs in one process"):
        evaluation.main(config)


def search_config(stages, output):
    return search.Config(
        stages.path("train.jsonl"),
        [stages.path("sft"), stages.path("grpo-policy")],
        stages.path(output),
        num_generations=2,
        num_completions=4,
        max_completion_length=24,
        batch_size=4,
        chunk_size=7,  # 16 tasks: the last chunk has 2, fewer than there are processes
        share_completions=True,
    )


@pytest.fixture(scope="module")
def searched(stages):
    """The output file of a search in one process: 2 policies, 3 chunks each."""
    stage, config = stages.grpo("grpo-policy", max_steps=1, learning_rate=1e-3)
    stage.main(config)
    config = search_config(stages, "search-one.jsonl")
    search.main(config)
    return Path(config.output_file)


def chunks_of(output):
    """The chunks of a search without the seconds that they took."""
    chunks = [json.loads(line) for line in open(f"{output}.progress")][1:]
    return [chunk | {"cost": chunk["cost"] | {"seconds": 0}} for chunk in chunks]


@pytest.mark.parametrize(("count", "kept"), [(2, 1), pytest.param(4, 5, marks=pytest.mark.slow)])
def test_a_search_does_not_depend_on_the_number_of_processes(stages, searched, count, kept):
    config = search_config(stages, f"search-{count}.jsonl")
    progress = Path(f"{searched}.progress").read_text().splitlines(keepends=True)
    # A search in one process was cut off in mid-line: after the flags, or in a later chunk.
    Path(f"{config.output_file}.progress").write_text("".join(progress[:kept]) + progress[kept][:9])
    result = run(count, "make_prm_data.py", config)
    assert Path(config.output_file).read_text() == searched.read_text()
    assert chunks_of(config.output_file) == chunks_of(searched)
    one, several = (
        json.loads(path.with_suffix(".report.json").read_text())
        for path in (searched, Path(config.output_file))
    )
    assert several | {"seconds": 0} == one | {"seconds": 0} and one["probes"] > 20
    assert result.stdout.count(" rows of ") == 1


@pytest.mark.slow
def test_the_log_has_the_samples_of_four_processes_in_the_batch_s_order(stages):
    logs = []
    for count in (1, 4):
        stage, config = stages.grpo(f"grpo-on-{count}", max_steps=1, num_prompts=8)
        stage.main(config) if count == 1 else run(count, "grpo.py", config)
        logs.append(rows_of(Path(config.output_dir) / "completions.jsonl"))
    for row, other in zip(*logs, strict=True):
        assert other.pop("reward") == pytest.approx(row.pop("reward"), abs=1e-5)
        assert other == row
