"""The scripts of reproduce/: every command's flags and input files exist, and arms are one line."""

import importlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

import common
import make_prm_data
import make_tasks
from studies import run as studies

sys.path.insert(0, str(Path(__file__).parent.parent / "reproduce"))
import rewrite
import tables

ROOT = Path(__file__).parent.parent
METRICS = ("rewards/tests/mean", "pass@1")  # of the tables of contrasts
INPUTS = {"tasks", "model_name_or_path", "prm", "orm", "reasoning_rm", "data", "samples", "input"}
INPUTS |= {"from_verdicts", "compare", "plus", "pairs", "critic", "repair_model"}
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
files = ("output_file", "outcomes_file", "lines_file", "critic_file")
written = [path for name in files for path in flags.get(name, [])]
ends = (".report.json", ".jsonl.progress")
written += [path.removesuffix(".jsonl") + end for path in written for end in ends]
written += words[3:4] if words[0] == "reproduce/rewrite.py" else []
for folder in flags.get("output_dir", []):
    names = ["config.json", "samples.jsonl", "verdicts.jsonl", "report.json", "metrics.jsonl"]
    names += [f"checkpoint-{step}/config.json" for step in (10, 15, 20, 25, 30, 45, 50, 75)]
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
    """Each command's flags parse, its inputs are there, no run has the folder of one with other
    flags, and each table's arms are evaluated."""
    rows = [json.loads(line) for line in (folder / "commands.jsonl").read_text().splitlines()]
    made = {}
    for words in (row["words"] for row in rows):
        for flag in {"--output_dir", "--output_file"} & set(words):
            output = words[words.index(flag) + 1]
            assert made.setdefault(output, words) == words
    for words in {tuple(row["words"]) for row in rows}:
        script, flags = words[0], list(words[1:])
        if script == "reproduce/tables.py":
            if flags[0] in ("seeds", "curves", "budget", "hack"):
                first = 3 if flags[0] in ("seeds", "curves") else 2
                for arm in tables.read_arms(flags[first:]):
                    assert (folder / flags[1] / "0" / f"eval-{arm}").is_dir(), (arm, flags)
                    gold = folder / flags[1] / "0" / f"gold-{arm}.jsonl"
                    assert flags[0] != "hack" or gold.is_file(), (arm, flags)
            continue
        if script.startswith("reproduce/"):  # no Config
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


def test_psgpo_s_comparison_goes_with_programs_of_four_steps_alone(tmp_path):
    done = bash(tmp_path, "reproduce/psgpo/main.sh", SEEDS="0", STEPS="4")
    assert done.returncode == 0, done.stderr
    rows = check_commands(tmp_path)
    claims = [row["words"][4:] for row in rows if row["words"][1:2] == ["contrasts"]]
    assert claims and all("+4/" in claim and "8/" not in claim for each in claims for claim in each)


def test_psgpo_s_claims_and_those_that_explain_them_are_counted_apart(tmp_path):
    assert bash(tmp_path, "reproduce/psgpo/main.sh", "tables").returncode == 0
    rows = [json.loads(line)["words"] for line in (tmp_path / "commands.jsonl").open()]
    rows = [words[3:] for words in rows if words[1:2] == ["contrasts"]]
    claims = [[words[1:] for words in rows if words[0] == metric] for metric in METRICS]
    assert claims[0] == claims[1] and len(claims[0]) == 2 and len(claims[0][0]) == 5


def test_scripts_that_go_on_from_main_sh_have_its_seeds(tmp_path):
    seeds = set()
    for script in ("main", "labels", "safeguards", "critic"):
        path = f"reproduce/psgpo/{script}.sh"
        source = f"trap 'echo seeds $SEEDS' EXIT; source {path}"
        done = bash(tmp_path, "-c", source, path, "tables")
        seeds.add(done.stdout.splitlines()[-1])
    assert len(seeds) == 1 and len(seeds.pop().split()) > 2


SCRIPTS = {
    "prlcoder": "BATCHES LABELLED SFT_STEPS RM_STEPS",
    "recode": "BATCHES SFT_STEPS LINE_STEPS",
    "related": "STEPS BATCHES LABELLED",
    "psgpo/main": "BATCHES LABELLED SFT_STEPS RM_STEPS",
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_folder_that_was_made_with_other_settings_is_refused_before_work(tmp_path, script):
    runs = f"runs/{script.removesuffix('/main')}"
    words, commands = [f"reproduce/{script}.sh", "run"], tmp_path / "commands.jsonl"
    done = bash(tmp_path, *words, JOBS="0", BATCHES="10", SEEDS="0")  # no job starts
    assert done.returncode == 0, done.stderr
    recorded = (tmp_path / runs / "settings").read_text()
    assert [line.partition("=")[0] for line in recorded.splitlines()] == SCRIPTS[script].split()
    free = {"SEEDS": "1 2", "PROCESSES": "2", "JOBS": "0"}
    assert bash(tmp_path, *words, BATCHES="10", **free).returncode == 0
    before = commands.read_text()
    done = bash(tmp_path, *words, BATCHES="60")
    assert done.returncode == 1 and done.stderr == (
        f"{runs} was made with BATCHES=10, not BATCHES=60: set BATCHES so, or take another folder\n"
    )
    assert commands.read_text() == before and (tmp_path / runs / "settings").read_text() == recorded


def test_a_folder_without_a_record_of_a_setting_goes_on_and_gets_one(tmp_path):
    script = """
set -euo pipefail
source reproduce/lib.sh
mkdir -p runs/jobs
ONE=1 TWO="a b" NONE=
same_settings runs ONE
same_settings runs ONE TWO NONE
cat runs/settings
TWO="a c"
same_settings runs ONE TWO NONE
echo unreachable
"""
    done = bash(tmp_path, "-c", script)
    assert done.returncode == 1 and done.stdout == "ONE=1\nTWO=a b\nNONE=\n"
    assert done.stderr.startswith("runs was made with TWO=a b, not TWO=a c: ")


def test_tasks_that_are_labelled_stay_as_they_are(tmp_path):
    words = ["-c", "source reproduce/psgpo/base.sh; settings", "reproduce/psgpo/base.sh"]
    tasks = tmp_path / "tasks" / "psgpo" / "8"
    common.write_jsonl(tasks / "train.jsonl", [{"task_id": i} for i in range(20)])
    for runs, labelled, code in (("a", "8", 0), ("b", "8", 0), ("c", "12", 1)):
        done = bash(tmp_path, *words, STEPS="8", RUNS=runs, LABELLED=labelled)
        assert done.returncode == code, done.stderr
    assert done.stderr.startswith("tasks/psgpo/8/labelled.jsonl was made with another LABELLED")
    assert len(common.read_jsonl(tasks / "labelled.jsonl", {})) == 8
    assert len(common.read_jsonl(tasks / "quarter.jsonl", {})) == 2


@pytest.mark.parametrize(
    "script",
    [
        "gsm8k.sh",
        "mbpp_prm.sh",
        "pretrained.sh",
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
    sources = ["Qwen/any", *sources] if script == "pretrained.sh" else sources
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


def test_an_arm_whose_stage_fails_prints_the_stage_s_one_line_alone(tmp_path):
    script = """
set -euo pipefail
source reproduce/lib.sh
launch() {
    echo "ppo.py: error: no" >&2
    false
}
arms ARMS <<< "tests | tests | ppo"
TRAIN=t SFT=s OUT=o
train() { run_arms "$ARMS"; }
at_once eval train
"""
    (tmp_path / "script.sh").write_text(script)
    done = bash(tmp_path, str(tmp_path / "script.sh"))
    assert done.returncode == 1 and done.stderr == "ppo.py: error: no\n"


POOL = """
set -euo pipefail
source reproduce/lib.sh
source reproduce/pool.sh
RUNS=runs JOBS=2
note() {
    echo "$@" >> order
    sleep 0.2
}
broken() {
    false
    note unreachable
}
job a "" note a "two  words"
job b "a" note b
job c "" note c
"""


def test_jobs_wait_for_what_they_need_and_run_once(tmp_path):
    for _ in range(2):  # the second time there is nothing to do
        done = bash(tmp_path, "-c", POOL + "run_jobs && echo all")
        assert done.returncode == 0 and done.stdout == "all\n", done.stderr
        order = (tmp_path / "order").read_text().splitlines()
        assert sorted(order[:2]) == ["a two  words", "c"] and order[2:] == ["b"]


def test_a_failed_job_holds_up_those_that_wait_for_it_alone_and_is_named(tmp_path):
    script = POOL + 'job d "" broken\njob e d note e\njob f c note f\nrun_jobs\necho unreachable'
    done = bash(tmp_path, "-c", script)
    assert done.returncode == 1 and "unreachable" not in done.stdout
    assert done.stderr.endswith("failed: runs/jobs/d.log\n")
    order = (tmp_path / "order").read_text().split()
    assert {"a", "b", "c", "f"} <= set(order) and not {"e", "unreachable"} & set(order)


def test_labels_in_place_become_labels_by_prefix(tmp_path):
    rows = [
        {"labels": [1.0, None, -1.0, None, 1.0], "prompt": "p"},
        {"labels": [None, 1.0], "prompt": "q"},
    ]
    common.write_jsonl(tmp_path / "a.jsonl", rows)
    (tmp_path / "a.report.json").write_text("{}")
    rewrite.main("prefix", tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    first, second = common.read_jsonl(tmp_path / "b.jsonl", {})
    assert first == {"labels": [1.0, None, -1.0, None, -1.0], "prompt": "p"}
    assert second == rows[1] and (tmp_path / "b.report.json").read_text() == "{}"


def test_reward_models_and_policies_have_a_half_of_the_tasks_each_drawn_by_the_seed(tmp_path):
    tasks = [{"task_id": str(i)} for i in range(11)]
    common.write_jsonl(tmp_path / "all.jsonl", tasks)
    halves = {}
    for seed in (0, 1):
        for number in (1, 2):
            path = tmp_path / f"{seed}-{number}.jsonl"
            rewrite.main(f"half-{number}", tmp_path / "all.jsonl", path, seed)
            halves[seed, number] = [row["task_id"] for row in common.read_jsonl(path, {})]
        one, other = halves[seed, 1], halves[seed, 2]
        assert len(one) == 5 and sorted(one + other) == sorted(row["task_id"] for row in tasks)
    assert set(halves[0, 1]) != set(halves[1, 1])


def test_a_reference_with_its_plan_is_a_demonstration(tmp_path):
    task = {"solution": "def f(xs):\n    return xs\n", "meta": {"plan": ["sort", "cut"]}}
    common.write_jsonl(tmp_path / "a.jsonl", [task])
    rewrite.main("plans", tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    (row,) = common.read_jsonl(tmp_path / "b.jsonl", {})
    assert common.reasoning_of(row["completion"]).strip() == "sort\ncut"
    assert common.extract_program(task, row["completion"]).strip() == task["solution"].strip()


# What a stage would be: it says how it was started, and ends in its own way.
SCRIPT = """
import os, sys, threading, time
print(sys.argv[1:], os.environ.get("WORD"), os.getcwd(), __name__, "torch" in sys.modules)
if sys.argv[1] == "exit":
    sys.exit(3)
if sys.argv[1] == "die":
    os._exit(4)
if sys.argv[1] == "raise":
    raise ValueError("no")
if sys.argv[1] == "wait":
    open("started", "w").close()
    time.sleep(60)
"""


def test_scripts_run_in_forks_of_a_process_that_has_the_imports_behind_it(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    path = str(tmp_path / "socket")
    warm = [sys.executable, str(ROOT / "reproduce" / "warm.py"), path]
    client = [sys.executable, "-S", "-E", *warm[1:], "script.py"]

    def start(word):
        env = os.environ | {"WORD": word}
        return subprocess.run(
            [*client, word, "a b"], cwd=tmp_path, env=env, capture_output=True, text=True
        )

    assert start("cold").stdout.endswith("__main__ False\n")  # no such process: as Python would
    server = subprocess.Popen(warm)
    try:
        while not Path(path).exists():
            assert server.poll() is None
            time.sleep(0.1)
        ends = {word: start(word) for word in ("pass", "exit", "die", "raise")}
        assert {word: end.returncode for word, end in ends.items()} == {
            "pass": 0,
            "exit": 3,
            "die": 4,
            "raise": 1,
        }
        for word in ("pass", "exit", "raise"):
            expected = f"{[word, 'a b']} {word} {tmp_path} __main__ True\n"
            assert ends[word].stdout == expected
        assert ends["raise"].stderr.endswith("ValueError: no\n")
        waiting = subprocess.Popen([*client, "wait"], cwd=tmp_path, stdout=subprocess.DEVNULL)
        while not (tmp_path / "started").exists():
            time.sleep(0.1)
        waiting.terminate()  # ends the script too: its line in the log comes now, not in a minute
        log = Path(path + ".jsonl")
        deadline = time.monotonic() + 30
        while len(log.read_text().splitlines()) < 5 and time.monotonic() < deadline:
            time.sleep(0.1)
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        assert [row["words"][1] for row in rows] == ["pass", "exit", "die", "raise", "wait"]
        assert all(0 < row["seconds"] < 10 for row in rows)
    finally:
        server.terminate()
        server.wait()


EXPERIMENT = """
set -euo pipefail
source reproduce/lib.sh
setup requirements.txt
mkdir -p "$RUNS/0/arm"
if [ "$1" = run ]; then
    echo '{"step": 1}' > "$RUNS/0/arm/metrics.jsonl"
    head -c 100000 /dev/zero > "$RUNS/0/arm/model.safetensors"
    python -c 'import os; print(os.environ["CUDA_VISIBLE_DEVICES"] == "")' > "$RUNS/0/cpu.md"
    mkdir -p "$TASKS/8" "$RUNS/0/samples" "$RUNS/0/eval-arm"
    touch "$RUNS/settings" "$RUNS/0/search.jsonl" "$RUNS/0/search.jsonl.progress" \
        "$TASKS/8/mutate-prefix.jsonl" "$RUNS/0/samples/verdicts.jsonl" \
        "$RUNS/0/eval-arm/samples.jsonl" "$RUNS/0/arm/tokenizer.json"
    [ -z "${SLOW:-}" ] || sleep 60
else
    echo "a table with $JOBS jobs"
fi
"""


@pytest.mark.parametrize("slow", ["", "true"])
def test_the_driver_packs_what_there_is_when_its_time_is_over(tmp_path, slow):
    shutil.copytree(ROOT / "reproduce", tmp_path / "reproduce")
    shutil.copy(ROOT / "requirements.txt", tmp_path)
    for name in ("psgpo/main.sh", "recode.sh"):
        (tmp_path / "reproduce" / name).write_text(EXPERIMENT)
    env = {name: os.environ[name] for name in ("PATH", "HOME")} | {"SLOW": slow}
    env |= {"PYTHON": sys.executable, "PROCESSES": "10", "EXPERIMENTS": "psgpo recode"}
    env |= {"MINUTES": "0.03"} if slow else {}
    done = subprocess.run(
        ["bash", "reproduce/evidence.sh", "out"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "psgpo.md").read_text() == "a table with 7 jobs\n"
    assert (tmp_path / "out" / "recode.md").read_text() == "a table with 3 jobs\n"
    with tarfile.open(tmp_path / "out" / "evidence.tar.gz") as file:
        names = file.getnames()
    assert "runs/evidence/recode/0/arm/metrics.jsonl" in names
    needed = {"settings", "0/search.jsonl", "0/search.jsonl.progress", "0/samples/verdicts.jsonl"}
    assert {f"runs/evidence/psgpo/{name}" for name in needed} <= set(names)
    assert "runs/evidence/tasks/psgpo/8/mutate-prefix.jsonl" in names
    needed = {"0/eval-arm/samples.jsonl", "0/arm/tokenizer.json"}  # for measures of plans
    assert {f"runs/evidence/recode/{name}" for name in needed} <= set(names)
    assert not [name for name in names if "model" in name]
    assert (tmp_path / "runs" / "evidence" / "recode" / "0" / "cpu.md").read_text() == "True\n"


def test_tasks_that_a_policy_solves_in_some_of_its_samples_are_selected(tmp_path):
    common.write_jsonl(tmp_path / "tasks.jsonl", [{"task_id": name} for name in "abcd"])
    rows = [("a", "passed"), ("a", "failed"), ("b", "failed"), ("b", "error"), ("c", "passed")]
    rows = [{"task_id": name, "status": status} for name, status in [*rows, ("c", "passed")]]
    common.write_jsonl(tmp_path / "verdicts.jsonl", rows)

    def select(*flags):
        script = [sys.executable, str(ROOT / "reproduce/select_tasks.py"), "--tasks", "tasks.jsonl"]
        script += ["--verdicts", "verdicts.jsonl", "--output_file", "pool.jsonl", *flags]
        return subprocess.run(script, cwd=tmp_path, capture_output=True, text=True)

    done = select("--most", "1")
    assert "0: 1 tasks, 1: 1 tasks, 2: 1 tasks" in done.stdout
    assert common.read_jsonl(tmp_path / "pool.jsonl", {}) == [{"task_id": "a"}]
    done = select("--least", "3")
    assert done.returncode and "has 3 to 7 passing samples" in done.stderr.splitlines()[-1]
    (tmp_path / "verdicts.jsonl").unlink()
    assert select().stderr == "select_tasks.py: error: verdicts.jsonl: no such file\n"
