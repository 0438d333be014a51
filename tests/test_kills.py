"""Runs that are killed, disturbed or damaged go on to an undisturbed run's result, bit for bit.

KILLS=20 kills each stage 20 times, and lets a run of two ranks go on after one rank's sandbox has
failed; without the variable each stage is killed three times.
"""

import errno
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import forks
import pytest

import common
import dpo
from prm_data import mutate, search

KILLS = int(os.environ.get("KILLS", 3))
TIMES = ("step_time", "seconds", "programs_per_second")  # what no two runs have in common
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")


def case_of(stages, name: str) -> tuple:
    """A stage's module, its command line, and the file that it writes last; outputs are under
    `run`, a name in the folder that the stage runs in."""
    tasks, policy = stages.path("train.jsonl"), stages.path("sft")
    if name in ("ppo", "grpo", "sft", "train_prm"):
        module, config = getattr(stages, name)("run", max_steps=6, save_steps=1)
    elif name == "dpo":
        flags = {"max_steps": 6, "save_steps": 1, "train_batch_size": 4, "eval_fraction": 0.3}
        module, config = dpo, dpo.Config(stages.path("pairs.jsonl"), policy, "run", **flags)
    elif name == "search":
        flags = {"num_generations": 2, "num_completions": 4, "chunk_size": 3}
        flags |= {"max_completion_length": 24}
        module, config = search, search.Config(tasks, [policy], "run/prm.jsonl", **flags)
    else:
        module, config = mutate, mutate.Config(tasks, "run/prm.jsonl", max_variants_per_line=2)
    if hasattr(config, "output_dir"):
        config.output_dir = "run"
    last = "run/config.json" if hasattr(config, "output_dir") else "run/prm.jsonl"
    return module, forks.argv_of(config), last


def without_times(value):
    """A value of JSON without the fields that hold times."""
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMES}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def result_of(folder: Path) -> dict[str, object]:
    """What a run has left: the bytes of each file, and of JSON the values, times aside. The locks
    and the order in which verdicts came are no part of the result."""
    result = {}
    for path in sorted((folder / "run").rglob("*")):
        name = str(path.relative_to(folder))
        if not path.is_file() or path.name.endswith((".lock", ".progress", "digests.json")):
            continue
        data = path.read_bytes()
        if path.suffix == ".jsonl":
            data = [without_times(json.loads(line)) for line in data.splitlines()]
        elif path.suffix == ".json":
            data = without_times(json.loads(data))
        result[name] = data
    return result


@pytest.fixture(scope="module")
def undisturbed(stages, tmp_path_factory):
    """By a stage's name, the result of a run in peace, and its seconds."""
    known = {}

    def get(name: str):
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            module, argv, _ = case_of(stages, name)
            started = time.monotonic()
            code, error = forks.run(module, argv, folder)
            assert code == 0, error[-2000:]
            known[name] = result_of(folder), time.monotonic() - started
        return known[name]

    return get


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def assert_goes_on_to(expected: dict, module, argv: list[str], folder: Path) -> None:
    """Runs a command to its end, and compares what is left with an undisturbed run."""
    code, error = forks.run(module, argv, folder)
    assert code == 0, error[-2000:]
    found = result_of(folder)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppo", "grpo", "sft", "train_prm", "dpo", "search", "mutate"])
def test_a_run_killed_at_random_moments_goes_on_to_the_same_result(
    stages, undisturbed, folder, name
):
    expected, seconds = undisturbed(name)
    module, argv, last = case_of(stages, name)
    rng, kills, runs = random.Random(f"{name} {KILLS}"), 0, 0
    while kills < KILLS:
        child = forks.start(module, argv, folder)
        time.sleep(rng.uniform(0.05, 0.6) * seconds)
        started = forks.children_of(child)
        os.kill(child, signal.SIGKILL)
        code, error = forks.finish(child, folder)
        assert code in (0, -signal.SIGKILL), error[-2000:]
        wait_for(lambda: not any(map(forks.is_alive, started)))  # noqa: B023 the sandbox ends too
        kills += code != 0
        if (folder / last).exists():  # killed at its very end, or not at all
            assert_goes_on_to(expected, module, argv, folder)
            shutil.rmtree(folder / "run")
            runs += 1
    assert_goes_on_to(expected, module, argv, folder)
    print(f"{name}: {kills} kills, {runs + 1} runs, each as the undisturbed one")


def grown(log, size):
    """Whether a log has grown beyond a size in bytes: work goes on."""
    return log.is_file() and log.stat().st_size > size


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppo", "mutate", "search"])
def test_a_sandbox_killed_in_mid_run_costs_no_verdict(stages, undisturbed, folder, name):
    expected, seconds = undisturbed(name)
    module, argv, _ = case_of(stages, name)
    child, kills = forks.start(module, argv, folder), 0
    log = folder / ("run/metrics.jsonl" if name == "ppo" else "run/prm.jsonl.progress")
    time.sleep(seconds / 5)
    for _ in range(3):
        for _ in range(2):  # twice in a row: also while it starts
            for process in forks.children_of(child):
                os.kill(process, signal.SIGKILL)
                kills += 1
            time.sleep(0.05)
        size = log.stat().st_size if log.is_file() else 0
        wait_for(lambda: not forks.is_alive(child) or grown(log, size))  # noqa: B023
    code, error = forks.finish(child, folder)
    assert code == 0 and kills > 1, error[-2000:]
    assert_goes_on_to(expected, module, argv, folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppo", "mutate", "search"])
def test_a_sandbox_that_cannot_start_again_stops_the_run_which_goes_on_later(
    stages, undisturbed, folder, tmp_path, name
):
    expected, _ = undisturbed(name)
    module, argv, last = case_of(stages, name)
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    def use_scratch():
        tempfile.tempdir = str(scratch)

    child = forks.start(module, argv, folder, use_scratch)
    log = folder / ("run/metrics.jsonl" if name == "ppo" else "run/prm.jsonl.progress")
    wait_for(lambda: log.is_file() and log.read_bytes().count(b"\n") >= 2)
    shutil.rmtree(scratch, ignore_errors=True)
    while forks.is_alive(child):
        for process in forks.children_of(child):
            os.kill(process, signal.SIGKILL)
        time.sleep(0.05)
    code, error = forks.finish(child, folder)
    line = error.strip().splitlines()[-1]
    assert code == 2 and "no verdict on" in line, error[-2000:]
    assert "Traceback" not in error and not (folder / last).exists()
    if name == "ppo":  # a step with some of its verdicts is a step: start from before it
        shutil.rmtree(folder / "run")
    assert_goes_on_to(expected, module, argv, folder)


def test_of_two_runs_at_once_the_second_gets_one_line_and_changes_nothing(
    stages, undisturbed, folder
):
    for name in ("sft", "mutate"):
        expected, _ = undisturbed(name)
        module, argv, _ = case_of(stages, name)
        child = forks.start(module, argv, folder)
        wait_for(lambda: any((folder / "run").glob(".*lock")))
        second = forks.start(module, argv, folder)
        code, error = forks.finish(second, folder)
        assert code == 2 and "another run is at work here" in error
        forks.finish(child, folder)
        assert_goes_on_to(expected, module, argv, folder)
        shutil.rmtree(folder / "run")


def damaged(data: bytes, how: str) -> bytes:
    if how == "flipped":
        middle = len(data) // 2
        return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    return data[: len(data) // 2] if how == "truncated" else b""


@pytest.fixture(scope="module")
def stopped(stages, tmp_path_factory):
    """The folder of a PPO run that was killed after its fourth step: checkpoints 3 and 4."""
    folder = tmp_path_factory.mktemp("stopped")
    module, argv, _ = case_of(stages, "ppo")
    child = forks.start(module, argv, folder)
    wait_for((folder / "run" / "checkpoint-4").is_dir)
    os.kill(child, signal.SIGKILL)
    forks.finish(child, folder)
    shutil.rmtree(folder / "run" / "checkpoint-5", ignore_errors=True)
    return folder


@pytest.mark.parametrize("how", ["truncated", "emptied", "flipped"])
def test_a_checkpoint_with_a_damaged_file_is_passed_over_with_a_word(
    stages, stopped, tmp_path, monkeypatch, capsys, how
):
    shutil.copytree(stopped, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    module, argv, _ = case_of(stages, "ppo")
    config = common.parse_flags(module.Config, argv)
    newest = Path("run/checkpoint-4")
    assert common.open_run(config) == newest
    names = [path for path in sorted(newest.rglob("*")) if path.is_file()]
    assert len(names) >= 10
    for path in names:
        whole = path.read_bytes()
        path.write_bytes(damaged(whole, how))
        assert common.open_run(config) == Path("run/checkpoint-3"), path
        assert f"{newest}: " in capsys.readouterr().err
        path.write_bytes(whole)
    assert common.open_run(config) == newest


@pytest.mark.slow
@pytest.mark.parametrize("how", ["truncated", "emptied", "flipped"])
def test_a_run_goes_on_from_before_a_damaged_checkpoint_to_the_same_result(
    stages, undisturbed, stopped, folder, how
):
    shutil.copytree(stopped / "run", folder / "run")
    for name in ("model.safetensors", "trainer.safetensors"):
        path = folder / "run" / "checkpoint-4" / name
        path.write_bytes(damaged(path.read_bytes(), how))
    for name in ("metrics.jsonl", "completions.jsonl"):  # a torn last line, and one of NUL
        with open(folder / "run" / name, "ab") as file:
            file.write(b'{"step": 4, "re' if how == "truncated" else b"\0" * 99)
    module, argv, _ = case_of(stages, "ppo")
    assert_goes_on_to(undisturbed("ppo")[0], module, argv, folder)


def test_a_full_disk_is_one_line_and_the_run_goes_on_later(stages, undisturbed, folder):
    expected, _ = undisturbed("sft")
    module, argv, _ = case_of(stages, "sft")

    def no_room():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    code, error = forks.run(module, argv, folder, no_room)
    line = error.strip().splitlines()[-1]
    assert code == 2 and os.strerror(errno.EFBIG) in line and "Traceback" not in error
    assert_goes_on_to(expected, module, argv, folder)


@pytest.mark.slow
def test_a_full_tmpfs_is_one_line_and_the_run_goes_on_later(stages, undisturbed, folder):
    mount = folder / "run"
    mount.mkdir()
    options = ["-t", "tmpfs", "-o", "size=1400k", "tmpfs", str(mount)]
    try:
        subprocess.run(["mount", *options], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no tmpfs can be mounted here: {getattr(error, 'stderr', error)}")
    module, argv, _ = case_of(stages, "sft")
    try:
        code, error = forks.run(module, argv, folder)
        kept = folder.with_name("kept")
        shutil.copytree(mount, kept)
    finally:
        subprocess.run(["umount", str(mount)], check=True)
    line = error.strip().splitlines()[-1]
    assert code == 2 and os.strerror(errno.ENOSPC) in line and "Traceback" not in error
    shutil.copytree(kept, mount, dirs_exist_ok=True)
    assert_goes_on_to(undisturbed("sft")[0], module, argv, folder)


def test_the_files_of_a_run_have_the_mode_of_the_umask(stages, folder):
    module, argv, _ = case_of(stages, "sft")
    code, error = forks.run(module, argv, folder, lambda: os.umask(0o027))
    assert code == 0, error[-2000:]
    files = [path for path in (folder / "run").rglob("*") if path.is_file()]
    assert {oct(path.stat().st_mode & 0o777) for path in files} == {"0o640"}


def ranks_of(launcher: int) -> list[int]:
    """The processes of torchrun's ranks that have started their sandbox."""
    return [rank for rank in forks.children_of(launcher) if forks.children_of(rank)]


def torchrun(argv: list[str], folder: Path) -> subprocess.Popen:
    """PPO on two processes in a folder; its standard error goes to FOLDER.stderr."""
    root = Path(__file__).parent.parent
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return subprocess.Popen(
        [sys.executable, *launch, str(root / "ppo.py"), *argv],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=open(f"{folder}.stderr", "w"),
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
    )


@pytest.mark.slow
def test_ranks_end_with_torchrun(stages, folder):
    _, argv, _ = case_of(stages, "ppo")
    words = dict(zip(argv[::2], argv[1::2], strict=True)) | {"--max_steps": "200"}
    launcher = torchrun([word for pair in words.items() for word in pair], folder)
    wait_for(lambda: len(ranks_of(launcher.pid)) == 2, 60)
    ranks = ranks_of(launcher.pid)
    started = ranks + [child for rank in ranks for child in forks.children_of(rank)]
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.wait()
    wait_for(lambda: not any(map(forks.is_alive, started)))


@pytest.mark.slow
def test_a_sandbox_that_fails_on_one_rank_stops_all_of_them_and_the_run_goes_on_later(
    stages, folder, tmp_path
):
    _, argv, _ = case_of(stages, "ppo")
    words = dict(zip(argv[::2], argv[1::2], strict=True)) | {"--max_steps": "11"}
    words["--save_steps"] = "20"
    argv = [word for pair in words.items() for word in pair]
    launcher = torchrun(argv, folder)
    wait_for(lambda: len(ranks_of(launcher.pid)) == 2, 300)
    wait_for(lambda: (folder / "run" / "metrics.jsonl").is_file(), 300)  # after the first batch
    victim = ranks_of(launcher.pid)[1]
    while launcher.poll() is None:
        for process in forks.children_of(victim):
            os.kill(process, signal.SIGKILL)
        time.sleep(0.02)
    error = Path(f"{folder}.stderr").read_text()
    assert launcher.returncode != 0 and not (folder / "run" / "config.json").exists()
    assert "had no verdict on more than 5% of the programs" in error, error[-2000:]
    if KILLS > 3:  # two more runs, half a minute of CPU time
        (undisturbed := tmp_path / "undisturbed").mkdir()
        for place in (folder, undisturbed):
            launcher = torchrun(argv, place)
            assert launcher.wait() == 0, Path(f"{place}.stderr").read_text()[-2000:]
        found, expected = result_of(folder), result_of(undisturbed)
        assert "run/model.safetensors" in found and found.keys() == expected.keys()
        assert [name for name in expected if found[name] != expected[name]] == []
