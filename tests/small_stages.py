"""Small settings of every stage on the files of one folder, for tests of whole stages."""

import os
import subprocess
import sys
from pathlib import Path

import common
import grpo
import ppo
import sft
import train_prm
from benchmarks import micro
from prm_data import mutate
from studies import run


class Stages:
    """Each method gives a stage's module and its config: `stage.main(config)` runs it."""

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, name) -> str:
        return str(self.folder / name)

    def sft(self, output, **flags):
        flags = {
            "max_steps": 6,
            "train_batch_size": 8,
            "hidden_size": 64,
            "num_hidden_layers": 1,
            "vocab_size": 512,
            "warmup_steps": 2,
            "save_steps": 2,
            **flags,
        }
        return sft, sft.Config(
            tasks=self.path("train.jsonl"), output_dir=self.path(output), **flags
        )

    def train_prm(self, output, **flags):
        flags = {
            "max_steps": 4,
            "train_batch_size": 8,
            "save_steps": 2,
            "eval_steps": 2,
            "eval_fraction": 0.3,
            **flags,
        }
        config = train_prm.Config(
            data=self.path("prm.jsonl"),
            model_name_or_path=self.path("sft"),
            output_dir=self.path(output),
            **flags,
        )
        return train_prm, config

    def reinforcement(self, stage, output, **flags):
        flags = {
            "max_steps": 4,
            "num_prompts": 4,
            "max_completion_length": 24,
            "save_steps": 2,
            **flags,
        }
        config = stage.Config(
            tasks=self.path("train.jsonl"),
            model_name_or_path=self.path("sft"),
            output_dir=self.path(output),
            **flags,
        )
        return stage, config

    def ppo(self, output, stage=ppo, **flags):
        flags = {
            "prm": self.path("prm"),
            "value_init": "prm",
            "kl_coef": 0.05,
            "num_generations": 2,
            **flags,
        }
        return self.reinforcement(stage, output, **flags)

    def ppo_refresh(self, output, **flags):
        """PPO with everything that has a state of its own: a PRM that goes on learning from a
        window of rollouts."""
        flags = {
            "prm_refresh": 1,
            "prm_refresh_window": 12,
            "prm_refresh_steps": 2,
            "prm_refresh_batch_size": 5,
            "critic_warmup_steps": 1,
            **flags,
        }
        stage = run.load(["prm_refresh", "lambda_at_line_ends", "critic_warmup"])
        return self.ppo(output, stage, **flags)

    def grpo(self, output, stage=grpo, **flags):
        flags = {"reasoning_rm": self.path("rm"), "num_generations": 4, **flags}
        return self.reinforcement(stage, output, **flags)


def make_stages(folder: Path) -> Stages:
    """A folder with tasks, a policy, a PRM and a reasoning reward model, made by the stages."""
    stages = Stages(folder)
    sizes = {"num_sft_tasks": 1, "num_train_tasks": 16, "num_test_tasks": 10}
    lengths = {"max_steps": 3, "train_min_steps": 2}
    micro.main(micro.Config(output_dir=str(folder), **sizes, **lengths))
    # Until the policy knows some of the few tasks by heart.
    stage, config = stages.sft("sft", max_steps=140, learning_rate=4e-3, save_steps=50)
    stage.main(config)
    files = (stages.path("train.jsonl"), stages.path("prm.jsonl"))
    mutate.main(mutate.Config(*files, packing="program", max_variants_per_line=3))
    stage, config = stages.train_prm("prm")
    stage.main(config)
    rows = common.read_jsonl(folder / "train.jsonl", {})
    pairs = [
        {
            "task_id": row["task_id"],
            "prompt": row["prompt"],
            "chosen": row["prompt"],
            "rejected": "no\n",
        }
        for row in rows
    ]
    common.write_jsonl(folder / "pairs.jsonl", pairs)
    paths = (stages.path("pairs.jsonl"), stages.path("rm"), stages.path("sft"), "ranking")
    flags = {"eval_fraction": 0.3, "max_steps": 12, "train_batch_size": 8}
    train_prm.main(train_prm.Config(*paths, **flags))
    return stages


def run_on_two_processes(script: str, config, timeout: float) -> subprocess.CompletedProcess:
    """A stage's script under torchrun, with the flags of its config."""
    return run_on_processes(2, script, config, timeout)


def run_on_processes(
    count: int, script: str, config, timeout: float
) -> subprocess.CompletedProcess:
    words = []
    for name, value in vars(config).items():
        values = value if isinstance(value, list) else [value]
        if values:
            words += [f"--{name}", *("none" if item is None else str(item) for item in values)]
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
    return subprocess.run(
        [sys.executable, *launch, script, *words],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
