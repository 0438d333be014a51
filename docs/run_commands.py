"""Runs the README's commands in order, each as written but for its size, in a temporary folder.

    bash reproduce/micro.sh && python docs/run_commands.py

In the place of MBPP and of a pretrained model stand 24 micro tasks and the main job's supervised
policy. A stage that trains runs two steps, in one process. Commands that only ask for a published
file, or for a whole reproduction, are skipped, and named. tests/test_commands.py checks all flags,
and runs the cheap commands with the tests.
"""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SMALL = {  # of a script: flags that make it small
    "sft.py": {"--max_steps": "2"},
    "ppo.py": {"--max_steps": "2", "--num_prompts": "4"},
    "studies/run.py": {"--max_steps": "2", "--num_prompts": "4"},
    "train_prm.py": {"--max_steps": "2"},
}
SKIPPED = ("micro.sh", "run.sh", "--source mbpp")


def commands() -> list[str]:
    """The README's commands, a line each."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    blocks = [re.sub(r"\\\n\s*", " ", block) for language, block in fenced if not language]
    # printf's quoted text goes over two lines
    blocks = [re.sub(r"^(printf .*?)\n(.*)$", r"\1 \2", block, flags=re.M) for block in blocks]
    lines = [re.sub(r"\s+#.*", "", line) for block in blocks for line in block.splitlines()]
    return [line for line in lines if re.match(r"(python|torchrun|bash|printf) ", line)]


def made_small(command: str) -> str:
    """The command with small flags, the project's scripts, and the main job's model."""
    command = command.replace("Qwen/Qwen2.5-Coder-0.5B", "runs/micro/sft")
    command = re.sub(r"torchrun .*?(?=\w+\.py)", "python ", command)
    script = re.match(r"python (\S+\.py)", command)
    shown = "--show" in command or "--help" in command
    for flag, value in SMALL.get(script[1] if script and not shown else "", {}).items():
        if flag in command:
            command = re.sub(rf"{flag} \S+", f"{flag} {value}", command)
        else:
            command += f" {flag} {value}"
    return re.sub(r"python (\S+\.py)", rf"{sys.executable} {ROOT}/\1", command)


def prepare(folder: Path) -> None:
    """Tasks of 24 rows, and the main job's runs."""
    for name in ("mbpp", "micro"):
        (folder / "tasks" / name).mkdir(parents=True)
        for split in ("train", "test"):
            rows = (ROOT / f"tasks/micro/{split}.jsonl").read_text().splitlines(True)[:24]
            (folder / f"tasks/{name}/{split}.jsonl").write_text("".join(rows))
    (folder / "runs").mkdir()
    (folder / "runs/micro").symlink_to(ROOT / "runs/micro")


def main() -> None:
    if not (ROOT / "runs/micro/prm/config.json").is_file():
        sys.exit("run `bash reproduce/micro.sh` first")
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name))
        for command in commands():
            if any(word in command for word in SKIPPED):
                print(f"skipped      {command}")
                continue
            started = time.monotonic()
            run = subprocess.run(
                ["bash", "-ec", made_small(command)], cwd=name, capture_output=True, text=True
            )
            print(f"{time.monotonic() - started:6.1f} s     {command}", flush=True)
            if run.returncode:
                sys.exit(run.stderr[-2000:])


if __name__ == "__main__":
    main()
