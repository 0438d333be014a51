"""The documents name what is there: functions of equations, links, studies, scripts."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from studies import run

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def source_of(file: str) -> str:
    """A file's text; of a study (studies/NAME.diff), the forked stage's."""
    path = ROOT / file
    return run.fork([path.stem])[1] if path.suffix == ".diff" else path.read_text(encoding="utf-8")


def defined_in(source: str) -> set[str]:
    """Functions and classes at the top of a source."""
    return {node.name for node in ast.parse(source).body if hasattr(node, "name")}


def rows_of(heading: str) -> list[list[str]]:
    """The cells of the rows of the table under a heading of docs/equations.md."""
    text = (ROOT / "docs/equations.md").read_text(encoding="utf-8")
    lines = text.split(f"\n## {heading}\n")[1].split("\n## ")[0].splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[:1] == "|"][
        2:
    ]


EQUATIONS, CONSTANTS = rows_of("Equations"), rows_of("Constants")


def test_each_equation_is_where_the_table_says():
    table = [row for row in EQUATIONS if row[2]]
    assert len(table) >= 40 and all(len(row) == 5 for row in EQUATIONS)
    for paper, equation, file, cell, _ in table:
        names = [name for name in re.findall(r"`([A-Za-z_]+)`", cell)]
        missing = set(names) - defined_in(source_of(file))
        assert not missing, (file, missing)
        assert names or "docstring" in cell, (file, cell)
        for words in re.findall(r"the line of (\w+)", cell):
            assert f"{words} =" in source_of(file) or f"({words},) =" in source_of(file)
        assert paper or equation


def test_each_equation_has_a_test_that_is_there():
    for _, equation, file, _, test in EQUATIONS:
        if file:
            module, name = test.strip("`").split("::")
            assert name in defined_in((ROOT / "tests" / module).read_text()), (equation, test)


@pytest.mark.parametrize(
    "systems", ["PRLCoder", "PSGPO", "ReCode", "PPO", "GAE", "GRPO", "DAPO", "GSPO", "DPO"]
)
def test_the_table_has_each_system(systems):
    assert any(row[0].startswith(systems) for row in EQUATIONS)


def default_of(file: str, name: str):
    """The value of a constant at the top of a file, or of a flag, `--name`, of its Config."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    if name.startswith("--"):
        (tree,) = (node for node in tree.body if getattr(node, "name", "") == "Config")
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if name.removeprefix("--") in [getattr(target, "id", None) for target in targets]:
            value = node.value
            if isinstance(value, ast.Call):  # field(default_factory=lambda: ...)
                value = value.keywords[0].value.body
            return ast.literal_eval(value)
    raise AssertionError(f"{file}: no {name}")


@pytest.mark.parametrize("row", CONSTANTS, ids=lambda row: row[4].strip("`"))
def test_each_constant_is_the_code_s(row):
    _, _, value, file, name, paper = row
    assert default_of(file, name.strip("`")) == ast.literal_eval(value) and paper


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_tests_that_a_page_names_are_there(page):
    text = page.read_text(encoding="utf-8")
    for module, name in re.findall(r"(test_\w+\.py)::(\w+)", text):
        assert name in defined_in((ROOT / "tests" / module).read_text()), (module, name)


def test_each_rule_of_the_house_names_its_tests():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rules = text.split("## Rules that hold everywhere\n")[1].split("\n## ")[0]
    for rule in rules.split("\n- **")[1:]:
        assert "Tests: `test_" in rule or rule.startswith("Words"), rule


def test_the_citation_names_each_paper():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    papers = set(re.findall(r"arXiv (\d{4}\.\d{5})", readme))
    assert len(papers) == 3 and all(f"arxiv.org/abs/{paper}" in text for paper in papers)


def test_the_glossary_is_in_order_and_a_page():
    text = (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
    words = re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE)[1:]
    assert words == sorted(words, key=str.lower) and len(set(words)) == len(words) < 60


def test_the_readme_shows_a_study_as_it_is():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```diff\n(.*?)```", text, re.DOTALL)
    study = (ROOT / "studies/process_at_end.diff").read_text(encoding="utf-8")
    assert shown.rstrip() == study[study.index("--- ppo.py") :].rstrip()
    assert shown.count("\n") < 15


def test_the_pipeline_s_figure_is_that_of_the_code():
    script = ROOT / "docs/pipeline.py"
    subprocess.run([sys.executable, str(script), "--check"], check=True, cwd=ROOT)
