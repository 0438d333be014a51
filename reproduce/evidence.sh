#!/usr/bin/env bash
# The experiments behind docs/results/psgpo.md, prlcoder.md and recode.md, side by side, and their
# results as one small file: OUT/evidence.tar.gz has the tables and what they are made of (logs and
# reports, no models). Needs a Python with the packages of requirements.txt, and installs nothing.
#
#     PYTHON=python3 PROCESSES=16 MINUTES=9 bash reproduce/evidence.sh OUT
#     EXPERIMENTS=psgpo SEEDS="15 16" bash reproduce/evidence.sh OUT     # one of them, other seeds
#
#     PROCESSES     how many run at a time, of one torch thread each; the cores of this machine
#     MINUTES       after which all are ended and the results are written; none: at their end
#     EXPERIMENTS   psgpo, prlcoder, recode; each has a share of the processes
#     WORK          where the runs are; the same command goes on there from where it was cut off
#
# Seeds come one after another, so that a run that is cut off has whole seeds; the tables say how
# many. Results of several machines: unpack them in one folder, and print the tables there.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p "$1"
RESULTS="$(cd "$1" && pwd)" WORK="${WORK:-runs/evidence}"
PYTHON="$(command -v "${PYTHON:-python3}")" PROCESSES="${PROCESSES:-$(nproc)}"
EXPERIMENTS="${EXPERIMENTS:-psgpo prlcoder recode}" MINUTES="${MINUTES:-0}"
export -n PROCESSES # lib.sh would start every run in so many processes
mkdir -p "$WORK/bin"

# The `python` of the scripts: a fork of one process that has the imports behind it.
export VIRTUAL_ENV="$PWD/$WORK" PATH="$PWD/$WORK/bin:$PATH"
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
SOCKET="$(mktemp -d)/warm"
printf '#!/bin/sh\nexec "%s" -S -E "%s/reproduce/warm.py" "%s" "$@"\n' "$PYTHON" "$PWD" "$SOCKET" \
    > "$WORK/bin/python"
chmod +x "$WORK/bin/python"
cp requirements.txt "$WORK/installed-requirements.txt" # nothing to install
"$PYTHON" reproduce/warm.py "$SOCKET" &
trap 'kill $! $(jobs -p) 2> /dev/null || true; rm -rf "$(dirname "$SOCKET")"' EXIT
until [ -S "$SOCKET" ]; do sleep 0.2; done

script_of() { # experiment
    [ "$1" = psgpo ] && echo reproduce/psgpo/main.sh || echo "reproduce/$1.sh"
}

share_of() { # experiment: of 16 processes, by what its seeds cost
    local total=0 one parts
    declare -A parts=([psgpo]=8 [prlcoder]=4 [recode]=4)
    for one in $EXPERIMENTS; do total=$((total + parts[$one])); done
    one=$((PROCESSES * parts[$1] / total))
    echo $((one > 0 ? one : 1))
}

run() { # experiment, what ("run" or "tables")
    TASKS="$WORK/tasks/$1" RUNS="$WORK/$1" JOBS="$(share_of "$1")" bash "$(script_of "$1")" "$2"
}

running=()
for experiment in $EXPERIMENTS; do
    TASKS="$WORK/tasks/$experiment" RUNS="$WORK/$experiment" JOBS="$(share_of "$experiment")" \
        timeout "${MINUTES}m" bash "$(script_of "$experiment")" run &
    running+=($!)
done
for process in "${running[@]}"; do wait "$process" || true; done # cut off, or a job failed
for experiment in $EXPERIMENTS; do
    run "$experiment" tables > "$RESULTS/$experiment.log" 2>&1 || tail -n 3 "$RESULTS/$experiment.log"
done

cat "$SOCKET.jsonl" >> "$WORK/cpu.jsonl"

# No models, no samples: they are made again by the same seeds.
find "$WORK" \( -name 'metrics.jsonl' -o -name 'report.json' -o -name '*.report.json' \
    -o -name 'run_config.json' -o -name 'config.json' -o -name 'search*.jsonl' -o -name '*.md' \
    -o -name '*.log' -o -name '*.done' -o -name cpu.jsonl \) -not -path '*/checkpoint-*' -not -path '*/samples*/*' \
    -size -4M -print0 | tar --null -czf "$RESULTS/evidence.tar.gz" -T -
ls -l "$RESULTS"
