"""Training data for process reward models, without people.

Each method is one file, with its own flags and --help:

--method mutate    (prm_data/mutate.py) PRLCoder: a teacher rewrites lines of reference programs,
                   and execution labels them
--method search    (prm_data/search.py) PSGPO: completions of a policy's own prefixes show from
                   which line on a program is lost
--method gold      (prm_data/gold.py) exact labels of policy samples, for tasks whose right
                   programs agree line by line
--method contrast  (prm_data/contrast.py) ReCode: pairs of reasonings, rewritten for the better
                   and the worse
--method rank      (prm_data/rank.py) pairs for dpo.py: samples ranked by a reward model or the
                   tests, or lines ranked by their labels

    python make_prm_data.py --method mutate --tasks train.jsonl --output_file prm.jsonl
    python make_prm_data.py --method mutate --help
"""

import common
from prm_data import contrast, gold, mutate, rank, search

METHODS = {"mutate": mutate, "search": search, "gold": gold, "contrast": contrast, "rank": rank}


if __name__ == "__main__":
    common.run_chosen("method", METHODS)
