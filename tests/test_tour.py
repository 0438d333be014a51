"""The tour: its code is the source's, its exercises can be solved and are checked."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs/tour").glob("[1-9]*.md"))


def load(name):
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / f"docs/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build, check = load("build"), load("check")


def test_the_pages_hold_the_source_as_it_is():
    for path, text in build.build().items():
        assert path.read_text(encoding="utf-8") == text, f"{path}: run `python docs/build.py`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_has_an_idea_an_equation_the_lines_a_figure_a_misconception_and_exercises(page):
    text = page.read_text(encoding="utf-8")
    parts = ["The idea", "The equation", "The lines that matter", "The figure", "A misconception"]
    titles = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert [title.removesuffix("s") for title in titles] == [*parts, "Exercise"]
    idea = text.split("## The idea\n")[1].split("\n## ")[0]
    assert len(re.findall(r"\.(?:\s|$)", idea)) == 5  # sentences
    assert "$$" in text and re.search(r"\]\(\w+\.svg\)|src=\"\w+\.png\"", text)
    blocks = build.MARK.findall(text)
    assert blocks and sum(block.count("\n") for block in re.findall(r"```.*?```", text, re.S)) < 70
    assert text.count("```python") == len(blocks)


def test_every_exercise_has_a_check_and_three_are_on_each_page():
    numbers = []
    for page in PAGES:
        own = re.findall(r"^- \*\*(\w+)\.\*\*", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert own == [f"{page.stem[0]}{letter}" for letter in "abc"]
        numbers += own
    assert numbers == list(check.CHECKS)


def test_a_name_or_a_text_that_is_gone_is_an_error():
    assert build.excerpt("ppo.py", "value_loss").startswith("def value_loss(")
    with pytest.raises(ValueError, match="no value_los"):
        build.excerpt("ppo.py", "value_los")
    with pytest.raises(ValueError, match="0 lines contain"):
        build.excerpt("ppo.py", "main", "# No such line", "# Log")
    old = "<!-- ppo.py: value_loss -->\n```python\nold\n```\n"
    assert "clipped = old_values" in build.with_source(old) and "old\n`" not in old[:1]


ANSWERS = {
    "1a": "100",
    "1c": "6",
    "2a": "error",
    "2c": "0.6667",
    "3a": "0.4",
    "3c": "0.001",
    "4a": "3",
    "5a": "1",
    "5c": "0.1",
    "6a": "0.175",
    "7a": "1.5",
    "7c": "0.43",
    "8a": "0.693",
    "8c": "0.5",
    "9a": "0.5",
    "9c": "0.5",
}


@pytest.mark.parametrize("number", ANSWERS)
def test_the_right_answer_is_right_and_another_is_not(number, capsys):
    assert check.main([number, ANSWERS[number]]) == 0
    wrong = "0" if number != "2a" else "failed"
    assert check.main([number, wrong]) == 1
    assert "not yet" in capsys.readouterr().out


# Of each change: the reader's file, and a wrong and a right text of it. A stage's name and the
# lines to replace stand for a fork.
SORT_TASK = (
    '{"task_id": "mine/1", "prompt": "Sort.", "entry_point": "f", "style": "call", "tests": [%s]}\n'
)
SFT_OLD = "    return rows\n\n\ndef main(config"
LABELS = (
    "def label_of(variant, status, equivalent):\n"
    '    if status == "harness_error":\n        return None\n'
    '    if status != "passed":\n        return -1.0\n'
    '    if variant.intent == "refactor":\n        return 1.0\n'
)
SEARCH = """
def galloping_search(num_lines):
    right, step = num_lines, 1
    left = 1
    while step < num_lines:
        if not (yield step):
            right = step
            break
        left, step = step + 1, step * 2
    while left < right:
        m = (left + right) // 2
        if (yield m):
            left = m + 1
        else:
            right = m
    return left
"""
LINEAR = "from prm_data.prefix_search import linear_search as galloping_search\n"
REWARD_OLD = "    return weight * scores * scored / norm + outcome[:, None] * last\n"
REWARD_NEW = (
    "    bad = ((scores < 0) & scored).long()\n"
    "    scored = scored & (bad.cumsum(1) - bad == 0)\n" + REWARD_OLD
)
CLIP_OLD = "    loss = -(torch.minimum(unclipped, clipped) * mask).sum()\n"
CLIP_NEW = (
    "    objective = torch.minimum(unclipped, clipped)\n"
    "    bound = torch.where(advantages < 0, 3 * advantages, -torch.inf)\n"
    "    loss = -(torch.maximum(objective, bound) * mask).sum()\n"
)
CHANGES = {
    "1b": (
        "my_tasks.jsonl",
        SORT_TASK % '{"args": [[3, 1, 2]], "output": [1, 2, 3]}',
        SORT_TASK % '{"args": [[3, -4, 3, 1, -1]], "output": [-4, -1, 1, 3, 3]}',
    ),
    "2b": (
        "my_program.py",
        "def f(n):\n    return n * n\n",
        "def f(n):\n    return n * n if n < 11 else 0\n",
    ),
    "3b": (
        "my_sft.py",
        ("sft.py", SFT_OLD, SFT_OLD),
        (
            "sft.py",
            SFT_OLD,
            '    unique = {(row["prompt"], row["completion"]): row for row in reversed(rows)}\n'
            "    return [row for row in rows if row in unique.values() and "
            'row is unique[row["prompt"], row["completion"]]]\n\n\ndef main(config',
        ),
    ),
    "4b": (
        "my_labels.py",
        LABELS + '    return 1.0 if equivalent == "positive" else 0.0\n',
        LABELS + '    return {"drop": None, "positive": 1.0, "neutral": 0.0}[equivalent]\n',
    ),
    "4c": ("my_search.py", LINEAR, SEARCH),
    "5b": (
        "my_train_prm.py",
        ("train_prm.py", "return (scores - labels).square()", "return (scores - labels).abs()"),
        (
            "train_prm.py",
            "return (scores - labels).square()",
            'return F.huber_loss(scores, labels, reduction="none")',
        ),
    ),
    "6b": (
        "my_ppo.py",
        ("ppo.py", REWARD_OLD, REWARD_OLD),
        ("ppo.py", REWARD_OLD, REWARD_NEW),
    ),
    "6c": ("my_ppo.py", ("ppo.py", CLIP_OLD, CLIP_OLD), ("ppo.py", CLIP_OLD, CLIP_NEW)),
    "7b": (
        "my_grpo.py",
        ("grpo.py", "gate = passed.float()", "gate = (pass_rate > 0.5).float()"),
        ("grpo.py", "gate = passed.float()", "gate = (pass_rate >= 0.5).float()"),
    ),
    "8b": (
        "my_dpo.py",
        ("dpo.py", "    return loss, (config", "    return loss, (config"),
        (
            "dpo.py",
            "    return loss, (config",
            '    if config.loss_type == "sigmoid":\n'
            "        loss = (1 - config.beta * h).clamp(min=0)\n    return loss, (config",
        ),
    ),
    "9b": (
        "my_eval.py",
        "def all_pass(n, c, k):\n    return (c / n) ** k\n",
        "import math\ndef all_pass(n, c, k):\n    return math.comb(c, k) / math.comb(n, k)\n",
    ),
}


def test_each_exercise_has_a_solution_here():
    assert sorted(ANSWERS.keys() | CHANGES.keys()) == sorted(check.CHECKS)


@pytest.mark.parametrize("number", CHANGES)
def test_a_right_change_passes_and_the_stage_as_it_is_does_not(
    number, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    file, *versions = CHANGES[number]
    assert check.main([number]) == 1 and f"{file} is not in this folder" in capsys.readouterr().out
    for version, status in zip(versions, (1, 0), strict=True):
        if isinstance(version, tuple):
            stage, old, new = version
            source = (ROOT / stage).read_text(encoding="utf-8")
            assert source.count(old) == 1
            version = source.replace(old, new)
        Path(file).write_text(version, encoding="utf-8")
        assert check.main([number]) == status, capsys.readouterr().out
        sys.modules.pop(Path(file).stem, None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "usage: python docs/check.py"),
        (["0x"], "exercises: 1a, 1b"),
        (["1a"], "1a needs an answer"),
        (["1b", "3"], "1b takes no answer"),
        (["1a", "many"], "could not convert"),
    ],
)
def test_a_wrong_call_is_one_line(words, message, capsys):
    assert check.main(words) == 2
    assert message in capsys.readouterr().out
