"""The documents name what is there: functions of equations, links, studies, scripts."""

import ast
import re
from pathlib import Path

import pytest

from studies import run

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def defined_in(path: Path) -> set[str]:
    """Functions and classes at the top of a file."""
    return {node.name for node in ast.parse(path.read_text()).body if hasattr(node, "name")}


def equations() -> list[tuple[str, str]]:
    rows = [line.split("|") for line in (ROOT / "docs/equations.md").read_text().splitlines()]
    return [(row[3].strip(), row[4]) for row in rows if len(row) == 6 and ".py" in row[3]]


def test_each_equation_is_where_the_table_says():
    table = equations()
    assert len(table) >= 15
    for file, cell in table:
        names = [name for name in re.findall(r"`([A-Za-z_]+)`", cell)]
        missing = set(names) - defined_in(ROOT / file)
        assert not missing, (file, missing)
        assert names or "docstring" in cell, (file, cell)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_within_the_project_resolve(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) + re.findall(r'src="([^"]+)"', text)
    for link in links:
        if "://" not in link:
            assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_scripts_that_a_page_names_are_there(page):
    text = page.read_text(encoding="utf-8")
    words = re.findall(
        r"(?:python|bash|torchrun [^\n]*?) ((?:[a-z_]+/)*[a-z_]+\.(?:py|sh))\b", text
    )
    for word in words:
        made_by_the_reader = word.startswith("my_")
        assert made_by_the_reader or (ROOT / word).is_file(), word


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_studies_that_a_page_runs_together_apply(page):
    text = page.read_text(encoding="utf-8")
    for words in re.findall(r"python studies/run\.py((?: [a-z_]+)+)", text):
        if "my_idea" not in words:
            run.fork(words.split())


def test_the_readme_names_each_study():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in ROOT.glob("studies/*.diff"):
        assert f"`{path.stem}`" in text, path.stem
