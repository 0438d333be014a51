#!/usr/bin/env bash
# The main job: the whole pipeline on the embedded micro benchmark, on two CPU cores, with nothing to download but the
# packages. Ends with one table. Run it again to go on where a run was cut off; a finished stage is not run again.
#
#     bash reproduce/micro.sh              # tasks/micro, runs/micro
#     SEED=1 bash reproduce/micro.sh       # another seed: tasks/micro-1, runs/micro-1
set -euo pipefail
cd "$(dirname "$0")/.."
source reproduce/setup.sh requirements.txt

SEED="${SEED:-0}"
NAME="micro$([ "$SEED" = 0 ] || echo "-$SEED")"
TASKS="${TASKS:-tasks/$NAME}" RUNS="${RUNS:-runs/$NAME}"
mkdir -p "$RUNS"

# together "command A" "command B": runs both at a time, one on each core, and fails if either fails.
together() {
    local pids=() failed=0
    for command in "$@"; do
        bash -euc "$command" &
        pids+=($!)
    done
    for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
    return "$failed"
}

# A file in place says that this step is done.
[ -f "$TASKS/test.jsonl" ] || python make_tasks.py --source micro --output_dir "$TASKS" --seed "$SEED"
# Reinforcement learning gets the long tasks alone: where few samples pass, credit for single lines can matter.
[ -f "$TASKS/train-long.jsonl" ] || { grep -E '"steps": [5-8]' "$TASKS/train.jsonl" >"$TASKS/train-long.tmp" && mv "$TASKS/train-long.tmp" "$TASKS/train-long.jsonl"; }

POLICY="--tasks $TASKS/train-long.jsonl --model_name_or_path $RUNS/sft --seed $SEED --max_steps 60"

together \
    "python sft.py --tasks $TASKS/sft.jsonl --output_dir $RUNS/sft --seed $SEED" \
    "python make_prm_data.py --method mutate --tasks $TASKS/train-long.jsonl --teacher ast --packing program \
        --max_variants_per_line 4 --intents mutate --output_file $RUNS/prm.jsonl --seed $SEED"

together \
    "python train_prm.py --data $RUNS/prm.jsonl --model_name_or_path $RUNS/sft --output_dir $RUNS/prm --seed $SEED" \
    "python ppo.py $POLICY --num_prompts 32 --num_generations 4 --output_dir $RUNS/ppo-tests
     python grpo.py $POLICY --num_prompts 16 --num_generations 8 --output_dir $RUNS/grpo-tests"

together \
    "python ppo.py $POLICY --num_prompts 32 --num_generations 4 --prm $RUNS/prm --lambda_fail 1 --lambda_pass 1 \
        --process_norm constant --output_dir $RUNS/ppo-prm" \
    "for policy in sft ppo-tests grpo-tests; do
         python eval.py --tasks $TASKS/test.jsonl --model_name_or_path $RUNS/\$policy --num_samples 4 --seed $SEED \
             --output_dir $RUNS/eval-\$policy
     done"
python eval.py --tasks "$TASKS/test.jsonl" --model_name_or_path "$RUNS/ppo-prm" --num_samples 4 --seed "$SEED" --output_dir "$RUNS/eval-ppo-prm"

python reproduce/micro_table.py "$RUNS"
