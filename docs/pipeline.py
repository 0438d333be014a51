"""Draws docs/pipeline.svg from the code: which stage reads and writes which file.

    python docs/pipeline.py            # writes the figure
    python docs/pipeline.py --check    # fails where the figure is not that of the code

A stage is a row, a file a lane from left to right. What a stage reads follows from the flags of its
Config, READS; what it writes is in WRITES. Which rooms a stage uses are its imports. A flag that
names a file or a model and is in neither table is an error.
"""

import ast
import html
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "docs/pipeline.svg"

LANES = [
    ("tasks", "tasks.jsonl"),
    ("policy", "policy"),
    ("labels", "prm.jsonl"),
    ("pairs", "pairs.jsonl"),
    ("reward model", "reward model"),
    ("samples", "verdicts.jsonl"),
    ("report", "report.json"),
]
# The stages in reading order, and what each writes.
WRITES = {
    "make_tasks.py": ["tasks"],
    "sft.py": ["policy"],
    "make_prm_data.py": ["labels", "pairs"],
    "train_prm.py": ["reward model", "report"],
    "ppo.py": ["policy"],
    "grpo.py": ["policy"],
    "dpo.py": ["policy"],
    "eval.py": ["samples", "report"],
    "eval_prm.py": ["report"],
    "plot.py": [],
}
# The lane of a flag that names what is read; of `data` by the stage.
READS = {
    "tasks": ["tasks"],
    "model_name_or_path": ["policy"],
    "completer": ["policy"],
    "prm": ["reward model"],
    "orm": ["reward model"],
    "reasoning_rm": ["reward model"],
    "pairs": ["pairs"],
    "samples": ["samples"],
    "from_verdicts": ["samples"],
    "page": ["labels", "samples"],
    "report": ["report"],
    "evals": ["samples", "report"],
}
DATA = {
    "train_prm.py": ["labels", "pairs", "samples"],
    "dpo.py": ["pairs"],
    "eval_prm.py": ["labels"],
    "make_prm_data.py": ["labels"],
}
ELSEWHERE = {"input", "plus", "exclude"}  # published files
ROOMS = ("sandbox", "kernels", "benchmarks", "prm_data", "teachers")


def sources_of(stage: str) -> list[Path]:
    """The files whose Config has a stage's flags: the stage, or the modules it is a switch over."""
    room = {"make_tasks.py": "benchmarks", "make_prm_data.py": "prm_data"}.get(stage)
    return sorted((ROOT / room).glob("*.py")) if room else [ROOT / stage]


def flags_of(path: Path) -> dict[str, str]:
    """The annotation of each flag of a file's Config."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == "Config":
            return {
                field.target.id: ast.unparse(field.annotation)
                for field in node.body
                if isinstance(field, ast.AnnAssign)
            }
    return {}


def reads_of(stage: str) -> list[str]:
    """The lanes that a stage reads."""
    found = set()
    for path in sources_of(stage):
        for name, annotation in flags_of(path).items():
            if name == "data":
                found |= set(DATA[stage])
            elif name in READS and not annotation.startswith("Literal"):
                found |= set(READS[name])
            elif "InputFile" in annotation and name not in ELSEWHERE:
                raise ValueError(f"{path.name}: --{name} is in no table of docs/pipeline.py")
    return [lane for lane, _ in LANES if lane in found]


def rooms_of(stage: str) -> list[str]:
    """The rooms that a stage and the modules that it is a switch over import."""
    names = set()
    for path in {ROOT / stage, *sources_of(stage)}:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
    return [room for room in ROOMS if room in names]


STYLE = """
    .card { fill: #ffffff; stroke: #d0d7de; }
    .stage { fill: #dbeafe; stroke: #2563eb; stroke-width: 1.5; }
    .lane { stroke: #d0d7de; stroke-width: 2; }
    .live { stroke: #2563eb; stroke-width: 3; }
    .write { fill: #2563eb; stroke: #2563eb; stroke-width: 3; }
    .read { fill: #ffffff; stroke: #2563eb; stroke-width: 3; }
    .row { stroke: #eaeef2; stroke-width: 1; }
    text { fill: #111827; font-size: 17px; }
    .small { font-size: 13px; fill: #57606a; }
    .head { text-anchor: middle; font-size: 16px; font-weight: bold; }
    @media (prefers-color-scheme: dark) {
      .card { fill: #0d1117; stroke: #30363d; }
      .stage { fill: #1e3a5f; stroke: #60a5fa; }
      .lane { stroke: #30363d; } .row { stroke: #21262d; }
      .live { stroke: #60a5fa; }
      .write { fill: #60a5fa; stroke: #60a5fa; }
      .read { fill: #0d1117; stroke: #60a5fa; }
      text { fill: #f0f6fc; } .small { fill: #9ca3af; }
    }"""
ROW, LANE, LEFT, TOP = 56, 130, 330, 92  # pixels


def figure() -> str:
    """The text of the SVG."""
    x = {lane: LEFT + LANE * i + LANE // 2 for i, (lane, _) in enumerate(LANES)}
    y = {stage: TOP + ROW * i + ROW // 2 for i, stage in enumerate(WRITES)}
    width, height = LEFT + LANE * len(LANES) + 20, TOP + ROW * len(WRITES) + 30
    reads = {stage: reads_of(stage) for stage in WRITES}
    parts, words = [], []
    for lane, title in LANES:
        users = [stage for stage in WRITES if lane in WRITES[stage] + reads[stage]]
        first, last = y[users[0]], y[users[-1]]
        parts.append(f'<text class="head" x="{x[lane]}" y="{TOP - 34}">{title}</text>')
        parts.append(f'<path class="lane" d="M{x[lane]} {TOP - 20} V{TOP + ROW * len(WRITES)}"/>')
        parts.append(f'<path class="live" d="M{x[lane]} {first} V{last}"/>')
    for stage in WRITES:
        rooms = " · ".join(rooms_of(stage))
        low = y[stage] + ROW // 2
        parts += [
            f'<path class="row" d="M20 {low} H{width - 20}"/>',
            f'<rect class="stage" x="20" y="{y[stage] - 22}" width="{LEFT - 30}" height="44" '
            'rx="8"/>',
            f'<text x="34" y="{y[stage] - (2 if rooms else -6)}">{stage}</text>',
            f'<text class="small" x="34" y="{y[stage] + 15}">{html.escape(rooms)}</text>',
        ]
        for lane, _ in LANES:
            is_read, is_written = lane in reads[stage], lane in WRITES[stage]
            if is_read:
                radius = 11 if is_written else 8
                parts.append(f'<circle class="read" cx="{x[lane]}" cy="{y[stage]}" r="{radius}"/>')
            if is_written:
                radius = 5 if is_read else 9
                parts.append(f'<circle class="write" cx="{x[lane]}" cy="{y[stage]}" r="{radius}"/>')
        said = ", ".join(reads[stage]) or "nothing of these"
        words.append(f"{stage} reads {said} and writes {', '.join(WRITES[stage]) or 'figures'}")
    legend = [
        '<circle class="write" cx="36" cy="30" r="9"/><text x="54" y="36">writes</text>',
        '<circle class="read" cx="130" cy="30" r="8"/><text x="148" y="36">reads</text>',
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            'font-family="DejaVu Sans, Verdana, Helvetica, Arial, sans-serif" role="img" '
            'aria-labelledby="title description">',
            '  <title id="title">The pipeline</title>',
            f'  <desc id="description">{html.escape(". ".join(words))}.</desc>',
            f"  <style>{STYLE}\n  </style>",
            f'  <rect class="card" x="1" y="1" width="{width - 2}" height="{height - 2}" rx="12"/>',
            *(f"  {part}" for part in [*legend, *parts]),
            "</svg>\n",
        ]
    )


def main() -> None:
    text = figure()
    if "--check" not in sys.argv:
        OUTPUT.write_text(text, encoding="utf-8")
    elif OUTPUT.read_text(encoding="utf-8") != text:
        sys.exit(f"{OUTPUT.name} is not up to date: run `python docs/pipeline.py`")


if __name__ == "__main__":
    main()
