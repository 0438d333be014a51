"""CPU seconds and peak memory of a step of grpo.py and of ppo.py next to TRL's trainers.

    python bench/step.py --trl_grpo_python trl116/bin/python --trl_ppo_python trl112/bin/python

The two flags name the Pythons of virtual environments: one with TRL's GRPOTrainer (`pip install
trl==1.16.0`), one with its PPOTrainer (`pip install trl==1.12.0`). A trainer without its flag is
left out, and its cell says so.

A step is a whole batch: rollout, scores, advantages, one update. All candidates have the same
random Llama, float32, the same 4 prompts of 64 tokens, 8 completions of 64 tokens of each prompt (a
random EOS ends a few earlier), the same rows in a micro-batch, one pass, AdamW, one thread, no
gradient checkpointing. PPO has a critic, a reference policy and an outcome reward model. grpo.py
and ppo.py run their main() with a sandbox that judges at once and at random. Each candidate is a
process of its own. The candidates take turns, step by step; a first turn does not count. Seconds
are the median of CPU time. Memory is the peak of the process, with all that it imports (VmHWM, so
on Linux alone).
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PROMPTS, SAMPLES, TOKENS = 4, 8, 64


class Setting(NamedTuple):
    name: str
    vocab_size: int
    rows: int  # of a micro-batch
    hidden_size: int = 256
    layers: int = 4


SETTINGS = [
    Setting("32k vocabulary, micro-batches of 8", 32768, 8),
    Setting("32k vocabulary, one micro-batch of 32", 32768, 32),
    Setting("vocabulary of 768, micro-batches of 8", 768, 8),
]


class Turns:
    """A worker's side of the turns: `boundary` is called where a step ends and the next begins."""

    def __init__(self):
        self.out = os.fdopen(os.dup(1), "w")  # the trainers' own lines go to stderr
        os.dup2(2, 1)
        self.start = None

    def say(self, value: object) -> None:
        print(value, file=self.out, flush=True)

    def boundary(self) -> None:
        """Says the CPU seconds of the step that ends, waits for a turn; at "stop" says the MB at
        the peak and ends the process."""
        self.say("ready" if self.start is None else time.process_time() - self.start)
        if sys.stdin.readline() != "go\n":
            status = Path("/proc/self/status").read_text()
            self.say(int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) / 1e3)
            os._exit(0)
        self.start = time.process_time()


def run_stage(name: str, folder: Path, rows: int, turns: Turns) -> None:
    """main() of grpo.py or ppo.py, with a sandbox that judges at once."""
    sys.path.insert(0, str(ROOT))
    from concurrent.futures import Future
    from importlib import import_module
    from unittest import mock

    import common
    import sandbox

    class Coin(mock.MagicMock):
        def submit(self, task, program):
            status = random.choice(["passed", "failed"])
            future = Future()
            future.set_result({"status": status, "passed": int(status == "passed"), "total": 1})
            return future

        def __enter__(self):
            return self

    sample = common.sample

    def sample_in_turn(*args):
        turns.boundary()
        return sample(*args)

    flags = {"outcome_reward": "orm", "orm": str(folder / "rm"), "kl_coef": 0.05}
    paths = (str(folder / "tasks.jsonl"), str(folder / "policy"), str(folder / f"run-{name}"))
    stage = import_module(name)
    config = stage.Config(
        *paths,
        max_steps=10**6,
        num_prompts=PROMPTS,
        num_generations=SAMPLES,
        max_completion_length=TOKENS,
        num_mini_batches=1,
        per_device_train_batch_size=rows,
        learning_rate=1e-6,
        save_steps=10**6,
        **(flags if name == "ppo" else {}),
    )
    with mock.patch.object(common, "sample", sample_in_turn), mock.patch("sandbox.Sandbox", Coin):
        assert sandbox.Sandbox is Coin
        stage.main(config)


def trl_parts(folder: Path, rows: int, turns: Turns) -> tuple:
    """What both trainers take: policy, tokenizer, prompts, the callback, arguments."""
    import transformers

    class Boundary(transformers.TrainerCallback):
        def on_train_begin(self, *args, **kwargs):
            turns.boundary()

        def on_step_end(self, *args, **kwargs):
            turns.boundary()

    policy = transformers.AutoModelForCausalLM.from_pretrained(folder / "policy", dtype="float32")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "policy")
    prompts = [json.loads(line)["prompt"] for line in open(folder / "tasks.jsonl")]
    arguments = {
        "output_dir": str(folder / "trl"),
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": PROMPTS * SAMPLES // rows,
        "learning_rate": 1e-6,
        "temperature": 1.0,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    return policy, tokenizer, prompts, Boundary(), arguments


def run_trl_grpo(folder: Path, rows: int, turns: Turns) -> None:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    def coin(completions, **columns):
        return [float(random.random() < 0.5) for _ in completions]

    policy, tokenizer, prompts, boundary, arguments = trl_parts(folder, rows, turns)
    config = GRPOConfig(
        num_generations=SAMPLES,
        max_completion_length=TOKENS,
        beta=0.0,
        max_steps=1000,
        logging_steps=1,
        **arguments,
    )
    GRPOTrainer(
        policy,
        coin,
        config,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=tokenizer,
        callbacks=[boundary],
    ).train()


def run_trl_ppo(folder: Path, rows: int, turns: Turns) -> None:
    import transformers
    from datasets import Dataset
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    policy, tokenizer, prompts, boundary, arguments = trl_parts(folder, rows, turns)
    scorer = transformers.AutoModelForSequenceClassification
    reference = transformers.AutoModelForCausalLM.from_pretrained(
        folder / "policy", dtype="float32"
    )
    reward_model, critic = (
        scorer.from_pretrained(folder / "policy", num_labels=1, dtype="float32") for _ in range(2)
    )
    config = PPOConfig(
        num_mini_batches=1,
        num_ppo_epochs=1,
        local_rollout_forward_batch_size=PROMPTS * SAMPLES,
        response_length=TOKENS,
        stop_token="eos",
        kl_coef=0.05,
        total_episodes=10**5,
        num_sample_generations=0,
        **arguments,
    )
    queries = [tokenizer(prompt).input_ids for prompt in prompts for _ in range(SAMPLES)]
    PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=reward_model,
        value_model=critic,
        train_dataset=Dataset.from_dict({"input_ids": queries}),
        callbacks=[boundary],
    ).train()


WORKERS = {
    "grpo.py": lambda *args: run_stage("grpo", *args),
    "ppo.py": lambda *args: run_stage("ppo", *args),
    "GRPOTrainer": run_trl_grpo,
    "PPOTrainer": run_trl_ppo,
}


def write_inputs(folder: Path, setting: Setting) -> None:
    """folder/policy, folder/rm (an outcome reward model) and folder/tasks.jsonl."""
    sys.path.insert(0, str(ROOT))
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    import common

    vocabulary = {f"w{i}": i for i in range(setting.vocab_size - 2)}
    vocabulary |= {"<pad>": len(vocabulary), "<eos>": len(vocabulary) + 1}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=setting.vocab_size,
        hidden_size=setting.hidden_size,
        intermediate_size=setting.hidden_size * 11 // 4,
        num_hidden_layers=setting.layers,
        num_attention_heads=setting.hidden_size // 32,
        num_key_value_heads=setting.hidden_size // 32,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=vocabulary["<eos>"],
        pad_token_id=vocabulary["<pad>"],
    )
    LlamaForCausalLM(config).save_pretrained(folder / "policy")
    reward_model = common.load_scorer(folder / "policy")
    torch.nn.init.normal_(common.head_of(reward_model).weight, std=0.02)
    reward_model.config.reward_model_kind = "orm"
    reward_model.save_pretrained(folder / "rm")
    for place in ("policy", "rm"):
        tokenizer.save_pretrained(folder / place)
    rng = random.Random(0)
    names = [f"w{i}" for i in range(setting.vocab_size - 2)]
    tasks = [
        {
            "task_id": str(number),
            "prompt": " ".join(rng.choices(names, k=TOKENS)),
            "entry_point": None,
            "solution": None,
            "setup": "",
            "style": "assert",
            "tests": ["assert True"],
            "timeout": None,
            "meta": {},
        }
        for number in range(PROMPTS)
    ]
    common.write_jsonl(folder / "tasks.jsonl", tasks)


class Candidate:
    """A worker process and the seconds of its steps."""

    def __init__(self, name: str, python: str, folder: Path, rows: int):
        self.name, self.seconds, self.log = name, [], folder / f"{name}.log"
        command = [python, __file__, "--worker", name, "--folder", str(folder)]
        command += ["--rows", str(rows)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )

    def hear(self) -> str:
        line = self.process.stdout.readline().strip()
        if not line:
            self.process.wait()
            sys.exit(f"{self.name} ended early:\n{self.log.read_text()[-3000:]}")
        return line

    def step(self) -> float:
        print("go", file=self.process.stdin, flush=True)
        return float(self.hear())

    def stop(self) -> float:
        """MB at the peak."""
        print("stop", file=self.process.stdin, flush=True)
        return float(self.hear())


def measure(setting: Setting, pythons: dict[str, str], rounds: int) -> dict:
    """(CPU seconds of a step, MB at the peak) of each candidate."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, setting)
        candidates = [Candidate(*item, folder, setting.rows) for item in pythons.items()]
        for candidate in candidates:
            assert candidate.hear() == "ready"
        for turn in range(rounds + 1):
            for candidate in candidates:
                seconds = candidate.step()
                if turn:
                    candidate.seconds.append(seconds)
        return {c.name: (sorted(c.seconds)[len(c.seconds) // 2], c.stop()) for c in candidates}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trl_grpo_python", help="a Python with trl.GRPOTrainer")
    parser.add_argument("--trl_ppo_python", help="a Python with trl.experimental.ppo.PPOTrainer")
    parser.add_argument("--rounds", default=3, type=int)
    parser.add_argument("--only", choices=["grpo", "ppo"])
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        sys.path.pop(0)  # the folder of this file hides packages by its files' names
        turns = Turns()
        import torch

        torch.set_num_threads(1)
        WORKERS[args.worker](args.folder, args.rows, turns)
        return
    pairs = {"grpo": ("GRPOTrainer", args.trl_grpo_python)}
    pairs["ppo"] = ("PPOTrainer", args.trl_ppo_python)
    print("| | ours, CPU s | TRL, CPU s | TRL / ours | ours, MB | TRL, MB | ours / TRL |")
    print("|---" * 7 + "|")
    for setting in SETTINGS:
        for name, (trainer, python) in pairs.items():
            if args.only not in (None, name):
                continue
            pythons = {f"{name}.py": sys.executable} | ({trainer: python} if python else {})
            found = measure(setting, pythons, args.rounds)
            (seconds, memory), theirs = found[f"{name}.py"], found.get(trainer)
            if theirs:
                cells = f"{seconds:.2f} | {theirs[0]:.2f} | {theirs[0] / seconds:.2f} | "
                cells += f"{memory:.0f} | {theirs[1]:.0f} | {memory / theirs[1]:.2f}"
            else:
                cells = f"{seconds:.2f} | no --trl_{name}_python | | {memory:.0f} | | "
            print(f"| {name}.py and {trainer}, {setting.name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
