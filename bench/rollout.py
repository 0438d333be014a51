"""Tokens per second of sampling next to `generate`, on a small random Llama: one table, in Markdown.

    python bench/rollout.py [--device cuda] [--rounds 5] [--hidden_size 128] [--layers 3] [--vocab_size 512]

`generate` is what TRL's trainers sample with where no inference server runs; it returns no log-probs here. "One row per
sample" is the decoding loop of `kernels.sampling` with a copy of the prompt's cache for each sample. The candidates take
turns; the figure is the median, of CPU time on a CPU (one thread) and of wall time on a GPU. Only tokens up to the
end of each completion count. Greedy completions are compared with those of `generate` first.
"""

import argparse
import random
import sys
import time
from pathlib import Path
from unittest import mock

sys.path[0] = str(
    Path(__file__).resolve().parents[1]
)  # this file's own folder would hide the package `kernels`

import torch  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

from kernels import sampling  # noqa: E402
from kernels.masking import completion_mask  # noqa: E402

# name, prompts, samples of each, prompt tokens from, to, new tokens at most, share of the vocabulary that ends a completion
SETTINGS = [
    ("short prompts, equal lengths", 16, 4, 25, 40, 45, 0.0),
    ("short prompts, 8 samples", 16, 8, 25, 40, 45, 0.0),
    ("short prompts, ragged completions", 16, 4, 25, 40, 100, 0.04),
    ("512-token prompts, equal lengths", 4, 8, 512, 512, 64, 0.0),
    ("512-token prompts, ragged completions", 4, 8, 300, 512, 128, 0.03),
    ("one sample a prompt", 64, 1, 25, 40, 45, 0.0),
]


def generate(model, prompts, num_samples, max_new_tokens, temperature, eos_ids, seeds):
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=model.device)
    attention = torch.tensor(
        [[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device
    )
    torch.manual_seed(seeds[0])
    if temperature:
        how = {
            "do_sample": True,
            "temperature": temperature,
            "top_k": 0,
            "num_return_sequences": num_samples,
        }
    else:
        how = {"do_sample": False}
        ids, attention = (x.repeat_interleave(num_samples, 0) for x in (ids, attention))
    out = model.generate(
        ids,
        attention_mask=attention,
        max_new_tokens=max_new_tokens,
        eos_token_id=eos_ids or None,
        pad_token_id=0,
        **how,
    )[:, width:]
    return out, completion_mask(out, eos_ids)


def one_row_per_sample(*args):
    with mock.patch.object(sampling, "_slots", lambda *_: 1):
        return sampling.sample(*args)


CANDIDATES = {
    "generate": generate,
    "ours, one row per sample": one_row_per_sample,
    "ours": sampling.sample,
}


def clock(device: torch.device) -> float:
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


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
    model = LlamaForCausalLM(config).to(args.device, getattr(torch, args.dtype)).eval()
    name = torch.cuda.get_device_name() if args.device.type == "cuda" else "CPU, one thread"
    size = sum(p.numel() for p in model.parameters()) / 1e6
    print(
        f"{name}, torch {torch.__version__}, {args.dtype}, Llama of {size:.2f}M parameters; tokens per second\n"
    )
    print(
        "| | "
        + " | ".join(CANDIDATES)
        + " | ours / generate |\n|---"
        + "|---" * (len(CANDIDATES) + 1)
        + "|"
    )
    rng = random.Random(0)
    for name, num_prompts, num_samples, low, high, new, ending in SETTINGS:
        prompts = [
            [rng.randrange(args.vocab_size // 2) for _ in range(rng.randint(low, high))]
            for _ in range(num_prompts)
        ]
        eos_ids = list(range(args.vocab_size - round(ending * args.vocab_size), args.vocab_size))
        seeds = list(range(num_prompts * num_samples))
        if args.dtype == "float32":  # bf16 ties break differently in another layout
            greedy = [
                f(model, prompts, num_samples, 8, 0.0, eos_ids, seeds)[:2]
                for f in CANDIDATES.values()
            ]
            for ids, mask in greedy[1:]:
                if not torch.equal(ids[mask], greedy[0][0][greedy[0][1]]):
                    sys.exit(f"{name}: greedy completions differ from those of generate")
        speed = {candidate: [] for candidate in CANDIDATES}
        for turn in range(args.rounds + 1):
            for candidate, function in CANDIDATES.items():
                start = clock(args.device)
                _, mask, *_ = function(
                    model, prompts, num_samples, new, 1.0, eos_ids, [s + 1000 * turn for s in seeds]
                )
                if turn:
                    speed[candidate].append(int(mask.sum()) / (clock(args.device) - start))
        median = [sorted(s)[len(s) // 2] for s in speed.values()]
        print(
            f"| {name} | "
            + " | ".join(f"{m:,.0f}" for m in median)
            + f" | {median[-1] / median[0]:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
