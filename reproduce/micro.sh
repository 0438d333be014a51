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

evaluate() {
    python eval.py --tasks "$TASKS/test.jsonl" --model_name_or_path "$RUNS/$1" --num_samples 4 --seed "$SEED" --output_dir "$RUNS/eval-$1"
}

# Every arm of reinforcement learning gets the same tasks and the same number of samples: 60 batches of 128.
reinforce() { # name, script, its flags ...
    local name="$1" script="$2"
    shift 2
    python "$script" --tasks "$TASKS/train.jsonl" --model_name_or_path "$RUNS/sft" --max_steps 60 --seed "$SEED" "$@" --output_dir "$RUNS/$name"
}

# One core: the policy, and the arms that need no PRM.
without_prm() {
    python sft.py --tasks "$TASKS/sft.jsonl" --output_dir "$RUNS/sft" --seed "$SEED"
    evaluate sft
    reinforce ppo-tests ppo.py --num_prompts 32 --num_generations 4
    evaluate ppo-tests
    reinforce grpo-tests grpo.py --num_prompts 16 --num_generations 8
    evaluate grpo-tests
    # What the references that the PRM learns from are worth without any reinforcement learning.
    python sft.py --tasks "$TASKS/train.jsonl" --model_name_or_path "$RUNS/sft" --max_steps 150 --learning_rate 5e-4 --seed "$SEED" \
        --output_dir "$RUNS/sft-references"
    evaluate sft-references
}

# The other: line labels, the PRM, and the arm that uses it.
with_prm() {
    python make_prm_data.py --method mutate --tasks "$TASKS/train.jsonl" --teacher ast --intents mutate --max_variants_per_line 3 \
        --packing program --rows_per_task 8 --change_rate 0.5 --output_file "$RUNS/prm.jsonl" --seed "$SEED"
    until [ -f "$RUNS/sft/config.json" ]; do sleep 1; done
    python train_prm.py --data "$RUNS/prm.jsonl" --model_name_or_path "$RUNS/sft" --output_dir "$RUNS/prm" --seed "$SEED"
    reinforce ppo-prm ppo.py --num_prompts 32 --num_generations 4 --prm "$RUNS/prm" --lambda_fail 1 --lambda_pass 1 --process_norm constant
    evaluate ppo-prm
}

[ -f "$TASKS/test.jsonl" ] || python make_tasks.py --source micro --output_dir "$TASKS" --seed "$SEED"
set -m # each chain is a process group of its own, so that it can be ended whole
trap 'for chain in $(jobs -p); do kill -- "-$chain" 2>/dev/null || true; done' EXIT
without_prm &
with_prm &
wait -n # ends the script, and by the trap the other chain, if the first to finish has failed
wait -n
python reproduce/micro_table.py "$RUNS"
