"""What critic_sampling.py needs besides the policy: data for a critic and for a repair model.

CodeRL (Le et al., 2022, arXiv 2207.01780) trains both on samples of the supervised policy for the
training tasks. The critic predicts from a prefix whether the program will pass: each line's label
is the verdict on the whole program (the paper's critic has four outcomes in training, and the
probability of a pass is what sampling reads). The repair model writes the reference after the task
and a program that fails.

    python eval.py --tasks train.jsonl --model_name_or_path runs/sft --num_samples 4 \\
        --output_dir runs/samples
    python studies/critic_data.py --tasks train.jsonl --samples runs/samples/verdicts.jsonl \\
        --critic_file critic.jsonl --output_file repairs.jsonl
    python train_prm.py --data critic.jsonl --model_name_or_path runs/sft --output_dir runs/critic
    python sft.py --tasks repairs.jsonl --model_name_or_path runs/sft --output_dir runs/repair
"""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # where the modules of the stages are

import common  # noqa: E402
from common import InputError, InputFile, OutputFile  # noqa: E402
from prm_data import rows  # noqa: E402

REPAIR = """{prompt}
Wrong ({status}):
{program}
Right:
"""
SAMPLE_FIELDS = {"task_id": str, "completion": str, "solution": str, "status": str}


@dataclass
class Config:
    tasks: InputFile  # tasks.jsonl with references
    samples: InputFile  # verdicts.jsonl of eval.py on these tasks
    critic_file: OutputFile  # prm.jsonl for train_prm.py: lines that lead to a pass, or do not
    output_file: OutputFile  # tasks.jsonl for sft.py: a repair each


def repair_task(task: dict, program: str, status: str) -> dict:
    """The task of writing a right program where a wrong one is known."""
    words = {"prompt": task["prompt"].rstrip("\n"), "program": program.rstrip("\n")}
    return task | {"prompt": REPAIR.format(status=status, **words)}


def check_whole_programs(tasks: list[dict], path: str) -> None:
    """InputError for tasks whose completions are no whole programs."""
    for task in tasks:
        if task.get("prefix"):
            raise InputError(f"{path}: {task['task_id']} has a prefix; a repair is a whole program")


def main(config: Config) -> None:
    def is_reference(row: dict) -> None:
        rows.check_reference(row, "the repair model learns references")

    tasks = common.read_jsonl(config.tasks, common.PROMPT_FIELDS, is_reference)
    check_whole_programs(tasks, config.tasks)
    rows.check_unique(tasks, config.tasks)
    if rows.is_complete(config, config.critic_file):
        return
    known = {task["task_id"]: task for task in tasks}
    critic, repairs = [], {}
    check = partial(common.check_known_task, tasks=known)
    for row in common.read_jsonl(config.samples, SAMPLE_FIELDS, check):
        if row["status"] == "harness_error":
            continue
        task = known[row["task_id"]]
        passed = row["status"] == "passed"
        lines = rows.lines_of(row["completion"])
        labels = [1.0 if passed else -1.0] * len(lines)
        if lines:
            critic.append(rows.line_row(task, lines, labels, "outcome", {}))
        if not passed:
            repair = repair_task(task, row["solution"], row["status"])
            name = f"{task['task_id']}/repair/{len(repairs)}"
            repairs.setdefault(repair["prompt"], repair | {"task_id": name})
    if not repairs:
        raise InputError(f"{config.samples}: no sample of the tasks fails; there is no repair")
    print(f"{len(critic)} samples, {len(repairs)} repairs")
    rows.write_result(config, list(repairs.values()), more={config.critic_file: critic})


if __name__ == "__main__":
    common.run(main, Config)
