"""GSM8K (Cobbe et al., 2021): word problems. Nothing is executed, the final answer counts.

    python make_tasks.py --source gsm8k --input test.jsonl --output_dir tasks/gsm8k
    python make_tasks.py --source gsm8k --input train.jsonl --think true --output_dir tasks/gsm8k

The split is the one that the input file is named after. With --think true each row carries its
rationale as a `completion` with think and answer tags, and the rationale's lines as `meta.plan`.
The marks <<48/2=24>> for a calculator, which no stage has, are left out there.

GSM8K's own evaluation reads digits and points after the first ####, and compares them as text. Here
the last #### counts, the whole of its line, and numbers are equal by value: "18.00" is 18 here and
is wrong there; "18, I think" and "18/1" are wrong here and are 18 there.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks import files
from common import InputError, InputFile, OutputDir


@dataclass
class Config:
    output_dir: OutputDir  # one JSONL file a split is written here
    input: InputFile  # the published file, test.jsonl or train.jsonl
    source: Literal["gsm8k"] = "gsm8k"
    think: bool = False  # prompts ask for reasoning between think tags before the answer


def make(config: Config) -> dict[str, list[dict]]:
    """Tasks of the one split that the input file holds."""
    split, tasks = Path(config.input).name.split(".")[0], []
    rows = files.read_benchmark(config.input, {"question": str, "answer": str})
    for number, row in enumerate(rows):
        _, mark, answer = row["answer"].rpartition("####")
        if not mark or not answer.strip():
            raise InputError(
                f"{config.input}:{number + 1}: field 'answer' must end in '#### ' "
                "and the final answer"
            )
        question = row["question"].strip()
        tasks.append(
            {
                "task_id": f"gsm8k/{split}/{number}",
                "prompt": f"{question}\nEnd with a line of #### and the final answer.\n",
                "entry_point": None,
                "solution": row["answer"],
                "setup": "",
                "style": "answer",
                "tests": [{"answer": answer.strip()}],
                "timeout": None,
                "meta": {"split": split},
            }
        )
    return {split: tasks}


def main(config: Config) -> None:
    files.write_splits(make(config), config.output_dir, config.think)
