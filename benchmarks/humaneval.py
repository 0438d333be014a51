"""HumanEval (Chen et al., 2021): the completion goes on where the prompt, which is code, ends.

    python make_tasks.py --source humaneval --input HumanEval.jsonl.gz --output_dir tasks/humaneval

With --think true the prompt's code becomes part of a question, and the answer is a whole program.
"""

from dataclasses import dataclass
from typing import Literal

import sandbox
from benchmarks import files
from common import InputFile, OutputDir


@dataclass
class Config:
    output_dir: OutputDir  # one JSONL file a split is written here
    input: InputFile  # the published file, HumanEval.jsonl.gz
    source: Literal["humaneval"] = "humaneval"
    think: bool = False  # prompts ask for reasoning between think tags before the program


FIELDS = ("task_id", "prompt", "entry_point", "canonical_solution", "test")


def make(config: Config) -> dict[str, list[dict]]:
    """The test split, the only one. One test is the published `check` of a task."""
    tasks = []
    for row in files.read_benchmark(config.input, dict.fromkeys(FIELDS, str)):
        tasks.append(
            {
                "task_id": row["task_id"],
                "prompt": row["prompt"],
                "prefix": row["prompt"],
                "entry_point": row["entry_point"],
                "solution": row["prompt"] + row["canonical_solution"],
                # For answers that are whole programs and leave out what the prompt gives.
                "preamble": sandbox.prompt_helpers(row["prompt"], row["entry_point"]),
                "setup": sandbox.prompt_helpers(row["prompt"], row["entry_point"]),
                "style": "assert",
                "tests": [f"{row['test']}\ncheck({row['entry_point']})"],
                "timeout": 3,
                "meta": {"split": "test"},
            }
        )
    return {"test": tasks}


def main(config: Config) -> None:
    files.write_splits(make(config), config.output_dir, config.think)
