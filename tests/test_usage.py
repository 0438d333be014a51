"""--help: every flag once, in a group, with what it takes, its default and its words."""

import dataclasses
import importlib
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from common import InputFile, OutputDir, PositiveInt, UnitFloat
from common.usage import GROUPS, usage

ROOT = Path(__file__).parent.parent
STAGES = ["sft", "train_prm", "ppo", "grpo", "dpo", "eval", "eval_prm", "plot"]
METHODS = ["mutate", "search", "gold", "contrast", "rank"]
MODULES = [*STAGES, *(f"prm_data.{name}" for name in METHODS), "benchmarks.micro"]


@dataclass
class Config:
    data: InputFile  # rows
    # where results go
    output_dir: OutputDir
    kind: Literal["a", "b"] = "a"  # a is short;
    # b goes on here
    # A capital begins anew.
    share: UnitFloat = 0.5  # of all
    names: list[str] = field(default_factory=lambda: ["x", "y"])
    learning_rate: float = 1e-5
    seed: PositiveInt | None = None  # of draws
    fast: bool = False


def test_a_flag_has_its_values_its_default_and_the_words_beside_it():
    text = usage(Config)
    assert text.splitlines() == [
        "required:",
        "  --data  FILE",
        "      rows",
        "  --output_dir  FOLDER",
        "      where results go",
        "",
        "this stage:",
        "  --kind  a | b  (default: a)",
        "      a is short; b goes on here",
        "  --share  float in [0, 1]  (default: 0.5)",
        "      A capital begins anew. of all",
        "  --names  TEXT ...  (default: x y)",
        "  --fast  true | false  (default: false)",
        "",
        "training:",
        "  --learning_rate  float  (default: 1e-05)",
        "",
        "run:",
        "  --seed  int at least 1  (default: none)",
        "      of draws",
    ]


@pytest.mark.parametrize("name", MODULES)
def test_help_shows_every_flag_once_and_fits_a_terminal(name):
    config_class = importlib.import_module(name).Config
    text = usage(config_class)
    shown = re.findall(r"^  --(\w+)  ", text, re.MULTILINE)
    assert sorted(shown) == sorted(field.name for field in dataclasses.fields(config_class))
    assert all(len(line) <= 100 or line.startswith("  --") for line in text.splitlines())
    assert text.startswith(("required:", "this stage:"))


def test_a_group_s_flags_are_flags_of_a_stage():
    known = {
        field.name
        for name in MODULES
        for field in dataclasses.fields(importlib.import_module(name).Config)
    }
    for names in GROUPS.values():
        assert set(names.split()) <= known


def test_help_is_printed_by_the_script():
    run = subprocess.run([sys.executable, "dpo.py", "-h"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.startswith("DPO: ")
    assert "  --beta  float above 0  (default: 0.1)\n" in run.stdout


def test_help_into_a_closed_pipe_has_no_traceback():
    command = f"{sys.executable} dpo.py --help | true"
    run = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert run.stderr == ""
