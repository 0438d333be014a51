"""Programs as one page of HTML: their lines with labels and scores, for light and dark displays.

The page is one file without scripts: it opens from disk.
"""

import html

from common.files import null_for_nan

LABELS = {1: ("right", "+1"), 0: ("neutral", "0"), -1: ("wrong", "−1")}  # class, text; by sign

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --page: #ffffff; --text: #1f2328; --soft: #59636e;
  --line: #d1d9e0; --right: #0072b2; --wrong: #b34700; --differ: #fff4d6; }}
@media (prefers-color-scheme: dark) {{ :root {{ --page: #0d1117; --text: #e6edf3; --soft: #9198a1;
  --line: #3d444d; --right: #58a6ff; --wrong: #f0883e; --differ: #3a2d0b; }} }}
body {{ background: var(--page); color: var(--text); font: 15px/1.5 system-ui, sans-serif;
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }}
section {{ border-top: 1px solid var(--line); margin-top: 2rem; }}
h2 {{ font-size: 1rem; }} h2 span {{ color: var(--soft); font-weight: normal; }}
pre {{ white-space: pre-wrap; color: var(--soft); }}
table {{ border-collapse: collapse; width: 100%; }}
th {{ color: var(--soft); font-weight: normal; text-align: left; }}
td, th {{ padding: 0.15rem 0.6rem; }}
td.code {{ font-family: ui-monospace, monospace; white-space: pre-wrap; width: 99%; }}
td.number, td.score {{ color: var(--soft); text-align: right;
  font-variant-numeric: tabular-nums; }}
tr.differ {{ background: var(--differ); }}
.right {{ color: var(--right); }} .wrong {{ color: var(--wrong); }}
.neutral {{ color: var(--soft); }}
.bar {{ display: block; position: relative; width: 8rem; height: 0.8rem;
  background: linear-gradient(var(--line), var(--line)) center / 1px 100% no-repeat; }}
.bar i {{ position: absolute; top: 0; bottom: 0; background: currentColor; }}
</style>
<h1>{title}</h1>
<p>The lines of each program, their labels (<b class="right">+1</b> right, <b class="wrong">−1</b>
wrong, 0 neutral, nothing: no label), and the scores of the reward model, about −1 to 1. A line is
marked where label and score have different signs.</p>
{sections}
</html>
"""


def shown(text: str) -> str:
    """A text as HTML; a character that has no form on a page becomes U+FFFD."""
    return html.escape("".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text))


def line_of(number: int, code: str, label: float | None, score: float | None) -> str:
    """The table row of a line. label, score: None where there is none."""
    kind, text = "", ""
    if label is not None:
        kind, text = LABELS[(label > 0) - (label < 0)]
        text = text if label in LABELS else f"{label:+.2f}".replace("-", "−")
    cells = ["", ""]
    if score is not None:
        part = min(abs(score), 1.0) * 50  # per cent of the bar
        side, left = ("right", 50.0) if score > 0 else ("wrong", 50.0 - part)
        bar = f'<i style="left:{left:.1f}%;width:{part:.1f}%"></i>'
        cells = [f'<span class="bar {side}">{bar}</span>', f"{score:+.2f}".replace("-", "−")]
    differ = bool(label) and score is not None and (label > 0) != (score > 0)
    return (
        f'<tr class="{"differ" if differ else ""}"><td class="number">{number}</td>'
        f'<td class="code">{shown(code.rstrip())}</td><td class="{kind}">{text}</td>'
        f'<td>{cells[0]}</td><td class="score">{cells[1]}</td></tr>'
    )


def section_of(row: dict, scores: list[float] | None) -> str:
    """A program with its prompt; scores: one a line, or None."""
    given = [None] * len(row["completions"]) if scores is None else null_for_nan(scores)
    lines = zip(row["completions"], row["labels"], given, strict=True)
    table = "\n".join(line_of(number, *line) for number, line in enumerate(lines, 1))
    about = row.get("status", row.get("origin", ""))
    head = "<tr><th></th><th>line</th><th>label</th><th>score</th><th></th></tr>"
    title = f"{shown(row['task_id'])} <span>{shown(about)}</span>"
    prompt = shown(row["prompt"].strip())
    return (
        f"<section><h2>{title}</h2>\n<pre>{prompt}</pre>\n<table>{head}\n{table}</table></section>"
    )


def program_page(title: str, rows: list[dict], scores: list[list[float]] | None) -> str:
    """The page of rows of a prm.jsonl; scores: one a line of each row, NaN for none."""
    sections = "\n".join(map(section_of, rows, scores or [None] * len(rows)))
    return PAGE.format(title=shown(title), sections=sections)
