"""The tasks that a policy solves in some of its samples, not in all.

    python reproduce/select_tasks.py --tasks train.jsonl --verdicts runs/eval/verdicts.jsonl \\
        --output_file pool.jsonl [--least 1] [--most 7]

A task that the policy never solves, or always solves, has no gradient from its tests: all samples
of the task have the same reward. `least` and `most` are numbers of samples that pass, of those
with a verdict. Prints how many tasks have 0, 1, 2, ... samples that pass.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

# Before the folder of this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("tasks", "verdicts", "output_file"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--least", type=int, default=1)
    parser.add_argument("--most", type=int, default=7)
    args = parser.parse_args()
    passes = Counter()
    try:
        for row in common.read_jsonl(args.verdicts, {"task_id": str, "status": str}):
            passes[row["task_id"]] += row["status"] == "passed"
        tasks = common.read_jsonl(args.tasks, {"task_id": str})
    except common.InputError as error:
        sys.exit(f"select_tasks.py: error: {error}")
    pool = [task for task in tasks if args.least <= passes.get(task["task_id"], -1) <= args.most]
    if not pool:
        numbers = f"{args.least} to {args.most} passing samples"
        sys.exit(f"select_tasks.py: error: no task of {args.tasks} has {numbers}")
    numbers = Counter(passes[task["task_id"]] for task in tasks if task["task_id"] in passes)
    print("passing samples: " + ", ".join(f"{n}: {numbers[n]} tasks" for n in sorted(numbers)))
    print(f"{len(pool)} of {len(tasks)} tasks have {args.least} to {args.most}")
    common.write_jsonl(args.output_file, pool)


if __name__ == "__main__":
    main()
