"""Rollouts in parts: the number of samples that are decoded at a time changes no sample."""

import pytest
import torch

import common
import grpo
import ppo
from kernels import sampling

LINES = ["def f(x):\n    return x + 1\n", "for i in range(10):\n    print(i)\n"] * 20
TEXTS = ["def f(x):", "f", "for i in range(10):\n    print(i)", "return x", "x + 1"]


@pytest.fixture(scope="module")
def tokenizer():
    return common.new_tokenizer(LINES, 300)


@pytest.fixture
def policy(tokenizer):
    return common.new_model(tokenizer, 32, 2, seed=0).eval()


def roll_out(policy, tokenizer, **given):
    prompts = [tokenizer(text).input_ids for text in TEXTS]
    return common.roll_out(policy, tokenizer, prompts, 4, 24, 1.0, list(range(20)), **given)


@pytest.mark.parametrize("size", [4, 7, 8, 19, 20, 512])
def test_samples_do_not_depend_on_how_many_are_decoded_at_a_time(
    size, policy, tokenizer, monkeypatch
):
    given = {"stops": ("\n\n", "x"), "top_p": 0.9}
    whole = roll_out(policy, tokenizer, **given)
    assert len(set(whole.mask.sum(1).tolist())) > 5
    batches, sample = [], sampling.sample

    def spy(model, prompts, num_samples, *args, **kwargs):
        batches.append(len(prompts) * num_samples)
        return sample(model, prompts, num_samples, *args, **kwargs)

    monkeypatch.setattr(sampling, "sample", spy)
    parts = roll_out(policy, tokenizer, rollout_batch_size=size, **given)
    assert max(batches) <= size and sum(batches) == 20
    assert len(batches) == -(-5 // min(5, size // 4))
    for name in ("prompts", "completions", "texts", "openings"):
        assert getattr(parts, name) == getattr(whole, name)
    for name in ("ids", "mask", "terminated"):
        assert torch.equal(getattr(parts, name), getattr(whole, name))
    torch.testing.assert_close(parts.logprobs, whole.logprobs, rtol=0, atol=1e-5)


def test_a_rollout_of_no_prompts_is_empty(policy, tokenizer):
    rollout = common.roll_out(policy, tokenizer, [], 4, 8, 1.0, [], rollout_batch_size=8)
    assert rollout.ids.shape == (0, 0) and rollout.texts == []


@pytest.mark.parametrize("stage", [ppo, grpo])
def test_a_stage_decodes_at_most_so_many_samples_at_a_time(stage, policy, tokenizer, monkeypatch):
    sizes, sample = [], sampling.sample

    def spy(model, prompts, num_samples, *args, **kwargs):
        sizes.append(len(prompts) * num_samples)
        return sample(model, prompts, num_samples, *args, **kwargs)

    tasks = [{"task_id": str(i), "prompt": text} for i, text in enumerate(TEXTS)]
    common.roll_out(policy, tokenizer, [[3]], 1, 1, 1.0, [0])  # checks the policy
    monkeypatch.setattr(sampling, "sample", spy)
    config = stage.Config("", "", "", num_prompts=4, num_generations=4, max_completion_length=6)
    config.rollout_batch_size = 9
    common.sample(policy, tokenizer, tasks, config, 0, stage.__name__)
    assert sizes == [8, 8]
    assert stage.Config("", "", "").rollout_batch_size == 512


@pytest.mark.parametrize("stage", [ppo, grpo])
def test_a_group_that_is_not_decoded_at_a_time_is_refused(stage, tmp_path):
    config = stage.Config("none.jsonl", "none", str(tmp_path / "run"), rollout_batch_size=3)
    with pytest.raises(common.InputError, match="rollout_batch_size must be at least --num_gen"):
        stage.main(config)
    assert not (tmp_path / "run").exists()


def test_a_policy_is_checked_once_where_it_is_first_sampled_from(policy, tokenizer, monkeypatch):
    checked, check = [], sampling.check_sampling
    monkeypatch.setattr(sampling, "check_sampling", lambda m: (checked.append(m), check(m)))
    common.shard(policy)
    assert checked == []  # of use to a stage that does not sample
    for _ in range(2):
        roll_out(policy, tokenizer)
    assert checked == [policy]

    def forget_positions(model, args, given):
        if given.get("cache", given.get("past_key_values")) is not None:
            given["position_ids"] = torch.zeros_like(given["position_ids"])
        return args, given

    other = common.new_model(tokenizer, 32, 2, seed=0).eval()
    other.register_forward_pre_hook(forget_positions, with_kwargs=True)
    for _ in range(2):
        with pytest.raises(common.InputError, match="cannot be sampled from") as refusal:
            roll_out(other, tokenizer)
        assert "\n" not in str(refusal.value)
