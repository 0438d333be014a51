"""Writes tasks.jsonl files: the embedded micro benchmark, or a public benchmark's published file.

Each benchmark is one file, with its own flags and --help:

--source micro          (benchmarks/micro.py) the embedded benchmark; needs no file
--source mbpp           (benchmarks/mbpp.py) MBPP, full or sanitized, with tests of MBPP+ on request
--source humaneval      (benchmarks/humaneval.py) HumanEval
--source humanevalplus  (benchmarks/evalplus.py) HumanEval+, one test an input
--source mbppplus       (benchmarks/evalplus.py) MBPP+, one test an input
--source livecodebench  (benchmarks/livecodebench.py) LiveCodeBench, by release and date
--source bigcodebench   (benchmarks/bigcodebench.py) BigCodeBench, full or hard
--source apps           (benchmarks/apps.py) APPS
--source gsm8k          (benchmarks/gsm8k.py) GSM8K, where the final answer counts

    python make_tasks.py --source micro --output_dir tasks/micro    # sft, train, validation, test
    python make_tasks.py --source mbpp --input mbpp.jsonl --output_dir tasks/mbpp
    python make_tasks.py --source mbpp --help

With `--think true` the prompts of a public benchmark ask for reasoning between think tags and the
answer between answer tags, the form that grpo.py rewards. micro has --plans in its place.
"""

import common
from benchmarks import (
    apps,
    bigcodebench,
    evalplus,
    gsm8k,
    humaneval,
    livecodebench,
    mbpp,
    micro,
)

SOURCES = {
    "micro": micro,
    "mbpp": mbpp,
    "humaneval": humaneval,
    "humanevalplus": evalplus,
    "mbppplus": evalplus,
    "livecodebench": livecodebench,
    "bigcodebench": bigcodebench,
    "apps": apps,
    "gsm8k": gsm8k,
}


if __name__ == "__main__":
    common.run_chosen("source", SOURCES)
