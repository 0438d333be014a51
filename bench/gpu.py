"""What one CUDA GPU does with a model of Qwen2.5-Coder-0.5B's shape: tables, in Markdown.

    python bench/gpu.py [--model_name_or_path FOLDER] [--num_prompts 32] [--tiny]

1. The card's peaks: a matrix product and a copy. The shares below are shares of these.
2. Training: forward and backward pass of a bfloat16 policy over float32 masters, as `shard` makes
   it, on a micro-batch of --max_tokens_per_forward tokens, and AdamW. The floating-point operations
   of a pass are 2 a parameter and token, and attention's; the output matrix's at the completions'
   tokens alone. Backward counts twice; what it computes a second time (logits, or everything under
   gradient checkpointing) does not count. The memory is torch's peak.
3. A step of ppo.py (policy, critic, reference, PRM) and of grpo.py by phase: main() on random
   prompts of 512 tokens, completions of 1,024, programs and all. The second of two steps counts.
   Memory by phase beside the prediction of bench/memory.py.

bench/rollout.py compares decoding with `generate`. --profile prints, in the place of 3, which
kernels the time of a training pass and of 64 decoded tokens goes to. --torch_compile is the stages'
flag. --tiny runs the same code on a CPU.
"""

import argparse
import contextlib
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

# Before the folder of this file, which would hide the package `kernels`.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import transformers

import common
import grpo
import ppo
import train_prm
from bench import memory
from kernels import sampling

GIB, DEVICE = 2**30, common.device()
ON_GPU = DEVICE.type == "cuda"
# Functions of `common` whose time is a phase of a step; what is left is "other".
PHASES = {
    "sample": "rollout",
    "score_policy": "score",
    "score_critic": "score",
    "score_lines": "score",
    "score_reasoning": "score",
    "verdicts_of": "verdicts",
    "logprobs_of": "update",
    "values_of": "update",
    "take_step": "update",
}


def now() -> float:
    if ON_GPU:
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds_of(function, repeats: int) -> float:
    function()
    start = now()
    for _ in range(repeats):
        function()
    return (now() - start) / repeats


def forget_peak() -> None:
    if ON_GPU:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak() -> float:
    """GiB of torch's tensors at the peak since `forget_peak`."""
    return torch.cuda.max_memory_allocated() / GIB if ON_GPU else float("nan")


def measure_peaks(size: int) -> float:
    """Prints what the card reaches; returns the operations a second of a bfloat16 product."""
    print("\n| peak | |\n|---|---|")
    rates = {}
    for name, dtype, precision in (
        ("float32", torch.float32, "highest"),
        ("TF32", torch.float32, "high"),
        ("bfloat16", torch.bfloat16, "high"),
    ):
        torch.set_float32_matmul_precision(precision)
        a, b = torch.randn(2, size, size, device=DEVICE, dtype=dtype)
        rates[name] = 2 * size**3 / seconds_of(lambda: a @ b, 5)  # noqa: B023
        print(f"| matrix product of {size}, {name} | {rates[name] / 1e12:.0f} TFLOP/s |")
    source = torch.randn(size * size * 8, device=DEVICE)
    target = torch.empty_like(source)
    rate = 2 * source.nbytes / seconds_of(lambda: target.copy_(source), 5)
    print(f"| copy, bytes read and written | {rate / 1e12:.2f} TB/s |", flush=True)
    return rates["bfloat16"]


def operations(config, rows: int, length: int, counted: int) -> int:
    """Floating-point operations of a forward pass over (rows, length) tokens: parameters that
    multiply, causal attention, and the output matrix at the `counted` tokens alone."""
    layers = memory.sizes_of(config)["layer"] * config.num_hidden_layers
    attention = 2 * config.num_hidden_layers * length * config.hidden_size
    head = 2 * counted * config.vocab_size * config.hidden_size
    return rows * length * (2 * layers + attention) + head


def policy_and_batch(folder: Path, rows: int, length: int, **flags) -> tuple:
    """A policy as the stages train it, token ids (rows, length), and the mask of the completions:
    the last two thirds of each row."""
    flags = SimpleNamespace(bf16=True, **flags)
    policy = common.shard(common.load_policy(folder, flags).eval(), flags, trained=True)
    generator = torch.Generator(DEVICE).manual_seed(0)
    size = policy.config.vocab_size
    ids = torch.randint(2, size, (rows, length), device=DEVICE, generator=generator)
    mask = torch.ones_like(ids).bool()
    mask[:, : length // 3] = False
    return policy, ids, mask


def measure_training(folder: Path, rows: int, length: int, peak_rate: float, **flags) -> None:
    """Prints a row: a forward and backward pass, and an optimiser step, of a policy."""
    policy, ids, mask = policy_and_batch(folder, rows, length, **flags)
    optimizer = common.adamw(policy, weight_decay=0.0)

    def read_and_learn(cut: int = 0):
        logprobs, _ = policy.completion_logprobs(ids[:, cut:], mask[:, cut:])
        (-logprobs.sum() / mask.sum()).backward()

    start = now()
    for cut in (0, 1, 2):  # batches of other lengths: torch.compile's code is for all lengths
        read_and_learn(cut)
    first = now() - start
    common.take_step(policy, optimizer, 1.0)
    forget_peak()
    seconds = seconds_of(read_and_learn, 3)
    start = now()
    common.take_step(policy, optimizer, 1.0)
    step = now() - start
    share = 3 * operations(policy.config, rows, length, int(mask.sum())) / seconds / peak_rate
    saved = "".join(f", {name}" for name, value in flags.items() if value)
    if flags.get("torch_compile"):
        saved += f" (at first {first:.0f} s)"
    print(
        f"| {rows} x {length} tokens{saved} | {1e3 * seconds:.0f} ms | {1e3 * step:.0f} ms | "
        f"{rows * length / seconds:,.0f} | {share:.0%} | {peak():.1f} |",
        flush=True,
    )


def print_profile(title: str, function) -> None:
    """The 20 operations (on a GPU: kernels) that take most of a call's time, after a first call."""
    function()
    kinds = [torch.profiler.ProfilerActivity.CPU]
    kinds += [torch.profiler.ProfilerActivity.CUDA] if ON_GPU else []
    with torch.profiler.profile(activities=kinds) as profile:
        start = now()
        function()
        seconds = now() - start
    column = "self_device_time_total" if ON_GPU else "self_cpu_time_total"
    events = [e for e in profile.key_averages() if not ON_GPU or e.device_type.name == "CUDA"]
    events.sort(key=lambda event: -getattr(event, column))
    busy = sum(getattr(event, column) for event in events) / 1e3
    print(f"\n{title}: {1e3 * seconds:.1f} ms, {busy:.1f} ms in kernels\n\n| ms | calls | |")
    print("|---:|---:|---|")
    for event in events[:20]:
        name = event.key[:90].replace("|", " ")
        print(f"| {getattr(event, column) / 1e3:.2f} | {event.count} | `{name}` |")


def profile_all(folder: Path, rows: int, length: int, torch_compile: bool) -> None:
    policy, ids, mask = policy_and_batch(folder, rows, length, torch_compile=torch_compile)
    prompts = ids[:, : length // 3].tolist()
    seeds = list(range(len(prompts) * 16))

    def backbone():
        policy(input_ids=ids, use_cache=False, logits_to_keep=1).logits.float().sum().backward()

    def learn():
        policy.completion_logprobs(ids, mask)[0].sum().backward()

    def decode():
        common.unshard(policy)
        sampling.sample(policy, prompts, 16, 64, 1.0, [], seeds)
        common.reshard(policy)

    print_profile(f"Log-probs and their backward pass, {rows} x {length} tokens", learn)
    print_profile("The same without the output matrix", backbone)
    print_profile(f"Decoding 64 tokens of {len(seeds)} samples", decode)


@contextlib.contextmanager
def timed(phases: Counter, peaks: Counter):
    """Seconds and GiB of each phase of the steps that run inside; a rollout begins a new step."""

    def wrap(name: str, function):
        phase = PHASES[name]

        def inner(*args, **kwargs):
            if phase == "rollout":
                phases.clear(), peaks.clear()
                phases["step begins"] = now()
            forget_peak_of(phase)
            start = now()
            result = function(*args, **kwargs)
            phases[phase] += now() - start
            peaks[phase] = max(peaks[phase], peak())
            phases["step"] = now() - phases["step begins"]
            return result

        return inner

    last = [None]

    def forget_peak_of(phase: str) -> None:
        if phase != last[0]:
            forget_peak()
            last[0] = phase

    with contextlib.ExitStack() as stack:
        for name in PHASES:
            if hasattr(common, name):
                function = wrap(name, getattr(common, name))
                stack.enter_context(mock.patch.object(common, name, function))
        yield


def measure_stage(stage, flags: dict, args: argparse.Namespace) -> None:
    phases, peaks = Counter(), Counter()
    config = stage.Config(max_steps=2, num_mini_batches=2, save_steps=10**6, **flags)
    with timed(phases, peaks), contextlib.redirect_stdout(sys.stderr):
        stage.main(config)
    name = stage.__name__
    rows = common.logged_metrics(config.output_dir)
    row = rows[-1]
    tokens = row["completions/mean_length"] * config.num_prompts * config.num_generations
    phases["update"] = phases["step"] - sum(phases[x] for x in ("rollout", "score", "verdicts"))
    wanted = argparse.Namespace(
        frozen_models=None,
        num_generations=config.num_generations,
        num_prompts=config.num_prompts,
        rollout_batch_size=config.rollout_batch_size,
        prompt_length=args.prompt_length,
        max_completion_length=args.max_completion_length,
        max_tokens_per_forward=config.max_tokens_per_forward,
        gradient_checkpointing=config.gradient_checkpointing,
    )
    parts = memory.predict(memory.read_config(flags["model_name_or_path"]), name, 1, wanted)
    rollout = sum(parts[x] for x in parts if x.startswith("rollout") or x == "cache") / GIB
    update = sum(parts[x] for x in parts if x.startswith("update")) / GIB
    samples = config.num_prompts * config.num_generations
    print(
        f"| {name}.py, {samples} samples, {tokens / samples:.0f} tokens | {phases['step']:.1f} | "
        f"{phases['rollout']:.1f} | {phases['score']:.1f} | {phases['verdicts']:.1f} | "
        f"{phases['update']:.1f} | {tokens / phases['rollout']:,.0f} | "
        f"{peaks['rollout']:.1f} ({rollout:.1f}) | {peaks['update']:.1f} ({update:.1f}) | "
        f"{row['sampling/sampling_logp_difference/mean']:.1e} | {row['val/ratio']:.4f} |",
        flush=True,
    )


def make_inputs(folder: Path, args: argparse.Namespace) -> tuple[str, list[str]]:
    """The policy's folder, a new one of random weights unless a flag names one; words of its
    tokenizer."""
    if args.model_name_or_path:
        tokenizer = common.load_tokenizer(args.model_name_or_path)
        return args.model_name_or_path, [tokenizer.decode([i]) for i in range(1000, 3000)]
    memory.SHAPES["tiny"] = (56, 2, 14, 2, 96, 1000, True)
    config = memory.read_config("tiny" if args.tiny else "0.5B")
    text = Path(common.__file__).read_text()
    tokenizer = common.new_tokenizer([text], 400)
    config.update({"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None})
    config.update({"pad_token_id": tokenizer.pad_token_id})
    torch.manual_seed(0)
    with torch.device(DEVICE):
        policy = transformers.Qwen2ForCausalLM(config)
    policy.to(torch.bfloat16).save_pretrained(folder / "policy")
    tokenizer.save_pretrained(folder / "policy")
    return str(folder / "policy"), [f" {chr(97 + i % 26)}" for i in range(26)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model_name_or_path", help="a model's folder; default: random weights")
    parser.add_argument("--num_prompts", default=32, type=int)
    parser.add_argument("--prompt_length", default=512, type=int)
    parser.add_argument("--max_completion_length", default=1024, type=int)
    parser.add_argument("--tiny", action="store_true", help="a small shape, to try the script")
    parser.add_argument("--profile", action="store_true", help="where the time goes; no part 3")
    parser.add_argument("--skip_stages", action="store_true", help="without part 3")
    parser.add_argument("--torch_compile", action="store_true", help="as the stages' flag")
    parser.add_argument("--max_tokens_per_forward", default=16384, type=int)
    args = parser.parse_args()
    if args.tiny:
        args.num_prompts, args.prompt_length, args.max_completion_length = 4, 32, 24
    card = torch.cuda.get_device_name() if ON_GPU else "CPU"
    print(f"{card}, torch {torch.__version__}, transformers {transformers.__version__}")
    peak_rate = measure_peaks(256 if args.tiny else 8192)
    folder = Path(tempfile.mkdtemp())
    try:
        policy, words = make_inputs(folder, args)
        length = args.prompt_length + args.max_completion_length
        print("\n| training, bfloat16 | forward and backward | AdamW | tokens/s | of peak | GiB |")
        print("|---" * 6 + "|")
        for checkpointing in (False, True):
            rows = max(1, args.max_tokens_per_forward // length)
            flags = {"gradient_checkpointing": checkpointing, "torch_compile": args.torch_compile}
            measure_training(policy, rows, length, peak_rate, **flags)
            common.end_distributed()
        if args.profile:
            profile_all(policy, max(1, min(16, 16384 // length)), length, args.torch_compile)
            common.end_distributed()
        if args.profile or args.skip_stages:
            return
        rng, tokenizer = random.Random(0), common.load_tokenizer(policy)
        tasks = []
        for number in range(args.num_prompts):
            ids = tokenizer("".join(rng.choices(words, k=args.prompt_length))).input_ids
            prompt = tokenizer.decode(ids[: args.prompt_length - 2])
            tests = {"style": "assert", "tests": ["assert True"], "entry_point": None}
            row = {"task_id": str(number), "prompt": prompt, "solution": None, "setup": ""}
            tasks.append({**row, **tests, "timeout": None, "meta": {}})
        common.write_jsonl(folder / "tasks.jsonl", tasks)
        lines = ["def f(x):\n", "    y = x\n", "    return y + 1"]
        columns = {"prompt": "add", "completions": lines, "labels": [1, None, -1]}
        rows = [{"task_id": f"t{i}", **columns} for i in range(12)]
        common.write_jsonl(folder / "prm.jsonl", rows)
        texts = {"prompt": "add", "chosen": "".join(lines), "rejected": "def f(x):\n    return x"}
        pairs = [{"task_id": f"t{i}", **texts} for i in range(12)]
        common.write_jsonl(folder / "pairs.jsonl", pairs)
        for output, data, objective in (
            ("prm", "prm.jsonl", "regression"),
            ("reasoning_rm", "pairs.jsonl", "ranking"),
        ):
            flags = {"data": str(folder / data), "model_name_or_path": policy, "max_steps": 1}
            flags |= {"output_dir": str(folder / output), "objective": objective}
            with contextlib.redirect_stdout(sys.stderr):
                train_prm.main(train_prm.Config(**flags, train_batch_size=4, eval_fraction=0.3))
            common.end_distributed()
        print(
            "\n| a step, seconds | all | rollout | score | verdicts | update | tokens/s | "
            "GiB in rollout (predicted) | in update (predicted) | log-prob gap | ratio |"
        )
        print("|---" * 11 + "|")
        shared = {
            "tasks": str(folder / "tasks.jsonl"),
            "model_name_or_path": policy,
            "num_prompts": args.num_prompts,
            "max_completion_length": args.max_completion_length,
            "learning_rate": 1e-6,
            "prompt_format": "plain",
            "gradient_checkpointing": True,
            "torch_compile": args.torch_compile,
            "max_tokens_per_forward": args.max_tokens_per_forward,
            "per_device_train_batch_size": 64,
            "sandbox_workers": 2 if args.tiny else 8,
            "sandbox_timeout": 1.0,
        }
        mine = {"prm": str(folder / "prm"), "kl_coef": 0.05}
        measure_stage(ppo, {**shared, **mine, "output_dir": str(folder / "ppo")}, args)
        common.end_distributed()
        mine = {"reasoning_rm": str(folder / "reasoning_rm")}
        measure_stage(grpo, {**shared, **mine, "output_dir": str(folder / "grpo")}, args)
        common.end_distributed()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
