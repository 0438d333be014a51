"""Tokens per second of sampling next to `generate`, on a small random Llama: a table, in Markdown.

    python bench/rollout.py [--device cuda] [--rounds 5] [--hidden_size 128] [--layers 3] ...

`generate` is what TRL's trainers sample with where no inference server runs; here `generate`
returns no log-probs. "One row per sample" is the decoding loop of `kernels.sampling` with a copy of
the prompt's cache for each sample. Greedy completions of all candidates are first compared with
those of `generate`. Then the candidates take turns. A figure is the median, of CPU time on a CPU
(one thread) and of wall time on a GPU. Only tokens up to the end of each completion count.
"""

import argparse
import random
import sys
import time
from pathlib import Path
from typing import NamedTuple
from unittest import mock

# Before the folder of this file, which would hide the package `kernels`.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from transformers import LlamaConfig, LlamaForCausalLM

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
        return sampling.sample(*args)


CANDIDATES = {
    "generate": generate,
    "ours, one row per sample": one_row_per_sample,
    "ours": sampling.sample,
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
        intermediate_size=args.hidden_size * 11 // 4,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden_size // 32,
        num_key_value_heads=args.hidden_size // 32,
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


def tokens_per_second(model, prompts, setting: Setting, eos_ids, seeds, args) -> list[float]:
    """The median of each candidate over args.rounds turns. A turn before these does not count."""
    speeds = {candidate: [] for candidate in CANDIDATES}
    for turn in range(args.rounds + 1):
        turn_seeds = [seed + 1000 * turn for seed in seeds]
        for candidate, function in CANDIDATES.items():
            start = clock(args.device)
            _, mask, *_ = function(
                model, prompts, setting.samples, setting.new_tokens, 1.0, eos_ids, turn_seeds
            )
            if turn:
                speeds[candidate].append(int(mask.sum()) / (clock(args.device) - start))
    return [sorted(s)[len(s) // 2] for s in speeds.values()]


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
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = build_model(args)
    device = torch.cuda.get_device_name() if args.device.type == "cuda" else "CPU, one thread"
    size = sum(p.numel() for p in model.parameters()) / 1e6
    about = f"{device}, torch {torch.__version__}, {args.dtype}, Llama of {size:.2f}M parameters"
    print(f"{about}; tokens per second\n")
    print("| | " + " | ".join(CANDIDATES) + " | ours / generate |")
    print("|---" * (len(CANDIDATES) + 2) + "|")
    rng = random.Random(0)
    for setting in SETTINGS:
        prompts = []
        for _ in range(setting.prompts):
            length = rng.randint(setting.shortest, setting.longest)
            prompts.append([rng.randrange(args.vocab_size // 2) for _ in range(length)])
        num_ending = round(setting.ending * args.vocab_size)
        eos_ids = list(range(args.vocab_size - num_ending, args.vocab_size))
        seeds = list(range(setting.prompts * setting.samples))
        if args.dtype == "float32":  # in bf16 the layout of the batch decides ties
            check_greedy(setting.name, model, prompts, setting.samples, eos_ids, seeds)
        speeds = tokens_per_second(model, prompts, setting, eos_ids, seeds, args)
        cells = " | ".join(f"{s:,.0f}" for s in speeds)
        print(f"| {setting.name} | {cells} | {speeds[-1] / speeds[0]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
