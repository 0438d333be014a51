"""The table of the main job comes from the run folders."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "reproduce"))
import micro_table


def test_the_table_quotes_the_reports_and_the_budgets(tmp_path, capsys):
    cell = {"pass@1": 0.5, "low": 0.4, "high": 0.6, "tasks": 10}
    for number, name in enumerate([*micro_table.POLICIES, "prm"]):
        folder = tmp_path / name
        folder.mkdir()
        rows = [{"step": 1, "step_time": 30.0}, {"step": 2, "step_time": 60.0, **({"episode": 256} if number else {})}]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        report = {
            "tasks": 20,
            "samples": 80,
            "pass@1": number / 10,
            "low": 0.0,
            "high": 1.0,
            "by_steps": {"2": cell, "8": cell},
        }
        (tmp_path / f"eval-{name}").mkdir()
        (tmp_path / f"eval-{name}" / "report.json").write_text(json.dumps(report))
    report = {"eval_accuracy": 0.9, "eval_majority": 0.6, "eval_auc": 0.95, "eval_lines": 123}
    (tmp_path / "prm" / "report.json").write_text(json.dumps(report))
    micro_table.main(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "| policy | 2 steps | 8 steps | all | RL samples | minutes |"
    assert lines[4] == "| SFT | 0.50 [0.40, 0.60] | 0.50 [0.40, 0.60] | 0.00 [0.00, 1.00] | 0 | 1.5 |"
    assert (
        lines[7] == "| PPO, test reward + PRM | 0.50 [0.40, 0.60] | 0.50 [0.40, 0.60] | 0.30 [0.00, 1.00] | 256 | 1.5 |"
    )
    assert "AUC 0.950, over 123 lines" in lines[-1]
