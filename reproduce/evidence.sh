#!/usr/bin/env bash
# The experiments behind docs/results/psgpo.md, prlcoder.md, recode.md and related.md, side by side,
# and their results as one small file: OUT/evidence.tar.gz has the tables and what they are made of
# (logs and reports, no models). Needs a Python with the packages of requirements.txt, and installs
# nothing.
#
#     PYTHON=python3 PROCESSES=16 MINUTES=9 bash reproduce/evidence.sh OUT
#     EXPERIMENTS=psgpo SEEDS="15 16" bash reproduce/evidence.sh OUT     # one of them, other seeds
#
#     PROCESSES     how many run at a time, of one torch thread each; the cores of this machine
#     MINUTES       after which all are ended and the results are written; none: at their end
#     EXPERIMENTS   psgpo, prlcoder, recode, related; each has a share of the processes
#     WORK          where the runs are; the same command goes on there from where it was cut off
#
# Seeds come one after another, so that a run that is cut off has whole seeds; the tables say how
# many. Results of several machines, with one WORK: unpack them in the folder of a checkout, and
# print the tables of all seeds there:
#
#     TASKS=runs/evidence/tasks/psgpo RUNS=runs/evidence/psgpo bash reproduce/psgpo/main.sh tables
#     TASKS=runs/evidence/tasks/recode RUNS=runs/evidence/recode bash reproduce/recode.sh tables
#
# One column is empty there: "ever solved" needs the samples of reinforcement learning.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p "$1"
RESULTS="$(cd "$1" && pwd)" WORK="${WORK:-runs/evidence}"
PYTHON="$(command -v "${PYTHON:-python3}")" PROCESSES="${PROCESSES:-$(nproc)}"
EXPERIMENTS="${EXPERIMENTS:-psgpo prlcoder recode related}" MINUTES="${MINUTES:-0}"
export -n PROCESSES # lib.sh would start every run in so many processes
mkdir -p "$WORK/bin"

# The `python` of the scripts: a fork of one process that has the imports behind it.
VIRTUAL_ENV="$(cd "$WORK" && pwd)"
export VIRTUAL_ENV PATH="$VIRTUAL_ENV/bin:$PATH"
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
export HF_HUB_OFFLINE=1 CUDA_VISIBLE_DEVICES= # the same bits with and without a GPU
SOCKET="$(mktemp -d)/warm"
printf '#!/bin/sh\nexec "%s" -S -E "%s/reproduce/warm.py" "%s" "$@"\n' "$PYTHON" "$PWD" "$SOCKET" \
    > "$WORK/bin/python"
chmod +x "$WORK/bin/python"
cp requirements.txt "$WORK/installed-requirements.txt" # nothing to install
git rev-parse HEAD > "$WORK/commit.log" 2> /dev/null || true # a copy without .git has none
"$PYTHON" reproduce/warm.py "$SOCKET" &
warm=$!
trap 'kill $(jobs -p) 2> /dev/null || true; rm -rf "$(dirname "$SOCKET")"' EXIT
until [ -S "$SOCKET" ] || ! kill -0 "$warm" 2> /dev/null; do sleep 0.2; done

script_of() { # experiment
    [ "$1" = psgpo ] && echo reproduce/psgpo/main.sh || echo "reproduce/$1.sh"
}

share_of() { # experiment: of 16 processes, by what its seeds cost
    local total=0 one parts
    declare -A parts=([psgpo]=7 [prlcoder]=3 [recode]=3 [related]=3)
    for one in $EXPERIMENTS; do total=$((total + parts[$one])); done
    one=$((PROCESSES * parts[$1] / total))
    echo $((one > 0 ? one : 1))
}

experiment() { # name, what its script does ("run" or "tables"), a command before it
    TASKS="$WORK/tasks/$1" RUNS="$WORK/$1" JOBS="$(share_of "$1")" ${3:-} \
        bash "$(script_of "$1")" "$2"
}

pack() { # what the tables are made of; models are made again by the same seeds
    find "$WORK" \( -name metrics.jsonl -o -name '*report.json' -o -name run_config.json \
        -o -name config.json -o -name settings -o -name '*.md' -o -name '*.log' -o -name '*.done' \
        -o -name cpu.jsonl \
        -o -name 'search*.jsonl' -o -name 'search*.jsonl.progress' -o -name 'mutate*.jsonl' \
        -o -name disjoint.jsonl -o -path '*/prlcoder/*/prm*.jsonl' -o -name outcomes.jsonl \
        -o -path '*/samples/verdicts.jsonl' -o -path '*/recode/*/eval-*/samples.jsonl' \
        -o -path '*/recode/*/tokenizer*.json' \) \
        -not -path '*/checkpoint-*' -size -32M -print0 |
        tar --null --warning=no-file-changed -czf "$RESULTS/.evidence.tar.gz" -T - || true
    mv "$RESULTS/.evidence.tar.gz" "$RESULTS/evidence.tar.gz"
}

# What is there when this machine is taken away. Its sleep, which ends late, holds no one's output.
while sleep 120; do pack; done > /dev/null 2>&1 &
packing=$! running=()
for name in $EXPERIMENTS; do
    experiment "$name" run "timeout ${MINUTES}m" &
    running+=($!)
done
for process in "${running[@]}"; do wait "$process" || true; done # cut off, or a job failed
kill "$packing"
for name in $EXPERIMENTS; do
    experiment "$name" tables > "$RESULTS/$name.md" 2> "$WORK/$name-tables.log" ||
        tail -n 3 "$WORK/$name-tables.log"
done
cat "$SOCKET.jsonl" >> "$WORK/cpu.jsonl" || true
pack
ls -l "$RESULTS"
