"""The scripts of reproduce/: every command's flags and input files exist, and arms are one line."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import common
import make_prm_data
import make_tasks
from studies import run as studies

sys.path.insert(0, str(Path(__file__).parent.parent / "reproduce"))
import tables

ROOT = Path(__file__).parent.parent
INPUTS = {"tasks", "model_name_or_path", "prm", "orm", "reasoning_rm", "data", "samples", "input"}
INPUTS |= {"from_verdicts", "compare", "plus", "pairs"}
# In the place of python and torchrun: notes a command, and the inputs that nothing has written yet;
# writes what the stage would write.
STUB = """
import json, sys
from pathlib import Path
script = next(i for i, word in enumerate(sys.argv) if i and word.endswith(".py"))
words, launched = sys.argv[script:], sys.argv[1:script]  # torchrun's flags come before the script
flags, values = {}, []
for word in words[1:]:
    if word.startswith("--"):
        values = flags.setdefault(word[2:], [])
    else:
        values.append(word)
paths = [path for name in INPUTS & set(flags) for path in flags[name] if "/" in path]
hub = ("Qwen/", "HuggingFaceTB/", "http:")
missing = [path for path in paths if not path.startswith(hub) and not Path(path).exists()]
with open("commands.jsonl", "a") as file:
    row = {"words": words, "missing": missing, "launched": launched}
    file.write(json.dumps(row) + "\\n")
files = ("output_file", "outcomes_file", "lines_file")
written = [path for name in files for path in flags.get(name, [])]
written += [path + ".progress" for path in written]
written += words[3:] if words[0] == "reproduce/rewrite.py" else []
for folder in flags.get("output_dir", []):
    names = ["config.json", "samples.jsonl", "verdicts.jsonl", "report.json", "metrics.jsonl"]
    names += [f"checkpoint-{step}/config.json" for step in (15, 25, 30, 45, 50, 75)]
    names += [f"{split}.jsonl" for split in ("sft", "train", "validation", "test")]
    written += [f"{folder}/{name}" for name in names]
for path in written:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text('{"rewards/format/mean": 0.5}\\n' * 1000)
"""


def bash(folder, *words, **variables):
    """Runs bash in a folder with a copy of reproduce/, and the stub for python and torchrun."""
    shutil.copytree(ROOT / "reproduce", folder / "reproduce", dirs_exist_ok=True)
    shutil.copy(ROOT / "requirements.txt", folder)
    (folder / "bin").mkdir(exist_ok=True)
    shutil.copy(ROOT / "requirements.txt", folder / "installed-requirements.txt")  # no pip
    (folder / "stub.py").write_text(STUB.replace("INPUTS", repr(INPUTS)))
    for name in ("python", "torchrun"):
        stub = f'#!/bin/sh\nexec {sys.executable} -S -E {folder / "stub.py"} "$@"\n'
        (folder / "bin" / name).write_text(stub)
        (folder / "bin" / name).chmod(0o755)
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    kept = {"PATH": path, "VIRTUAL_ENV": str(folder), "HOME": str(folder)}
    return subprocess.run(
        ["bash", *words],
        cwd=folder,
        env=kept | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )


def config_class(script, words):
    """The flags that a command's script takes."""
    if script == "studies/run.py":
        count = next(i for i, word in enumerate(words) if word.startswith("--"))
        return studies.load(words[:count]).Config, words[count:]
    if script == "make_prm_data.py":
        return make_prm_data.METHODS[words[words.index("--method") + 1]].Config, words
    if script == "make_tasks.py":
        return make_tasks.SOURCES[words[words.index("--source") + 1]].Config, words
    return importlib.import_module(script.removesuffix(".py")).Config, words


def check_commands(folder):
    """Each command's flags parse, its inputs are there, and each table's arms are evaluated."""
    rows = [json.loads(line) for line in (folder / "commands.jsonl").read_text().splitlines()]
    for words in {tuple(row["words"]) for row in rows}:
        script, flags = words[0], list(words[1:])
        if script == "reproduce/tables.py":
            if flags[0] in ("seeds", "curves", "budget", "hack"):
                first = 3 if flags[0] in ("seeds", "curves") else 2
                for arm in tables.read_arms(flags[first:]):
                    assert (folder / flags[1] / "0" / f"eval-{arm}").is_dir(), (arm, flags)
            continue
        if script == "reproduce/rewrite.py":  # no flags
            continue
        config, flags = config_class(script, flags)
        common.parse_flags(config, flags)
    assert [row for row in rows if row["missing"]] == []
    return rows


@pytest.mark.parametrize("script", ["micro.sh", "prlcoder.sh", "recode.sh"])
def test_every_flag_and_input_of_a_script_exists(tmp_path, script):
    done = bash(tmp_path, f"reproduce/{script}", SEEDS="0", MORE_ARMS="true")
    assert done.returncode == 0, done.stderr
    check_commands(tmp_path)


@pytest.mark.slow
def test_every_flag_and_input_of_psgpo_s_scripts_exists(tmp_path):
    early = bash(tmp_path, "reproduce/psgpo/critic.sh", SEEDS="0")
    assert early.returncode == 1 and "run reproduce/psgpo/main.sh first" in early.stderr
    for script in ("main", "labels", "safeguards", "critic"):
        done = bash(tmp_path, f"reproduce/psgpo/{script}.sh", SEEDS="0", STEPS="8")
        assert done.returncode == 0, done.stderr
    rows = check_commands(tmp_path)
    used = {word for row in rows for word in row["words"] if row["words"][0] == "studies/run.py"}
    assert {"exact_labels", "ensemble", "prm_refresh", "lambda_at_line_ends"} <= used


@pytest.mark.parametrize(
    "script",
    [
        "gsm8k.sh",
        "mbpp_prm.sh",
        "prlcoder_mbpp.sh",
        "psgpo_qwen.sh",
        "real_models.sh",
        "recode_qwen.sh",
    ],
)
def test_every_flag_and_input_of_a_script_for_a_public_benchmark_exists(tmp_path, script):
    source = tmp_path / ("gsm8k" if script == "gsm8k.sh" else "mbpp.jsonl")
    source.mkdir() if script == "gsm8k.sh" else source.touch()
    for name in ("train.jsonl", "test.jsonl") if script == "gsm8k.sh" else ():
        (source / name).touch()
    more = {name: str(source) for name in ("HUMANEVAL", "HUMANEVALPLUS", "PLUS", "TRAIN")}
    more = {} if script == "gsm8k.sh" else more
    sources = [str(source)] * (3 if script == "real_models.sh" else 1)
    done = bash(tmp_path, f"reproduce/{script}", *sources, PROCESSES="8", **more)
    assert done.returncode == 0, done.stderr
    check_commands(tmp_path)


def words_of(folder, script):
    """Commands of a script over lib.sh."""
    text = "set -euo pipefail\nsource reproduce/lib.sh\nOUT=out SFT=sft TRAIN=train TEST=test\n"
    done = bash(folder, "-c", text + script)
    assert done.returncode == 0, done.stderr
    rows = (folder / "commands.jsonl").read_text().splitlines()
    return [json.loads(row)["words"] for row in rows]


@pytest.mark.parametrize(
    ("variables", "launched"),
    [
        ({}, []),
        ({"PROCESSES": "8"}, ["--standalone", "--nproc_per_node=8"]),
        (
            {"LAUNCH": "torchrun --nnodes=2 --nproc_per_node=8 --rdzv_endpoint host:29500"},
            ["--nnodes=2", "--nproc_per_node=8", "--rdzv_endpoint", "host:29500"],
        ),
    ],
)
def test_what_trains_samples_or_searches_runs_in_all_processes(tmp_path, variables, launched):
    (tmp_path / "mbpp.jsonl").touch()
    done = bash(tmp_path, "reproduce/psgpo_qwen.sh", str(tmp_path / "mbpp.jsonl"), **variables)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "commands.jsonl").read_text().splitlines()]
    several = {"sft.py", "ppo.py", "train_prm.py", "eval.py", "make_prm_data.py"}
    for row in rows:
        shared = row["words"][0] in several and "--compare" not in row["words"]
        assert row["launched"] == (launched if shared else []), row
    assert several <= {row["words"][0] for row in rows}


def test_an_arm_is_one_line_with_studies_before_flags_that_replace_the_common_ones(tmp_path):
    commands = words_of(
        tmp_path,
        """
PPO=(--max_steps 60 --num_prompts 16)
arms ARMS << 'END'
shown   | the other's |
few     | few         | ppo --num_prompts 4 --prm "$OUT/prm"
studied | studied     | ppo lambda_at_line_ends critic_warmup \\
    --lam 0.8
END
run_arms "$ARMS"
run_arms "$ARMS" studied
""",
    )
    few, few_evaluated, studied, _, again, _ = (" ".join(words) for words in commands)
    assert few == (
        "ppo.py --tasks train --model_name_or_path sft --max_steps 60 --seed 0 "
        "--output_dir out/few --num_prompts 4 --prm out/prm"
    )
    assert few_evaluated.endswith("--model_name_or_path out/few --seed 0 --output_dir out/eval-few")
    assert studied.startswith("studies/run.py lambda_at_line_ends critic_warmup --tasks train")
    assert studied.endswith("--lam 0.8") and again == studied


@pytest.mark.parametrize("jobs", ['"slow 60" bad', '"slow 60" bad "never 0"'])
def test_jobs_run_a_few_at_a_time_and_a_failed_one_ends_the_others(tmp_path, jobs):
    script = f"""
set -euo pipefail
source reproduce/lib.sh
job() {{
    echo "start $1"
    if [ "$1" = bad ]; then sleep 0.5; false; fi
    sleep "$2"
    echo "end $1"
}}
JOBS=2
at_once job "a 0" "b 0.1" "c 0"
echo middle
at_once job {jobs}
echo unreachable
"""
    done = bash(tmp_path, "-c", script)
    lines = done.stdout.split("middle\n")
    assert done.returncode == 1
    assert sorted(lines[0].split()[1::2]) == ["a", "a", "b", "b", "c", "c"]
    assert sorted(lines[1].splitlines()) == ["start bad", "start slow"]
