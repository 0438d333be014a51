"""Parts that break in mid-run are loud: no verdicts, no finite gradients."""

from concurrent.futures import Future
from types import SimpleNamespace

import pytest
import torch

import common
from common import InputError


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
