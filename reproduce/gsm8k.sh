#!/usr/bin/env bash
# The trainer outside code: ReCode's whole path on GSM8K with a tiny model from scratch, about ten minutes on two CPU cores,
# no weights to download. Nothing is executed: the sandbox compares final answers (style "answer"). A model of 0.7 million
# parameters cannot do these sums and stays near 0 %; what this shows is that the path works on prose: demonstrations in the
# think and answer form, a reasoning reward model from rationales with a false step, GRPO whose format reward rises, and
# answers that get a verdict. Run it again to go on where a run was cut off.
#
#     bash reproduce/gsm8k.sh path/to/gsm8k            # a folder with the published train.jsonl and test.jsonl
#
# For a real model leave out sft.py and the flags of size, name the model in --model_name_or_path, and take learning rates of
# 1e-5 (reward model) and 1e-6 (GRPO), and --max_completion_length 512.
set -euo pipefail
INPUT="${1:-${BENCHMARK_DATA:+$BENCHMARK_DATA/gsm8k}}"
INPUT="$(realpath "${INPUT:?usage: bash reproduce/gsm8k.sh path/to/gsm8k}")"
cd "$(dirname "$0")/.."
source reproduce/setup.sh requirements.txt

SEED="${SEED:-0}"
TASKS="${TASKS:-tasks/gsm8k}" RUNS="${RUNS:-runs/gsm8k}"
mkdir -p "$RUNS"

for split in train test; do
    [ -f "$TASKS/$split.jsonl" ] || python make_tasks.py --source gsm8k --input "$INPUT/$split.jsonl" --think true --output_dir "$TASKS"
done
head -n 200 "$TASKS/test.jsonl" > "$RUNS/test-200.jsonl"

# A policy of the form, from the training rationales; the longest fifth of the rows does not fit and is left out.
python sft.py --tasks "$TASKS/train.jsonl" --vocab_size 1024 --max_length 256 --max_steps 300 --train_batch_size 32 --warmup_steps 20 \
    --seed "$SEED" --output_dir "$RUNS/sft"

# Rationales against themselves with a wrong number, or a word turned into its contrary. The other dimensions' rules put in
# sentences that no rationale holds, which a reward model would know them by.
python make_prm_data.py --method contrast --tasks "$TASKS/train.jsonl" --dimensions factual --num_degraded 1 --seed "$SEED" \
    --output_file "$RUNS/pairs.jsonl"
python train_prm.py --objective ranking --data "$RUNS/pairs.jsonl" --model_name_or_path "$RUNS/sft" --max_length 256 --max_steps 60 \
    --train_batch_size 16 --warmup_steps 10 --seed "$SEED" --output_dir "$RUNS/rm"

python grpo.py --tasks "$TASKS/train.jsonl" --model_name_or_path "$RUNS/sft" --reasoning_rm "$RUNS/rm" --gate hard --max_steps 20 \
    --max_completion_length 192 --seed "$SEED" --output_dir "$RUNS/grpo"
for policy in sft grpo; do
    python eval.py --tasks "$RUNS/test-200.jsonl" --model_name_or_path "$RUNS/$policy" --num_samples 4 --max_completion_length 192 \
        --seed "$SEED" --output_dir "$RUNS/eval-$policy"
done

echo "GRPO, first and last batch: share of completions in the think and answer form, and with the right answer"
sed -n '1p;$p' "$RUNS/grpo/metrics.jsonl" | grep -o '"rewards/\(format\|tests\)/mean": [0-9.e-]*'
