"""Puts source code into the pages of docs/tour/, and their exercises into docs/exercises.md.

    python docs/build.py            # rewrites what has changed
    python docs/build.py --check    # names the pages that are not up to date, and fails

A page has marks; the block of code after a mark is written here. A mark names a function or class
of a file, or a part of one: from the line that contains a text to before the line that contains
another text. Each text must stand on one line alone. A study's name gives the forked stage.

    <!-- ppo.py: compose_rewards -->
    <!-- ppo.py: main, from "# Reward, once" to "# Advantage (GAE" -->
    <!-- studies/gspo.diff: policy_loss -->
"""

import ast
import re
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from studies import run  # noqa: E402

PAGES = sorted((ROOT / "docs/tour").glob("[1-9]*.md"))
MARK = re.compile(
    r"<!-- (?P<file>[\w/]+\.(?:py|diff)): (?P<name>\w+)"
    r'(?:, from "(?P<first>[^"\n]+)" to "(?P<last>[^"\n]+)")? -->\n```python\n.*?```\n',
    re.DOTALL,
)
EXERCISES_HEAD = """# Exercises

Three a stage, from the pages of the [tour](tour/README.md). `docs/build.py` writes this page.

- Some ask for a number or a word: `python docs/check.py 1a ANSWER`.
- Some ask for a change. It goes into a file of your own at the top of the project, whose name the
  exercise says, so that the stage stays whole; `cp ppo.py my_ppo.py` is a start. Then
  `python docs/check.py 6b` loads your file and tests a property that the exercise does not print
  in full.

"""


def lines_of(file: str) -> list[str]:
    path = ROOT / file
    return (run.fork([path.stem])[1] if path.suffix == ".diff" else path.read_text()).splitlines()


def excerpt(file: str, name: str, first: str | None = None, last: str | None = None) -> str:
    """The source of a function or class, or a part of one. ValueError where it is not found."""
    lines = lines_of(file)
    nodes = [node for node in ast.parse("\n".join(lines)).body if getattr(node, "name", "") == name]
    if len(nodes) != 1:
        raise ValueError(f"{file}: no {name}")
    start, end = nodes[0].lineno - 1, nodes[0].end_lineno
    start = min([start, *(decorator.lineno - 1 for decorator in nodes[0].decorator_list)])
    if first is not None:
        places = []
        for text in (first, last):
            found = [number for number in range(start, end) if text in lines[number]]
            if len(found) != 1:
                raise ValueError(f"{file}: {name}: {len(found)} lines contain {text!r}")
            places += found
        start, end = places
    return textwrap.dedent("\n".join(lines[start:end])).strip("\n") + "\n"


def with_source(text: str) -> str:
    """A page with the block after each of its marks written anew."""

    def block(match: re.Match) -> str:
        mark = match[0].partition("\n")[0]
        return f"{mark}\n```python\n{excerpt(*match.groups())}```\n"

    return MARK.sub(block, text)


def exercises_of(text: str) -> str:
    """The exercises of a page, under its title."""
    title = re.match(r"# (.+)\n", text)[1]
    exercises = text.split("\n## Exercises\n")[1].split("\n## ")[0].rstrip()
    return f"## {title}\n{exercises}\n".replace("](../", "](")


def build() -> dict[Path, str]:
    """What each page should hold."""
    pages = {path: with_source(path.read_text(encoding="utf-8")) for path in PAGES}
    exercises = EXERCISES_HEAD + "\n".join(map(exercises_of, pages.values()))
    return pages | {ROOT / "docs/exercises.md": exercises}


def main() -> None:
    stale = []
    for path, text in build().items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(path.relative_to(ROOT).as_posix())
            if "--check" not in sys.argv:
                path.write_text(text, encoding="utf-8")
    print("\n".join(stale) or "up to date")
    if stale and "--check" in sys.argv:
        sys.exit(1)


if __name__ == "__main__":
    main()
