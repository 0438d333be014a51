#!/usr/bin/env bash
# Line labels on the 374 training tasks of MBPP, and a PRM of a tiny model and tokenizer trained
# from scratch on them. The verdicts of all executed programs go to runs/mbpp/outcomes.jsonl, for
# outcome reward models. About three minutes for the labels and five for the PRM on two CPU cores.
#
#     bash reproduce/mbpp_prm.sh path/to/mbpp.jsonl # tasks/mbpp stays as it is where there is one
set -euo pipefail
INPUT="$(realpath "${1:?usage: bash reproduce/mbpp_prm.sh path/to/mbpp.jsonl}")"
cd "$(dirname "$0")/.."
source reproduce/lib.sh
setup requirements.txt

[ -f tasks/mbpp/test.jsonl ] ||
    python make_tasks.py --source mbpp --input "$INPUT" --output_dir tasks/mbpp
python make_prm_data.py --method mutate --tasks tasks/mbpp/train.jsonl --teacher ast \
    --sandbox_workers 2 --output_file runs/mbpp/prm.jsonl --outcomes_file runs/mbpp/outcomes.jsonl
python train_prm.py --data runs/mbpp/prm.jsonl --vocab_size 2048 --learning_rate 1e-3 \
    --max_steps 300 --output_dir runs/mbpp/prm
