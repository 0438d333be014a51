"""Whole updates of stages against the formulas, a token at a time.

ppo.py and grpo.py run for two batches of two passes each. At each optimiser step the weights and
gradients are noted. Here each gradient is computed again: in float64, from a forward pass over each
text, with loops in the place of tensor code. Both get the same samples, verdicts and scores.
"""

import copy
import dataclasses
import hashlib
import itertools
import math
import shutil
from concurrent.futures import Future

import pytest
import torch
from transformers import AutoModelForCausalLM

import common
import sandbox

BATCH = {"max_steps": 2, "num_prompts": 3, "num_generations": 4, "num_mini_batches": 1}
BATCH |= {"max_completion_length": 16, "max_grad_norm": 1e9, "warmup_steps": 1, "save_steps": 50}
BATCH |= {"learning_rate": 3e-3, "temperature": 0.7}


def number_from(*key) -> float:
    """A number in [0, 1) that is a function of the key."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:4], "big") / 2**32


class Judge:
    """A sandbox that passes some programs in turn, and fails to judge some."""

    def __init__(self, **settings):
        self.number = 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def submit(self, task, program):
        self.number, future = self.number + 1, Future()
        turn = self.number % 7
        status = "harness_error" if turn == 3 else "failed" if turn in (2, 6) else "passed"
        passed = 8 if status == "passed" else turn
        future.set_result({"status": status, "passed": passed, "total": 8, "message": ""})
        return future


@pytest.fixture
def noted(monkeypatch) -> dict[str, list]:
    """What a run notes: `sample` and `verdicts_of` of each batch; and of each optimiser step of
    `policy` and `critic` the model before, its gradients, and the model after."""
    noted = {name: [] for name in ("sample", "verdicts_of", "line_ends", "policy", "critic")}

    def note(name: str) -> None:
        function = getattr(common, name)

        def noting(*args, **kwargs):
            noted[name].append(function(*args, **kwargs))
            return noted[name][-1]

        monkeypatch.setattr(common, name, noting)

    take_step = common.take_step

    def noting_step(model, optimizer, max_norm):
        assert max_norm == BATCH["max_grad_norm"]
        assert all(group["weight_decay"] == 0 for group in optimizer.param_groups)
        steps = noted["critic" if model.get_output_embeddings() is None else "policy"]
        gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
        before = copy.deepcopy(model).double()
        norm = take_step(model, optimizer, max_norm)
        steps.append((before, gradients, copy.deepcopy(model).double()))
        return norm

    for name in ("sample", "verdicts_of", "line_ends"):
        note(name)
    monkeypatch.setattr(common, "take_step", noting_step)
    monkeypatch.setattr(sandbox, "Sandbox", Judge)
    return noted


@pytest.fixture(scope="module")
def policy(stages) -> str:
    """A new policy, which writes anything."""
    tokenizer = common.load_tokenizer(stages.path("sft"))
    model = common.new_model(tokenizer, 32, 1, seed=3)
    for parameter in model.parameters():
        parameter.data *= 2  # sharper distributions
    common.save_model(model, tokenizer, stages.path("writes-anything"))
    return stages.path("writes-anything")


def logprobs_of(model, prompt, completion, temperature: float) -> torch.Tensor:
    """Log-probs (T,) of a completion's tokens."""
    logits = model(input_ids=torch.tensor([prompt + completion]), use_cache=False).logits[0]
    logp = torch.log_softmax(logits[len(prompt) - 1 : -1] / temperature, -1)
    return logp[torch.arange(len(completion)), torch.tensor(completion)]


def values_of(critic, prompt, completion) -> torch.Tensor:
    """Values (T,): what the critic says before each token of the completion."""
    logits = critic(input_ids=torch.tensor([prompt + completion])).logits[0, :, 0]
    return logits[len(prompt) - 1 : -1]


def surrogate(ratio: torch.Tensor, advantage: float, low: float, high: float):
    """min(r A, clip(r, 1 - low, 1 + high) A) of one token, by cases."""
    if advantage > 0 and float(ratio.detach()) > 1 + high:
        return (1 + high) * advantage
    if advantage < 0 and float(ratio.detach()) < 1 - low:
        return (1 - low) * advantage
    return ratio * advantage


def check_gradients(gradients: dict, loss: torch.Tensor, model) -> None:
    expected = torch.autograd.grad(loss, list(model.parameters()))
    size = math.sqrt(sum(float(g.square().sum()) for g in expected))
    assert size > 1e-3
    for (name, _), gradient in zip(model.named_parameters(), expected, strict=True):
        assert float((gradients[name] - gradient).norm()) <= 1e-3 * size, name


def check_steps(steps: list, learning_rate: float) -> None:
    """Steps alone change weights; Adam's first step moves a weight by the learning rate."""
    before, _, after = steps[0]
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    largest = max(float((x - y).detach().abs().max()) for x, y in pairs)
    assert largest == pytest.approx(learning_rate, rel=0.01)
    for (_, _, after), (before, _, _) in itertools.pairwise(steps):
        pairs = zip(after.parameters(), before.parameters(), strict=True)
        assert all(torch.equal(x, y) for x, y in pairs)


def batches_of(noted: dict):
    """For each batch: its number, the samples as (prompt, completion), the judged among them, the
    verdicts, the tokens that count."""
    for number, (rollout, verdicts) in enumerate(
        zip(noted["sample"], noted["verdicts_of"], strict=True)
    ):
        samples = list(zip(rollout.prompts, rollout.completions, strict=True))
        judged = [i for i, v in enumerate(verdicts.rows) if v["status"] != "harness_error"]
        assert len(judged) < len(samples) == 12
        yield number, samples, judged, verdicts.rows, sum(len(samples[i][1]) for i in judged)


GRPO = {
    "hard gate": {"beta": 0.2, "process_center": 0.4},
    "soft gate": {"gate": "soft", "process_weight": 0.6, "scale_rewards": "none"},
    "no gate": {"gate": "none", "scale_rewards": "leave_one_out"},
}


@pytest.mark.parametrize("case", GRPO)
def test_a_grpo_update_is_what_the_formulas_give(
    stages, policy, noted, case, monkeypatch, tmp_path
):
    scores = []  # of each batch; NaN for a text of another form

    def score_reasoning(model, tokenizer, rollout, config):
        luck = [number_from("reasoning", text) for text in rollout.texts]
        scores.append([math.nan if x < 0.15 else 8 * x - 5 for x in luck])
        return torch.tensor(scores[-1])

    monkeypatch.setattr(common, "score_reasoning", score_reasoning)
    flags = {**BATCH, "epsilon": 0.01, "epsilon_high": 0.05, **GRPO[case]}
    stage, config = stages.grpo(case, num_iterations=2, **flags)
    places = {"model_name_or_path": policy, "output_dir": str(tmp_path / "run")}
    config = dataclasses.replace(config, **places)
    stage.main(config)
    check_steps(noted["policy"], config.learning_rate)
    reference = AutoModelForCausalLM.from_pretrained(policy).double().eval()
    clipped = 0
    for number, samples, judged, verdicts, num_tokens in batches_of(noted):
        rewards = []  # ReCode, eq. 1 and its ablations
        for verdict, score in zip(verdicts, scores[number], strict=True):
            form = 0.0 if math.isnan(score) else 1.0
            process = form and 1 / (1 + math.exp(config.process_center - score))
            process *= config.process_weight
            passed, share = verdict["status"] == "passed", verdict["passed"] / verdict["total"]
            hard, soft = (form + gate + gate * process for gate in (passed, share))
            rewards.append(
                {"hard": hard, "soft": soft, "none": form + passed + process}[config.gate]
            )
        advantages = {}
        for i in judged:  # relative to the judged samples of the same prompt
            group = [rewards[j] for j in judged if j // 4 == i // 4]
            mean, others = sum(group) / len(group), max(len(group) - 1, 1)
            variance = sum((reward - mean) ** 2 for reward in group) / others
            advantages[i] = {
                "std": (rewards[i] - mean) / (math.sqrt(variance) + 1e-4),
                "none": rewards[i] - mean,
                "leave_one_out": rewards[i] - (sum(group) - rewards[i]) / others,
            }[config.scale_rewards] * (len(group) > 1)
        steps = noted["policy"][2 * number : 2 * number + 2]
        for model, gradients, _ in steps:
            loss = 0.0
            for i in judged:
                now = logprobs_of(model, *samples[i], config.temperature)
                old, ref = (
                    logprobs_of(other, *samples[i], config.temperature).detach()
                    for other in (steps[0][0], reference)
                )
                for t in range(len(now)):
                    ratio, d = (now[t] - old[t]).exp(), ref[t] - now[t]
                    term = surrogate(ratio, advantages[i], config.epsilon, config.epsilon_high)
                    clipped += isinstance(term, float)
                    loss = loss - term + config.beta * ratio * (d.exp() - d - 1)
            check_gradients(gradients, loss / num_tokens, model)
    assert clipped > 0


PPO = {
    "tests and PRM": {"kl_coef": 0.1, "lambda_fail": 0.5, "lambda_pass": 0.2},
    "PRM alone": {"outcome_reward": "none", "lambda_fail": 0.7, "value_init": "prm"},
    "ORM and PRM": {"outcome_reward": "orm", "lambda_fail": 0.3, "process_norm": "none"},
}


@pytest.mark.parametrize("case", PPO)
def test_a_ppo_update_is_what_the_formulas_give(stages, policy, noted, case, monkeypatch, tmp_path):
    scores, outcomes = [], []  # of each batch: (N, T), (N,)

    def score_lines(prm, rollout, batches, line_table, config):
        scores.append([[3 * number_from(i, t) - 1.5 for t in range(16)] for i in range(12)])
        return torch.tensor(scores[-1])[:, : rollout.ids.shape[1]]

    def score_outcomes(orm, rollout, batches, config):
        outcomes.append([2 * number_from("orm", i) - 1 for i in range(12)])
        return torch.tensor(outcomes[-1])

    monkeypatch.setattr(common, "score_lines", score_lines)
    monkeypatch.setattr(common, "score_outcomes", score_outcomes)
    flags = {"value_init": "policy", "kl_coef": 0.0, "gamma": 0.9, "lam": 0.7, **BATCH, **PPO[case]}
    flags |= {"cliprange": 0.02, "cliprange_value": 0.05, "value_learning_rate": 3e-2}
    if flags.get("outcome_reward") == "orm":
        flags["orm"] = shutil.copytree(stages.path("prm"), tmp_path / "orm")
        settings = (flags["orm"] / "config.json").read_text()
        changed = settings.replace('"reward_model_kind": "prm"', '"reward_model_kind": "orm"')
        (flags["orm"] / "config.json").write_text(changed)
        flags["orm"] = str(flags["orm"])
    stage, config = stages.ppo(case, num_ppo_epochs=2, **flags)
    places = {"model_name_or_path": policy, "output_dir": str(tmp_path / "run")}
    config = dataclasses.replace(config, **places)
    stage.main(config)
    check_steps(noted["policy"], config.learning_rate)
    check_steps(noted["critic"], config.value_learning_rate)
    reference = AutoModelForCausalLM.from_pretrained(config.model_name_or_path).double().eval()
    clipped = 0
    for number, samples, judged, verdicts, num_tokens in batches_of(noted):
        steps = noted["policy"][2 * number : 2 * number + 2]
        critic_steps = noted["critic"][2 * number : 2 * number + 2]
        ends = noted["line_ends"][number][0]
        advantages, returns, old_values = {}, {}, {}
        for i in judged:
            prompt, completion = samples[i]
            passed = verdicts[i]["status"] == "passed"
            known = passed and config.outcome_reward == "tests"
            weight = config.lambda_pass if known else config.lambda_fail
            outcome = {"tests": passed, "none": 0.0, "orm": outcomes[number][i]}
            num_lines = max(int(ends[i].sum()), 1) if config.process_norm == "lines" else 1
            old, ref = (
                logprobs_of(model, prompt, completion, config.temperature).tolist()
                for model in (steps[0][0], reference)
            )
            rewards = [-config.kl_coef * (old[t] - ref[t]) for t in range(len(completion))]
            for t in range(len(completion)):
                if ends[i, t]:
                    rewards[t] += weight * min(max(scores[number][i][t], -1), 1) / num_lines
            rewards[-1] += outcome[config.outcome_reward]
            v = values_of(critic_steps[0][0], prompt, completion).tolist()
            old_values[i], advantage, after = v, [0.0] * len(v), 0.0
            for t in reversed(range(len(v))):  # Schulman et al., 2016, eq. 16
                following = v[t + 1] if t + 1 < len(v) else 0.0
                after = (
                    rewards[t] + config.gamma * following - v[t] + config.gamma * config.lam * after
                )
                advantage[t] = after
            advantages[i] = advantage
            returns[i] = [a + x for a, x in zip(advantage, v, strict=True)]
        every = [a for advantage in advantages.values() for a in advantage]
        mean = sum(every) / num_tokens
        std = math.sqrt(sum((a - mean) ** 2 for a in every) / (num_tokens - 1))
        for (model, gradients, _), (critic, critic_gradients, _) in zip(
            steps, critic_steps, strict=True
        ):
            loss, value_loss = 0.0, 0.0
            for i in judged:
                now = logprobs_of(model, *samples[i], config.temperature)
                old = logprobs_of(steps[0][0], *samples[i], config.temperature).detach()
                values = values_of(critic, *samples[i])
                for t in range(len(now)):
                    limits = (config.cliprange, config.cliprange)
                    advantage = (advantages[i][t] - mean) / std
                    term = surrogate((now[t] - old[t]).exp(), advantage, *limits)
                    clipped += isinstance(term, float)
                    loss = loss - term
                    low, high = (old_values[i][t] + x for x in (-0.05, 0.05))
                    near = values[t].clamp(low, high)
                    errors = ((x - returns[i][t]).square() for x in (values[t], near))
                    value_loss = value_loss + 0.5 * torch.maximum(*errors)
            check_gradients(gradients, loss / num_tokens, model)
            check_gradients(critic_gradients, value_loss / num_tokens, critic)
    assert clipped > 0


@pytest.mark.parametrize("name", ["sft", "train_prm", "ppo", "grpo"])
def test_another_seed_is_another_run(stages, name):
    rows = []
    for seed in (0, 1):
        flags = {"max_steps": 1, "eval_fraction": 0.3} if name == "train_prm" else {"max_steps": 1}
        stage, config = getattr(stages, name)(f"{name}-seed-{seed}", seed=seed, **flags)
        config.model_name_or_path = stages.path("sft")  # not a new model with weights of its own
        stage.main(config)
        rows.append(common.logged_metrics(config.output_dir)[0] | {"step_time": 0})
    assert rows[0] != rows[1]


@pytest.fixture
def given_flags(monkeypatch):
    """Flags of a supervised run, of which each step of the run is then seen to make use."""
    steps, rates = [], []
    take_step, set_lr = common.take_step, common.set_lr
    monkeypatch.setattr(common, "take_step", lambda *x: steps.append(x) or take_step(*x))
    monkeypatch.setattr(common, "set_lr", lambda *x: rates.append(x[1]) or set_lr(*x))
    flags = {"learning_rate": 1e-3, "warmup_steps": 1, "weight_decay": 0.3, "max_grad_norm": 0.01}
    yield {"max_steps": 3, **flags}
    assert rates == pytest.approx([1e-3, 1e-3, 0.5e-3])  # warm-up, cosine
    assert all(max_norm == 0.01 for _, _, max_norm in steps)
    assert all(
        group["weight_decay"] == 0.3
        for _, optimizer, _ in steps
        for group in optimizer.param_groups
    )


def test_a_step_of_sft_is_that_of_the_mean_over_tokens_with_the_flags_of_the_run(
    stages, given_flags
):
    stage, config = stages.sft("sft-step", train_batch_size=4, **given_flags)
    config.model_name_or_path = stages.path("sft")
    stage.main(config)
    tokenizer = common.load_tokenizer(stages.path("sft"))
    policy, data = common.load_policy(stages.path("sft")), common.read_jsonl(config.tasks, {})
    total, tokens = 0.0, 0
    for i in common.draw(len(data), 4, 0, 0, "sft rows"):
        prompt = common.encode_prompt(tokenizer, data[i])
        text = common.encode_completion(tokenizer, data[i]["solution"])
        logits = policy(input_ids=torch.tensor([prompt + text])).logits[0, len(prompt) - 1 : -1]
        logp = logits.log_softmax(-1).gather(1, torch.tensor(text)[:, None])
        total, tokens = total - logp.sum(), tokens + len(text)
    (total / tokens).backward()
    grads = [p.grad for p in policy.parameters() if p.grad is not None]
    row = common.logged_metrics(config.output_dir)[0]
    assert row["loss"] == pytest.approx(float(total) / tokens, rel=1e-4)
    assert row["grad_norm"] == pytest.approx(
        float(torch.stack([g.norm() for g in grads]).norm()), rel=1e-3
    )


def test_a_step_of_train_prm_is_that_of_the_mean_over_lines_with_the_flags_of_the_run(
    stages, given_flags
):
    stage, config = stages.train_prm("prm-step", **given_flags)
    stage.main(config)
    first = common.logged_metrics(config.output_dir)[0]
    assert first["loss"] == pytest.approx(1, abs=1e-5)  # a head of zeros, labels of 1 and -1
