#!/usr/bin/env bash
# The figures of docs/tour/, from the run folders of reproduce/micro.sh and nine small runs more, of
# 80 batches at most. Run it again to go on where it was cut off.
#
#     bash reproduce/micro.sh && bash docs/figures.sh
set -euo pipefail
cd "$(dirname "$0")/.."
source reproduce/lib.sh
setup requirements-dev.txt

RUNS="${RUNS:-runs/micro}" TASKS="${TASKS:-tasks/micro}" TO="${TO:-docs/tour}"
SFT="$RUNS/sft" OUT="$RUNS/tour"
mkdir -p "$OUT"
# What all runs with a PRM have.
PRM_RUN=(--tasks "$TASKS/train.jsonl" --model_name_or_path "$SFT" --prm "$RUNS/prm" --lambda_fail 1
    --lambda_pass 1)
LINES=(--process_norm constant --num_prompts 32 --max_steps 40)

is_done() { [ -f "$OUT/$1/config.json" ] || [ -f "$OUT/$1/report.json" ]; }

# The ablation of README.md: where the line rewards are paid, three seeds.
for seed in 0 1 2; do
    is_done "lines-$seed" || python ppo.py "${PRM_RUN[@]}" "${LINES[@]}" --seed "$seed" \
        --output_dir "$OUT/lines-$seed"
    is_done "end-$seed" || python studies/run.py process_at_end "${PRM_RUN[@]}" "${LINES[@]}" \
        --seed "$seed" --output_dir "$OUT/end-$seed"
done

# A PRM without tests.
is_done prm-alone || python ppo.py "${PRM_RUN[@]}" --process_norm none --outcome_reward none \
    --num_prompts 16 --max_steps 80 --output_dir "$OUT/prm-alone"

# DPO, on pairs of the supervised policy's samples ranked by the PRM.
head -n 200 "$TASKS/train.jsonl" > "$OUT/dpo-tasks.jsonl"
is_done eval-train || python eval.py --tasks "$OUT/dpo-tasks.jsonl" --model_name_or_path "$SFT" \
    --num_samples 4 --output_dir "$OUT/eval-train"
python make_prm_data.py --method rank --pairs response --tasks "$OUT/dpo-tasks.jsonl" \
    --samples "$OUT/eval-train/samples.jsonl" --prm "$RUNS/prm" --output_file "$OUT/pairs.jsonl"
is_done dpo || python dpo.py --data "$OUT/pairs.jsonl" --model_name_or_path "$SFT" \
    --max_steps 60 --eval_steps 10 --output_dir "$OUT/dpo"

tests=rewards/tests/mean prm=rewards/prm/mean
figure() { # name, flags of plot.py ...
    python plot.py "${@:2}" --output_file "$TO/$1"
}
figure make_tasks.svg --evals "SFT=$RUNS/eval-sft" "SFT on references=$RUNS/eval-sft-references"
figure sandbox.svg --runs "PPO=$RUNS/ppo-tests" --metric harness_errors step_time
figure sft.svg --runs "SFT=$SFT" "SFT on references=$RUNS/sft-references" --metric loss --smooth 5
figure programs.html --page "$RUNS/prm.jsonl" --prm "$RUNS/prm" --task_id micro/train/0 \
    --num_programs 4
figure train_prm.svg --report "$RUNS/prm/report.json"
figure ppo.svg --smooth 5 --metric "$tests" "$prm" --runs \
    "at each line=$OUT/lines-0,$OUT/lines-1,$OUT/lines-2" \
    "at the end=$OUT/end-0,$OUT/end-1,$OUT/end-2"
figure over_optimised.svg --smooth 3 --x episode --metric "$prm" "$tests" completions/mean_lines \
    --runs "PRM alone=$OUT/prm-alone" "tests and PRM=$OUT/lines-0"
figure hacked.html --page "$OUT/prm-alone/completions.jsonl" --prm "$RUNS/prm" --last true \
    --num_programs 2
figure grpo.svg --runs "GRPO=$RUNS/grpo-tests" --smooth 5 \
    --metric "$tests" frac_all_fail
figure dpo.svg --runs "DPO=$OUT/dpo" --smooth 5 --metric rewards/accuracies rewards/margins
figure eval.svg --evals "SFT=$RUNS/eval-sft" "GRPO=$RUNS/eval-grpo-tests" \
    "PPO=$RUNS/eval-ppo-tests" "PPO + PRM=$RUNS/eval-ppo-prm"
