"""Decoding with a static cache: the plain loop's tokens, by steps that a CUDA graph can hold."""

from unittest import mock

import pytest
import torch
import torch.distributed as dist
from test_sampling import EOS, LLAMA, PROMPTS, VOCAB, build, teacher_forced
from torch.distributed._composable import checkpoint
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM

from kernels import draws, sampling
from kernels.cuda_graph import recorded
from kernels.sampling import sample

PLAIN = ["llama", "qwen3", "eager", "absolute_positions"]
OTHERS = ["sliding_window", "no_position_ids", "local_layers", "alibi", "recurrent"]
SEEDS = list(range(20))


@pytest.fixture
def static_calls(monkeypatch) -> list[int]:
    """A number for each batch that is decoded with a static cache."""
    calls, decode_static = [], sampling._decode_static

    def spy(*args):
        calls.append(len(calls))
        decode_static(*args)

    monkeypatch.setattr(sampling, "_decode_static", spy)
    return calls


def rows_of_each_draw(monkeypatch) -> list[int]:
    """Rows of the batch at each draw of a token."""
    rows, draw = [], sampling._Samples.draw

    def spy(samples, logits, owner, *args):
        rows.append(len(owner))
        return draw(samples, logits, owner, *args)

    monkeypatch.setattr(sampling._Samples, "draw", spy)
    return rows


def stop_strings() -> torch.Tensor:
    """A table like `masking.stop_table`'s: the end is a token of 30 to 34, anywhere after one of 20
    to 29. The tokenizer knows fewer ids than the model."""
    table = torch.zeros(3, VOCAB - 4, dtype=torch.long)
    table[0, 20:30] = 1
    table[1], table[2] = 1, 2
    table[1, 30:35] = 2
    return table


def same(got, expected) -> None:
    assert torch.equal(got[0], expected[0]) and torch.equal(got[1], expected[1])
    torch.testing.assert_close(got[2], expected[2], rtol=0, atol=1e-5)


SETTINGS = {
    "sampled": {"temperature": 1.0},
    "greedy": {"temperature": 0.0, "eos_ids": [1, 2]},
    "nucleus": {"temperature": 0.8, "top_p": 0.7},
    "stop strings": {"temperature": 1.2, "stop": stop_strings(), "eos_ids": []},
    "no end": {"temperature": 1.0, "eos_ids": []},
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", PLAIN)
def test_tokens_are_those_of_the_plain_loop(name, setting, static_calls):
    model = build(name)
    given = {"prompts": PROMPTS, "num_samples": 4, "max_new_tokens": 40, "eos_ids": EOS}
    given |= {"seeds": SEEDS, "pad_id": 3} | SETTINGS[setting]
    same(sample(model, **given, _static=True), sample(model, **given))
    assert static_calls == [0]


@pytest.mark.parametrize(("look", "grow", "compact"), [(1, 1, 1.0), (3, 4, 0.8), (7, 100, 0.0)])
def test_growing_and_dropping_rows_change_nothing(look, grow, compact, monkeypatch, static_calls):
    model = build("llama")
    expected = sample(model, PROMPTS, 4, 30, 1.0, EOS[:2], SEEDS)
    lengths = expected[1].sum(1)
    assert lengths.min() < 10 and lengths.max() == 30
    for constant, value in (("LOOK", look), ("GROW", grow), ("STATIC_COMPACT", compact)):
        monkeypatch.setattr(sampling, constant, value)
    rows = rows_of_each_draw(monkeypatch)
    same(sample(model, PROMPTS, 4, 30, 1.0, EOS[:2], SEEDS, _static=True), expected)
    assert static_calls == [0]
    assert (min(rows) < 20) == (compact > 0)


def test_the_loop_ends_soon_after_every_sample_has_ended(monkeypatch):
    monkeypatch.setattr(sampling, "LOOK", 4)
    rows = rows_of_each_draw(monkeypatch)
    given = (PROMPTS, 2, 500, 1.0, list(range(0, VOCAB, 2)), list(range(10)))
    ids, mask, _ = sample(build("llama"), *given, _static=True)
    assert ids.shape[1] == mask.sum(1).max() <= len(rows) < ids.shape[1] + 4


@pytest.mark.parametrize("static", [False, True])
def test_progress_counts_each_token_and_each_sample_once(static):
    told = []
    _, mask, _ = sample(
        build("llama"),
        PROMPTS,
        4,
        40,
        1.0,
        EOS[:2],
        SEEDS,
        progress=lambda *numbers: told.append(numbers),
        _static=static,
    )
    drawn, ended = zip(*told, strict=True)
    assert sum(drawn) == mask.sum() and sum(ended) == 20 and len(told) > 1


@pytest.mark.parametrize("name", OTHERS)
def test_a_cache_that_is_not_plain_takes_the_plain_loop(name, static_calls):
    model = build(name)
    same(
        sample(model, PROMPTS, 4, 12, 1.0, EOS, SEEDS, _static=True),
        sample(model, PROMPTS, 4, 12, 1.0, EOS, SEEDS),
    )
    assert not static_calls


def test_a_model_that_asks_the_host_takes_the_plain_loop(monkeypatch, static_calls):
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    dynamic = LlamaForCausalLM(LlamaConfig(**LLAMA, rope_parameters=rope)).eval()
    mixture = build("llama")
    monkeypatch.setattr(type(mixture), "_can_compile_fullgraph", False)
    sample(mixture, PROMPTS, 1, 4, 1.0, EOS, SEEDS[:5], _static=True)
    monkeypatch.undo()
    sample(dynamic, PROMPTS, 1, 4, 1.0, EOS, SEEDS[:5], _static=True)
    assert not static_calls


# What makes the host wait for the device, or has a result whose shape depends on values.
FORBIDDEN = {
    "_local_scalar_dense",
    "is_nonzero",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
}


class Tape(TorchDispatchMode):
    """A CUDA graph on a CPU: records the operations of a step, each with the very tensors that it
    reads and writes; `replay` runs them again on these tensors, without the step's Python."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().removeprefix("aten::").split(".")[0]
        assert name not in FORBIDDEN, name
        assert name != "lift_fresh", "a tensor is made of numbers of the host"
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    def replay(self):
        for func, args, kwargs, out in self.calls:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                assert old.shape == new.shape
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def record_on_tape(monkeypatch) -> list[Tape]:
    """Steps are recorded on tapes; the first run of a recorded step is the recording."""
    tapes = []

    def record(step, device):
        step()
        tape = Tape()
        tapes.append(tape)

        def run():
            if tape.calls:
                return tape.replay()
            with tape:
                step()

        return run

    monkeypatch.setattr(sampling, "recorded", record)
    return tapes


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_recorded_step_can_be_replayed(setting, blocks, monkeypatch, static_calls):
    if blocks:
        monkeypatch.setattr(draws, "WHOLE", 16)
        monkeypatch.setattr(draws, "BLOCK", 9)
    model = build("llama")
    given = {"prompts": PROMPTS, "num_samples": 4, "max_new_tokens": 70, "eos_ids": EOS[:2]}
    given |= {"seeds": SEEDS} | SETTINGS[setting]
    expected = sample(model, **given)
    tapes = record_on_tape(monkeypatch)
    monkeypatch.setattr(sampling, "LOOK", 6)
    monkeypatch.setattr(sampling, "GROW", 32)
    same(sample(model, **given, _static=True), expected)
    assert static_calls == [0] and len(tapes) >= 2
    assert len(tapes[0].calls) > 100


def test_no_hook_of_activation_checkpointing_runs_in_a_step(static_calls):
    model, calls = build("llama"), []
    for layer in model.model.layers:
        checkpoint(layer)
        layer.register_forward_hook(lambda *_: calls.append(1))
    expected = sample(build("llama"), PROMPTS, 4, 12, 1.0, EOS, SEEDS)
    same(sample(model, PROMPTS, 4, 12, 1.0, EOS, SEEDS, _static=True), expected)
    assert static_calls == [0] and len(calls) == 2  # of the prefill
    model(input_ids=torch.tensor([[5, 6]])).logits.sum().backward()
    assert len(calls) >= 4


def sharded(policy: MixedPrecisionPolicy):
    model = build("llama")
    mesh = dist.init_device_mesh("cpu", (1,))
    for module in (*model.model.layers, model):
        fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    return model


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_the_steps_of_a_sharded_model_run_none_of_its_hooks(dtype, tmp_path, static_calls):
    plain = build("llama")
    expected = sample(plain, PROMPTS, 4, 12, 1.0, EOS, SEEDS)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = sharded(MixedPrecisionPolicy(param_dtype=dtype))
        calls = []
        model.model.layers[0].register_forward_pre_hook(lambda *_: calls.append(1))
        for module in (*model.model.layers, model):
            module.unshard()
        got = sample(model, PROMPTS, 4, 12, 1.0, EOS, SEEDS, _static=True)
        assert static_calls == [0] and len(calls) == 1  # the prefill
        if dtype is None:
            same(got, expected)
        else:
            assert next(model.parameters()).dtype == dtype
            forced = teacher_forced(plain, PROMPTS, 4, *got[:2], 1.0)
            torch.testing.assert_close(got[2], forced, rtol=0, atol=0.3)
        # The hooks are back: the forward pass gathers parameters, the backward frees them.
        model.reshard()
        ids = torch.tensor([[5, 6, 7, 8]])
        model(input_ids=ids).logits.sum().backward()
        assert len(calls) == 2
        assert all(parameter.grad is not None for parameter in model.parameters())
        with torch.no_grad():
            logits, whole = model(input_ids=ids).logits, plain(input_ids=ids).logits
        atol = 1e-5 if dtype is None else 0.3
        torch.testing.assert_close(logits.float(), whole, rtol=0, atol=atol)
        del model
    finally:
        dist.destroy_process_group()


def test_on_cuda_a_step_runs_once_on_a_side_stream_and_is_recorded_once():
    """The order of the calls, with stand-ins for CUDA's classes: no GPU runs here."""
    calls = []
    stand_ins = {name: mock.MagicMock() for name in ("Stream", "current_stream", "CUDAGraph")}
    stand_ins["stream"] = mock.MagicMock()
    stand_ins["stream"].return_value.__enter__.side_effect = lambda: calls.append("side stream")
    stand_ins["graph"] = mock.create_autospec(torch.cuda.graph)
    stand_ins["graph"].return_value.__enter__.side_effect = lambda: calls.append("recording")
    with mock.patch.multiple(torch.cuda, **stand_ins):
        run = recorded(lambda: calls.append("step"), torch.device("cuda"))
    assert calls == ["side stream", "step", "recording", "step"]
    assert run is stand_ins["CUDAGraph"].return_value.replay
