#!/usr/bin/env bash
# The main job: the whole pipeline on the embedded micro benchmark, on two CPU cores, with nothing
# to download but the packages. Ends with one table. Run it again to go on where a run was cut off;
# a finished stage is not run again. The PRM learns from the references of the very tasks that it
# rewards (prlcoder.sh keeps the two apart): hence the last arm.
#
#     bash reproduce/micro.sh              # tasks/micro, runs/micro
#     SEED=1 bash reproduce/micro.sh       # another seed: tasks/micro-1, runs/micro-1
set -euo pipefail
cd "$(dirname "$0")/.."
source reproduce/lib.sh
setup requirements.txt

NAME="micro$([ "$SEED" = 0 ] || echo "-$SEED")"
TASKS="${TASKS:-tasks/$NAME}" RUNS="${RUNS:-runs/$NAME}"
OUT="$RUNS" SFT="$RUNS/sft" TRAIN="$TASKS/train.jsonl" TEST="$TASKS/test.jsonl"
# Every arm of reinforcement learning has the same tasks and the same samples: 60 batches of 128.
PPO=(--max_steps 60 --num_prompts 32 --num_generations 4)
GRPO=(--max_steps 60 --num_prompts 16 --num_generations 8)
EVAL=(--num_samples 4)
mkdir -p "$RUNS"

# The last arm: what these references are worth without any reinforcement learning.
arms ARMS << 'END'
sft            | SFT                                | sft --tasks "$TASKS/sft.jsonl"
grpo-tests     | GRPO, test reward                  | grpo
ppo-tests      | PPO, test reward                   | ppo
ppo-prm        | PPO, test reward + PRM             | ppo --prm "$OUT/prm" --lambda_fail 1 \
    --lambda_pass 1 --process_norm constant
sft-references | no RL: SFT on the PRM's references | sft --tasks "$TRAIN" \
    --model_name_or_path "$SFT" --max_steps 150 --learning_rate 5e-4
END

# One core: the policy, and the arms that need no PRM.
without_prm() {
    run_arms "$ARMS" $(trained "$ARMS" | grep -v -e -prm)
}

# The other: line labels, the PRM, and the arms that use it, whose names have -prm.
with_prm() {
    mutate "$TRAIN" "$OUT/prm.jsonl" --rows_per_task 8 --change_rate 0.5 --seed "$SEED"
    until [ -f "$SFT/config.json" ]; do sleep 1; done
    reward_model prm "$OUT/prm.jsonl"
    run_arms "$ARMS" $(trained "$ARMS" | grep -e -prm)
}

[ -f "$TEST" ] || python make_tasks.py --source micro --output_dir "$TASKS" --seed "$SEED"
JOBS=2 at_once eval without_prm with_prm
python reproduce/tables.py micro "$RUNS" "$ARMS"
