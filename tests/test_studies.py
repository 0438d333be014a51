"""Studies: each diff applies, runs, and does what its header promises; run.py refuses the rest."""

import json
import math
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import common
import ppo
import sandbox
from kernels import masking
from prm_data import gold
from studies import exact, resample, run

ROOT = Path(__file__).parent.parent
NAMES = sorted(path.stem for path in (ROOT / "studies").glob("*.diff"))
GRPO = [name for name in NAMES if run.read_study(name).stage == "grpo.py"]
# What a study needs to run on the small stages' folder.
FLAGS = {
    "critic_rescale": {"value_init": "prm"},
    "critic_warmup": {"critic_warmup_steps": 1},
    "prm_refresh": {"prm_refresh": 1, "prm_refresh_steps": 2, "prm_refresh_batch_size": 5},
    "overlong_penalty": {"overlong_penalty": 8},
}


def metrics_of(folder):
    return [json.loads(line) for line in open(Path(folder) / "metrics.jsonl")]


def samples_of(folder):
    return [json.loads(line) for line in open(Path(folder) / "completions.jsonl")]


def weights_of(folder):
    return load_file(Path(folder) / "model.safetensors")


def run_study(stages, name, output, **flags):
    """The run folder of a study's stage on the small stages' files."""
    stage = run.load(name.split("+"))
    if name == "ensemble":
        flags = {"prm": [stages.path("prm")], **flags}
    make = stages.grpo if name in GRPO else stages.ppo
    stage, config = make(output, stage, **flags)
    stage.main(config)
    return Path(config.output_dir)


@pytest.mark.parametrize("name", NAMES)
def test_a_study_applies_in_memory_and_its_header_says_what_it_is(name):
    study = run.read_study(name)
    stage, source = run.fork([name])
    assert stage in ("ppo.py", "grpo.py") and source != (ROOT / stage).read_text()
    compile(source, name, "exec")
    assert study.header, "no header above the diff; CONTRIBUTING.md says what stands there"
    idea, *_ = study.header.splitlines()
    assert idea.startswith(("PPO", "GRPO")) and idea.endswith(".")
    assert f"    python studies/run.py {name}" in study.header  # the command
    assert len(study.header.split("\n\n")) >= 4  # idea, source, command, what came out


@pytest.mark.parametrize("name", NAMES)
def test_a_study_runs_two_batches_and_says_in_its_run_folder_that_it_is_one(stages, name):
    flags = {"max_steps": 2, **FLAGS.get(name, {})}
    folder = run_study(stages, name, f"study-{name}", **flags)
    rows = metrics_of(folder)
    assert len(rows) == 2 and all(math.isfinite(row["grad_norm"]) for row in rows)
    assert json.loads((folder / "run_config.json").read_text())["studies"] == [name]
    before, after = weights_of(stages.path("sft")), weights_of(folder)
    assert any(not torch.equal(before[key], after[key]) for key in before)


def test_a_study_s_run_is_not_resumed_by_the_stage_itself(stages):
    stage, config = stages.ppo("study-or-stage", max_steps=1, lam=0.9)
    stage.main(config)
    forked, again = stages.ppo("study-or-stage", run.load(["process_delta"]), max_steps=1, lam=0.9)
    with pytest.raises(common.InputError, match="--studies was None"):
        forked.main(again)


def command(*words):
    return subprocess.run(
        [sys.executable, "studies/run.py", *words], cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no_such"], "no study 'no_such'; there are"),
        (["gspo", "process_min"], "change different stages, grpo.py, ppo.py"),
        (["--show"], "names of studies come before the flags"),
        (["gspo", "--write"], "--write takes one name"),
        (["gspo", "--write", "ppo.py"], "--write takes one name of a file that does not exist"),
        (["gspo", "--task", "x"], "unknown flag --task; did you mean --tasks?"),
        (["process_min", "process_min"], "studies/process_min.diff: hunk 1 fits nowhere"),
    ],
)
def test_a_wrong_call_is_one_line(words, message):
    result = command(*words)
    assert result.returncode != 0 and message in result.stderr and result.stdout == ""
    assert result.stderr.startswith("run.py") and result.stderr.count("\n") == 1


def test_the_forked_stage_can_be_listed_shown_kept_and_asked_for_help(tmp_path):
    listed = command().stdout
    assert all(name in listed for name in NAMES)
    shown = command("process_min", "--show").stdout
    assert "process_temperature" in shown and shown == run.fork(["process_min"])[1]
    assert command("process_min", "--write", str(tmp_path / "fork.py")).returncode == 0
    assert (tmp_path / "fork.py").read_text() == shown
    assert "process_temperature: PositiveFloat = 0.1" in command("process_min", "--help").stdout


SOURCE = "a = 1\nb = 2\nc = 3\nb = 2\n"


@pytest.mark.parametrize(
    ("diff", "message"),
    [
        ("@@ -1,2 +1,2 @@\n a = 1\n-b = 2\n+b = 5\n", None),
        ("@@ -2 +2 @@\n-b = 2\n+b = 5\n", "fits at 2 places"),
        ("@@ -1,2 +1,2 @@\n a = 1\n-b = 3\n+b = 5\n", "fits nowhere"),
        ("@@ -1,2 +1,2 @@\n a = 1\n*b = 3\n", "not a line of a unified diff"),
        ("", "holds no unified diff"),
    ],
)
def test_a_hunk_fits_exactly_once_or_is_refused(tmp_path, monkeypatch, diff, message):
    monkeypatch.setattr(run, "STUDIES", tmp_path)
    (tmp_path / "s.diff").write_text("Idea.\n\n--- x.py\n+++ x.py\n" + diff)
    if message is None:
        assert run.apply(run.read_study("s"), SOURCE) == SOURCE.replace("b = 2", "b = 5", 1)
        assert run.read_study("s").header == "Idea."
    else:
        with pytest.raises(common.InputError, match=message):
            run.apply(run.read_study("s"), SOURCE)


def total_of(module, scores, scored=None, **flags):
    """Total process reward of a failing response of one line a token, with these scores."""
    config = module.Config("", "", "", lambda_fail=1.0, process_norm="none", **flags)
    ends = torch.ones(1, len(scores), dtype=torch.bool)
    code = ends if scored is None else torch.tensor([scored]).bool()
    zero = torch.zeros(1)
    batch = (zero, zero.bool(), torch.tensor([scores]), ends, code, ends, config)
    return float(module.compose_rewards(*batch).sum())


def test_differences_of_scores_telescope_to_the_last_line_s():
    delta = run.load(["process_delta"])
    scores = torch.tensor([[0.5, 9.0, 0.2, -0.4]])
    scored = torch.tensor([[True, False, True, True]])
    found = delta.differences(scores, scored)
    torch.testing.assert_close(found[scored], torch.tensor([0.5, -0.3, -0.6]))
    assert total_of(delta, [0.2, 1.0, 0.4, -0.7]) == pytest.approx(-0.7)
    neutral = {"scored": [1, 0, 1, 0], "neutral_comments": True}
    assert total_of(delta, [0.2, 1.0, 0.4, -0.7], **neutral) == pytest.approx(0.4)


def test_the_soft_minimum_sums_to_nearly_the_worst_line():
    minimum, scores = run.load(["process_min"]), [0.9, -0.6, 0.3, 0.8]
    worst = total_of(minimum, scores, process_temperature=0.01)
    assert worst == pytest.approx(-0.6, abs=1e-3)
    mean = total_of(minimum, scores, process_temperature=1e6)
    assert mean == pytest.approx(0.35, abs=1e-3)
    assert total_of(minimum, scores * 5) == pytest.approx(total_of(minimum, scores))
    neutral = {"scored": [1, 0, 1, 0], "neutral_comments": True}
    padded, bare = total_of(minimum, scores, **neutral), total_of(minimum, [0.9, 0.3])
    assert padded == pytest.approx(bare)
    assert total_of(minimum, scores, scored=[0] * 4, neutral_comments=True) == 0


def test_an_ensemble_is_its_minimum_its_mean_or_its_lower_bound():
    combine = run.load(["ensemble"]).combine
    scores = torch.tensor([[[0.1, 1.0]], [[0.3, -1.0]], [[0.5, 0.6]]])
    torch.testing.assert_close(combine(scores, "min"), torch.tensor([[0.1, -1.0]]))
    torch.testing.assert_close(combine(scores, "mean"), torch.tensor([[0.3, 0.2]]))
    deviation = torch.tensor([[(0.08 / 3) ** 0.5, (2.24 / 3) ** 0.5]])
    bound = torch.tensor([[0.3, 0.2]]) - deviation
    torch.testing.assert_close(combine(scores, "lower_bound"), bound)
    for how in ("min", "mean", "lower_bound"):
        assert torch.equal(combine(scores[:1], how), scores[0])


def test_exact_labels_pay_each_line_what_it_is_worth_in_the_reference(stages):
    flags = {"prm": None, "value_init": "policy", "outcome_reward": "none", "kl_coef": 0.0}
    flags |= {"lambda_fail": 1.0, "process_norm": "none", "max_steps": 1}
    folder = run_study(stages, "exact_labels", "study-exact-rewards", **flags)
    tasks = {task["task_id"]: task for task in common.read_jsonl(stages.path("train.jsonl"), {})}
    rewards, executed = [], set()
    with sandbox.Sandbox(workers=1) as runner:
        for sample in samples_of(folder):
            task, total = tasks[sample["task_id"]], 0.0
            reference = task["solution"].splitlines()
            lines = [line for line in sample["completion"].split("\n") if line.strip()]
            for i, line in enumerate(line for line in lines if line.strip()[0] != "#"):
                program = "\n".join([*reference[:i], line, *reference[i + 1 :]]) + "\n"
                passes = runner.submit(task, program).result()["status"] == "passed"
                total += 1 if i < len(reference) and passes else -1
                if i < len(reference) and line != reference[i]:
                    executed.add((task["task_id"], i, line))
            assert sample["reward"] == pytest.approx(total)
            rewards.append(total)
    (row,) = metrics_of(folder)
    assert len(set(rewards)) > 1 and row["label_programs"] == len(executed) > 0


def test_exact_labels_by_prefix_pay_nothing_after_the_first_wrong_line(stages):
    flags = {"prm": None, "value_init": "policy", "outcome_reward": "none", "kl_coef": 0.0}
    flags |= {"lambda_fail": 1.0, "process_norm": "none", "max_steps": 1}
    totals = []
    for kind in ("in_place", "prefix"):
        folder = run_study(stages, "exact_labels", f"study-exact-{kind}", labels=kind, **flags)
        totals.append([sample["reward"] for sample in samples_of(folder)])
    tasks = {task["task_id"]: task for task in common.read_jsonl(stages.path("train.jsonl"), {})}
    with sandbox.Sandbox(workers=1) as runner:
        for sample, total in zip(samples_of(folder), totals[1], strict=True):
            task, program = tasks[sample["task_id"]], sample["completion"]
            found = gold.labels(gold.submit(runner, task, program, {}))
            expected = [x for x in gold.prefix_labels(task, program, found) if x is not None]
            assert total == pytest.approx(sum(expected))
    assert totals[0] != totals[1]
    assert all(a >= b for a, b in zip(*totals, strict=True))


def rollout_of(texts, tokenizer):
    ids = [common.encode_completion(tokenizer, text) for text in texts]
    mask = common.pad([[1] * len(row) for row in ids]).bool()
    return common.Rollout([[] for _ in ids], ids, texts, common.pad(ids), mask, None)


def test_exact_labels_stand_at_line_ends_and_nowhere_else():
    texts = ["a = 1\nb = 2\n\nc = 3", "d = 4\n"]
    tokenizer = common.new_tokenizer([*texts, "if x:\n    y = 2\n"], 320)
    table = masking.line_table(tokenizer)
    rollout = rollout_of(texts, tokenizer)
    labels = exact.at_line_ends([[1.0, -1.0, None, 1.0], [-1.0]], rollout, table)
    ends = masking.line_end_positions(rollout.ids, rollout.mask, table, 4)
    assert labels[0, ends[0, 0]] == 1 and labels[0, ends[0, 1]] == -1 and labels[0, ends[0, 3]] == 1
    assert labels[1, ends[1, 0]] == -1 and int((~labels.isnan()).sum()) == 4


def test_labels_of_a_program_are_put_on_the_lines_of_its_completion():
    def labels(text, count, **task):
        return exact.labels_of_text(task, text, [float(i) for i in range(count)])

    assert labels("a\nb\n", 2) == [0, 1]
    given = "def f():\n    x = 1\n"  # a prefix, which the labels count
    assert labels("    a\n    b\n", 4, prefix=given) == [2, 3]
    assert labels("Here:\n```python\na\nb\n```\n", 2) == [None, None, 0, 1, None]
    assert labels("<think>\nx\n</think>\n<answer>\na\n</answer>", 1) == [None] * 4 + [0, None]


def test_the_prm_is_refreshed_on_labelled_rollouts_and_kept(stages):
    flags = {"prm_refresh": 2, "prm_refresh_steps": 8, "prm_refresh_batch_size": 5, "max_steps": 2}
    folder = run_study(stages, "prm_refresh", "study-refreshed", **flags)
    first, second = metrics_of(folder)
    assert "loss/prm_avg" not in first and first["label_programs"] == 0
    assert second["loss/prm_avg"] > 0 and second["label_programs"] > 0
    before, after = weights_of(stages.path("prm")), weights_of(folder / "prm")
    assert any(not torch.equal(before[key], after[key]) for key in before)


def test_a_rescaled_critic_starts_with_half_of_the_prm_s_score_and_one_half(stages, monkeypatch):
    rescaled = []
    monkeypatch.setattr(common, "rescale_critic", lambda critic, *by: rescaled.append(by))
    for how, expected in (("range", [(0.5, 0.5)]), ("none", [])):
        rescaled.clear()
        flags = {"max_steps": 1, "value_rescale": how}
        run_study(stages, "critic_rescale", f"study-rescale-{how}", **flags)
        assert rescaled == expected


def test_critic_warm_up_moves_the_critic_alone(stages):
    flags = {"max_steps": 2, "save_steps": 1, "save_total_limit": 2, "critic_warmup_steps": 1}
    folder = run_study(stages, "critic_warmup", "study-warm-up", **flags)
    started, after, end = map(weights_of, (stages.path("sft"), folder / "checkpoint-1", folder))
    assert all(torch.equal(started[key], after[key]) for key in started)
    assert any(not torch.equal(started[key], end[key]) for key in started)
    prm, critic = weights_of(stages.path("prm")), weights_of(folder / "checkpoint-1" / "critic")
    assert any(not torch.equal(prm[key], critic[key]) for key in prm)
    assert [row["lr"] > 0 for row in metrics_of(folder)] == [False, True]


def test_a_line_as_one_action_decays_lambda_at_line_ends_alone(stages, monkeypatch):
    given, rollouts = [], []
    forked = run.load(["lambda_at_line_ends"])
    sample, gae = common.sample, forked.gae

    def keep(*arguments):
        rollouts.append(sample(*arguments))
        return rollouts[-1]

    monkeypatch.setattr(common, "sample", keep)
    monkeypatch.setattr(forked, "gae", lambda *args, **kw: given.append(args) or gae(*args, **kw))
    stage, config = stages.ppo("study-lines", forked, max_steps=1, lam=0.5)
    stage.main(config)
    tokenizer = common.load_tokenizer(stages.path("sft"))
    lam = given[-1][-1]  # the first call fits the critic
    for b, completion in enumerate(rollouts[0].completions):
        text = [t for t, i in enumerate(completion) if i != tokenizer.eos_token_id]
        for t, token in enumerate(completion):
            ends = "\n" in tokenizer.decode([token]) or t == text[-1]
            assert lam[b, t] == (0.5 if ends else 1.0)


def test_gspo_s_ratio_is_the_sequence_s_geometric_mean_and_its_loss_a_mean_over_sequences():
    gspo = run.load(["gspo"])
    torch.manual_seed(0)
    old = torch.randn(4, 7, dtype=torch.float64) * 0.3
    advantage = torch.randn(4, 1, dtype=torch.float64).expand(4, 7)
    mask = torch.rand(4, 7) < 0.7
    new = (old + 0.1 * torch.randn(4, 7, dtype=torch.float64)).requires_grad_()
    total = 0.0
    for b in range(4):
        inside = [t for t in range(7) if mask[b, t]]
        difference = sum(float(new[b, t].detach() - old[b, t]) for t in inside)
        ratio, a = math.exp(difference / len(inside)), float(advantage[b, 0])
        total -= min(ratio * a, max(0.97, min(1.05, ratio)) * a)

    def loss(x):
        return gspo.policy_loss(x, old, advantage, mask, 0.03, 0.05)

    assert loss(new)[0].item() == pytest.approx(total)
    assert (loss(new)[1] == loss(new)[1][:, :1]).all()
    assert torch.autograd.gradcheck(lambda x: loss(x)[0], new)


def test_each_loss_type_is_its_naive_form():
    module = run.load(["loss_type"])
    for seed in range(20):
        torch.manual_seed(seed)
        terms, mask = torch.randn(5, 6, dtype=torch.float64), torch.rand(5, 6) < 0.6
        mask[seed % 5] = False  # a sequence that is left out
        rows = [[float(x) for x in row[on]] for row, on in zip(terms, mask, strict=True)]
        rows = [row for row in rows if row]
        naive = {
            "grpo": sum(sum(row) / len(row) for row in rows) / len(rows),
            "dr_grpo": sum(map(sum, rows)) / (len(rows) * 9),
        }
        for loss_type, expected in naive.items():
            config = module.Config("", "", "", loss_type=loss_type, max_completion_length=9)
            weights, counts = module.loss_weights(mask, config)
            found = float((terms * weights).sum() / counts.sum())
            assert found == pytest.approx(expected, rel=1e-6), loss_type
    weights, counts = module.loss_weights(torch.zeros(3, 4, dtype=torch.bool), config)
    assert not weights.any() and not counts.any()


@pytest.mark.parametrize("name", ["gspo", "loss_type"])
def test_another_mean_does_not_depend_on_the_micro_batches(stages, name):
    flags = {"max_steps": 1, "num_iterations": 2, "num_mini_batches": 1, "beta": 0.1}
    one, other = (
        run_study(stages, name, f"study-{name}-{size}", per_device_train_batch_size=size, **flags)
        for size in (32, 3)
    )
    assert metrics_of(one)[0]["loss"] == pytest.approx(metrics_of(other)[0]["loss"], abs=1e-5)
    first, second = weights_of(one), weights_of(other)
    different = sum(int(((first[key] - second[key]).abs() > 1e-5).sum()) for key in first)
    assert different < 0.005 * sum(value.numel() for value in first.values())


class Coin:
    """A sandbox that passes every second program; of the tasks in `hopeless`, none."""

    hopeless: frozenset = frozenset()

    def __init__(self, **settings):
        self.submitted = 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def submit(self, task, program):
        self.submitted += 1
        heads = self.submitted % 2 and task["task_id"] not in self.hopeless
        status = "passed" if heads else "failed"
        future = Future()
        future.set_result({"status": status, "passed": 2 * bool(heads), "total": 2})
        return future


def test_dynamic_sampling_learns_from_mixed_groups_and_counts_what_it_drew(stages, monkeypatch):
    tasks = common.read_jsonl(stages.path("train.jsonl"), {})
    drawn = common.draw(len(tasks), 4, 0, 0, "grpo prompts")
    monkeypatch.setattr(Coin, "hopeless", frozenset(tasks[i]["task_id"] for i in drawn[:2]))
    monkeypatch.setattr(sandbox, "Sandbox", Coin)
    flags = {"max_steps": 1, "max_resample": 5}
    folder = run_study(stages, "dynamic_sampling", "study-dynamic", **flags)
    (row,), samples = metrics_of(folder), samples_of(folder)
    groups = [{sample["status"] for sample in samples[i : i + 4]} for i in range(0, 16, 4)]
    assert len(samples) == 16 and groups == [{"passed", "failed"}] * 4
    assert row["episode"] > 16 and row["frac_all_fail"] == row["frac_all_pass"] == 0
    assert row["rewards/tests/mean"] == 0.25  # of the first draw: two of four groups, half of each
    kept = {sample["task_id"] for sample in samples}
    assert {tasks[i]["task_id"] for i in drawn[2:]} <= kept and not kept & Coin.hopeless


def test_dynamic_sampling_gives_up_after_its_rounds(stages, monkeypatch):
    tasks = common.read_jsonl(stages.path("train.jsonl"), {})
    monkeypatch.setattr(Coin, "hopeless", frozenset(task["task_id"] for task in tasks))
    monkeypatch.setattr(sandbox, "Sandbox", Coin)
    flags = {"max_steps": 1, "max_resample": 2}
    folder = run_study(stages, "dynamic_sampling", "study-hopeless", **flags)
    (row,) = metrics_of(folder)
    assert row["episode"] == 3 * 16 and row["frac_all_fail"] == row["frac_reward_zero_std"] == 1
    before, after = weights_of(stages.path("sft")), weights_of(folder)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_rows_of_several_rollouts_become_one_with_the_padding_of_the_longest():
    tokenizer = common.new_tokenizer(["a = 1\n", "bb = 22\ncc = 3\n"], 300)
    short, long = rollout_of(["a = 1\n"], tokenizer), rollout_of(["bb = 22\ncc = 3\n"], tokenizer)
    rollouts = [
        r._replace(logprobs=r.ids.float(), terminated=torch.tensor([True]), tasks=({"task_id": t},))
        for r, t in ((short, "s"), (long, "l"))
    ]
    joined = resample.take(rollouts, [1, 0])
    assert joined.texts == [*long.texts, *short.texts]
    assert [task["task_id"] for task in joined.tasks] == ["l", "s"]
    assert joined.ids.shape == joined.mask.shape == (2, long.ids.shape[1])
    assert joined.mask.sum(1).tolist() == [len(long.completions[0]), len(short.completions[0])]


def test_the_reward_falls_over_the_last_tokens_that_are_allowed():
    module = run.load(["overlong_penalty"])
    config = module.Config("", "", "", max_completion_length=12, overlong_penalty=6)
    lengths = torch.tensor([3, 6, 9, 12])
    assert module.length_penalty(lengths, config).tolist() == [0, 0, -0.5, -1]
    config = module.Config("", "", "", max_completion_length=12, overlong_penalty=12)
    with pytest.raises(common.InputError, match="--overlong_penalty must be"):
        module.check_flags(config)


def test_truncated_answers_can_be_left_out_of_the_loss(stages, monkeypatch):
    monkeypatch.setattr("common.batches.eos_ids", lambda *_: [10**6])  # no completion ends
    monkeypatch.setattr(sandbox, "Sandbox", Coin)
    flags = {"max_steps": 1, "max_completion_length": 5}
    folder = run_study(stages, "mask_truncated", "study-truncated", **flags)
    (row,) = metrics_of(folder)
    assert row["completions/clipped_ratio"] == 1 and row["completions/mean_length"] == 5
    before, after = weights_of(stages.path("sft")), weights_of(folder)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_the_gate_opens_at_the_threshold():
    module = run.load(["gate_threshold"])
    config = module.Config("", "", "", gate_threshold=0.5)
    passed, rate = torch.tensor([False, False, True]), torch.tensor([0.4, 0.5, 1.0])
    rewards = module.compose_rewards(passed, rate, torch.ones(3), torch.full((3,), 0.9), config)
    torch.testing.assert_close(rewards, torch.tensor([1.0, 1.9, 2.9]))


def test_scores_map_into_0_to_1_without_the_unjudged_and_no_reasoning_is_0():
    module, nan = run.load(["process_map"]), float("nan")
    scores = torch.tensor([2.0, -1.0, nan, 0.5, 3.0, 3.0, nan, 3.0])
    judged = torch.ones(8, dtype=torch.bool)

    def mapped(how, scores, judged=judged):
        config = module.Config("", "", "", process_map=how, process_center=0.5, num_generations=4)
        return module.map_scores(scores, judged, config).tolist()

    assert mapped("clip", scores) == [1, 0, 0, 0, 1, 1, 0, 1]
    assert mapped("minmax_group", scores) == [1, 0, 0, 0.5, 0.5, 0.5, 0, 0.5]
    assert mapped("minmax_group", torch.full((8,), nan)) == [0] * 8
    unjudged = judged.clone()
    unjudged[1] = False  # the lowest score of the first group does not count
    assert mapped("minmax_group", scores, unjudged)[:4] == [1, 0, 0, 0]


def test_ppo_itself_knows_none_of_the_studies():
    flags = set(ppo.Config.__dataclass_fields__)
    assert not flags & {"process_form", "prm_ensemble", "prm_refresh", "value_rescale", "gae_unit"}
