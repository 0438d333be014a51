"""Time and peak memory of the kernels next to naive forms and TRL's: tables, in Markdown.

    python bench/kernels.py [--device cuda] [--rounds 5] [--only logprobs]

TRL's rows appear where TRL is installed (`pip install trl`). The candidates of a table take turns:
a busy machine then hurts all of them alike. A figure is the median, of CPU time on a CPU (one
thread) and of wall time on a GPU. Memory is what a run on all tokens adds to the peak of a run on 8
tokens, in a process of its own (on a CPU read from /proc, so on Linux alone).
"""

import argparse
import inspect
import random
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

# Before the folder of this file, which would hide the package `kernels`.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from kernels.advantages import gae, group_advantages
from kernels.logprobs import token_logprobs
from kernels.masking import line_end_positions, line_index, line_table

try:
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction
except ImportError:
    ChunkedLogProbFunction = None

TOKENS, HIDDEN, VOCAB = 2048, 256, 32768
GAE_SHAPES = [(32, 64), (32, 512), (64, 2048), (8, 8192)]


def naive_logprobs(hidden, weight, targets):
    logp = F.log_softmax((hidden @ weight.T).float(), dim=1)
    return logp.gather(1, targets[:, None]).squeeze(1), -(logp.exp() * logp).sum(1)


def selective_logprobs(hidden, weight, targets):
    """z_y - logsumexp(z) of whole logits z, without log_softmax(z) and without an entropy."""
    logits = (hidden @ weight.T).float()
    return logits.gather(1, targets[:, None]).squeeze(1) - logits.logsumexp(1), None


def checkpointed_logprobs(hidden, weight, targets, chunk=128):
    parts = [
        checkpoint(selective_logprobs, h, weight, y, use_reentrant=False)[0]
        for h, y in zip(hidden.split(chunk), targets.split(chunk), strict=True)
    ]
    return torch.cat(parts), None


def trl_logprobs(hidden, weight, targets, columns=32768):
    """TRL's kernel. TRL's trainers call the kernel with tiles of 32768 columns."""
    settings = (1.0, columns, None, 1.0, ("entropy",))
    return ChunkedLogProbFunction.apply(hidden, weight, None, targets, *settings)[:2]


LOGPROBS: dict[str, Callable] = {
    "naive log_softmax, entropy": naive_logprobs,
    "gather - logsumexp, no entropy": selective_logprobs,
    "the same, checkpointed by 128 tokens": checkpointed_logprobs,
}
if ChunkedLogProbFunction:
    LOGPROBS |= {"TRL": trl_logprobs, "TRL, 4096 columns": partial(trl_logprobs, columns=4096)}
LOGPROBS["ours, entropy"] = token_logprobs


def trl_gae(rewards, values, gamma, lam):
    """The loop over columns of TRL's PPO trainer, for rows without masked positions."""
    last, reversed_advantages = 0, []
    for t in reversed(range(rewards.shape[1])):
        next_values = values[:, t + 1] if t < rewards.shape[1] - 1 else 0.0
        delta = rewards[:, t] + gamma * next_values - values[:, t]
        last = delta + gamma * lam * last
        reversed_advantages.append(last)
    advantages = torch.stack(reversed_advantages[::-1], dim=1)
    return advantages, advantages + values


def loop_group_advantages(rewards, groups):
    out = torch.zeros_like(rewards)
    for g in groups.unique():
        r = rewards[groups == g]
        out[groups == g] = (r - r.mean()) / (r.std() + 1e-4)
    return out


def decoded_line_index(tokenizer, ids, mask):
    """The line of each token by decoding every prefix of a completion."""
    rows = []
    for row, length in zip(ids.tolist(), mask.sum(1).tolist(), strict=True):
        prefixes = [tokenizer.decode(row[:t]) for t in range(length)]
        rows.append([len(re.findall(r"\r\n|\r|\n", prefix)) for prefix in prefixes])
    return rows


def clock(device: torch.device) -> float:
    """Seconds: of CPU time on a CPU, of wall time on a GPU."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def interleaved(
    candidates: dict[str, Callable], rounds: int, device: torch.device
) -> dict[str, float]:
    """Median seconds of each candidate over `rounds` turns. A turn before these does not count."""
    seconds = {name: [] for name in candidates}
    for turn in range(rounds + 1):
        for name, run in candidates.items():
            start = clock(device)
            run()
            if turn:
                seconds[name].append(clock(device) - start)
    return {name: sorted(s)[len(s) // 2] for name, s in seconds.items()}


def logprob_inputs(device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """hidden (TOKENS, HIDDEN), weight (VOCAB, HIDDEN), targets (TOKENS,)."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, HIDDEN, generator=generator)
    weight = torch.randn(VOCAB, HIDDEN, generator=generator) / HIDDEN**0.5
    targets = torch.randint(0, VOCAB, (TOKENS,), generator=generator)
    hidden, weight = (x.to(device).requires_grad_() for x in (hidden, weight))
    return hidden, weight, targets.to(device)


def forward_backward(function: Callable, hidden, weight, targets) -> None:
    hidden.grad = weight.grad = None
    function(hidden, weight, targets)[0].sum().backward()


def peak_memory(device: torch.device) -> float:
    """MB at the peak of this process so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    # Not ru_maxrss: a child process starts with its parent's.
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) / 2**10


def extra_memory(name: str, device: torch.device) -> float:
    """MB that a run on all tokens adds to the peak of a run on 8 tokens."""
    hidden, weight, targets = logprob_inputs(device)
    forward_backward(LOGPROBS[name], hidden[:8].detach().requires_grad_(), weight, targets[:8])
    before = peak_memory(device)
    forward_backward(LOGPROBS[name], hidden, weight, targets)
    return peak_memory(device) - before


def logprobs_table(rounds: int, device: torch.device) -> None:
    inputs = logprob_inputs(device)
    forward = {name: partial(f, *inputs) for name, f in LOGPROBS.items()}
    both = {name: partial(forward_backward, f, *inputs) for name, f in LOGPROBS.items()}
    with torch.no_grad():
        expected = naive_logprobs(*inputs)[0]
        for name, run in forward.items():
            torch.testing.assert_close(run()[0], expected, rtol=0, atol=1e-4, msg=name)
        forward_s = interleaved(forward, rounds, device)
    both_s = interleaved(both, rounds, device)
    print(f"\nLog-probs of {TOKENS} tokens, hidden size {HIDDEN}, vocabulary {VOCAB}, fp32\n")
    print("| | forward s | forward + backward s | extra MB |\n|---|---|---|---|")
    for name in LOGPROBS:
        command = [sys.executable, __file__, "--device", str(device), "--memory", name]
        memory = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"| {name} | {forward_s[name]:.2f} | {both_s[name]:.2f} | {memory:.0f} |", flush=True)


def gae_table(rounds: int, device: torch.device) -> None:
    print("\nGAE, ms a call\n\n| | " + " | ".join(f"{b} x {t}" for b, t in GAE_SHAPES) + " |")
    print("|---" * (len(GAE_SHAPES) + 1) + "|")
    columns = []
    for shape in GAE_SHAPES:
        generator = torch.Generator().manual_seed(0)
        rewards, values = torch.randn(2, *shape, generator=generator).to(device)
        full = torch.ones(shape, dtype=torch.bool, device=device)
        holes = (torch.rand(shape, generator=generator) < 0.9).to(device)
        candidates = {
            "reverse loop over columns (TRL)": partial(trl_gae, rewards, values, 1.0, 0.95),
            "ours": partial(gae, rewards, values, full, 1.0, 0.95),
            "ours, a tenth masked in the middle": partial(gae, rewards, values, holes, 1.0, 0.95),
        }
        columns.append(interleaved(candidates, 4 * rounds, device))
    for name in columns[0]:
        cells = " | ".join(f"{1e3 * c[name]:.3f}" for c in columns)
        print(f"| {name} | {cells} |", flush=True)


def other_table(rounds: int, device: torch.device) -> None:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    text = inspect.getsource(random) + inspect.getsource(textwrap)
    backend = ByteLevelBPETokenizer()
    backend.train_from_iterator([text], vocab_size=1000, show_progress=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend._tokenizer)
    stream = torch.tensor(tokenizer(text).input_ids)
    ids = stream[: 64 * 128].view(64, 128).to(device)
    mask = torch.ones_like(ids, dtype=torch.bool)
    table = line_table(tokenizer).to(device)
    rewards = torch.rand(512, generator=torch.Generator().manual_seed(0)).to(device)
    groups = torch.arange(64, device=device).repeat_interleave(8)

    def lines():
        line_end_positions(ids, mask, table, 64)
        return line_index(ids, mask, table)

    decode = partial(decoded_line_index, tokenizer, ids, mask)
    loop = partial(loop_group_advantages, rewards, groups)
    candidates = {
        "lines of 64 x 128 tokens: decode every prefix": decode,
        "lines of 64 x 128 tokens: ours, with the line ends": lines,
        "advantages of 64 groups of 8: loop over groups": loop,
        "advantages of 64 groups of 8: ours": partial(group_advantages, rewards, groups),
    }
    print("\n| | ms a call |\n|---|---|")
    for name, seconds in interleaved(candidates, rounds, device).items():
        print(f"| {name} | {1e3 * seconds:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--rounds", default=5, type=int)
    parser.add_argument("--only", choices=["logprobs", "gae", "other"])
    parser.add_argument("--memory", choices=list(LOGPROBS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.memory:
        print(extra_memory(args.memory, args.device))
        return
    name = torch.cuda.get_device_name() if args.device.type == "cuda" else "CPU, one thread"
    print(f"{name}, torch {torch.__version__}")
    for key, show in (("logprobs", logprobs_table), ("gae", gae_table), ("other", other_table)):
        if args.only in (None, key):
            show(args.rounds, args.device)


if __name__ == "__main__":
    main()
