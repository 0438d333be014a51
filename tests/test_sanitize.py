"""What EvalPlus keeps of an answer."""

import ast
import json

import pytest

from benchmarks.sanitize import longest_source, sanitize

CASES = {
    "examples and asserts below the function go": (
        "def f(x):\n    return x\n\nassert f(1) == 2\nprint(f(1))\n",
        "def f(x):\n    return x",
    ),
    "prose around the longest source goes": (
        "Here you are:\n\nimport math\ndef f(x):\n    return math.pi\n\nIt's all.",
        "import math\ndef f(x):\n    return math.pi",
    ),
    "what the entry point reaches stays, in its order, after the imports": (
        "def g(x):\n    return N\nN = 3\nimport re\ndef f(x):\n    return g(x)\nM = 4",
        "import re\ndef g(x):\n    return N\nN = 3\ndef f(x):\n    return g(x)",
    ),
    "the first definition of a name counts": (
        "def f(x):\n    return 1\ndef f(x):\n    return 2\n",
        "def f(x):\n    return 1",
    ),
    "a function without return, and a decorated one, go": (
        "def g():\n    pass\n@g\ndef h():\n    return 1\ndef f(x):\n    return g, h",
        "def f(x):\n    return g, h",
    ),
    "classes and annotated names stay, pairs of names go": (
        "class A:\n    pass\nn: int = 1\na, b = 1, 2\ndef f(x):\n    return A, n, a, b",
        "class A:\n    pass\nn: int = 1\ndef f(x):\n    return A, n, a, b",
    ),
    "of an answer that does not define the entry point the imports stay": (
        "import re\nx = 1\n",
        "import re",
    ),
    "where nothing is kept the source stays": ("x = 1\ny = 2\n", "x = 1\ny = 2\n"),
    "text without source is its first line": ("no program\nhere, sorry", "no program"),
}


@pytest.mark.parametrize("name", CASES)
def test_of_an_answer_stays_what_the_entry_point_needs(name):
    text, kept = CASES[name]
    assert sanitize(text, "f") == kept


def test_of_a_task_without_entry_point_every_definition_stays():
    assert sanitize("x = 1\nimport re\nprint(x)\n", None) == "import re\nx = 1"


def test_the_longest_source_has_the_most_written_lines_and_is_the_first_of_equals():
    assert longest_source("a b\nx = 1\ny = 2\na b\nu = 1\n\nv = 2") == "x = 1\ny = 2"
    assert longest_source("a b\nx = 1\ny = 2\na b\nu = 1\nv = 2\nw = 3") == "u = 1\nv = 2\nw = 3"


def test_programs_are_those_of_evalplus(benchmark_data):
    """On answers of GPT-4 (Reflexion's) with asserts of their own below."""
    theirs = pytest.importorskip("evalplus.sanitize", reason="evalplus is not installed")
    path = next(benchmark_data.glob("public_samples/reflexion/*.jsonl"), None)
    if path is None:
        pytest.skip("no public samples in BENCHMARK_DATA")
    for line in path.read_text().splitlines()[:80]:
        row = json.loads(line)
        name = row.get("entry_point") or ""
        text = str(row.get("solution", "")) + "\n\nassert f(1) == 2\nprint('done')\n"
        ours, their = sanitize(text, name), theirs.sanitize(text, name)
        assert ast.dump(ast.parse(ours)) == ast.dump(ast.parse(their))
