"""Parts that break in mid-run are loud, and nothing is lost: no verdicts, no finite gradients."""

import json
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import common
import eval_prm
import sandbox
from common import InputError
from prm_data import gold, mutate, rank, search


def test_a_step_without_finite_gradients_is_skipped_and_three_in_a_row_end_the_run(capsys):
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)

    def step(scale):
        (model(torch.ones(3)).sum() * scale).backward()
        return common.take_step(model, optimizer, 1.0)

    before = model.weight.clone()
    for bad in (float("nan"), float("inf")):
        step(bad)
        assert torch.equal(model.weight, before) and model.weight.grad is None
    assert capsys.readouterr().err.count("this step is skipped") == 2
    assert step(1.0) > 0 and not torch.equal(model.weight, before)
    before = model.weight.clone()
    step(float("nan"))
    step(float("nan"))
    with pytest.raises(InputError, match="3 steps in a row had gradients that are not finite"):
        step(float("nan"))
    assert torch.equal(model.weight, before)


def executions(*statuses):
    futures = []
    for status in statuses:
        futures.append(Future())
        futures[-1].set_result({"status": status, "passed": 0, "total": 1, "message": "gone"})
    return futures


def test_a_batch_without_any_verdict_stops_the_run():
    assert common.verdicts_of(executions("harness_error", "failed")).judged.tolist() == [
        False,
        True,
    ]
    with pytest.raises(InputError, match="no verdict on any of 2 programs: gone"):
        common.verdicts_of(executions("harness_error", "harness_error"))


@pytest.mark.parametrize(("errors", "stops"), [(3, False), (4, True)])
def test_a_sandbox_that_fails_too_often_over_ten_batches_stops_the_run(tmp_path, errors, stops):
    config = SimpleNamespace(output_dir=str(tmp_path), num_prompts=2, num_generations=4)
    rollout = SimpleNamespace(tasks=(), texts=[])
    verdicts = SimpleNamespace(rows=[])
    bar = common.progress_bar("test", 10)

    def log(step, errors):
        row = {"harness_errors": errors, "rewards/tests/mean": 0.5, "reward": 0.5}
        common.log(config, bar, step, row, rollout, verdicts, {})

    for step in range(9):
        log(step, 1 if step < errors else 0)
    if stops:  # 5 of 80 programs
        with pytest.raises(InputError, match="no verdict on more than 5% of the programs"):
            log(9, 1)
    else:  # 4 of 80
        log(9, 1)
    assert len(common.logged_metrics(tmp_path)) == 10


def failing_sandbox(fails):
    """A sandbox that has no verdict on the programs of which `fails(number, program)` is true."""

    class FailingSandbox(sandbox.Sandbox):
        submitted = 0

        def submit(self, task, program):
            self.submitted += 1
            if not fails(self.submitted, program):
                return super().submit(task, program)
            return executions("harness_error")[0]

    return FailingSandbox


def mutate_flags(stages, output):
    return mutate, mutate.Config(stages.path("train.jsonl"), output, max_variants_per_line=2)


def search_flags(stages, output):
    flags = {"num_generations": 2, "num_completions": 4, "chunk_size": 3}
    flags |= {"max_completion_length": 24}
    return search, search.Config(stages.path("train.jsonl"), [stages.path("sft")], output, **flags)


def gold_flags(stages, output):
    samples = [
        {"task_id": task["task_id"], "completion": task["solution"].replace("xs", "xs[:1]")}
        for task in common.read_jsonl(stages.path("train.jsonl"), {})
    ]
    common.write_jsonl(stages.path("samples.jsonl"), samples)
    return gold, gold.Config(stages.path("train.jsonl"), stages.path("samples.jsonl"), output)


METHODS = {"mutate": mutate_flags, "search": search_flags, "gold": gold_flags}


@pytest.mark.parametrize("name", METHODS)
def test_an_output_that_lacks_verdicts_is_not_complete_and_asks_for_them_again(
    stages, tmp_path, monkeypatch, capsys, name
):
    method, whole = METHODS[name](stages, str(tmp_path / "whole.jsonl"))
    method.main(whole)
    _, config = METHODS[name](stages, str(tmp_path / "broken.jsonl"))
    with monkeypatch.context() as broken:
        broken.setattr(sandbox, "Sandbox", failing_sandbox(lambda number, _: number in (2, 29)))
        method.main(config)
    expected, output = Path(whole.output_file).read_bytes(), Path(config.output_file)
    assert "verdicts or answers; the same command asks for them again" in capsys.readouterr().err
    assert output.read_bytes() != expected
    method.main(config)
    assert output.read_bytes() == expected and not capsys.readouterr().err.count("lacks")
    before = output.stat().st_mtime_ns
    with monkeypatch.context() as broken:  # nothing is asked any more
        broken.setattr(sandbox, "Sandbox", failing_sandbox(lambda *_: 1 / 0))
        method.main(config)
    assert name == "search" or output.stat().st_mtime_ns == before


@pytest.mark.parametrize("name", METHODS)
def test_a_sandbox_that_breaks_stops_the_labels_and_nothing_is_written(
    stages, tmp_path, monkeypatch, name
):
    method, whole = METHODS[name](stages, str(tmp_path / "whole.jsonl"))
    method.main(whole)
    _, config = METHODS[name](stages, str(tmp_path / "broken.jsonl"))
    for first in (1, 20):  # from the beginning, and in mid-run
        broken_sandbox = failing_sandbox(lambda number, _, first=first: number >= first)
        with monkeypatch.context() as broken:
            broken.setattr(sandbox, "Sandbox", broken_sandbox)
            with pytest.raises(InputError, match="no verdict on"):
                method.main(config)
        assert not Path(config.output_file).exists()
    method.main(config)
    assert Path(config.output_file).read_bytes() == Path(whole.output_file).read_bytes()


def test_pairs_by_tests_are_made_anew_once_the_samples_have_their_verdicts(stages, tmp_path):
    (task, *_) = common.read_jsonl(stages.path("train.jsonl"), {})
    rows = [
        {"task_id": task["task_id"], "completion": text, "status": status}
        for text, status in (("a", "passed"), ("b", "failed"), ("c", "harness_error"))
    ]
    samples, output = tmp_path / "verdicts.jsonl", tmp_path / "pairs.jsonl"
    flags = {"tasks": stages.path("train.jsonl"), "samples": str(samples), "rank_by": "tests"}
    config = rank.Config(str(output), min_margin=0.5, **flags)
    common.write_jsonl(samples, rows)
    rank.main(config)
    assert [row["rejected"] for row in common.read_jsonl(output, {})] == ["b"]
    rows[2]["status"] = "error"
    common.write_jsonl(samples, rows)
    rank.main(config)
    assert sorted(row["rejected"] for row in common.read_jsonl(output, {})) == ["b", "c"]
    rows[2]["status"] = "passed"
    common.write_jsonl(samples, rows)
    with pytest.raises(InputError, match="made from other contents of --samples"):
        rank.main(config)  # complete
    assert len(common.read_jsonl(output, {})) == 2


def test_a_report_on_samples_that_lacks_verdicts_is_made_anew(stages, tmp_path, monkeypatch):
    tasks = common.read_jsonl(stages.path("train.jsonl"), {})
    rows = [
        {"task_id": task["task_id"], "completion": text, "status": status}
        for task in tasks
        for text, status in ((task["solution"], "passed"), ("def f(xs):\n    return 1", "failed"))
    ]
    common.write_jsonl(tmp_path / "verdicts.jsonl", rows)
    config = eval_prm.Config(
        str(tmp_path / "report"),
        samples=str(tmp_path / "verdicts.jsonl"),
        tasks=stages.path("train.jsonl"),
        agreement=True,
    )
    report = tmp_path / "report" / "report.json"
    with monkeypatch.context() as broken:
        broken.setattr(sandbox, "Sandbox", failing_sandbox(lambda number, _: number == 3))
        eval_prm.main(config)
    assert json.loads(report.read_text())["unjudged"] == 1
    eval_prm.main(config)
    assert json.loads(report.read_text())["unjudged"] == 0
    with pytest.raises(SystemExit):
        eval_prm.main(config)
