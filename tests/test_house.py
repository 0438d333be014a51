"""The rules of the house (CONTRIBUTING.md): which way imports run, how long files are, how far
ppo.py and grpo.py may differ."""

import ast
import difflib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from studies import run

ROOT = Path(__file__).parent.parent
PACKAGES = {"torch", "transformers", "safetensors", "numpy", "tqdm"}  # requirements.txt
ROOMS = {"common", "kernels", "benchmarks", "prm_data", "teachers", "jail", "studies"}
STAGES = sorted(path.stem for path in ROOT.glob("*.py") if path.stem != "sandbox")

# Who may import whom. Every part may import the standard library and itself.
ALLOWED = {
    "sandbox": {"jail"},
    "jail": set(),
    "kernels": {"torch"},
    "common": {"kernels", "sandbox", *PACKAGES},
    "teachers": {"common", "kernels", "sandbox", *PACKAGES},
    "prm_data": {"teachers", "common", "kernels", "sandbox", *PACKAGES},
    "benchmarks": {"common", "kernels", "sandbox", *PACKAGES},
    "studies": {"prm_data", "teachers", "common", "kernels", "sandbox", *PACKAGES},
    "stage": {"benchmarks", "prm_data", "teachers", "common", "kernels", "sandbox", *PACKAGES},
}
# A tokenizer of our own is trained by a library that transformers stands on, files of the hub are
# fetched by another; figures are drawn by a package of requirements-dev.txt.
EXCEPTIONS = {
    ("common/models.py", "tokenizers"),
    ("benchmarks/files.py", "huggingface_hub"),
    ("plot.py", "matplotlib"),
}


def sources(*patterns):
    return sorted(path for pattern in patterns for path in ROOT.glob(pattern))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def part_of(path: Path) -> str:
    if path.parent != ROOT:
        return path.relative_to(ROOT).parts[0]
    return "sandbox" if path.stem == "sandbox" else "stage"


def imports_of(source: str) -> set[str]:
    """The top-level names of all modules that a source imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def forbidden_imports(part: str, name: str, source: str) -> set[str]:
    allowed = ALLOWED[part] | {part} | set(sys.stdlib_module_names)
    return {
        module
        for module in imports_of(source)
        if module not in allowed and (name, module) not in EXCEPTIONS
    }


CODE = sources("*.py", *(f"{room}/**/*.py" for room in ROOMS))


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_imports_run_one_way(path):
    assert not forbidden_imports(part_of(path), name_of(path), path.read_text())


@pytest.mark.parametrize(
    ("part", "source", "forbidden"),
    [
        ("stage", "import common, sandbox\nfrom kernels import masking", set()),
        ("stage", "import ppo", {"ppo"}),
        ("stage", "def f():\n    from jail import seal", {"jail"}),
        ("kernels", "import torch\nimport numpy as np", {"numpy"}),
        ("jail", "import os\nimport torch", {"torch"}),
        ("common", "from prm_data.gold import labels", {"prm_data"}),
        ("benchmarks", "import requests", {"requests"}),
    ],
)
def test_an_import_that_runs_the_other_way_is_seen(part, source, forbidden):
    assert forbidden_imports(part, "x.py", source) == forbidden


def test_no_weights_or_data_are_unpickled_and_no_remote_code_runs():
    unsafe = re.compile(r"pickle\.loads?\(|torch\.load\(|trust_remote_code=True|shell=True")
    assert [name_of(path) for path in CODE if unsafe.search(path.read_text())] == []


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_read_in_one_sitting(stage):
    lines = lines_of(ROOT / f"{stage}.py")
    assert len(lines) <= 320
    assert not any("fmt: skip" in line or "fmt: off" in line for line in lines)


@pytest.mark.parametrize("path", [p for p in CODE if part_of(p) != "stage"], ids=name_of)
def test_a_file_is_one_thing(path):
    assert len(lines_of(path)) <= 430


def test_lines_fit_on_a_projector():
    folders = [*sorted(ROOMS), "tests", "bench", "reproduce"]
    kinds = [f"{folder}/**/*.{kind}" for folder in folders for kind in ("py", "sh", "diff")]
    texts = sources("*.py", *kinds)
    wide = [
        f"{name_of(path)}:{number}"
        for path in texts
        for number, line in enumerate(lines_of(path), 1)
        if len(line) > (101 if path.suffix == ".diff" else 100)  # a diff's mark is a column
    ]
    assert wide == []


def test_ppo_and_grpo_differ_by_the_lesson():
    result = subprocess.run(["diff", "ppo.py", "grpo.py"], cwd=ROOT, capture_output=True, text=True)
    assert 0 < sum(line[0] in "<>" for line in result.stdout.splitlines()) <= 220


@pytest.mark.parametrize("path", sources("studies/*.diff"), ids=name_of)
def test_a_study_is_a_small_change(path):
    study = run.read_study(path.stem)
    changed = 0
    for old, new in study.hunks:
        matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
        same = sum(block.size for block in matcher.get_matching_blocks())
        changed += len(old) + len(new) - 2 * same
    assert 0 < changed <= 60
    run.apply(study, (ROOT / study.stage).read_text())


def test_the_readme_is_a_page_and_not_a_report():
    text = (ROOT / "README.md").read_bytes()
    assert len(text) <= 14_336 and text.count(b"\n") <= 200


def test_the_run_time_needs_five_packages():
    names = {re.split(r"[<>=~!]", line)[0] for line in lines_of(ROOT / "requirements.txt") if line}
    assert names == PACKAGES
