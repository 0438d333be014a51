"""The pipeline in miniature: each stage on real files, resumed after a kill, on two processes."""

import dataclasses
import json
import re
import subprocess
import sys
import types
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_stages import run_on_two_processes

import common
import eval as evaluation
import ppo
import sandbox
from common import InputError
from studies import run

ROOT = Path(__file__).parent.parent


def metrics_of(folder):
    return [json.loads(line) for line in open(Path(folder) / "metrics.jsonl")]


def weights_of(folder):
    return load_file(Path(folder) / "model.safetensors")


def test_supervised_training_lowers_the_loss(stages):
    losses = [row["loss"] for row in metrics_of(stages.path("sft"))]
    assert losses[-1] < 0.2 * losses[0]
    assert [row["step"] for row in metrics_of(stages.path("sft"))] == [*range(1, 141)]


def test_the_prm_reports_held_out_lines_next_to_the_majority(stages):
    report = json.loads(Path(stages.path("prm"), "report.json").read_text())
    assert (
        report["eval_lines"] > 20
        and 0 <= report["eval_auc"] <= 1
        and 0.5 <= report["eval_majority"] < 1
    )
    first, last = metrics_of(stages.path("prm"))[0], metrics_of(stages.path("prm"))[-1]
    assert last["loss"] < first["loss"] and "eval_auc" in last


def test_the_ranking_objective_learns_to_prefer_the_chosen(stages):
    report = json.loads(Path(stages.path("rm"), "report.json").read_text())
    assert report["eval_accuracy"] == 1.0 and report["eval_loss"] < 0.68


@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_reinforcement_starts_on_policy_and_logs_what_happened(stages, name):
    stage, config = getattr(stages, name)(f"{name}-on-policy", max_steps=1, num_mini_batches=1)
    stage.main(config)
    (row,) = metrics_of(config.output_dir)
    assert row["val/ratio"] == pytest.approx(
        1, abs=1e-6
    )  # the policy has not moved when its one update begins
    assert row["sampling/sampling_logp_difference/mean"] < 1e-5
    samples = [json.loads(line) for line in open(Path(config.output_dir) / "completions.jsonl")]
    assert len(samples) == 4 * config.num_generations
    assert row["reward"] == pytest.approx(
        sum(sample["reward"] for sample in samples) / len(samples), abs=1e-5
    )
    assert 0 < row["rewards/tests/mean"] < 1
    assert row["rewards/tests/mean"] == sum(
        sample["status"] == "passed" for sample in samples
    ) / len(samples)
    order = [
        sample["task_id"] for sample in samples
    ]  # the samples of a prompt stand next to each other
    groups = [
        order[i : i + config.num_generations] for i in range(0, len(order), config.num_generations)
    ]
    assert (
        all(len(set(group)) == 1 for group in groups) and len({group[0] for group in groups}) == 4
    )
    if name == "ppo":
        assert row["objective/kl"] == pytest.approx(0, abs=1e-4)
        assert row["policy/clipfrac_avg"] == 0 and row["policy/approxkl_avg"] == pytest.approx(
            0, abs=1e-9
        )
    else:
        assert row["rewards/format/mean"] == 0


class BrokenSandbox:
    """Judges every second program and fails on the others."""

    def __init__(self, **settings):
        self.submitted = 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def submit(self, task, program):
        self.submitted += 1
        future = Future()
        status = "harness_error" if self.submitted % 2 or self.all_fail else "passed"
        future.set_result({"status": status, "message": "gone"})
        return future


@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_a_sample_without_a_verdict_is_no_reward_and_moves_nothing(stages, monkeypatch, name):
    monkeypatch.setattr(BrokenSandbox, "all_fail", False, raising=False)
    monkeypatch.setattr(sandbox, "Sandbox", BrokenSandbox)
    stage, config = getattr(stages, name)(f"{name}-broken", max_steps=1)
    stage.main(config)
    (row,) = metrics_of(config.output_dir)
    assert row["harness_errors"] == 4 * config.num_generations // 2
    assert row["rewards/tests/mean"] == 1  # the mean is over the samples that were judged
    before, after = weights_of(stages.path("sft")), weights_of(config.output_dir)
    moved = any(not torch.equal(before[key], after[key]) for key in before)
    assert moved == (name == "ppo")  # all judged samples passed: GRPO has nothing to prefer
    assert all(value.isfinite().all() for value in after.values())


@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_a_batch_without_verdicts_ends_the_run_which_goes_on_later(stages, monkeypatch, name):
    stage, config = getattr(stages, name)(f"{name}-no-verdicts", max_steps=1)
    with monkeypatch.context() as broken:
        broken.setattr(BrokenSandbox, "all_fail", True, raising=False)
        broken.setattr(sandbox, "Sandbox", BrokenSandbox)
        with pytest.raises(InputError, match="no verdict on any of"):
            stage.main(config)
    assert not (Path(config.output_dir) / "config.json").exists()
    stage.main(config)
    _, undisturbed = getattr(stages, name)(f"{name}-verdicts", max_steps=1)
    stage.main(undisturbed)
    (row,), (expected,) = metrics_of(config.output_dir), metrics_of(undisturbed.output_dir)
    assert row | {"step_time": 0} == expected | {"step_time": 0}


def test_a_group_holds_the_samples_of_one_prompt(stages, monkeypatch):
    tasks = common.read_jsonl(stages.path("train.jsonl"), {})
    passing = {tasks[i]["task_id"] for i in common.draw(len(tasks), 4, 0, 0, "grpo prompts")[:2]}

    class TaskSandbox(BrokenSandbox):
        """Passes every program for two of the four prompts, and no program for the others."""

        def submit(self, task, program):
            future = Future()
            future.set_result({"status": "passed" if task["task_id"] in passing else "failed"})
            return future

    monkeypatch.setattr(sandbox, "Sandbox", TaskSandbox)
    stage, config = stages.grpo("grpo-groups", max_steps=1)
    stage.main(config)
    (row,) = metrics_of(config.output_dir)
    assert row["rewards/tests/mean"] == 0.5 and row["frac_reward_zero_std"] == 1
    before, after = weights_of(stages.path("sft")), weights_of(config.output_dir)
    assert all(
        torch.equal(before[key], after[key]) for key in before
    )  # every group is of one mind: no advantage


@pytest.mark.parametrize("gate", ["hard", "none"])
def test_grpo_pays_reasoning_where_the_gate_lets_it(stages, monkeypatch, gate):
    # The tiny policy has no think tags to write.
    monkeypatch.setattr("common.scoring.reasoning_of", lambda text: text[:20])
    stage, config = stages.grpo(f"grpo-gate-{gate}", max_steps=1, gate=gate)
    stage.main(config)
    tokenizer, reward_model = (
        common.load_tokenizer(stages.path("rm")),
        common.load_scorer(stages.path("rm")).eval(),
    )
    samples = [json.loads(line) for line in open(Path(config.output_dir) / "completions.jsonl")]
    assert {sample["status"] == "passed" for sample in samples} == {True, False}
    for sample in samples:
        ids = (
            common.encode_prompt(tokenizer, sample) + tokenizer(sample["completion"][:20]).input_ids
        )
        with torch.no_grad():
            process = float(reward_model(input_ids=torch.tensor([ids])).logits[0, -1, 0].sigmoid())
        passed = sample["status"] == "passed"
        assert sample["reward"] == pytest.approx(
            1 + passed + process * (passed or gate == "none"), abs=1e-5
        )


def test_ppo_gives_gae_the_rewards_and_values_of_the_docstring(stages, monkeypatch):
    rollouts, given, made = [], [], []
    forked = run.load(["critic_rescale"])  # a critic that is the PRM: no fit to the returns
    sample, gae = common.sample, forked.gae
    monkeypatch.setattr(
        common, "sample", lambda *args: rollouts.append(sample(*args)) or rollouts[-1]
    )
    monkeypatch.setattr(
        forked,
        "gae",
        lambda *args, **lam: (
            gae(*args, **lam) if lam else given.append(args) or made.append(gae(*args)) or made[-1]
        ),
    )
    flags = {"max_steps": 2, "kl_coef": 0.5, "num_mini_batches": 1, "value_rescale": "none"}
    stage, config = stages.ppo("ppo-inputs", forked, **flags)
    stage.main(config)
    (_, values, mask, *_), (_, returns) = given[0], made[0]
    squares = (
        0.5 * (values - returns)[mask].square()
    )  # at the first update the critic is what it was when it scored
    assert metrics_of(config.output_dir)[0]["loss/value_avg"] == pytest.approx(
        float(squares.mean()), rel=1e-4
    )
    statuses = [
        json.loads(line)["status"] for line in open(Path(config.output_dir) / "completions.jsonl")
    ]
    tokenizer, prm = (
        common.load_tokenizer(stages.path("prm")),
        common.load_scorer(stages.path("prm")).eval(),
    )
    reference = common.load_policy(stages.path("sft")).eval()
    moved = 0.0
    for step, (rollout, (rewards, values, mask, *_)) in enumerate(
        zip(rollouts, given, strict=True)
    ):
        for b, (prompt, completion) in enumerate(
            zip(rollout.prompts, rollout.completions, strict=True)
        ):
            ids = torch.tensor([prompt + completion])
            with torch.no_grad():
                scores = prm(input_ids=ids).logits[0, :, 0]  # the score after each token
                logp = reference(input_ids=ids).logits[0].log_softmax(-1)
            ends = [t for t, i in enumerate(completion) if "\n" in tokenizer.decode([i])]
            text = [t for t, i in enumerate(completion) if i != tokenizer.eos_token_id]
            ends = sorted({*ends, *text[-1:]})
            passed = statuses[step * len(rollout.prompts) + b] == "passed"
            assert mask[b].sum() == len(completion)
            for t, token in enumerate(completion):
                place = len(prompt) + t
                score = (
                    scores[place].clamp(-1, 1)
                    / len(ends)
                    * (config.lambda_pass if passed else config.lambda_fail)
                )
                ratio = rollout.logprobs[b, t] - logp[place - 1, token]
                expected = (
                    (score if t in ends else 0)
                    + (passed and t == len(completion) - 1)
                    - 0.5 * ratio
                )
                assert rewards[b, t] == pytest.approx(float(expected), abs=1e-4)
                moved = max(moved, abs(float(ratio)))
                if step == 0:  # the critic still is the PRM that it started as
                    assert values[b, t] == pytest.approx(float(scores[place - 1]), abs=1e-4)
    assert moved > 0.01


def test_an_outcome_reward_model_pays_at_the_last_token_and_tests_do_not(stages):
    flags = {
        "prm": None,
        "value_init": "policy",
        "orm": stages.path("rm"),
        "outcome_reward": "orm",
        "kl_coef": 0.0,
    }
    stage, config = stages.ppo("ppo-orm", max_steps=1, **flags)
    stage.main(config)
    tokenizer, orm = (
        common.load_tokenizer(stages.path("rm")),
        common.load_scorer(stages.path("rm")).eval(),
    )
    samples = [json.loads(line) for line in open(Path(config.output_dir) / "completions.jsonl")]
    assert len({sample["reward"] for sample in samples}) > 4
    same = 0  # samples whose ids are those that the tokenizer would give to their text
    for sample in samples:
        completion = common.encode_completion(tokenizer, sample["completion"])
        # A model that learned from pairs reads texts without EOS.
        ids = common.encode_prompt(tokenizer, sample) + completion[:-1]
        score = common.scores_of(orm, torch.tensor([ids]))[0, -1].item()
        same += sample["reward"] == pytest.approx(score, abs=1e-5)
    assert same > len(samples) / 2
    (row,) = metrics_of(config.output_dir)
    assert row["rewards/orm/mean"] == pytest.approx(row["reward"], abs=1e-6)
    passed = [sample["status"] == "passed" for sample in samples]
    assert row["rewards/tests/mean"] == sum(passed) / len(passed)  # programs run, for the log


def test_the_end_of_sequence_token_is_learned(stages):
    tokenizer = common.load_tokenizer(stages.path("sft"))
    rows = common.read_jsonl(stages.path("train.jsonl"), {})
    tokens = [len(tokenizer(row["solution"]).input_ids) + 1 for row in rows]
    first = common.draw(len(rows), 8, 0, 0, "sft rows")
    assert metrics_of(stages.path("sft"))[0]["num_tokens"] == sum(tokens[i] for i in first)


def test_evaluation_writes_samples_verdicts_and_a_report(stages, capsys):
    config = evaluation.Config(
        stages.path("test.jsonl"), stages.path("eval"), stages.path("sft"), num_samples=2, k=[1, 2]
    )
    evaluation.main(config)
    report = json.loads(Path(config.output_dir, "report.json").read_text())
    verdicts = common.read_jsonl(
        Path(config.output_dir, "verdicts.jsonl"),
        {"completion": str, "solution": str, "status": str},
    )
    assert report["samples"] == len(verdicts) == 20 and set(report["by_steps"]) == {"2", "3"}
    assert {
        "passed",
        "total",
        "line",
        "executed",
        "message",
        "seconds",
        "trusted",
        "sample",
    } <= set(verdicts[0])
    assert "pass@2" in report and "all        pass@1" in capsys.readouterr().out
    again = evaluation.Config(
        stages.path("test.jsonl"),
        stages.path("eval2"),
        samples=str(Path(config.output_dir, "samples.jsonl")),
        k=[1, 2],
    )
    evaluation.main(again)
    assert json.loads(Path(again.output_dir, "report.json").read_text()) == report


def kill_after_step(step, stage, config, monkeypatch):
    """Runs a stage until it has logged this step, and no further."""
    append = common.runs.append_jsonl

    def killed(path, rows):
        append(path, rows)
        if rows[0].get("step") == step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(common, "append_jsonl", killed)
        patch.setattr("common.runs.append_jsonl", killed)
        stage.main(config)


def test_a_resumed_run_warns_of_over_optimisation_from_the_updates_before_the_kill_too(
    stages, monkeypatch
):
    _, config = stages.ppo("ppo-warned", max_steps=10, per_device_train_batch_size=8)
    kill_after_step(9, ppo, config, monkeypatch)
    seen = []
    monkeypatch.setattr("common.runs.is_over_optimised", seen.append)
    ppo.main(config)
    rows = metrics_of(config.output_dir)
    assert seen == [rows] and len(rows) == 10


@pytest.mark.parametrize("name", ["sft", "train_prm"])
def test_a_batch_that_ranks_cannot_share_is_refused_before_a_file_is_written(
    stages, monkeypatch, name
):
    stage, config = getattr(stages, name)(f"{name}-odd", train_batch_size=3)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(common.InputError, match="a batch of 3 does not divide over 2 processes"):
        stage.main(config)
    assert not Path(config.output_dir).exists()


def test_an_evaluation_that_was_cut_off_goes_on_to_the_same_samples(stages, monkeypatch):
    def config(name):
        return evaluation.Config(
            stages.path("test.jsonl"),
            stages.path(name),
            stages.path("sft"),
            num_samples=2,
            batch_size=4,
        )

    evaluation.main(config("whole"))
    append, calls = common.append_jsonl, []

    def killed(path, rows):
        calls.append(path)
        if len(calls) == 2:
            append(path, rows[:3])
            raise KeyboardInterrupt
        append(path, rows)

    monkeypatch.setattr(common, "append_jsonl", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluation.main(config("cut"))
    monkeypatch.setattr(common, "append_jsonl", append)
    evaluation.main(config("cut"))
    assert (stages.folder / "cut" / "samples.jsonl").read_text() == (
        stages.folder / "whole" / "samples.jsonl"
    ).read_text()


def test_an_evaluation_goes_on_with_more_samples_and_draws_the_missing_ones_alone(
    stages, monkeypatch
):
    def config(name, **flags):
        return evaluation.Config(
            stages.path("test.jsonl"), stages.path(name), stages.path("sft"), **flags
        )

    evaluation.main(config("all-at-once", num_samples=4))
    evaluation.main(config("more", num_samples=1))
    roll_out, drawn = common.roll_out, []

    def spy(*arguments):
        drawn.append(len(arguments[6]))
        return roll_out(*arguments)

    monkeypatch.setattr(common, "roll_out", spy)
    evaluation.main(config("more", num_samples=4, k=[1, 4]))
    assert drawn == [30]  # 10 tasks, 3 more of each
    whole, grown = (
        {(row["task_id"], row["sample"]): row for row in common.read_jsonl(path, {})}
        for path in (stages.folder / name / "samples.jsonl" for name in ("all-at-once", "more"))
    )
    assert grown == whole and len(whole) == 40
    assert {row["completion_tokens"] for row in whole.values()} <= set(range(1, 129))
    report = json.loads((stages.folder / "more" / "report.json").read_text())
    assert report["samples"] == 40 and report["pass@4_tasks"] == 10
    with pytest.raises(common.InputError, match=r"--num_samples: .*more holds 4 samples of a task"):
        evaluation.main(config("more", num_samples=2))
    assert json.loads((stages.folder / "more" / "report.json").read_text()) == report


def test_a_run_goes_on_with_the_data_that_it_began_with_alone(stages, tmp_path):
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text(Path(stages.path("train.jsonl")).read_text())
    stage, config = stages.sft("same-data", max_steps=2)
    config = dataclasses.replace(config, tasks=str(tasks))
    stage.main(config)
    for complete in (True, False):
        if not complete:
            (Path(config.output_dir) / "config.json").unlink()
        text = tasks.read_text()
        tasks.write_text("".join(text.splitlines(keepends=True)[1:]))
        with pytest.raises(common.InputError, match="a run of other contents of --tasks"):
            stage.main(config)
        tasks.write_text(text)
    stage.main(config)  # goes on from the checkpoint
    flags = json.loads((Path(config.output_dir) / "run_config.json").read_text())
    del flags["inputs"], flags["torch_compile"]  # as an earlier release wrote the file
    common.write_text(Path(config.output_dir) / "run_config.json", json.dumps(flags))
    tasks.write_text("".join(text.splitlines(keepends=True)[1:]))
    with pytest.raises(SystemExit):  # complete by its flags
        stage.main(config)


@pytest.mark.parametrize("name", ["sft", "train_prm", "ppo", "ppo_refresh", "grpo"])
def test_a_killed_run_resumes_to_the_same_weights_bit_for_bit(stages, name, monkeypatch):
    stage, config = getattr(stages, name)(f"{name}-whole", max_steps=4)
    stage.main(config)
    stage, config = getattr(stages, name)(f"{name}-killed", max_steps=4)
    kill_after_step(3, stage, config, monkeypatch)
    assert [path.name for path in Path(config.output_dir).glob("checkpoint-*")] == ["checkpoint-2"]
    stage.main(config)

    whole, killed_weights = weights_of(stages.path(f"{name}-whole")), weights_of(config.output_dir)
    assert whole.keys() == killed_weights.keys() and all(
        torch.equal(whole[key], killed_weights[key]) for key in whole
    )
    started = weights_of(stages.path("sft"))
    assert name == "sft" or any(
        not torch.equal(whole[key], started[key]) for key in whole.keys() & started.keys()
    )
    for row, other in zip(
        metrics_of(stages.path(f"{name}-whole")), metrics_of(config.output_dir), strict=True
    ):
        row.pop("step_time"), other.pop("step_time")
        assert json.dumps(row) == json.dumps(other)  # NaN equals NaN as text


@pytest.mark.parametrize("name", ["sft", "train_prm", "ppo", "grpo"])
def test_micro_batches_change_nothing_but_rounding(stages, name):
    rows = {}
    for size in (32, 3):
        stage, config = getattr(stages, name)(
            f"{name}-micro-{size}", max_steps=2, per_device_train_batch_size=size
        )
        stage.main(config)
        rows[size] = metrics_of(config.output_dir)
    for row, other in zip(rows[32], rows[3], strict=True):
        for key in row.keys() - {"step_time"}:
            assert other[key] == pytest.approx(row[key], rel=1e-3, abs=1e-5, nan_ok=True), key
    assert same_weights(stages.path(f"{name}-micro-32"), stages.path(f"{name}-micro-3"))


@pytest.mark.parametrize("name", ["sft", "train_prm", "ppo", "grpo"])
def test_a_limit_on_tokens_changes_nothing_but_rounding(stages, name, monkeypatch):
    seen, batches_of = [], common.batches.batches_by_length

    def spy(lengths, batch_size, max_tokens, padded=None):
        batches = batches_of(lengths, batch_size, max_tokens, padded)
        seen.extend(batches)
        return batches

    monkeypatch.setattr(common.batches, "batches_by_length", spy)
    rows, counts = {}, {}
    for limit in (16384, 70):
        stage, config = getattr(stages, name)(
            f"{name}-tokens-{limit}", max_steps=2, max_tokens_per_forward=limit
        )
        seen.clear()
        stage.main(config)
        rows[limit], counts[limit] = metrics_of(config.output_dir), len(seen)
    assert counts[70] > counts[16384] and max(map(len, seen)) < 8
    for row, other in zip(rows[16384], rows[70], strict=True):
        for key in row.keys() - {"step_time"}:
            assert other[key] == pytest.approx(row[key], rel=1e-3, abs=1e-5, nan_ok=True), key
    assert same_weights(stages.path(f"{name}-tokens-16384"), stages.path(f"{name}-tokens-70"))


def same_weights(folder, other):
    """Whether hardly any weight differs by more than rounding. A few may: Adam's first steps move a
    weight by the learning rate, however small its gradient is."""
    first, second = weights_of(folder), weights_of(other)
    different = sum(int(((first[key] - second[key]).abs() > 1e-5).sum()) for key in first)
    return different < 0.005 * sum(value.numel() for value in first.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sft", "train_prm", "ppo", "grpo"])
def test_two_processes_do_what_one_does(stages, name):
    stage, config = getattr(stages, name)(f"{name}-one", max_steps=2)
    stage.main(config)
    stage, two = getattr(stages, name)(f"{name}-two", max_steps=2)
    result = run_on_two_processes(f"{name}.py", two, timeout=120)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "terminate called" not in result.stderr
    for row, other in zip(metrics_of(config.output_dir), metrics_of(two.output_dir), strict=True):
        for key in row.keys() - {"step_time"}:
            assert other[key] == pytest.approx(row[key], rel=1e-3, abs=1e-5, nan_ok=True), key
    assert same_weights(config.output_dir, two.output_dir)
    if name in ("ppo", "grpo"):  # the samples of both, in the batch's order
        one, both = (
            [json.loads(line) for line in open(Path(c.output_dir) / "completions.jsonl")]
            for c in (config, two)
        )
        for row, other in zip(one, both, strict=True):
            assert other.pop("reward") == pytest.approx(row.pop("reward"), rel=1e-3, abs=1e-5)
            assert other == row


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "limit"), [("sft", 150), ("train_prm", 150), ("ppo", 60), ("grpo", 150)]
)
def test_processes_may_have_different_numbers_of_micro_batches(stages, name, limit):
    flags = {"max_steps": 2, "max_tokens_per_forward": limit}
    stage, config = getattr(stages, name)(f"{name}-uneven-one", **flags)
    stage.main(config)
    stage, two = getattr(stages, name)(f"{name}-uneven-two", **flags)
    result = run_on_two_processes(f"{name}.py", two, timeout=120)
    assert result.returncode == 0, result.stderr[-2000:]
    for row, other in zip(metrics_of(config.output_dir), metrics_of(two.output_dir), strict=True):
        for key in row.keys() - {"step_time"}:
            assert other[key] == pytest.approx(row[key], rel=1e-3, abs=1e-5, nan_ok=True), key
    assert same_weights(config.output_dir, two.output_dir)


@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_a_batch_of_one_optimiser_step_needs_no_forward_pass_for_the_old_log_probs(
    stages, name, monkeypatch
):
    scored, score_policy = [], common.score_policy

    def spy(policy, rollout, batches, temperature):
        scored.append(len(batches))
        return score_policy(policy, rollout, batches, temperature)

    monkeypatch.setattr(common, "score_policy", spy)
    flags = {"max_steps": 3, "num_mini_batches": 1, "per_device_train_batch_size": 3}
    flags |= {"kl_coef": 0.0} if name == "ppo" else {"beta": 0.1}
    reusing, config = getattr(stages, name)(f"{name}-reuse", **flags)
    reusing.main(config)
    assert scored == ([0] * 3 if name == "ppo" else [0, 1] * 3)  # grpo scores the reference too
    source = (ROOT / f"{name}.py").read_text()
    always = re.sub(r"reuse = .*", "reuse = False", source)
    assert always != source
    stage = types.ModuleType(f"{name}_always")
    monkeypatch.setitem(sys.modules, stage.__name__, stage)
    exec(always, stage.__dict__)
    scored.clear()
    _, other = getattr(stages, name)(f"{name}-always", stage=stage, **flags)
    stage.main(other)
    assert scored[:1] == [1]
    rows, twins = metrics_of(config.output_dir), metrics_of(other.output_dir)
    for row, twin in zip(rows, twins, strict=True):
        assert json.dumps(row | {"step_time": 0}) == json.dumps(twin | {"step_time": 0})
    weights, twins = weights_of(config.output_dir), weights_of(other.output_dir)
    assert all(torch.equal(weights[key], twins[key]) for key in weights)


@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_what_a_micro_batch_keeps_for_its_backward_is_gone_before_the_next(
    stages, name, monkeypatch
):
    kept = []  # bytes of each tensor that autograd holds

    class Saved:
        def __init__(self, tensor):
            self.tensor = tensor
            kept.append(tensor.nbytes)

        def __del__(self):
            kept.remove(self.tensor.nbytes)

    before, after = [], []  # bytes before and after each forward pass of the update

    def spied(scores):
        def spy(*args):
            before.append(sum(kept))
            result = scores(*args)
            after.append(sum(kept))
            return result

        return spy

    for function in ("logprobs_of", "values_of"):
        monkeypatch.setattr(common, function, spied(getattr(common, function)))
    stage, config = getattr(stages, name)(
        f"{name}-kept", max_steps=1, num_mini_batches=1, per_device_train_batch_size=2
    )
    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        stage.main(config)
    # The entropies, which have no backward, keep their mask and positions.
    assert len(before) >= 8 and max(before) < 0.02 * min(after)


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        ("sft.py", ["--taks", "x"], "unknown flag --taks; did you mean --tasks?"),
        (
            "ppo.py",
            ["--tasks", "{no_tests}", "--model_name_or_path", "{sft}", "--output_dir", "{new}"],
            ":2: ",
        ),
        (
            "ppo.py",
            ["--tasks", "{tasks}", "--model_name_or_path", "{empty}", "--output_dir", "{new}"],
            "not a model folder",
        ),
        ("train_prm.py", ["--data", "{mismatch}", "--output_dir", "{new}"], "labels for the"),
        (
            "eval.py",
            ["--tasks", "{broken}", "--model_name_or_path", "{sft}", "--output_dir", "{new}"],
            ":1: not a JSON object",
        ),
        (
            "make_prm_data.py",
            ["--method", "mutate", "--tasks", "{no_solution}", "--output_file", "{new}/prm.jsonl"],
            ":1: field 'solution'",
        ),
    ],
)
def test_bad_input_is_one_line_that_names_the_place_and_exit_code_2(
    stages, tmp_path, script, flags, message
):
    good = common.read_jsonl(stages.path("train.jsonl"), {})[:2]
    common.write_jsonl(tmp_path / "no_tests", [good[0], good[1] | {"tests": []}])
    common.write_jsonl(tmp_path / "no_solution", [good[0] | {"solution": None}])
    row = {"task_id": "t", "prompt": "p", "completions": ["a\n", "b\n"], "labels": [1]}
    common.write_jsonl(tmp_path / "mismatch", [row])
    (tmp_path / "broken").write_text('{"task_id": \n')
    (tmp_path / "empty").mkdir()
    places = {
        name: tmp_path / name
        for name in ("no_tests", "no_solution", "mismatch", "broken", "empty", "new")
    }
    places |= {"tasks": stages.path("train.jsonl"), "sft": stages.path("sft")}
    command = [sys.executable, script, *(flag.format(**places) for flag in flags)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and message in result.stderr, result.stderr
    assert result.stderr.startswith(f"{script}: error: ") and result.stderr.count("\n") == 1
    assert not (tmp_path / "new").exists()
