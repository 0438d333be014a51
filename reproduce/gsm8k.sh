#!/usr/bin/env bash
# The trainer outside code: ReCode's whole path on GSM8K with a tiny model from scratch, about ten
# minutes on two CPU cores, no weights to download. Nothing is executed: the sandbox compares final
# answers (style "answer"). A model of 0.7 million parameters cannot do these sums and stays near
# 0 %. The run shows that the path works on prose: demonstrations in the think and answer form, a
# reasoning reward model from rationales with a false step, GRPO whose format reward rises, and
# answers that get a verdict. Run it again to go on where a run was cut off.
#
#     bash reproduce/gsm8k.sh path/to/gsm8k   # a folder with the published train.jsonl, test.jsonl
#
# For a real model leave out sft.py and the flags of size, name the model in --model_name_or_path,
# and take learning rates of 1e-5 (reward model) and 1e-6 (GRPO), and --max_completion_length 512.
set -euo pipefail
INPUT="${1:-${BENCHMARK_DATA:+$BENCHMARK_DATA/gsm8k}}"
INPUT="$(realpath "${INPUT:?usage: bash reproduce/gsm8k.sh path/to/gsm8k}")"
cd "$(dirname "$0")/.."
source reproduce/lib.sh
setup requirements.txt

TASKS="${TASKS:-tasks/gsm8k}" RUNS="${RUNS:-runs/gsm8k}"
OUT="$RUNS" SFT="$RUNS/sft" TRAIN="$TASKS/train.jsonl" TEST="$RUNS/test-200.jsonl"
PRM=(--objective ranking --max_length 256 --max_steps 60 --train_batch_size 16 --warmup_steps 10)
GRPO=(--gate hard --max_steps 20 --max_completion_length 192)
EVAL=(--num_samples 4 --max_completion_length 192)
mkdir -p "$RUNS"

for split in train test; do
    [ -f "$TASKS/$split.jsonl" ] || python make_tasks.py --source gsm8k --think true \
        --input "$INPUT/$split.jsonl" --output_dir "$TASKS"
done
head -n 200 "$TASKS/test.jsonl" > "$TEST"

# A policy of the form, from the training rationales; the longest fifth of the rows does not fit and
# is left out.
sft sft --tasks "$TRAIN" --vocab_size 1024 --max_length 256 --max_steps 300 \
    --train_batch_size 32 --warmup_steps 20

# Rationales against themselves with a wrong number, or a word turned into its contrary. The rules
# of the other dimensions put in sentences that no rationale holds, by which a reward model would
# know them.
python make_prm_data.py --method contrast --tasks "$TRAIN" --dimensions factual --num_degraded 1 \
    --seed "$SEED" --output_file "$OUT/pairs.jsonl"
reward_model rm "$OUT/pairs.jsonl"
grpo grpo --reasoning_rm "$OUT/rm"

echo "GRPO, first and last batch: share of completions in the think and answer form," \
    "and with the right answer"
sed -n '1p;$p' "$OUT/grpo/metrics.jsonl" | grep -o '"rewards/\(format\|tests\)/mean": [0-9.e-]*'
