"""The program in a completion: what chat models write around it, as a table of cases."""

import textwrap

import pytest

import common
from common.programs import defined_names, fences_of

GOOD = "def f(x):\n    return x\n"
DOC = 'def f(x):\n    """Doc.\n\n```\nf(1)\n```\n    """\n    return x\n'
DRAFT = "def f(x):\n    return 0\n"
BODY = "    return x\n"
PREFIX = 'from typing import List\n\n\ndef f(x: int) -> int:\n    """The same."""\n'

# name, completion: the program that is taken must be one whose f(5) is 5.
CASES = {
    "bare": GOOD,
    "bare, CRLF": GOOD.replace("\n", "\r\n"),
    "fence": f"```python\n{GOOD}```",
    "fence, prose around": f"Sure! Here it is:\n\n```python\n{GOOD}```\nIt returns x.\n",
    "fence without a language": f"```\n{GOOD}```\n",
    "fence, space after the language": f"```python \n{GOOD}```",
    "fence with attributes": f'```python title="f.py" {{.numberLines}}\n{GOOD}```',
    "fence with a class": f"``` {{.python}}\n{GOOD}```",
    "fence, python3": f"```python3\n{GOOD}```",
    "fence, Python": f"```Python\n{GOOD}```",
    "fence, py": f"```py\n{GOOD}```",
    "fence, CRLF": f"Here:\n```python\n{GOOD}```\nok".replace("\n", "\r\n"),
    "tilde fence": f"Here:\n~~~python\n{GOOD}~~~\nok",
    "four ticks": f"````python\n{GOOD}````",
    "four ticks around three": f"````python\n{GOOD}s = '''\n```\n'''\n````\n",
    "tildes around ticks": f"~~~python\n{GOOD}s = '''\n```\n'''\n~~~\n",
    "fence without an end": f"```python\n{GOOD}",
    "fence, longer closing": f"```python\n{GOOD}`````\n",
    "fence in a list": "1. So:\n   ```python\n" + textwrap.indent(GOOD, "   ") + "   ```\n2. Done.",
    "fence after a tab": "-\t```python\n".replace("-", "")
    + textwrap.indent(GOOD, "\t")
    + "\t```\n",
    "bash fence first": f"```bash\npip install x\n```\nThen:\n```python\n{GOOD}```\n",
    "example input first": f"```\n3\n1 2 3\n```\n```python\n{GOOD}```\n",
    "example output after": f"```python\n{GOOD}```\nprints\n```\n3\n```\n",
    "example call after": f"```python\n{GOOD}```\nUse it:\n```python\nprint(f(3))\n```\n",
    "two drafts, the last one": f"```python\n{DRAFT}```\nNo, wrong.\n```python\n{GOOD}```\n",
    "unlabelled draft after": f"```python\n{GOOD}```\nnot\n```\n{DRAFT}```\n",
    "broken draft after": f"```python\n{GOOD}```\n```python\ndef f(x:\n```\n",
    "closing fence alone": f"{GOOD}```\nThis works because.",
    "docstring with a fence": "```python\n" + DOC.replace("```", "    ```") + "```\n",
    "docstring with a flush fence": f"```python\n{DOC}```\nDone.\n",
    "bare, docstring with a fence": DOC,
    "draft in the thinking": f"<think>\n```python\n{DRAFT}```\n</think>\n```python\n{GOOD}```",
    "bare after the thinking": f"<think>\nLet me see.\n</think>\n\n{GOOD}",
    "thinking that the template opened": f"First, so.\n```python\n{DRAFT}```\n</think>\n{GOOD}",
    "answer tags": f"<think>\nx\n</think>\n<answer>\n{GOOD}</answer>",
    "answer tags on one line": f"<think>x</think><answer>{GOOD}</answer>",
    "fence in answer tags": f"<think>x</think>\n<answer>\n```python\n{GOOD}```\n</answer>",
    "answer without an end": f"<think>x</think><answer>{GOOD}",
    "prose in answer tags": f"<think>x</think><answer>\nIt is:\n```python\n{GOOD}```\n</answer>\n",
    "tags named in the thinking": "<think>\nI must write <answer> and </answer>.\n</think>\n"
    f"<answer>\n{GOOD}</answer>",
    "tags in a string": f'```python\n{GOOD}s = "<answer>"\nt = "</answer>"\n```\n',
    "bare with tags in a string": f'{GOOD}s = "<answer>"\nt = "</answer> </think"\n',
    "two answers, the last one": f"<answer>{DRAFT}</answer>\nNo.\n<answer>{GOOD}</answer>",
    "assigned lambda": "```python\nf = lambda x: x\n```",
    "in a branch": "```python\nif True:\n    def f(x):\n        return x\n```",
    "decorated, with helpers": "```python\ndef same(g):\n    return g\n\n\n@same\n" + GOOD + "```",
}
# The completion goes on where PREFIX ends, or is a chat answer.
PREFIXED = {
    "body": BODY,
    "body, then a fence": f"{BODY}```\nThat is all.",
    "body in a fence": f"```python\n{BODY}```",
    "whole program in a fence": f"Here:\n```python\n{GOOD}```",
    "whole program, bare": GOOD,
    "body, then more functions": f"{BODY}\n\ndef g(x):\n    return f(x)\n",
}


def value_of(program: str):
    namespace = {}
    exec(program, namespace)
    return namespace["f"](5)


@pytest.mark.parametrize("name", CASES)
def test_the_program_is_found_in_what_a_model_writes(name):
    assert value_of(common.extract_program({"entry_point": "f"}, CASES[name])) == 5


@pytest.mark.parametrize("name", PREFIXED)
def test_a_completion_goes_on_after_the_prefix_or_brings_its_own_program(name):
    task = {"entry_point": "f", "prefix": PREFIX}
    assert value_of(common.extract_program(task, PREFIXED[name])) == 5


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        ("```python\nprint(1)\n```\nprints\n```\n1\n```\n", "print(1)\n"),
        ("Input:\n```\n3\n```\nOutput:\n```\n1 + 2\n```\nSo:\n```\nprint(input())\n```", None),
        ("import sys\nprint(sys.stdin.read())\n", "import sys\nprint(sys.stdin.read())\n"),
        ("```python\nx = int(input())\nprint(x)\n```", "x = int(input())\nprint(x)\n"),
    ],
)
def test_without_an_entry_point_a_program_is_what_does_something(completion, program):
    task = {"entry_point": None}
    assert common.extract_program(task, completion) == (program or "print(input())\n")


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        ("def f(x:\n", "def f(x:\n"),
        ("<think>x</think><answer>def f(x:\n</answer>", "def f(x:\n"),
        ("Here:\n```python\ndef f(x:\n```\nok", "def f(x:\n"),
        ("```bash\nls\n```\n```python\ndef f(x:\n```", "def f(x:\n"),
        (f"<think>\nIt could be\n```python\n{GOOD}```\nbut", None),
        ("I cannot do that.", "I cannot do that."),
        ("", ""),
        ("def g(x):\n    return x\n", "def g(x):\n    return x\n"),
    ],
)
def test_a_program_that_does_not_parse_is_what_the_model_seems_to_mean(completion, program):
    expected = completion if program is None else program  # thinking that never ends is no answer
    assert common.extract_program({"entry_point": "f"}, completion) == expected


def test_a_standalone_program_begins_with_what_the_prompt_gives():
    task = {"entry_point": "f", "preamble": "from typing import List", "prefix": PREFIX}
    assert common.standalone(task, GOOD) == "from typing import List\n" + GOOD
    assert common.standalone(task, PREFIX + BODY) == PREFIX + BODY
    assert common.standalone({"entry_point": "f"}, GOOD) == GOOD
    future = "from __future__ import annotations\n"
    assert value_of(common.standalone(task, future + GOOD)) == 5


@pytest.mark.parametrize(
    "head",
    [
        "from __future__ import (\n    annotations,\n)\n",
        "from __future__ import annotations, \\\n    division\n",
        "'''Doc.\x0c'''\r\n# \u2028\nfrom __future__ import annotations\n",
        'DOC = """\nfrom __future__ import annotations\n"""\n',
    ],
    ids=["brackets", "backslash", "line ends", "text"],
)
def test_a_preamble_stands_behind_the_future_imports_as_python_reads_them(head):
    program = head + "def f(x):\n    return floor(x)\n"
    task = {"entry_point": "f", "preamble": "from math import floor"}
    assert value_of(common.standalone(task, program)) == 5
    assert common.standalone(task, "def f(x:\n") == "from math import floor\ndef f(x:\n"


def test_names_are_those_that_the_top_level_binds():
    import ast

    source = """
import a.b, c as d
from e import f as g
h: int = 1
i, (j, *k) = 1, (2, 3)
for l in []:
    m = 1
try:
    n = 1
except Exception:
    pass
class o:
    p = 1
def q():
    r = 1
(s := 1)
"""
    names = defined_names(ast.parse(source).body)
    assert names == set("adghijklmnoqs")


def test_a_fence_is_read_with_its_language_and_place():
    text = "a\n```python x\nb\n```\nc\n~~~\nd\n"
    first, second = fences_of(text)
    assert first.language == "python" and first.contents[0] == "b\n" and first.start == 2
    assert second.language == "" and second.contents == ["d\n"]
    assert text[second.start :].startswith("~~~")
    text = "  ```\n  s = 'a\u2028  b\x0c  c'\n  ```\n"  # neither separator ends a line
    assert fences_of(text)[0].contents[0] == "s = 'a\u2028  b\x0c  c'\n"


@pytest.mark.parametrize(
    "completion",
    [
        "```\n" * 20_000,
        "<answer>" * 20_000,
        "(" * 50_000,
        "```python\n" + "x = 1\n" * 100_000,
        "\ud800```python\n\ud800\n```",
        "\x00```python\n\x00\n```",
    ],
    ids=["fences", "tags", "brackets", "long", "surrogate", "null"],
)
def test_hostile_text_takes_no_long_and_is_no_error(completion):
    assert isinstance(common.extract_program({"entry_point": "f"}, completion), str)
