"""bench/memory.py: its predictions against peaks that PyTorch's allocator reports on a CPU."""

import argparse
import multiprocessing
import sys
import types
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import transformers
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._composable import checkpoint
from torch.distributed.fsdp import (
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))
import memory

from kernels import logprobs

CONFIG = transformers.Qwen2Config(
    hidden_size=128,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=384,
    vocab_size=4096,
    tie_word_embeddings=True,
)
ROWS, PROMPT, COMPLETION = 8, 32, 96


def allocated_peak(function) -> int:
    """The most bytes that `function` holds at a time, by the allocator's reports to a profiler."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        function()
    now = peak = 0
    events = profile.profiler.kineto_results.events()
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


def arguments(gradient_checkpointing=False, **flags):
    return argparse.Namespace(
        frozen_models=flags.get("frozen_models", 0),
        num_generations=ROWS,
        num_prompts=1,
        rollout_batch_size=ROWS,
        prompt_length=PROMPT,
        max_completion_length=COMPLETION,
        max_tokens_per_forward=ROWS * (PROMPT + COMPLETION),
        gradient_checkpointing=gradient_checkpointing,
    )


def measured_update(gradient_checkpointing: bool) -> int:
    """The peak of two optimiser steps of two micro-batches each, as the stages train: float32
    weights, sharded over a group of one process, and bfloat16 in a pass."""
    torch.set_num_threads(1)
    logprobs.CPU_TILE = logprobs.GPU_TILE
    ids = torch.arange(ROWS * (PROMPT + COMPLETION)).view(ROWS, -1)
    mask = torch.arange(PROMPT + COMPLETION).expand_as(ids) >= PROMPT

    def steps():
        model = transformers.AutoModelForCausalLM.from_config(CONFIG).eval()
        precision = MixedPrecisionPolicy(torch.bfloat16, reduce_dtype=torch.float32)
        for layer in memory.layers_of(model):
            if gradient_checkpointing:
                checkpoint(layer)
            fully_shard(layer, mp_policy=precision)
        fully_shard(model, mp_policy=precision, reshard_after_forward=True)
        model.completion_logprobs = types.MethodType(logprobs.completion_logprobs, model)
        register_fsdp_forward_method(model, "completion_logprobs")
        optimizer = torch.optim.AdamW(model.parameters())
        for number in range(4):
            logprob, _ = model.completion_logprobs(ids, mask)
            logprob.sum().backward()
            if number % 2:
                optimizer.step()
                optimizer.zero_grad()

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    peak = allocated_peak(steps)
    dist.destroy_process_group()
    return peak


@pytest.mark.slow
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_the_predicted_peak_of_an_update_is_the_measured_one(gradient_checkpointing):
    # In a process of its own: what an earlier run leaves would be freed, and subtracted.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        measured = pool.apply(measured_update, (gradient_checkpointing,))
    parts = memory.predict(CONFIG, "grpo", 1, arguments(gradient_checkpointing))
    predicted = sum(parts[f"update {name}"] for name in ("states", "gathered", "working"))
    assert predicted == pytest.approx(measured, rel=0.1)


def test_a_pass_on_fake_tensors_takes_the_bytes_of_one_on_real_tensors():
    lengths = (ROWS, PROMPT, COMPLETION, True)
    with FakeTensorMode():
        predicted = memory.update_bytes(CONFIG, *lengths)
    weights = 2 * memory.sizes_of(CONFIG)["policy"]
    measured = allocated_peak(lambda: memory.update_bytes(CONFIG, *lengths)) - weights
    assert predicted == pytest.approx(measured, rel=0.03)


def test_states_are_shared_by_the_processes_and_the_cache_is_of_a_process_s_samples():
    one, four = (memory.predict(CONFIG, "ppo", n, arguments(frozen_models=2)) for n in (1, 4))
    n = memory.sizes_of(CONFIG)
    trained, frozen = n["policy"] + n["critic"], 2 * n["critic"]
    assert one["rollout states"] == 12 * trained + 2 * frozen
    assert one["update states"] == 16 * trained + 2 * frozen == 4 * four["update states"]
    assert one["rollout gathered"] == four["rollout gathered"] == 2 * n["policy"]
    layers, heads, size = 4, 2, 32
    assert one["cache"] == 2 * 2 * layers * heads * size * ROWS * (PROMPT + COMPLETION)
    assert four["cache"] == one["cache"] / 4


@pytest.mark.parametrize(("name", "millions"), [("0.5B", 494.0), ("1.5B", 1543.7), ("7B", 7615.6)])
def test_the_built_in_shapes_are_those_of_the_published_models(name, millions):
    assert memory.sizes_of(memory.read_config(name))["policy"] / 1e6 == pytest.approx(
        millions, 1e-4
    )
