"""The commands of the documents and docstrings: all fit their stage's flags, the cheap ones run."""

import ast
import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import common
import make_prm_data
import make_tasks
from studies import run

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
MODULES = [*ROOT.glob("*.py"), *ROOT.glob("prm_data/*.py"), *ROOT.glob("benchmarks/*.py")]
SWITCHES = {
    "make_prm_data.py": ("method", make_prm_data.METHODS),
    "make_tasks.py": ("source", make_tasks.SOURCES),
}


def blocks_of(path):
    """The blocks of a page that hold commands: those without a language."""
    text = path.read_text(encoding="utf-8")
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [block for language, block in fenced if not language]


def whole_lines(text):
    """Lines, those that end in a backslash joined with the next ones, without comments."""
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [re.sub(r"\s+#.*", "", line).strip() for line in lines]


def commands():
    """(place, words) of each command that starts a script of the project."""
    blocks = [
        (path.relative_to(ROOT).as_posix(), block) for path in PAGES for block in blocks_of(path)
    ]
    for path in MODULES:
        doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        indented = re.findall(r"^    .*$", doc, re.MULTILINE)
        blocks.append((path.relative_to(ROOT).as_posix(), "\n".join(indented)))
    found = []
    for place, block in blocks:
        for line in whole_lines(block):
            match = re.match(r"(?:python|torchrun [^#]*?) ((?:\w+/)?\w+\.py)\b(.*)", line)
            if match and not match[1].startswith(("my_", "tests/")):
                found.append((place, match[1], shlex.split(match[2].replace("`", ""))))
    return found


COMMANDS = commands()


def config_of(script, words):
    """The Config of a command, and the command's flags."""
    if script == "studies/run.py":
        count = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
        return run.load(words[:count]).Config, words[count:]
    if script in SWITCHES:
        return common.chosen(*SWITCHES[script], words).Config, words
    return importlib.import_module(script.removesuffix(".py")).Config, words


@pytest.mark.parametrize(
    ("place", "script", "words"),
    COMMANDS,
    ids=[f"{c[0]}-{c[1]}-{i}" for i, c in enumerate(COMMANDS)],
)
def test_a_command_has_flags_that_its_stage_takes(place, script, words):
    assert (ROOT / script).is_file()
    special = {"--help", "--show", "--write", "my_idea", "--check"} & set(words)
    if special or (script in ("sandbox.py", "studies/run.py") and len(words) <= 1):
        return
    if script.startswith(("docs/", "bench/", "reproduce/")) or script == "sandbox.py":
        return
    if script in SWITCHES and f"--{SWITCHES[script][0]}" not in words:
        return
    config_class, flags = config_of(script, words)
    if "..." not in flags:
        common.parse_flags(config_class, flags)
        return
    flags.remove("...")
    names = [flag.removeprefix("--") for flag in flags if flag.startswith("--")]
    assert set(names) <= set(config_class.__dataclass_fields__), (place, names)


def test_there_are_as_many_commands_as_a_reader_sees():
    assert len(COMMANDS) >= 50 and len({script for _, script, _ in COMMANDS}) >= 12


def shell(text, folder):
    """What a shell prints for commands of a page, started in another folder."""
    text = re.sub(r"\bpython (\S+\.py)", rf"{sys.executable} {ROOT}/\1", text)
    done = subprocess.run(["bash", "-ec", text], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def block_with(page, text):
    (block,) = (block for block in blocks_of(ROOT / page) if text in block)
    return block


def test_the_readme_s_own_task_is_judged(tmp_path):
    block = block_with("README.md", "mine.jsonl")
    judged = "".join(line for line in block.splitlines(True) if "--source mbpp" not in line)
    assert "passed 1 of 1 judged" in shell(judged, tmp_path)
    assert (tmp_path / "verdicts.jsonl").is_file()


def test_the_readme_s_study_is_shown(tmp_path):
    block = block_with("README.md", "process_at_end --show")
    command = next(line for line in whole_lines(block) if "--show" in line)
    assert "(outcome[:, None] + total) * last" in shell(command, tmp_path)


@pytest.mark.parametrize(
    ("command", "printed"),
    [
        ("python ppo.py --help", "--lambda_fail  float at least 0  (default: 0.25)"),
        ("python studies/run.py", "process_at_end"),
        ("python docs/check.py 1a 100", "1a: right"),
        ("python docs/build.py --check", "up to date"),
        ("python make_tasks.py --source mbpp --help", "--plus"),
    ],
)
def test_cheap_commands_of_the_documents_run(command, printed, tmp_path):
    text = "".join(
        path.read_text(encoding="utf-8") for path in [*PAGES, *MODULES, ROOT / "docs/build.py"]
    )
    assert command.replace("100", "ANSWER") in text or command in text
    assert printed in shell(command, tmp_path)


def test_the_readme_s_commands_can_be_made_small():
    spec = importlib.util.spec_from_file_location("run_commands", ROOT / "docs/run_commands.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    found = script.commands()
    assert len(found) >= 12 and any(line.startswith("printf %s '{") for line in found)
    (ppo,) = (line for line in found if " ppo.py " in line)
    small = script.made_small(ppo)
    assert small.startswith(f"{sys.executable} {ROOT}/ppo.py --tasks") and "--max_steps 2" in small
    assert "--help" not in small and "torchrun" not in small
    (study,) = (line for line in found if "process_at_end --tasks" in line)
    assert script.made_small(study).count("--max_steps 2") == 1
