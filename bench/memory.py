"""Peak memory a GPU of a PPO or GRPO run, predicted from the policy's config.json alone.

The parts of a peak, with P parameters a model and W processes:

states    A trained model (policy; PPO's critic) keeps float32 weights, Adam's two moments and, in
          the update, gradients: 12 P / W and 4 P / W bytes. A frozen model (reference, reward
          models), taken to be of the policy's size, keeps bfloat16 weights: 2 P / W.
gathered  Rollout: the whole policy in bfloat16. Update: the bfloat16 parameters of two layers (one
          computes, the next one is fetched), and of what is in no layer (embedding, head).
cache     Keys and values of the samples that are decoded together.
working   What a pass allocates beside these: activations and the tiles of kernels/logprobs.py, or a
          decoding step with its logits. The pass runs on fake tensors, which have shapes and no
          storage, and the bytes that are alive at a time are counted.

A pass in a training step reads --max_tokens_per_forward padded tokens. Not counted: the CUDA
context, NCCL's buffers, what the allocator loses to fragments. On one H200 a PPO step of 0.5B had
15.4 GiB at its peak in the rollout (predicted 15.0), and 19.3 GiB in the update (predicted 19.1);
see bench/results/h200.md. tests/test_memory.py compares the numbers with the peak of an update that
PyTorch's allocator reports on a CPU: 89.1 MB against 85.1, and with gradient checkpointing 64.0
against 61.9.

    python bench/memory.py                                       # the shapes of Qwen2.5-Coder
    python bench/memory.py --model_name_or_path path/to/config_folder --stage grpo --world_size 8
"""

import argparse
import sys
import weakref
from pathlib import Path

# Before the folder of this file, which would hide the package `kernels`.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import transformers
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._composable import checkpoint
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kernels import draws, logprobs

GIB = 2**30
# config.json of Qwen2.5-Coder: hidden size, layers, heads, key-value heads, intermediate size,
# vocabulary, tied embeddings.
SHAPES = {
    "0.5B": (896, 24, 14, 2, 4864, 151936, True),
    "1.5B": (1536, 28, 12, 2, 8960, 151936, True),
    "7B": (3584, 28, 28, 4, 18944, 152064, False),
}
# Model, stage, processes: the recipes of reproduce/*_qwen.sh and smaller ones.
DEFAULTS = [
    ("0.5B", "ppo", 1),
    ("1.5B", "ppo", 1),
    ("7B", "ppo", 8),
    ("0.5B", "grpo", 1),
    ("1.5B", "grpo", 1),
    ("7B", "grpo", 8),
]


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are made inside, as long as they live: `now`, `peak`.

    Tensors that share a storage count once. Fake tensors count like real ones.
    """

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.storages = set()

    def _free(self, key: int, size: int) -> None:
        self.storages.discard(key)
        self.now -= size

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        # What an operation returns may be a view of what it was given.
        given = {storage._cdata for storage in storages_of((args, kwargs))}
        for storage in storages_of(result):
            key, size = storage._cdata, storage.nbytes()
            if key not in self.storages and key not in given:
                self.storages.add(key)
                weakref.finalize(storage, self._free, key, size)
                self.now += size
                self.peak = max(self.peak, self.now)
        return result


def storages_of(tree) -> list[torch.UntypedStorage]:
    """The storages of the tensors in nested tuples, lists and dictionaries."""
    return [x.untyped_storage() for x in tree_leaves(tree) if isinstance(x, torch.Tensor)]


def read_config(name: str):
    """The config of a built-in shape, or of a folder or hub name."""
    if name not in SHAPES:
        return transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
    hidden, layers, heads, kv_heads, intermediate, vocabulary, tied = SHAPES[name]
    return transformers.Qwen2Config(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=intermediate,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
        max_position_embeddings=32768,
    )


def new_model(config):
    """The policy in bfloat16, in eval mode: as the stages train it."""
    auto_class = transformers.AutoModelForCausalLM
    return auto_class.from_config(config, dtype=torch.bfloat16, trust_remote_code=False).eval()


def layers_of(model) -> list[torch.nn.Module]:
    """The modules that FSDP2 shards one by one."""
    names = set(model._no_split_modules or [])
    return [module for module in model.modules() if type(module).__name__ in names]


def size_of(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def sizes_of(config) -> dict[str, int]:
    """Numbers of parameters: of the policy, of a model with a head of one row in place of the
    policy's, of the largest layer, of what is in no layer."""
    with torch.device("meta"):
        model = new_model(config)
    layers = [size_of(layer) for layer in layers_of(model)]
    policy = size_of(model)
    return {
        "policy": policy,
        "critic": size_of(model.base_model) + config.hidden_size,
        "layer": max(layers),
        "root": policy - sum(layers),
    }


def update_bytes(
    config, rows: int, prompt_length: int, completion_length: int, gradient_checkpointing: bool
) -> int:
    """Peak of what a policy's forward and backward pass over rows of these lengths allocate.

    Gradients of layers are freed at once, as FSDP2 reduces them into the shards; those of embedding
    and head stay until the end of the backward pass.
    """
    with torch.device("cpu"):
        model = new_model(config)
        ids = torch.zeros(rows, prompt_length + completion_length, dtype=torch.long)

    def drop(parameter):
        parameter.grad = None

    for layer in layers_of(model):
        if gradient_checkpointing:
            checkpoint(layer)
        for parameter in layer.parameters():
            parameter.register_post_accumulate_grad_hook(drop)
    with LiveBytes() as live:
        # As completion_logprobs, whose selection of tokens has no shape without data.
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        hidden = hidden[:, prompt_length - 1 : -1].flatten(0, 1).clone()  # (N, H)
        targets = ids[:, prompt_length:].flatten()
        weight = model.get_output_embeddings().weight
        logprob, _ = logprobs.token_logprobs(hidden, weight, targets, tile=logprobs.GPU_TILE)
        del hidden
        logprob.sum().backward()
    return live.peak


@torch.no_grad()
def rollout_bytes(
    config, samples: int, num_generations: int, prompt_length: int, completion_length: int
) -> tuple[int, int]:
    """The KV cache of samples that are decoded together, and the peak of what the prefill of their
    prompts or one decoding step allocate beside the cache; both in bytes."""
    model, length = new_model(config), prompt_length + completion_length
    with LiveBytes() as live:
        ids = torch.zeros(-(-samples // num_generations), prompt_length, dtype=torch.long)
        model(input_ids=ids, use_cache=True, logits_to_keep=1)
    prefill = live.peak
    cache = transformers.StaticCache(config=config, max_cache_len=length)
    step = {
        "input_ids": torch.zeros(samples, 1, dtype=torch.long),
        "attention_mask": torch.zeros(samples, 1, 1, length, dtype=torch.bfloat16),
        "position_ids": torch.zeros(samples, 1, dtype=torch.long),
    }
    model(past_key_values=cache, use_cache=True, **step)  # makes the cache's tensors
    kept = sum(x.nbytes for layer in cache.layers for x in (layer.keys, layer.values))
    with LiveBytes() as live:
        logits = model(past_key_values=cache, use_cache=True, **step).logits
        draws.draw(logits, 1.0, torch.zeros(samples, 1, dtype=torch.float64))
    return kept, max(prefill - kept, live.peak)


def predict(config, stage: str, world_size: int, args: argparse.Namespace) -> dict[str, float]:
    """The parts of both peaks of a run, in bytes."""
    n = sizes_of(config)
    trained = n["policy"] + (n["critic"] if stage == "ppo" else 0)
    frozen = (2 if stage == "ppo" else 1) * n["critic"]  # reference and PRM; a reasoning RM
    if args.frozen_models is not None:
        frozen = args.frozen_models * n["critic"]
    num_generations = args.num_generations or (4 if stage == "ppo" else 8)
    samples = min(args.rollout_batch_size, -(-args.num_prompts * num_generations // world_size))
    lengths = (args.prompt_length, args.max_completion_length)
    rows = max(1, args.max_tokens_per_forward // sum(lengths))
    with FakeTensorMode():
        cache, decoding = rollout_bytes(config, samples, num_generations, *lengths)
        training = update_bytes(config, rows, *lengths, args.gradient_checkpointing)
    # The gradients of a layer in bfloat16, and in float32 where ranks sum them.
    reduced = 6 * n["layer"]
    # At the end of the backward pass those of embedding and head, when no activation is left.
    last = (2 + 4) * n["root"]
    return {
        "rollout states": (12 * trained + 2 * frozen) / world_size,
        "rollout gathered": 2 * n["policy"],
        "cache": cache,
        "rollout working": decoding,
        "update states": (16 * trained + 2 * frozen) / world_size,
        "update gathered": 2 * (2 * n["layer"] + n["root"]),
        "update working": max(training + reduced, last),
    }


def row_of(name: str, stage: str, world_size: int, args: argparse.Namespace) -> str:
    """A line of the table."""
    parts = predict(read_config(name), stage, world_size, args)
    gpus = "1 GPU" if world_size == 1 else f"{world_size} GPUs"
    rollout = [parts[k] for k in ("rollout states", "rollout gathered", "cache", "rollout working")]
    update = [parts[k] for k in ("update states", "update gathered", "update working")]
    cells = [f"{stage.upper()} {Path(name).name}, {gpus}"]
    cells += [f"**{sum(numbers) / GIB:.1f}**" for numbers in (rollout, update)]
    cells += [" + ".join(f"{n / GIB:.1f}" for n in numbers) for numbers in (rollout, update)]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model_name_or_path", help=f"{', '.join(SHAPES)}, or a config's folder")
    parser.add_argument("--stage", default="ppo", choices=["ppo", "grpo"])
    parser.add_argument("--world_size", default=1, type=int, help="GPUs")
    parser.add_argument("--prompt_length", default=512, type=int)
    parser.add_argument("--max_completion_length", default=1024, type=int)
    parser.add_argument("--num_prompts", default=64, type=int)
    parser.add_argument("--num_generations", type=int, help="4 in PPO, 8 in GRPO")
    parser.add_argument("--rollout_batch_size", default=512, type=int, help="samples of a GPU")
    parser.add_argument("--max_tokens_per_forward", default=16384, type=int)
    on = argparse.BooleanOptionalAction
    parser.add_argument("--gradient_checkpointing", default=True, action=on)
    parser.add_argument("--frozen_models", type=int, help="2 in PPO, 1 in GRPO")
    args = parser.parse_args()
    runs = DEFAULTS
    if args.model_name_or_path:
        runs = [(args.model_name_or_path, args.stage, args.world_size)]
    saved = "with" if args.gradient_checkpointing else "without"
    print(
        f"Predicted, GiB a GPU: prompt {args.prompt_length} + completion "
        f"{args.max_completion_length}, {args.num_prompts} prompts, {args.max_tokens_per_forward} "
        f"tokens a forward pass, {saved} gradient checkpointing\n"
    )
    print(
        "| | rollout | update | states + gathered + cache + working | states + gathered + working |"
    )
    print("|---|---|---|---|---|")
    for run in runs:
        print(row_of(*run, args), flush=True)


if __name__ == "__main__":
    main()
