"""Models in bfloat16 and over ranks: precision, gradients, loading and saving part by part."""

import functools
import json
import multiprocessing
import os
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor

import common
from common import checkpoints, tensors
from kernels import sampling


@dataclass
class Config:
    output_dir: str = ""
    bf16: bool | None = True
    gradient_checkpointing: bool = False
    prm: str | None = None
    model_name_or_path: str = ""
    value_init: str = "none"
    save_total_limit: int = 1
    seed: int = 0


FLOAT32 = Config(bf16=False)
SIZES = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"num_key_value_heads": 2}
MIXTURE = {"num_local_experts": 4, "intermediate_size": 48}
TIED = {"tie_word_embeddings": True, "intermediate_size": 48}


@pytest.fixture(scope="module", autouse=True)
def group_of_one():
    """The process group that `shard` starts ends with this file."""
    yield
    common.end_distributed()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of models with random weights, whose heads are not zeros."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    made = {
        "tied": transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, **TIED)),
        "gpt2": transformers.GPT2LMHeadModel(
            transformers.GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=2)
        ),
        "neox": transformers.GPTNeoXForCausalLM(
            transformers.GPTNeoXConfig(**SIZES, intermediate_size=48)
        ),
        "mixture": transformers.MixtralForCausalLM(transformers.MixtralConfig(**SIZES, **MIXTURE)),
        "olmo": transformers.OlmoForCausalLM(transformers.OlmoConfig(**SIZES, **TIED)),
        "two_labels": transformers.Qwen2ForTokenClassification(
            transformers.Qwen2Config(**SIZES, **TIED, num_labels=2)
        ),
        "sequence": transformers.LlamaForSequenceClassification(
            transformers.LlamaConfig(**SIZES, **TIED, num_labels=1)
        ),
    }
    for name, model in made.items():
        model.save_pretrained(folder / name)
    scorer = common.load_scorer(folder / "olmo")
    torch.nn.init.normal_(scorer.score.weight)
    scorer.config.reward_model_kind = "prm"
    scorer.save_pretrained(folder / "prm")
    return folder


def whole_state(model) -> dict[str, torch.Tensor]:
    return {name: tensors.whole(tensor) for name, tensor in model.state_dict().items()}


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and the completions' mask, both (3, 12)."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 300, (3, 12), generator=generator)
    return ids, (torch.arange(12) >= 3).expand(3, 12)


def loaders(models) -> dict:
    """Every way to load a model: name -> function of a run's flags."""

    def policy(name):
        return lambda config: common.load_policy(models / name, config)

    def scorer(name):
        return lambda config: common.load_scorer(models / name, run_config=config)

    def critic(config):
        bf16 = bool(config and config.bf16)
        flags = Config(bf16=bf16, model_name_or_path=str(models / "tied"))
        return common.load_critic(flags, None)

    found = {f"policy {name}": policy(name) for name in ("tied", "gpt2", "neox", "mixture")}
    names = ("tied", "neox", "mixture", "olmo", "two_labels", "sequence", "prm")
    return found | {f"scorer {name}": scorer(name) for name in names} | {"critic": critic}


def test_a_model_that_is_read_after_sharding_is_the_model_that_is_loaded_whole(models):
    for name, load in loaders(models).items():
        expected = whole_state(load(None))
        model = load(Config())
        late = any(parameter.is_meta for parameter in model.parameters())
        assert late == (not name.endswith(("mixture", "neox")) or name == "scorer neox"), name
        trained = common.shard(model.eval(), Config(), trained=True)
        assert all(isinstance(parameter, DTensor) for parameter in trained.parameters())
        assert same(whole_state(trained), expected), name
        frozen = common.shard(load(Config()).eval(), Config())
        head = set(checkpoints.head_of(frozen).parameters()) if "policy" not in name else set()
        for parameter in frozen.parameters():
            assert parameter.dtype == (torch.float32 if parameter in head else torch.bfloat16)
        for key, value in whole_state(frozen).items():
            assert torch.equal(value, expected[key].to(value.dtype)), (name, key)


def test_a_policy_that_is_read_late_has_the_generation_config_of_its_folder(models, tmp_path):
    settings = {"eos_token_id": [1, 7, 9], "do_sample": True, "temperature": 0.6, "top_k": 20}
    tokenizer = common.new_tokenizer(["a b c\n"] * 3, 300)
    for name in ("tied", "mixture"):
        folder, saved = tmp_path / name, tmp_path / f"{name} saved"
        shutil.copytree(models / name, folder)
        (folder / "generation_config.json").write_text(json.dumps(settings))
        expected = common.eos_ids(common.load_policy(folder), tokenizer)
        policy = policy_of(tmp_path, Config(), name)
        assert common.eos_ids(policy, tokenizer) == expected == [1, 7, 9]
        checkpoints.save_weights(policy, saved)
        kept = json.loads((saved / "generation_config.json").read_text())
        assert kept | settings == kept
        (folder / "generation_config.json").unlink()
        assert common.eos_ids(policy_of(tmp_path, Config(), name), tokenizer) == common.eos_ids(
            common.load_policy(folder), tokenizer
        )


def test_without_bfloat16_one_process_has_neither_shards_nor_a_cast(models):
    model = common.load_policy(models / "tied", FLOAT32).eval()
    assert not any(parameter.is_meta for parameter in model.parameters())
    policy = common.shard(model, FLOAT32, trained=True)
    assert all(type(parameter) is torch.nn.Parameter for parameter in policy.parameters())
    assert same(whole_state(policy), whole_state(common.load_policy(models / "tied")))


def test_a_tensor_that_no_file_gives_is_not_left_empty(models):
    model = common.load_policy(models / "tied", Config())
    del model.weight_files["model.norm.weight"]
    with pytest.raises(KeyError, match=r"model\.norm\.weight"):
        common.shard(model, Config())


def policy_of(models, config, name="tied"):
    return common.shard(common.load_policy(models / name, config).eval(), config, trained=True)


def gradients_of(policy) -> dict[str, torch.Tensor]:
    logprobs, _ = policy.completion_logprobs(*batch())
    (-logprobs.sum() / 27).backward()
    return {name: tensors.whole(p.grad) for name, p in policy.named_parameters()}


def test_gradients_in_bfloat16_are_those_of_float32_within_two_per_cent(models):
    low = gradients_of(policy_of(models, Config()))
    high = gradients_of(policy_of(models, FLOAT32))
    for name, gradient in high.items():
        assert low[name].dtype == torch.float32
        assert (low[name] - gradient).norm() <= 0.02 * gradient.norm(), name


@pytest.mark.parametrize("bf16", [False, True])
def test_gradient_checkpointing_changes_no_gradient_no_name_and_no_sample(models, bf16):
    plain = policy_of(models, Config(bf16=bf16))
    policy = policy_of(models, Config(bf16=bf16, gradient_checkpointing=True))
    assert [n for n, _ in plain.named_parameters()] == [n for n, _ in policy.named_parameters()]
    layer, passes = policy.model.layers[0].input_layernorm, []
    layer.register_forward_hook(lambda *_: passes.append(1))
    assert same(gradients_of(plain), gradients_of(policy))
    assert len(passes) == 2  # forward, and again in the backward pass
    drawn = []
    for model in (plain, policy):
        common.unshard(model)
        drawn.append(sampling.sample(model, [[1, 2, 3], [4]], 2, 6, 1.0, [], [1, 2, 3, 4]))
        common.reshard(model)
    assert all(torch.equal(x, y) for x, y in zip(*drawn, strict=True))


def test_a_critic_learns_with_gradient_checkpointing(models):
    ids, _ = batch()
    gradients = []
    for flag in (False, True):
        config = Config(bf16=False, gradient_checkpointing=flag)
        critic = common.load_scorer(models / "two_labels", run_config=config).eval()
        critic = common.shard(critic, config, trained=True)
        critic(input_ids=ids).logits.square().sum().backward()
        gradients.append({name: p.grad for name, p in critic.named_parameters()})
    assert same(*gradients)


def test_the_first_ratio_in_bfloat16_is_exactly_one(models):
    policy = policy_of(models, Config())
    with torch.no_grad():
        old, _ = policy.completion_logprobs(*batch())
    new, _ = policy.completion_logprobs(*batch())
    assert new.requires_grad and new.dtype == torch.float32 and torch.equal(old, new)
    frozen = common.shard(common.load_policy(models / "tied", Config()).eval(), Config())
    assert torch.equal(frozen.completion_logprobs(*batch())[0], old)  # a reference: KL is 0


def test_scores_and_values_in_bfloat16_are_float32(models):
    ids, caches = batch()[0], []
    for name in ("two_labels", "prm"):  # a class of transformers, and a head of our own
        exact = common.load_scorer(models / name).eval()(input_ids=ids).logits
        for trained in (False, True):
            model = common.load_scorer(models / name, run_config=Config()).eval()
            backbone = getattr(model, "backbone", None) or model.model
            backbone.register_forward_hook(lambda *args: caches.append(args[-1].past_key_values))
            logits = common.shard(model, Config(), trained)(input_ids=ids).logits
            assert caches.pop() is None  # keys and values are not kept
            assert logits.dtype == torch.float32
            assert not torch.equal(logits, logits.bfloat16().float())
            torch.testing.assert_close(logits, exact, rtol=0.05, atol=0.05)


def test_a_rollout_gathers_once_and_frees_what_it_has_gathered(models, monkeypatch):
    policy = policy_of(models, Config())
    tokenizer = common.new_tokenizer(["a b c\n"] * 3, 300)
    gathered, sample = [], sampling.sample

    def watched(model, *args, **kwargs):
        weight = model.model.layers[0].mlp.up_proj.weight
        result = sample(model, *args, **kwargs)
        gathered.append(model.model.layers[0].mlp.up_proj.weight is weight)
        assert not isinstance(weight, DTensor) and weight.dtype == torch.bfloat16
        return result

    monkeypatch.setattr(sampling, "sample", watched)
    for _ in range(2):
        common.roll_out(policy, tokenizer, [[1, 2, 3]], 2, 5, 1.0, [1, 2])
        assert all(isinstance(parameter, DTensor) for parameter in policy.parameters())
        policy.completion_logprobs(*batch())[0].sum().backward()
        assert all(isinstance(parameter, DTensor) for parameter in policy.parameters())
    assert gathered == [True] * 3  # the first call checks the sampler with a rollout of its own


def test_files_have_at_most_their_size_and_are_read_by_transformers(models, tmp_path):
    for name in ("tied", "gpt2", "mixture"):
        folder = tmp_path / name
        policy = policy_of(models, Config(), name)
        checkpoints.save_weights(policy, folder, max_size=30_000)
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        files = sorted(set(index["weight_map"].values()))
        assert files == sorted(path.name for path in folder.glob("*.safetensors"))
        assert len(files) > 1 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
        for file in files:
            state = load_file(folder / file)
            assert len(state) == 1 or sum(x.nbytes for x in state.values()) <= 30_000
            assert {key: index["weight_map"][key] for key in state} == dict.fromkeys(state, file)
        expected = whole_state(common.load_policy(models / name))
        assert same(whole_state(common.load_policy(folder)), expected)
        published = transformers.AutoModelForCausalLM.from_pretrained(folder)
        assert published.dtype == torch.float32
        assert same(whole_state(published), expected)
        assert type(published).__name__ == published.config.architectures[0]


def test_a_file_of_every_dtype_is_what_safetensors_reads(tmp_path):
    state = {str(dtype): torch.arange(5).to(dtype) for dtype in tensors.DTYPES}
    state |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3), "row": torch.eye(4)[:, 1]}
    tensors.save_tensors(tmp_path, "x", state)
    read = load_file(tmp_path / "x.safetensors")
    assert same(read, state) and all(read[name].dtype == state[name].dtype for name in state)
    content = (tmp_path / "x.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert header.pop("__metadata__") == {"format": "pt"}
    for name, place in header.items():  # aligned, also where the file is mapped into memory
        assert (8 + length + place["data_offsets"][0]) % state[name].element_size() == 0


def test_moments_are_restored_from_several_files(models, tmp_path, monkeypatch):
    tokenizer = common.new_tokenizer(["a b c\n"] * 3, 300)
    for bf16 in (True, False):
        config = Config(str(tmp_path / str(bf16)), bf16=bf16)
        policies, optimizers = [policy_of(models, config) for _ in range(2)], []
        for policy in policies:
            optimizers.append({"policy": common.adamw(policy, 0.0)})
        gradients_of(policies[0])
        optimizers[0]["policy"].step()
        small_files = functools.partial(tensors.save_tensors, max_size=30_000)
        monkeypatch.setattr(common.runs, "save_tensors", small_files)
        common.save_checkpoint(config, 3, {"policy": policies[0]}, optimizers[0], tokenizer)
        checkpoint = Path(config.output_dir) / "checkpoint-3"
        assert len(list(checkpoint.glob("trainer-*.safetensors"))) > 1
        assert common.load_optimizers(checkpoint, {"policy": policies[1]}, optimizers[1]) == 3
        states = [optimizer["policy"].state_dict()["state"] for optimizer in optimizers]
        assert states[0] and states[0].keys() == states[1].keys()
        for number in states[0]:
            first, second = ({k: tensors.whole(v) for k, v in s[number].items()} for s in states)
            assert first["exp_avg"].any() and same(first, second)


def test_moments_of_a_tensor_that_the_model_does_not_have_are_refused(models, tmp_path):
    tokenizer = common.new_tokenizer(["a b c\n"] * 3, 300)
    config = Config(str(tmp_path), bf16=False)
    policy = policy_of(models, config)
    optimizers = {"policy": common.adamw(policy, 0.0)}
    gradients_of(policy)
    optimizers["policy"].step()
    common.save_checkpoint(config, 3, {"policy": policy}, optimizers, tokenizer)
    checkpoint = tmp_path / "checkpoint-3"
    state = load_file(checkpoint / "trainer.safetensors")
    moment = next(name for name in state if name.endswith("norm.weight/exp_avg"))
    state[moment.replace("norm", "layer_norm")] = state.pop(moment)
    save_file(state, checkpoint / "trainer.safetensors")
    with pytest.raises(common.InputError, match="cannot be resumed from: the models do not have"):
        common.load_optimizers(checkpoint, {"policy": policy}, optimizers)


# On two processes.


def spawn(function, *args) -> None:
    """Runs function(rank, *args) on two gloo ranks, as torchrun would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=on_rank, args=(r, port, function, args)) for r in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    assert [process.exitcode for process in ranks] == [0, 0]


def on_rank(rank: int, port: int, function, args: tuple) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common.distributed.start_distributed()
    function(rank, *args)
    common.end_distributed()


TWO_RANKS = ("policy tied", "policy mixture", "scorer prm", "critic")


def load_on_two_ranks(rank: int, models: Path, folder: Path) -> None:
    for name, load in loaders(models).items():
        if name not in TWO_RANKS:
            continue
        for bf16 in (True, False):
            expected = load_file(folder / f"{name}.safetensors")
            model = load(Config(bf16=bf16)).eval()
            model = common.shard(model, Config(bf16=bf16), trained=True)
            state = whole_state(model)
            assert same({key: state[key] for key in expected}, expected), name
            common.runs._save_pretrained(model, folder / name / str(bf16))
            del model
    critic = common.load_scorer(models / "two_labels", run_config=Config())
    frozen = common.shard(critic.eval(), Config())
    with torch.no_grad():
        logits = frozen(input_ids=batch()[0]).logits
    assert logits.dtype == torch.float32
    assert all(isinstance(parameter, DTensor) for parameter in frozen.parameters())
    torch.save(logits, folder / f"{rank}.pt")


@pytest.mark.slow
def test_two_processes_load_and_save_the_same_bits_as_one(models, tmp_path):
    for name in TWO_RANKS:
        model = loaders(models)[name](None)
        save_file(
            {key: p.data for key, p in model.named_parameters()}, tmp_path / f"{name}.safetensors"
        )
    spawn(load_on_two_ranks, models, tmp_path)
    for bf16 in ("True", "False"):
        for name in ("tied", "mixture"):
            saved = common.load_policy(tmp_path / f"policy {name}" / bf16)
            assert same(whole_state(saved), whole_state(common.load_policy(models / name)))
        saved = common.load_scorer(tmp_path / "scorer prm" / bf16)
        assert same(whole_state(saved), whole_state(common.load_scorer(models / "prm")))
    frozen = common.load_scorer(models / "two_labels", run_config=Config())
    with torch.no_grad():
        expected = common.shard(frozen.eval(), Config())(input_ids=batch()[0]).logits
    for rank in range(2):
        assert torch.equal(torch.load(tmp_path / f"{rank}.pt"), expected)


def peak_of(function) -> tuple:
    """The result of function(), and the bytes by which this process grew at most meanwhile."""
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM becomes VmRSS
    before = memory("VmRSS")
    return function(), memory("VmHWM") - before


def memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measure_on_two_ranks(rank: int, small: Path, large: Path, folder: Path) -> None:
    config = Config(bf16=False)

    def load(path):  # a policy is gathered once more, by the checks of `shard`
        model = common.load_scorer(path, run_config=config).eval()
        return common.shard(model, config, trained=True)

    for path in (small, large):  # the small model brings in all code
        model, loaded = peak_of(lambda path=path: load(path))
        save = functools.partial(checkpoints.save_weights, model, folder / "saved" / path.name)
        _, saved = peak_of(save)
    share = sum(p.to_local().nbytes for p in model.parameters())
    (folder / f"{rank}.json").write_text(json.dumps([share, loaded, saved]))


@pytest.mark.slow
def test_a_process_holds_its_share_and_twice_the_largest_tensor(tmp_path):
    sizes = {"num_attention_heads": 2, "num_hidden_layers": 3, "intermediate_size": 4096}
    for name, hidden_size, vocab_size in (("small", 64, 100), ("large", 1024, 24_000)):
        config = transformers.LlamaConfig(
            **sizes, hidden_size=hidden_size, vocab_size=vocab_size, tie_word_embeddings=True
        )
        transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / name)
    spawn(measure_on_two_ranks, tmp_path / "small", tmp_path / "large", tmp_path)
    largest = 24_000 * 1024 * 4
    for rank in range(2):
        share, loaded, saved = json.loads((tmp_path / f"{rank}.json").read_text())
        print(f"rank {rank}: share {share / 2**20:.0f} MiB, largest {largest / 2**20:.0f} MiB")
        print(f"loading {loaded / 2**20:.0f} MiB, saving {saved / 2**20:.0f} MiB more")
        assert share > 100e6 and loaded <= share + 2 * largest and saved <= 2 * largest


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sft", "train_prm", "ppo", "grpo"])
def test_a_stage_runs_in_bfloat16_and_resumes_to_the_same_weights(stages, name):
    flags = {"bf16": True, "gradient_checkpointing": True}
    stage, config = getattr(stages, name)(f"{name}-bf16", **flags)
    stage.main(config)
    folder = Path(config.output_dir)
    state = load_file(folder / "model.safetensors")
    assert all(tensor.dtype == torch.float32 for tensor in state.values())
    (folder / "config.json").unlink()  # as if the run had been killed after its checkpoint
    stage.main(config)
    assert same(state, load_file(folder / "model.safetensors"))
    rows = common.logged_metrics(folder)
    if name in ("ppo", "grpo"):
        assert all(row["val/ratio"] == pytest.approx(1.0, abs=0.2) for row in rows)
        difference = rows[0]["sampling/sampling_logp_difference/mean"]
        assert 1e-6 < difference < 0.02  # of bfloat16, between rollout and scoring
    else:
        _, plain = getattr(stages, name)(f"{name}-float32", bf16=False)
        stage.main(plain)
        losses = [[row["loss"] for row in common.logged_metrics(folder)]]
        losses.append([row["loss"] for row in common.logged_metrics(plain.output_dir)])
        assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.03)
