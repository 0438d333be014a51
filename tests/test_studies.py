"""Studies: each diff applies, runs, and does what its header promises; run.py refuses the rest."""

import dataclasses
import json
import math
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path

import pytest
import test_reproduce
import torch
from safetensors.torch import load_file

import common
import ppo
import sandbox
from kernels import masking
from prm_data import gold
from studies import (
    critic_data,
    critic_sampling,
    curriculum,
    exact,
    greedy,
    mcts,
    program_tokens,
    pruning,
    references,
    resample,
    run,
    similarity,
)

sys.path.insert(0, str(Path(__file__).parent.parent / "reproduce"))
import related

ROOT = Path(__file__).parent.parent
NAMES = sorted(path.stem for path in (ROOT / "studies").glob("*.diff"))
GRPO = [name for name in NAMES if run.read_study(name).stage == "grpo.py"]
RELATED = {  # the studies of related systems
    "coderl",
    "completion_curriculum",
    "fine_grained",
    "jump_start",
    "papo",
    "prime",
    "process_min",
    "prof",
    "pruning",
    "rltf",
    "similarity",
    "soft_q",
    "supervised",
}
# What a study needs to run on the small stages' folder.
FLAGS = {
    "critic_rescale": {"value_init": "prm"},
    "critic_warmup": {"critic_warmup_steps": 1},
    "prm_refresh": {"prm_refresh": 1, "prm_refresh_steps": 2, "prm_refresh_batch_size": 5},
    "overlong_penalty": {"overlong_penalty": 8},
}
OWN_REWARDS = ("papo", "prof", "prime", "rltf", "coderl")  # no reasoning reward model has a say


def metrics_of(folder):
    return [json.loads(line) for line in open(Path(folder) / "metrics.jsonl")]


def samples_of(folder):
    return [json.loads(line) for line in open(Path(folder) / "completions.jsonl")]


def weights_of(folder):
    return load_file(Path(folder) / "model.safetensors")


def on_own_samples(stages, output, stage, **flags):
    """A fork of sft.py and its flags: of each task the reference and a shorter program, and one
    sample that was cut off."""
    tasks = common.read_jsonl(stages.path("train.jsonl"), {})
    rows = []
    for task in tasks:
        for text in (task["solution"], "".join(task["solution"].splitlines(True)[:-2])):
            rows.append(task | {"completion": text, "terminated": True})
    rows.append(rows[1] | {"terminated": False})
    common.write_jsonl(stages.path("own.jsonl"), rows)
    flags = {"max_steps": 4, "save_steps": 2, "evaluator_steps": 3, "train_batch_size": 8, **flags}
    config = stage.Config(
        tasks=stages.path("own.jsonl"),
        references=stages.path("train.jsonl"),
        model_name_or_path=stages.path("sft"),
        output_dir=stages.path(output),
        **flags,
    )
    return stage, config


def run_study(stages, name, output, **flags):
    """The run folder of a study's stage on the small stages' files."""
    stage = run.load(name.split("+"))
    if name == "ensemble":
        flags = {"prm": [stages.path("prm")], **flags}
    if name in ("papo", "prof"):
        flags = {"prm": stages.path("prm"), **flags}
    if name == "similarity":
        stage, config = on_own_samples(stages, output, stage, **flags)
    else:
        if name in OWN_REWARDS:
            flags = {"reasoning_rm": None, **flags}
        make = stages.grpo if name in GRPO else stages.ppo
        stage, config = make(output, stage, **flags)
    stage.main(config)
    return Path(config.output_dir)


@pytest.mark.parametrize("name", NAMES)
def test_a_study_applies_in_memory_and_its_header_says_what_it_is(name):
    study = run.read_study(name)
    stage, source = run.fork([name])
    assert stage in ("ppo.py", "grpo.py", "sft.py") and source != (ROOT / stage).read_text()
    compile(source, name, "exec")
    assert study.header, "no header above the diff; CONTRIBUTING.md says what stands there"
    idea, *_ = study.header.splitlines()
    assert idea.startswith(("PPO", "GRPO", "Supervised fine-tuning")) and idea.endswith(".")
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


def test_the_forked_stage_can_be_listed_shown_kept_and_asked_for_help(tmp_path, capsys):
    listed = command().stdout
    assert all(name in listed for name in NAMES)
    run.main(["--help"])
    assert capsys.readouterr().out == run.__doc__
    shown = command("process_min", "--show").stdout
    assert "process_temperature" in shown and shown == run.fork(["process_min"])[1]
    assert command("process_min", "--write", str(tmp_path / "fork.py")).returncode == 0
    assert (tmp_path / "fork.py").read_text() == shown
    shown = command("process_min", "--help").stdout
    assert "--process_temperature  float above 0  (default: 0.1)" in shown


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


def test_the_sum_of_the_lines_rewards_is_paid_at_the_last_token():
    forked = run.load(["process_at_end"])
    config = ppo.Config(tasks="t", model_name_or_path="m", output_dir="o")
    torch.manual_seed(0)
    passed, lengths = torch.rand(20) < 0.5, torch.randint(1, 9, (20, 1))
    mask = torch.arange(8) < lengths
    ends = mask & (torch.rand(20, 8) < 0.5)
    batch = (passed.float(), passed, torch.randn(20, 8), ends, ends, mask, config)
    at_lines, at_end = ppo.compose_rewards(*batch), forked.compose_rewards(*batch)
    torch.testing.assert_close(at_end.sum(1), at_lines.sum(1))
    assert not at_end[torch.arange(8) != lengths - 1].any()


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


def test_only_the_ensemble_s_first_prm_has_to_be_able_to_start_the_critic(stages, monkeypatch):
    asked = []
    monkeypatch.setattr(common, "load_reward_model", lambda *given: asked.append(given))
    monkeypatch.setattr(common, "load_critic", stopped)
    with pytest.raises(common.InputError, match="stopped"):
        run_study(stages, "ensemble", "study-critics", prm=[stages.path("prm")] * 2)
    assert [given[-1] for given in asked if given[0] is not None and len(given) > 3] == [
        True,
        False,
    ]


def stopped(*_, **__):
    raise common.InputError("stopped")


def test_exact_labels_leave_no_run_without_a_reward_and_no_prm_without_a_use(stages, monkeypatch):
    module = run.load(["exact_labels"])
    for flags, message in (
        ({"outcome_reward": "none", "lambda_fail": 0.0}, "needs --lambda_fail: no other reward"),
        ({"prm": "runs/prm"}, "no use without --value_init prm"),
    ):
        with pytest.raises(common.InputError, match=message):
            module.check_flags(module.Config("", "", "", **flags))
    module.check_flags(module.Config("", "", "", prm="runs/prm", value_init="prm"))
    asked = []  # a PRM that becomes the critic has to read the policy's ids
    monkeypatch.setattr(common, "load_reward_model", lambda *given, **more: asked.append(more))
    monkeypatch.setattr(common, "load_critic", stopped)
    with pytest.raises(common.InputError, match="stopped"):
        run_study(stages, "exact_labels", "study-exact-critic")
    assert asked[0] == {"is_critic": True}


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
        program = common.extract_program(task, text)
        return exact.labels_of_text(program, text, [float(i) for i in range(count)])

    assert labels("a\nb\n", 2) == [0, 1]
    given = "def f():\n    x = 1\n"  # a prefix, which the labels count
    assert labels("    a\n    b\n", 4, prefix=given) == [2, 3]
    assert labels("Here:\n```python\na\nb\n```\n", 2) == [None, None, 0, 1, None]
    assert labels("<think>\nx\n</think>\n<answer>\na\n</answer>", 1) == [None] * 4 + [0, None]


DRAFT = "```python\nd = 4\n```\n"  # cut off inside the thinking, which the prompt has opened


def test_a_draft_in_thinking_that_never_ends_is_labelled_and_judged_as_no_program(monkeypatch):
    tokenizer = common.new_tokenizer([DRAFT, "x = 2\n"], 320)
    rollout = rollout_of([DRAFT], tokenizer)._replace(
        tasks=({"task_id": "t", "solution": "d = 4\n"},)
    )
    thinking = rollout._replace(openings=("<think>\n",))
    assert exact.start(Coin(), rollout, {}) == [[1.0]]
    assert exact.start(Coin(), thinking, {})[0][1:] == [-1.0] * 3  # of four lines, none a program's
    programs, submit = [], Coin.submit
    monkeypatch.setattr(Coin, "submit", lambda *given: programs.append(given[2]) or submit(*given))
    config = mcts.Config("", "", "")
    for given in (rollout, thinking):
        assert mcts.values_of([""], given, Coin(), None, config) == [1.0]
    assert programs[-2:] == ["d = 4\n", "<think>\n" + DRAFT]


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


def test_critic_warm_up_leaves_batches_for_the_policy():
    module = run.load(["critic_warmup"])
    with pytest.raises(common.InputError, match="below --max_steps: the policy never learns"):
        module.check_flags(module.Config("", "", "", critic_warmup_steps=60, max_steps=60))


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


def test_gspo_s_loss_is_a_mean_over_the_sequences_that_prof_keeps(stages, monkeypatch):
    forked, losses, sequences, divisors = run.load(["gspo", "prof"]), [], [], []
    policy_loss = forked.policy_loss

    def spy(logprobs, old, advantages, mask, *clip):
        loss, *rest = policy_loss(logprobs, old, advantages, mask, *clip)
        loss.register_hook(lambda gradient: divisors.append(1 / float(gradient)))
        losses.append(loss.item())
        sequences.append(int(mask.any(1).sum()))
        return loss, *rest

    monkeypatch.setattr(sandbox, "Sandbox", Coin)
    monkeypatch.setattr(forked, "policy_loss", spy)
    flags = {"prm": stages.path("prm"), "reasoning_rm": None, "num_kept": 2, "max_steps": 1}
    stage, config = stages.grpo("study-kept", forked, num_mini_batches=1, **flags)
    stage.main(config)
    (row,) = metrics_of(config.output_dir)
    assert sum(sequences) == 4 * 2 and row["completions/kept_ratio"] == 0.5
    assert divisors == pytest.approx([8] * len(losses))
    assert row["loss"] == pytest.approx(sum(losses) / 8, abs=1e-6)


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
        r._replace(
            logprobs=r.ids.float(),
            terminated=torch.tensor([True]),
            tasks=({"task_id": t},),
            samples_a_row=samples,
        )
        for r, t, samples in ((short, "s", 2), (long, "l", 4))
    ]
    joined = resample.take(rollouts, [1, 0])
    assert joined.texts == [*long.texts, *short.texts] and joined.samples_a_row == 2
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


@pytest.mark.parametrize(
    ("name", "flag", "value", "message"),
    [
        ("gate_threshold", "--gate_threshold", "1.5", r"in \[0, 1\]"),  # it would never open
        ("prof", "--num_kept", "1", "at least 2"),  # one completion has no advantage
        ("prime", "--scale_rewards", "none", "unknown flag --scale_rewards"),
    ],
)
def test_a_flag_without_which_nothing_is_learned_is_refused(name, flag, value, message):
    with pytest.raises(common.InputError, match=message):
        common.parse_flags(run.load([name]).Config, [flag, value])


@pytest.mark.parametrize("name", OWN_REWARDS)
def test_a_study_with_rewards_of_its_own_refuses_a_reasoning_reward_model(name):
    module = run.load([name])
    flags = {"prm": "runs/prm"} if name in ("papo", "prof") else {}
    module.check_flags(module.Config("", "", "", **flags))
    with pytest.raises(common.InputError, match="--reasoning_rm has no use: "):
        module.check_flags(module.Config("", "", "", reasoning_rm="runs/rm", **flags))


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


# The related systems. A verdict as the sandbox gives it, of a program with two tests.
def verdicts_of(*statuses, **fields):
    rows = [
        {"status": status, "passed": passed, "total": 2, "message": "", "line": None} | fields
        for status, passed in statuses
    ]
    judged = torch.tensor([row["status"] != "harness_error" for row in rows])
    passed = torch.tensor([row["status"] == "passed" for row in rows])
    rates = torch.tensor([row["passed"] / row["total"] for row in rows])
    return common.Verdicts(rows, judged, passed, rates)


def test_rltf_s_rewards_are_coarse_and_adaptive_and_each_can_be_left_out():
    module = run.load(["rltf"])
    verdicts = verdicts_of(("passed", 2), ("failed", 1), ("failed", 0), ("error", 0))

    def rewards(**flags):
        return module.program_rewards(verdicts, module.Config("", "", "", **flags))

    coarse, adaptive = torch.tensor([1, -0.3, -0.3, -0.6]), torch.tensor([1, 0.35, -0.3, -0.6])
    torch.testing.assert_close(rewards(adaptive_weight=0), coarse)
    torch.testing.assert_close(rewards(coarse_weight=0), adaptive)
    torch.testing.assert_close(rewards(), coarse + adaptive)


def test_rltf_s_penalty_falls_on_the_faulty_line_with_the_same_mean_for_every_length():
    module = run.load(["rltf"])
    config = module.Config("", "", "", fine_weight=0.3)
    mask = torch.ones(4, 6, dtype=torch.bool)
    mask[1, 3:] = False
    located = torch.zeros(4, 6, dtype=torch.bool)
    located[0, 2:4] = located[1, 1] = True
    verdicts = verdicts_of(("error", 0), ("error", 0), ("failed", 1), ("timeout", 0))
    found = module.penalties(verdicts.rows, located, mask, config)
    assert found[0].tolist() == pytest.approx([0, 0, -0.9, -0.9, 0, 0])
    assert found[1].tolist()[:3] == pytest.approx([0, -0.9, 0])
    assert found[2].tolist() == [0] * 6
    torch.testing.assert_close(found[3], torch.full((6,), -0.3))
    means = found.sum(1) / mask.sum(1)
    torch.testing.assert_close(means, torch.tensor([-0.3, -0.3, 0, -0.3]))


PROGRAM = '''def f(x):
    """A docstring."""
    if x > 0:
        y = (x +
             1)
    else:
        y = 2
        y += 1
    # a comment
    return y
'''


def test_lines_that_no_test_has_run_are_found_in_the_sandbox_s_trace():
    task = {"task_id": "t", "prompt": "", "style": "call", "entry_point": "f"}
    with sandbox.Sandbox(workers=1, trace=True) as runner:
        for x, idle in ((1, {7, 8}), (-1, {4, 5})):
            tests = [{"args": [x], "output": 0}]
            verdict = runner.submit(task | {"tests": tests}, PROGRAM).result()
            assert program_tokens.unexecuted_lines(PROGRAM, verdict["executed"]) == idle
        broken = runner.submit(task | {"tests": tests}, "def f(x):\n    return x x\n").result()
    assert (
        program_tokens.unexecuted_lines("def f(x):\n    return x x\n", broken["executed"]) == set()
    )


def test_tokens_of_lines_are_those_of_the_program_s_lines_in_its_completion():
    texts = ["a = 1\nb = 2\nc = 3", "Here:\n```python\nd = 4\ne = 5\n```\n"]
    tokenizer = common.new_tokenizer([*texts, "x = 2\n"], 320)
    table, tasks = masking.line_table(tokenizer), ({}, {})
    rollout = rollout_of(texts, tokenizer)._replace(tasks=tasks)
    found = program_tokens.tokens_of_lines(rollout, table, [{2}, {1, 2}])
    for i, wanted in enumerate(["b = 2\n", "d = 4\ne = 5\n"]):
        row, on = rollout.completions[i], found[i]
        kept = [token for token, inside in zip(row, on.tolist(), strict=False) if inside]
        assert tokenizer.decode(kept) == wanted
    nothing = program_tokens.tokens_of_lines(rollout, table, [set(), {9}])
    assert not nothing.any()


def test_the_policy_does_not_learn_from_lines_that_no_test_has_run(stages, monkeypatch):
    class Untouched(Coin):  # says that the first line alone ran
        def submit(self, task, program):
            future = super().submit(task, program)
            future.result()["executed"] = [1]
            return future

    forked, masks = run.load(["fine_grained"]), []
    loss = forked.policy_loss

    def spy(logprobs, old, advantages, mask, *clip):
        masks.append(mask)
        return loss(logprobs, old, advantages, mask, *clip)

    monkeypatch.setattr(sandbox, "Sandbox", Untouched)
    monkeypatch.setattr(forked, "policy_loss", spy)
    stage, config = stages.ppo("study-idle", forked, max_steps=1)
    stage.main(config)
    (row,) = metrics_of(config.output_dir)
    learned = sum(int(mask.sum()) for mask in masks)
    tokens = row["completions/mean_length"] * len(samples_of(config.output_dir))
    assert 0 < learned < tokens
    assert row["completions/executed_ratio"] == pytest.approx(learned / tokens)


def test_step_coder_s_two_parts_run_together(stages):
    folder = run_study(stages, "completion_curriculum+fine_grained", "study-both", max_steps=1)
    (row,) = metrics_of(folder)
    assert row["curriculum/level"] == 1 and 0 < row["completions/executed_ratio"] <= 1


LINES = """def f(x):
    a = 1
    for i in x:
        a += i
    if a:
        a = 2
    return a
"""


def test_a_reference_is_cut_before_the_lines_that_the_policy_writes():
    task = {"prompt": "Add.", "solution": LINES}
    assert curriculum.cut_points(task, "conditionals") == [3, 5]
    assert curriculum.cut_points(task, "lines") == [1, 2, 3, 4, 5, 6]
    assert curriculum.cut_points(task | {"solution": "a\nb\nc\n"}, "conditionals") == [1, 2]
    given = curriculum.given(task, 3)
    assert given["prompt"] == "Add.\n" + given["prefix"] and LINES.startswith(given["prefix"])
    assert given["prefix"].count("\n") == 3 and curriculum.given(task, 0) is task
    rest = LINES.removeprefix(given["prefix"])
    assert common.extract_program(given | {"entry_point": "f"}, rest) == LINES
    already = {"prompt": "def f(x):\n", "prefix": "def f(x):\n", "solution": LINES}
    assert curriculum.cut_points(already, "lines") == [2, 3, 4, 5, 6]
    assert curriculum.given(already, 2)["prompt"] == "def f(x):\n    a = 1\n"


@pytest.mark.parametrize("name", ["completion_curriculum", "jump_start"])
def test_the_longest_prompt_is_checked_with_the_lines_that_it_is_given(stages, name, monkeypatch):
    checked = []
    monkeypatch.setattr(common, "check_model", lambda *given: checked.append(given[3]) or stopped())
    with pytest.raises(common.InputError, match="stopped"):
        run_study(stages, name, f"study-longest-{name}", **FIRST_STAGE[name])
    tasks = common.read_jsonl(stages.path("train.jsonl"), {})
    for task, longest in zip(tasks, checked[0], strict=True):
        lines = common.lines_of(task["solution"])
        assert longest["prefix"] == "".join(lines[: FIRST_LINES[name](len(lines))])


FIRST_STAGE = {"completion_curriculum": {}, "jump_start": {"num_stages": 2}}
FIRST_LINES = {"completion_curriculum": lambda n: n - 1, "jump_start": lambda n: n // 2}


def rates(*values):
    return [{"rewards/tests/mean": value} for value in values]


def test_the_curriculum_goes_back_from_the_last_cut_to_the_whole_task():
    module = run.load(["completion_curriculum"])
    config = module.Config("", "", "", advance_at=0.5)
    assert [module.level_after(rates(*[0.6, 0.4, 0.5][:n]), config) for n in range(4)] == [
        1,
        2,
        2,
        3,
    ]
    task = {"prompt": "Add.", "solution": LINES}
    given = [module.subtask(task, k, config).get("prefix", "").count("\n") for k in (1, 2, 3, 4)]
    assert given == [5, 3, 0, 0]


def test_the_guide_writes_ever_less_while_the_return_holds():
    module = run.load(["jump_start"])
    flags = {"num_stages": 3, "window": 2, "tolerance": 0.5}
    config = module.Config("", "", "", **flags)
    log = rates(0.8, 0.8, 0.1, 0.1, 0.5, 0.5, 0.0, 0.0)
    stages_after = [module.stage_after(log[:n], config) for n in range(9)]
    assert stages_after == [1, 1, 2, 2, 2, 2, 3, 3, 3]
    task = {"prompt": "Add.", "solution": LINES}
    given = [module.guided(task, k, config).get("prefix", "").count("\n") for k in (1, 2, 3)]
    assert given == [4, 2, 0]
    config = module.Config("", "", "", horizon="random", **flags)
    assert {module.stage_after(log[:n] * 9, config) for n in range(9)} == {1, 2, 3}


def test_papo_pays_the_process_among_passing_completions_alone():
    module = run.load(["papo"])
    config = module.Config("", "", "", prm="")
    group, judged = torch.tensor([0] * 4 + [1] * 4), torch.ones(8, dtype=torch.bool)
    passed = torch.tensor([1, 1, 0, 0, 1, 1, 1, 1]).bool()
    process = torch.tensor([0.9, 0.1, 0.5, -0.5, 0.2, 0.4, 0.6, 0.8])
    found = module.decoupled(passed, process, judged, group, config)
    outcome = module.group_advantages(passed.float(), group)
    torch.testing.assert_close(found[2:4], outcome[2:4])  # what fails gains nothing
    assert found[0] > found[1] and found[:2].mean() == pytest.approx(float(outcome[0]), abs=1e-6)
    assert outcome[4:].eq(0).all() and (found[4:].diff() > 0).all()  # all pass: the process counts
    other = process.clone()
    other[2:4] = 99
    torch.testing.assert_close(module.decoupled(passed, other, judged, group, config), found)


def test_prof_keeps_the_samples_in_which_prm_and_tests_agree():
    module = run.load(["prof"])
    config = module.Config("", "", "", prm="", num_generations=6, num_kept=4)
    process = torch.tensor([0.9, 0.1, 0.5, -0.5, 0.3, 0.2])
    judged = torch.ones(6, dtype=torch.bool)

    def kept(passed, judged=judged):
        found = module.consistent(process, torch.tensor(passed).bool(), judged, config)
        return found.nonzero().flatten().tolist()

    assert kept([1, 1, 1, 0, 0, 0]) == [0, 2, 3, 5]  # the best of what passes, the worst that fails
    assert kept([1, 1, 1, 1, 1, 0]) == [0, 2, 4, 5]  # as balanced as the group allows
    assert kept([1, 1, 1, 1, 1, 1]) == [0, 2, 4, 5]
    assert kept([0, 0, 0, 0, 0, 1]) == [1, 3, 4, 5]
    assert kept([1, 0, 0, 0, 0, 0], judged & (process < 0.9)) == [1, 3, 4, 5]


def test_prime_s_advantages_are_its_equation():
    module = run.load(["prime"])
    torch.manual_seed(0)
    process, mask = torch.randn(4, 5), torch.ones(4, 5, dtype=torch.bool)
    mask[1, 3:] = mask[2, 4:] = False
    process, outcome = process * mask, torch.tensor([1.0, 0.0, 0.0, 1.0])
    found = module.token_advantages(process, outcome, mask, torch.zeros(4).long())
    means = [float(process[i].sum() / mask[i].sum()) for i in range(4)]
    for i in range(4):
        others = [j for j in range(4) if j != i]
        baseline = sum(means[j] for j in others) / 3
        relative = float(outcome[i]) - sum(float(outcome[j]) for j in others) / 3
        length = int(mask[i].sum())
        for t in range(length):
            later = sum(float(process[i, s]) - baseline for s in range(t, length))
            assert float(found[i, t]) == pytest.approx(later + relative, abs=1e-5)
    assert not found[~mask].any()


def test_prime_s_prm_starts_as_the_reference_and_learns_from_the_tests(stages, monkeypatch):
    monkeypatch.setattr(sandbox, "Sandbox", Coin)
    flags = {"max_steps": 3, "save_steps": 2, "warmup_steps": 1}
    folder = run_study(stages, "prime", "study-prime-learns", **flags)
    first, _, last = metrics_of(folder)
    assert abs(first["rewards/prm/mean"]) < 1e-5 < abs(last["rewards/prm/mean"])
    assert first["loss/prm_avg"] == pytest.approx(math.log(2), abs=0.1)
    before, after = weights_of(stages.path("sft")), weights_of(folder / "checkpoint-2" / "prm")
    assert any(not torch.equal(before[key], after[key]) for key in before)


def test_prime_learns_nothing_from_prompts_that_fail_as_a_whole(stages, monkeypatch):
    tasks = common.read_jsonl(stages.path("train.jsonl"), {})
    monkeypatch.setattr(Coin, "hopeless", frozenset(task["task_id"] for task in tasks))
    monkeypatch.setattr(sandbox, "Sandbox", Coin)
    flags = {"max_steps": 3, "save_steps": 2, "warmup_steps": 1}
    folder = run_study(stages, "prime", "study-prime-hopeless", **flags)
    before = weights_of(stages.path("sft"))
    for after in (weights_of(folder), weights_of(folder / "checkpoint-2" / "prm")):
        assert all(torch.equal(before[key], after[key]) for key in before)


def test_the_supervised_loss_is_the_mean_over_the_references_tokens_each_reference_once(stages):
    tasks = common.read_jsonl(stages.path("train.jsonl"), {})
    tokenizer = common.load_tokenizer(stages.path("sft"))
    _, config = stages.grpo("unused", run.load(["supervised"]))
    policy = common.shard(common.load_policy(stages.path("sft"), config).eval(), config, True)
    rollout = common.sample(policy, tokenizer, tasks, config, 0, "grpo")
    mini_batch = [[0, 5, 1], [4, 9], [2]]  # samples of three tasks
    loss = references.learn(policy, tokenizer, rollout, mini_batch, 0.5)
    found = policy.get_input_embeddings().weight.grad.clone()
    policy.zero_grad()
    sums, count = 0, 0
    for i in (0, 4, 9):
        prompt = rollout.prompts[i]
        ids = common.encode_completion(tokenizer, rollout.tasks[i]["solution"])
        logits = policy(input_ids=torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        sums = sums - logits.log_softmax(-1)[range(len(ids)), ids].sum()
        count += len(ids)
    (0.5 * sums / count).backward()
    assert loss == pytest.approx(0.5 * float(sums.detach()) / count, rel=1e-5)
    torch.testing.assert_close(found, policy.get_input_embeddings().weight.grad)


def test_the_supervised_loss_goes_on_after_a_prefix_and_what_the_prompt_opens(monkeypatch):
    monkeypatch.setattr(common, "check_length", lambda *_: None)

    class Policy:
        def completion_logprobs(self, ids, mask):
            self.learned = [tokenizer.decode(row[on]) for row, on in zip(ids, mask, strict=True)]
            return torch.zeros(ids.shape, requires_grad=True), None

    given, rest = "def f(a):\n", "    return a\n"
    tokenizer, policy = common.new_tokenizer([given + rest, "</think>\n\n"], 320), Policy()
    tasks = [{"task_id": str(i), "solution": given + rest} for i in range(3)]
    tasks[1]["prefix"] = tasks[2]["prefix"] = given
    rollout = rollout_of([""] * 3, tokenizer)._replace(prompts=[[1]] * 3, tasks=tuple(tasks))
    rollout = rollout._replace(openings=("<think>\n", "", "<think>\n"))
    references.learn(policy, tokenizer, rollout, [[0, 1, 2]], 1.0)
    texts = [text.removesuffix(tokenizer.eos_token) for text in policy.learned]
    assert texts == ["</think>\n\n" + given + rest, rest, "</think>" + rest]


def test_the_supervised_loss_in_the_log_is_that_of_all_processes(stages, monkeypatch):
    losses = []
    for processes in (1, 2):  # this one has learned a half, as one of two
        monkeypatch.setattr(common, "world_size", lambda processes=processes: processes)
        flags = {"max_steps": 1, "num_mini_batches": 1}
        folder = run_study(stages, "supervised", f"study-supervised-{processes}", **flags)
        losses.append(metrics_of(folder)[0]["loss/sft_avg"])
    assert losses[1] == pytest.approx(2 * losses[0])  # times 2 processes in the sum: 4 / 2


@pytest.mark.parametrize("name", ["rltf", "coderl"])
def test_rltf_and_coderl_run_with_the_supervised_loss(stages, name):
    forked = run.load([name, "supervised"])
    stage, config = stages.grpo(f"study-{name}-supervised", forked, reasoning_rm=None)
    stage.main(config)
    assert all(row["loss/sft_avg"] > 0 for row in metrics_of(config.output_dir))


def test_coderl_s_return_is_the_critic_s_belief_times_the_lead_over_the_greedy_program(
    stages, monkeypatch
):
    forked, given = run.load(["coderl"]), []
    loss = forked.policy_loss

    def spy(logprobs, old, advantages, mask, *clip):
        given.append(advantages[mask])
        return loss(logprobs, old, advantages, mask, *clip)

    monkeypatch.setattr(sandbox, "Sandbox", Coin)
    monkeypatch.setattr(forked, "policy_loss", spy)
    stage, config = stages.grpo("study-coderl-first", forked, max_steps=1, reasoning_rm=None)
    stage.main(config)
    # The critic's head is zero: it gives each of the four outcomes 1/4. Rewards are 1 and -0.3.
    assert {round(4 * x, 3) for x in torch.cat(given).tolist()} <= {0.0, 1.3, -1.3}
    (row,) = metrics_of(config.output_dir)
    assert row["loss/value_avg"] == pytest.approx(math.log(4), abs=0.05)
    assert row["episode"] == 4 * (4 + 1)


def test_the_baseline_is_the_greedy_program_of_the_prompt(stages):
    tasks = common.read_jsonl(stages.path("train.jsonl"), {})
    tokenizer = common.load_tokenizer(stages.path("sft"))
    _, config = stages.grpo("unused")
    policy = common.shard(common.load_policy(stages.path("sft"), config).eval(), config)
    rollout, runner = common.sample(policy, tokenizer, tasks, config, 0, "grpo"), Coin()
    programs = []
    monkey = runner.submit
    runner.submit = lambda task, program: programs.append(program) or monkey(task, program)
    found = greedy.execute(policy, tokenizer, runner, rollout, config)
    assert len(found) == len(rollout.ids) and len(programs) == 4
    assert all(found[i] is found[i - i % 4] for i in range(len(found)))
    again = common.roll_out(policy, tokenizer, rollout.prompts[::4], 1, 24, 0.0, [9] * 4)
    assert programs == again._replace(tasks=rollout.tasks[::4]).programs()


def test_edit_similarity_counts_what_has_to_change():
    assert similarity.edit_similarity([1, 2, 3], [1, 2, 3]) == 1
    assert similarity.edit_similarity("kitten", "sitting") == pytest.approx(1 - 3 / 7)
    assert similarity.edit_similarity([], [1, 2]) == 0 and similarity.edit_similarity([], []) == 1


def test_similarity_weights_the_logprob_of_each_token_by_its_own_reward(stages, monkeypatch):
    forked, given = run.load(["similarity"]), {}

    def rewards_of(rows, config):
        given["rows"] = rows
        lengths = [len(completion) for _, completion, _ in rows]
        given["rewards"] = [[(7 * i + t) % 5 / 4 for t in range(n)] for i, n in enumerate(lengths)]
        return given["rewards"]

    monkeypatch.setattr(similarity, "immediate_rewards", rewards_of)
    stage, config = on_own_samples(stages, "study-similar-weighted", forked, max_steps=1)
    stage.main(config)
    policy = common.load_policy(stages.path("sft")).double()
    drawn = common.draw(len(given["rows"]), config.train_batch_size, 0, config.seed, "sft rows")
    total, weight, num_tokens = 0.0, 0.0, 0
    for i in drawn:
        prompt, completion, _ = given["rows"][i]
        with torch.no_grad():
            logits = policy(input_ids=torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
        for t, (token, reward) in enumerate(zip(completion, given["rewards"][i], strict=True)):
            total -= reward * float(logits[len(prompt) + t - 1, token])
            weight, num_tokens = weight + reward, num_tokens + 1
    (row,) = metrics_of(config.output_dir)
    assert row["loss"] == pytest.approx(total / num_tokens, rel=1e-4)
    assert row["reward"] == pytest.approx(weight / num_tokens) and row["num_tokens"] == num_tokens


def test_the_evaluator_foretells_after_each_token_how_like_the_reference_a_program_will_be(stages):
    forked = run.load(["similarity"])
    _, config = on_own_samples(stages, "unused", forked, evaluator_steps=60, warmup_steps=5)
    rows = []
    for number in range(12):  # the first token says how similar the completion is
        rows.append(([5, 6], [10 + number % 2, 20, 21 + number], float(number % 2)))
    found = similarity.immediate_rewards(rows, config)
    assert [len(rewards) for rewards in found] == [3] * 12
    for rewards, (*_, target) in zip(found, rows, strict=True):
        assert rewards == pytest.approx([target] * 3, abs=0.3)
    assert found == similarity.immediate_rewards(rows, config)  # a run that goes on has the same


def test_similarity_reads_samples_that_ended_and_refuses_those_of_unknown_tasks(stages, tmp_path):
    forked = run.load(["similarity"])
    _, config = on_own_samples(stages, "unused", forked)
    samples = common.read_jsonl(config.tasks, {})
    found = similarity.with_references(samples, config)
    assert len(found) == sum(row["terminated"] for row in samples) < len(samples)
    assert all(row["completion"] == row["reference"] for row in found[::2])
    alone = dataclasses.replace(config, model_name_or_path="micro")
    with pytest.raises(common.InputError, match="name the policy that wrote the samples"):
        similarity.with_references(samples, alone)
    with pytest.raises(common.InputError, match="has no task 'other' of a sample"):
        similarity.with_references([samples[0] | {"task_id": "other"}], config)
    with pytest.raises(common.InputError, match="every sample was cut off"):
        similarity.with_references([samples[0] | {"terminated": False}], config)
    task = common.read_jsonl(config.references, {})[0]  # its prompt gives the first line
    given, *rest = common.lines_of(task["solution"])
    common.write_jsonl(tmp_path / "given.jsonl", [task | {"prefix": given}])
    config = dataclasses.replace(config, references=str(tmp_path / "given.jsonl"))
    (row,) = similarity.with_references([samples[0]], config)
    assert row["reference"] == "".join(rest)


def test_texts_that_grow_are_held_against_the_model_s_length(stages, tmp_path, monkeypatch):
    monkeypatch.setattr(common, "check_length", stopped)
    tasks = common.read_jsonl(stages.path("train.jsonl"), {})
    tokenizer = common.load_tokenizer(stages.path("sft"))
    rollout = rollout_of([""], tokenizer)._replace(tasks=tuple(tasks[:1]), openings=("",))
    with pytest.raises(common.InputError, match="stopped"):
        references.learn(None, tokenizer, rollout, [[0]], 1.0)
    _, config = stages.ppo("unused", run.load(["pruning"]))
    with pytest.raises(common.InputError, match="stopped"):
        pruning.pruned(tasks, tokenizer, config)
    files = (stages.path("train.jsonl"), stages.path("sft"), str(tmp_path / "pairs.jsonl"))
    with pytest.raises(common.InputError, match="stopped"):
        mcts.main(mcts.Config(*files, num_tasks=1))


def test_pruning_keeps_one_of_the_tasks_that_are_alike(stages):
    points = torch.tensor([[0.0, 0], [0, 0], [5, 5], [5, 5.1], [9, 0]])
    kept = pruning.thin_out(points, 3)
    assert len({0, 1} & set(kept)) == len({2, 3} & set(kept)) == 1 and 4 in kept
    clusters = pruning.clusters_of(torch.cat([points, points + 100]), 2, seed=0)
    assert sorted(map(sorted, clusters)) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    tasks = common.read_jsonl(stages.path("train.jsonl"), {})
    tokenizer = common.load_tokenizer(stages.path("sft"))
    module = run.load(["pruning"])
    for how in ("diversity", "random"):
        _, config = stages.ppo("unused", module, keep_tasks=0.5, prune_by=how, num_clusters=3)
        found = pruning.pruned(tasks + tasks, tokenizer, config)
        assert len(found) == len(tasks) == 16
        if how == "diversity":  # each task is there twice
            assert len({task["task_id"] for task in found}) >= 15


def test_soft_values_are_consistent_on_paths_where_the_loss_is_zero():
    module = run.load(["soft_q"])
    torch.manual_seed(0)
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[1, 3:] = False
    logprobs = -torch.rand(3, 5, dtype=torch.float64)
    rewards = torch.rand(3, 5, dtype=torch.float64) * mask
    values = torch.zeros(3, 5, dtype=torch.float64)
    for b in range(3):
        for t in reversed(range(int(mask[b].sum()))):
            after = values[b, t + 1] if t + 1 < int(mask[b].sum()) else 0
            values[b, t] = rewards[b, t] - logprobs[b, t] + after
    assert float(module.path_loss(logprobs, values, rewards, mask)) == pytest.approx(0, abs=1e-12)
    off = values.clone()
    off[0, 4] += 2  # both errors of one token, and the step before it
    assert float(module.path_loss(logprobs, off, rewards, mask)) == pytest.approx(2 + 2 + 2)


def test_soft_values_of_a_policy_are_its_logits(stages):
    module = run.load(["soft_q"])
    tasks = common.read_jsonl(stages.path("train.jsonl"), {})
    tokenizer = common.load_tokenizer(stages.path("sft"))
    _, config = stages.grpo("unused", module)
    policy = common.shard(common.load_policy(stages.path("sft"), config).eval(), config)
    rollout, rows = common.sample(policy, tokenizer, tasks, config, 0, "grpo"), [0, 5, 9]
    with torch.no_grad():
        logprobs, values = module.soft_values(policy, rollout, rows, 1.0)
        expected, _ = common.logprobs_of(policy, rollout, rows, 1.0)
    mask = rollout.mask[rows]
    torch.testing.assert_close(logprobs[mask], expected[mask], atol=1e-4, rtol=1e-4)
    ids = torch.tensor([rollout.prompts[5]])
    first = policy(input_ids=ids).logits[0, -1].logsumexp(-1)
    assert float(values[1, 0]) == pytest.approx(float(first), abs=1e-3)


def test_a_tree_is_searched_where_lines_do_well_or_are_little_tried():
    root = mcts.Node("")
    for line, value in (("a\n", 1.0), ("b\n", 0.0), ("a\n", 0.0), ("c\n", 0.0)):
        mcts.add([root], line, value)
    assert root.visits == 4 and root.q == 0.25 and root.children["a\n"].q == 0.5
    assert mcts.path_to_leaf(root, 0.0)[-1].prefix == "a\n"
    for _ in range(40):
        mcts.add([root], "a\n", 0.5)
    assert mcts.path_to_leaf(root, 1.0)[-1].prefix in ("b\n", "c\n")
    mcts.add([root, root.children["b\n"]], "d", 1.0)
    assert root.children["b\n"].q == 0.5 and mcts.is_end(root.children["b\n"].children["d"])
    pairs = [(best.prefix, worst.prefix) for best, worst in mcts.pairs_of(root, 0.0)]
    assert pairs == [("a\n", "c\n")] or pairs == [("b\n", "c\n")]
    before, leaf = root.visits, root.children["c\n"]
    mcts.add([root, leaf], "", 1.0)  # a program that ends after its last newline
    assert (root.visits, leaf.visits, leaf.q, leaf.children) == (before + 1, 2, 0.5, {})


@pytest.mark.parametrize("value", ["tests", "prm"])
def test_a_tree_search_writes_pairs_of_lines_after_the_same_lines(stages, value, tmp_path):
    output = tmp_path / "pairs.jsonl"
    flags = {"num_tasks": 6, "num_simulations": 3, "max_completion_length": 24, "value": value}
    flags |= {"prm": stages.path("prm") if value == "prm" else None}
    files = (stages.path("train.jsonl"), stages.path("sft"), str(output))
    mcts.main(mcts.Config(*files, **flags))
    pairs = common.read_jsonl(output, common.PAIR_FIELDS)
    assert pairs
    for row in pairs:
        chosen, rejected = (common.lines_of(row[side]) for side in ("chosen", "rejected"))
        assert chosen[:-1] == rejected[:-1] and chosen[-1] != rejected[-1]
        assert row["complete"] is False and row["meta"]["q_chosen"] > row["meta"]["q_rejected"]
        assert row["meta"]["samples"] == 12


def test_samples_after_thinking_that_the_prompt_opens_are_kept_and_judged_with_it(
    stages, tmp_path, monkeypatch
):
    monkeypatch.setattr(common, "opening_of", lambda *_: "<think>\n")
    flags = {"num_tasks": 4, "num_simulations": 1, "max_completion_length": 24, "value": "prm"}
    flags["prm"] = stages.path("prm")
    files = (stages.path("train.jsonl"), stages.path("sft"), str(tmp_path / "pairs.jsonl"))
    mcts.main(mcts.Config(*files, **flags))
    pairs = common.read_jsonl(tmp_path / "pairs.jsonl", common.PAIR_FIELDS)
    sides = [row[side] for row in pairs for side in ("chosen", "rejected")]
    assert sides and all(text.startswith("<think>\n") for text in sides)
    task = common.read_jsonl(files[0], {})[0]
    config = critic_sampling.Config(*files, "", "", max_completion_length=8)
    seed = critic_sampling.Seed("new", task, "")
    (row,) = critic_sampling.complete(config, files[1], [(task, 0, seed)])
    assert row["opening"] == "<think>\n" and row["solution"] == "<think>\n" + row["completion"]


def test_programs_that_pass_the_examples_are_refined_else_the_best_one_is_repaired():
    task = {"task_id": "a", "prompt": "Do it.\n", "tests": []}
    one = {"completion": "x\ny\nz\n", "solution": "one", "status": "passed"}
    one["scores"] = [0.1, 0.6, 0.9]
    two = {"completion": "u\r\nv\n", "solution": "two", "status": "passed", "scores": [0.2, 0.3]}
    bad = {"completion": "w\n", "solution": "bad", "status": "failed", "scores": [1.0]}
    refined = critic_sampling.seeds_of(task, [one, bad, two], 1)
    assert refined == [("refined", task, "x\ny\n"), ("refined", task, "u\n")]  # never the last line
    worse = two | {"status": "error", "scores": [2.0, 0.3]}  # the score at the end counts
    best, second = critic_sampling.seeds_of(task, [worse, bad], 2)
    assert best.origin == "repaired" and best.prefix == ""
    assert best.task["prompt"] == "Do it.\nWrong (failed):\nbad\nRight:\n"
    assert "two" in second.task["prompt"] and "Wrong (error)" in second.task["prompt"]
    assert critic_sampling.seeds_of(task, [worse, bad], 1) == [best]
    assert critic_sampling.best_prefix("x\n", [0.5]) == ""
    assert critic_sampling.seeds_of(task, [worse, bad], 0) == [("new", task, "")]


def test_critic_sampling_from_samples_to_samples(stages, tmp_path):
    tasks = common.read_jsonl(stages.path("train.jsonl"), {})[:6]
    common.write_jsonl(tmp_path / "tasks.jsonl", tasks)
    samples, broken = [], "def f(xs):\n    return nothing\n"
    for number, task in enumerate(tasks):  # the first three tasks have a program that passes
        other = (task["solution"], "passed") if number < 3 else ("def f(xs):\n    1 / 0\n", "error")
        for program, status in ((broken, "error"), other):
            row = {"task_id": task["task_id"], "completion": program, "solution": program}
            samples.append(row | {"status": status})
    common.write_jsonl(tmp_path / "verdicts.jsonl", samples)
    files = [str(tmp_path / name) for name in ("tasks.jsonl", "verdicts.jsonl")]
    outputs = [str(tmp_path / name) for name in ("critic.jsonl", "repairs.jsonl")]
    critic_data.main(critic_data.Config(*files, *outputs))
    labelled = common.read_jsonl(outputs[0], common.PRM_FIELDS)
    assert [set(row["labels"]) == {1.0} for row in labelled] == [False, True] * 3 + [False] * 6
    repairs = common.read_jsonl(outputs[1], {})
    assert len(repairs) == 9 and len({row["task_id"] for row in repairs}) == 9
    assert repairs[0]["solution"] == tasks[0]["solution"] and broken in repairs[0]["prompt"]

    output = tmp_path / "second.jsonl"
    models = (stages.path("sft"), stages.path("prm"), str(output))
    flags = {"num_samples": 3, "max_completion_length": 32, "repair_model": stages.path("sft")}
    config = critic_sampling.Config(*files, *models, **flags)
    critic_sampling.main(config)
    rows = common.read_jsonl(output, {})
    assert [row["task_id"] for row in rows] == [t["task_id"] for t in tasks for _ in range(3)]
    assert [row["origin"] for row in rows] == ["refined"] * 9 + ["repaired"] * 9
    for row, task in zip(rows[:9], [t for t in tasks[:3] for _ in range(3)], strict=True):
        first = common.lines_of(task["solution"])[0]
        assert row["completion"].startswith(first) and row["solution"].startswith(first)
    other = dataclasses.replace(
        config, repair_model=None, output_file=str(tmp_path / "third.jsonl")
    )
    critic_sampling.main(other)
    origins = [row["origin"] for row in common.read_jsonl(other.output_file, {})]
    assert origins == ["refined"] * 9 + ["new"] * 9
    with pytest.raises(common.InputError, match="no hidden test is left"):
        critic_sampling.main(dataclasses.replace(config, num_examples=99))
    common.write_jsonl(tmp_path / "verdicts.jsonl", [*samples, samples[0] | {"task_id": "other"}])
    fresh = [str(tmp_path / name) for name in ("other-critic.jsonl", "other-repairs.jsonl")]
    for stage, flags in ((critic_data, (*files, *fresh)), (critic_sampling, (*files, *models))):
        with pytest.raises(common.InputError, match=r"verdicts\.jsonl:13: .*no task 'other'"):
            stage.main(stage.Config(*flags))


RESUMED = ["completion_curriculum", "jump_start", "prime", "coderl", "similarity", "soft_q"]


@pytest.mark.parametrize("name", [*RESUMED, "dynamic_sampling"])
def test_a_study_that_was_cut_off_goes_on_as_if_it_had_not_been(stages, name, monkeypatch):
    flags = {"max_steps": 3, "save_steps": 2, "save_total_limit": 0}
    whole = run_study(stages, name, f"study-whole-{name}", **flags)
    save_model = common.save_model

    def cut_off(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(common, "save_model", cut_off)
    with pytest.raises(KeyboardInterrupt):
        run_study(stages, name, f"study-cut-{name}", **flags)
    monkeypatch.setattr(common, "save_model", save_model)
    resumed = run_study(stages, name, f"study-cut-{name}", **flags)
    one, other = weights_of(whole), weights_of(resumed)
    assert all(torch.equal(one[key], other[key]) for key in one)
    for row, again in zip(metrics_of(whole), metrics_of(resumed), strict=True):
        assert row | {"step_time": 0} == again | {"step_time": 0}


def test_every_flag_and_input_of_related_sh_exists(tmp_path):
    done = test_reproduce.bash(tmp_path, "reproduce/related.sh", SEEDS="0", JOBS="1")
    assert done.returncode == 0 and "failed" not in done.stderr, done.stderr
    used, missing = set(), []
    own = (mcts, critic_data, critic_sampling)
    scripts = {f"studies/{module.__name__.rpartition('.')[2]}.py": module for module in own}
    for line in (tmp_path / "commands.jsonl").read_text().splitlines():
        row = json.loads(line)
        script, *words = row["words"]
        missing += row["missing"]
        if script == "reproduce/related.py":
            continue
        if script in scripts:
            config, flags = scripts[script].Config, words
        else:
            config, flags = test_reproduce.config_class(script, words)
        if script == "studies/run.py":
            used |= set(words[: words.index("--tasks")])
        common.parse_flags(config, flags)
    assert (
        not missing
        and used >= RELATED
        and not list(tmp_path.glob("runs/related/0/ppo-tests/checkpoint-*"))
    )


def test_an_arm_of_related_sh_that_fails_is_named_and_holds_up_no_other(tmp_path):
    test_reproduce.bash(tmp_path, "-c", "true")  # lays the scripts out
    script = (tmp_path / "reproduce" / "related.sh").read_text()
    assert "grpo papo" in script
    broken = script.replace("grpo papo", "absent papo")
    (tmp_path / "broken.sh").write_text(broken.replace('"$(dirname "$0")/.."', str(tmp_path)))
    flags = {"SEEDS": "0 1", "JOBS": "2", "ARM": "papo rltf"}
    done = test_reproduce.bash(tmp_path, "broken.sh", **flags)
    names = {path.stem for path in tmp_path.glob("runs/related/jobs/*.done")}
    assert done.returncode == 1 and names == {"0-models", "0-rltf", "1-models", "1-rltf"}
    failed = [line for line in done.stderr.splitlines() if line.startswith("failed")]
    assert sorted(failed) == [f"failed: runs/related/jobs/{seed}-papo.log" for seed in (0, 1)]


def test_the_table_of_related_systems_gives_areas_and_says_what_is_not_shown(tmp_path, capsys):
    text = "ppo-tests | tests | ppo\nfgo | FGO | ppo fine_grained\nrl | RL=9 | ppo --x 1\n"
    curves = {"ppo-tests": [0.2, 0.4], "fgo": [0.3, 0.5], "rl": [0.2, 0.5]}
    for seed in range(3):
        ends = {"sft-0": 0.0}
        for arm, rates in curves.items():
            extra = 0.001 * seed if arm == "fgo" else 0.2 * (seed - 1) * (arm == "rl")
            ends |= {f"{arm}-{5 * (i + 1)}": rate + extra for i, rate in enumerate(rates)}
            (tmp_path / str(seed) / f"eval-{arm}").mkdir(parents=True)
            report = tmp_path / str(seed) / f"eval-{arm}" / "report.json"
            report.write_text(json.dumps({"pass@1": rates[-1]}))
        for name, rate in ends.items():
            (tmp_path / str(seed) / f"val-{name}").mkdir()
            report = tmp_path / str(seed) / f"val-{name}" / "report.json"
            report.write_text(json.dumps({"pass@1": rate}))
    related.inference_table(tmp_path)  # without its runs there is no table
    related.table(tmp_path, text)
    *_, base, fgo, rl, _, together = capsys.readouterr().out.strip().splitlines()
    assert "all 2 contrasts" in together and "is false: FGO. A contrast" in together
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in (base, fgo, rl)]
    assert cells[0][5] == "0.200 ± 0.000" and cells[0][6] == ""  # (0 + 2 * 0.2 + 0.4) / 4
    lines = related.changed_lines(["fine_grained"])
    assert cells[1][:5] == ["FGO", "`fine_grained`", str(lines), "", "3"] and 0 < lines <= 60
    assert cells[1][6].startswith("+0.076") and "not shown" not in cells[1][6]
    assert cells[2][3] == "9" and cells[2][6].endswith("not shown")
    (tmp_path / "0" / "val-fgo-5" / "report.json").unlink()  # a curve with a hole counts nowhere
    assert related.area_of(tmp_path / "0", "fgo") is None


def test_the_table_of_critic_sampling_compares_sixteen_samples_with_sixteen(tmp_path, capsys):
    names = ("references", "refined", "repaired")
    both = ["sixteen", *(f"both-{name}" for name in names)]
    for seed in range(2):
        for i, name in enumerate([*both, "first", *(f"second-{name}" for name in names)]):
            (tmp_path / str(seed) / f"eval-{name}").mkdir(parents=True)
            report = {"pass@1": 0.01 * i + 0.1 * seed, "pass@16": 0.5 + 0.1 * i + 0.2 * seed}
            (tmp_path / str(seed) / f"eval-{name}" / "report.json").write_text(json.dumps(report))
    related.inference_table(tmp_path)
    out = capsys.readouterr().out.strip().splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in out[-4:]]
    assert [row[1].split()[0] for row in cells] == ["0.090", "0.100", "0.110", "0.120"]
    assert [row[2].split()[0] for row in cells] == ["0.600", "0.700", "0.800", "0.900"]
    assert [row[3].split(" ")[0] for row in cells] == ["", "+0.100", "+0.200", "+0.300"]
    assert "2 seeds" in out[0]


def test_ppo_itself_knows_none_of_the_studies():
    flags = set(ppo.Config.__dataclass_fields__)
    assert not flags & {"process_form", "prm_ensemble", "prm_refresh", "value_rescale", "gae_unit"}
