"""Tokens per second of sampling next to `generate`, on a random Llama: a table, in Markdown.

    python bench/rollout.py [--rounds 5] [--hidden_size 128] [--layers 3] ...
    python bench/rollout.py --device cuda --dtype bfloat16 --rounds 2 --vocab_size 151936 \\
        --hidden_size 896 --layers 24 --head_dim 64 --kv_heads 2 --intermediate_size 4864

`generate` is what TRL's trainers sample with where no inference server runs; here `generate`
returns no log-probs. The others are loops of `kernels.sampling`. "One row per sample" copies the
prompt's cache for each sample, "shared rows" does not; "static cache" has one row per sample too,
and on CUDA replays a CUDA graph. On CUDA the static cache is the default, on a CPU shared rows are.
Greedy completions of all candidates are first compared with those of `generate` (in float32). Then
the candidates take turns. A figure is the median, of CPU time on a CPU (one thread) and of wall
time on a GPU. Only tokens up to the end of each completion count.

On CUDA the settings are large ones, of `generate` and the static cache alone. A last column is the
share of the card's memory bandwidth that the static cache uses: the least that its steps must read
(all weights a step; the keys and values of a sample's own past a token), divided by the time,
prefill included. The second command has the shape of Qwen2.5-0.5B.
"""

import argparse
import random
import sys
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest import mock

# Before the folder of this file, which would hide the package `kernels`.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from common.compiling import decoding_forward
from kernels import sampling
from kernels.masking import completion_mask


class Setting(NamedTuple):
    name: str
    prompts: int
    samples: int  # of each prompt
    shortest: int  # tokens of a prompt, at least
    longest: int  # at most
    new_tokens: int  # at most
    ending: float = 0.0  # share of the vocabulary that ends a completion


SETTINGS = [
    Setting("short prompts, equal lengths", 16, 4, 25, 40, 45),
    Setting("short prompts, 8 samples", 16, 8, 25, 40, 45),
    Setting("short prompts, ragged completions", 16, 4, 25, 40, 100, 0.04),
    Setting("512-token prompts, equal lengths", 4, 8, 512, 512, 64),
    Setting("512-token prompts, ragged completions", 4, 8, 300, 512, 128, 0.03),
    Setting("one sample a prompt", 64, 1, 25, 40, 45),
]
CUDA_SETTINGS = [
    Setting("16 prompts x 16, 512 tokens, equal lengths", 16, 16, 400, 512, 256),
    Setting("32 prompts x 8, 512 tokens, ragged completions", 32, 8, 400, 512, 768, 0.003),
]
BANDWIDTH = {"H100": 3.35, "H200": 4.8}  # TB/s, of the SXM cards' data sheets


def generate(model, prompts, num_samples, max_new_tokens, temperature, eos_ids, seeds):
    width = max(map(len, prompts))
    ids = [[0] * (width - len(p)) + p for p in prompts]
    attention = [[0] * (width - len(p)) + [1] * len(p) for p in prompts]
    ids, attention = (torch.tensor(x, device=model.device) for x in (ids, attention))
    torch.manual_seed(seeds[0])
    if temperature:
        how = {"do_sample": True, "temperature": temperature, "top_k": 0}
        how["num_return_sequences"] = num_samples
    else:
        how = {"do_sample": False}
        ids, attention = (x.repeat_interleave(num_samples, 0) for x in (ids, attention))
    how |= {"eos_token_id": eos_ids or None, "pad_token_id": 0}
    out = model.generate(ids, attention_mask=attention, max_new_tokens=max_new_tokens, **how)
    completions = out[:, width:]
    return completions, completion_mask(completions, eos_ids)


def one_row_per_sample(*args):
    with mock.patch.object(sampling, "_slots", lambda *_: 1):
        return sampling.sample(*args, _static=False)


CANDIDATES = {
    "generate": generate,
    "one row per sample": one_row_per_sample,
    "shared rows": partial(sampling.sample, _static=False),
    "static cache": partial(sampling.sample, _static=True),
}


def clock(device: torch.device) -> float:
    """Seconds: of CPU time on a CPU, of wall time on a GPU."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def build_model(args: argparse.Namespace) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=args.vocab_size,
        hidden_size=args.hidden_size,
        intermediate_size=args.intermediate_size or args.hidden_size * 11 // 4,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden_size // args.head_dim,
        num_key_value_heads=args.kv_heads or args.hidden_size // args.head_dim,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).to(args.device, getattr(torch, args.dtype)).eval()


def check_greedy(name: str, model, prompts, num_samples: int, eos_ids, seeds) -> None:
    inputs = (model, prompts, num_samples, 8, 0.0, eos_ids, seeds)
    completions = []
    for function in CANDIDATES.values():
        ids, mask, *_ = function(*inputs)
        completions.append(ids[mask])
    if not all(torch.equal(tokens, completions[0]) for tokens in completions):
        sys.exit(f"{name}: greedy completions differ from those of generate")


def bytes_read(model, prompts, num_samples: int, mask: torch.Tensor) -> int:
    """The least that decoding these samples, mask (P * G, T), one row each, must read."""
    config, size = model.config, model.dtype.itemsize
    weights = sum(p.numel() for p in model.parameters()) * size
    head_dim = config.hidden_size // config.num_attention_heads
    token = 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim * size
    lengths = mask.sum(1).tolist()
    # The first token comes from the prefill; the k-th reads the prompt and k - 1 tokens.
    past = sum(
        (n - 1) * len(prompts[i // num_samples]) + n * (n - 1) // 2 for i, n in enumerate(lengths)
    )
    return (max(lengths) - 1) * weights + past * token


def measure(
    model, prompts, setting: Setting, eos_ids, seeds, args
) -> tuple[dict[str, float], float]:
    """Tokens a second of each candidate, and bytes a second of the static cache: medians over
    args.rounds turns. A short turn before these does not count."""
    names = CANDIDATES if args.device.type == "cpu" else ("generate", "static cache")
    speeds, rates = {candidate: [] for candidate in names}, []
    for turn in range(args.rounds + 1):
        turn_seeds = [seed + 1000 * turn for seed in seeds]
        new_tokens = setting.new_tokens if turn else 16
        for candidate in names:
            start = clock(args.device)
            _, mask, *_ = CANDIDATES[candidate](
                model, prompts, setting.samples, new_tokens, 1.0, eos_ids, turn_seeds
            )
            seconds = clock(args.device) - start
            if turn:
                speeds[candidate].append(int(mask.sum()) / seconds)
            if turn and candidate == "static cache":
                rates.append(bytes_read(model, prompts, setting.samples, mask) / seconds)
    medians = {candidate: sorted(s)[len(s) // 2] for candidate, s in speeds.items()}
    return medians, sorted(rates)[len(rates) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", default=5, type=int)
    parser.add_argument("--hidden_size", default=128, type=int)
    parser.add_argument("--layers", default=3, type=int)
    parser.add_argument("--vocab_size", default=512, type=int)
    parser.add_argument("--head_dim", default=32, type=int)
    parser.add_argument("--kv_heads", type=int, help="default: as many as heads")
    parser.add_argument("--intermediate_size", type=int, help="default: 11/4 of the hidden size")
    parser.add_argument("--torch_compile", action="store_true", help="the static cache's step")
    parser.add_argument("--bandwidth", type=float, help="TB/s; default: by the card's name")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = build_model(args)
    if args.torch_compile:
        model.decoding_forward = decoding_forward(model)
    cuda = args.device.type == "cuda"
    device = torch.cuda.get_device_name(args.device) if cuda else "CPU, one thread"
    bandwidth = args.bandwidth or next((x for name, x in BANDWIDTH.items() if name in device), None)
    size = sum(p.numel() for p in model.parameters()) / 1e6
    about = f"{device}, torch {torch.__version__}, {args.dtype}, Llama of {size:.2f}M parameters"
    print(f"{about}; tokens per second\n")
    ours = "static cache" if cuda else "shared rows"
    names = ("generate", "static cache") if cuda else CANDIDATES
    columns = [*names, f"{ours} / generate", *(["share of bandwidth"] if cuda else [])]
    print("| | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    rng = random.Random(0)
    for setting in CUDA_SETTINGS if cuda else SETTINGS:
        prompts = []
        for _ in range(setting.prompts):
            length = rng.randint(setting.shortest, setting.longest)
            prompts.append([rng.randrange(args.vocab_size // 2) for _ in range(length)])
        num_ending = round(setting.ending * args.vocab_size)
        eos_ids = list(range(args.vocab_size - num_ending, args.vocab_size))
        seeds = list(range(setting.prompts * setting.samples))
        if args.dtype == "float32":  # in bf16 the layout of the batch decides ties
            check_greedy(setting.name, model, prompts, setting.samples, eos_ids, seeds)
        speeds, rate = measure(model, prompts, setting, eos_ids, seeds, args)
        cells = [f"{s:,.0f}" for s in speeds.values()]
        cells.append(f"{speeds[ours] / speeds['generate']:.2f}")
        if cuda:
            cells.append(f"{rate / (1e12 * bandwidth):.0%}" if bandwidth else "-")
        print(f"| {setting.name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
