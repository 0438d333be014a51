"""Training data for process reward models, without people. Each method is one file, with its own flags and --help:

--method mutate   (prm_data/mutate.py) PRLCoder: a teacher rewrites lines of reference programs; execution labels them.
--method search   (prm_data/search.py) PSGPO: completions of a policy's own prefixes show from which line on it is lost.
--method gold     (prm_data/gold.py) exact labels of policy samples, on tasks whose programs go in lock step.
--method contrast (prm_data/contrast.py) ReCode: reasonings rewritten for the better and the worse, as pairs.
--method rank     (prm_data/rank.py) pairs for dpo.py: samples ranked by a reward model or the tests, or lines by label.

    python make_prm_data.py --method mutate --tasks train.jsonl --teacher ast --output_file prm.jsonl
    python make_prm_data.py --method mutate --help
"""

import sys

import common
from common import InputError
from prm_data import contrast, gold, mutate, rank, search

METHODS = {"mutate": mutate, "search": search, "gold": gold, "contrast": contrast, "rank": rank}


def method_of(argv: list[str]):
    """The module of the method that the flags name."""
    words = " ".join(argv).replace("=", " ").split()
    name = words[words.index("--method") + 1] if "--method" in words[:-1] else None
    if name not in METHODS:
        raise InputError(
            f"--method is required, one of {', '.join(METHODS)}"
            + (f"; got {name!r}" if name else "")
        )
    return METHODS[name]


if __name__ == "__main__":
    if "--method" not in " ".join(sys.argv) and {"--help", "-h"} & set(sys.argv):
        print(__doc__)
    else:
        try:
            method = method_of(sys.argv[1:])
        except InputError as error:
            print(f"make_prm_data.py: error: {error}", file=sys.stderr)
            sys.exit(2)
        common.run(method.main, method.Config)
