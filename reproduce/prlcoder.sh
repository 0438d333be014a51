#!/usr/bin/env bash
# PRLCoder's comparison at micro scale: PPO with a process reward model (PRM), with two outcome
# reward models (ORM), with tests, and DPO, each with the same number of samples, over five seeds.
# The tasks and the executed changes of reference programs are the same for all. There are
# MODEL_SEEDS supervised policies with their reward models (25 minutes of a core each). Seed s uses
# those of seed s modulo MODEL_SEEDS, and changes the samples of reinforcement learning, the pairs
# and the evaluation (20 minutes). Run it again to go on where it was cut off.
#
#     bash reproduce/prlcoder.sh                       # seeds 0 to 4, two at a time
#     SEEDS="0 1" MODEL_SEEDS=1 JOBS=1 bash reproduce/prlcoder.sh
set -euo pipefail
cd "$(dirname "$0")/.."
source reproduce/lib.sh
setup requirements.txt

SEEDS="${SEEDS:-0 1 2 3 4}" MODEL_SEEDS="${MODEL_SEEDS:-2}"
TASKS="${TASKS:-tasks/micro}" RUNS="${RUNS:-runs/prlcoder}"
TRAIN="$TASKS/train.jsonl" TEST="$TASKS/test.jsonl"
# 60 batches of 128 samples. The reward models alone would let the policy go where they have seen
# nothing: every arm has the same small KL term (the paper has one; its weight is not published).
PPO=(--max_steps 60 --num_prompts 32 --num_generations 4 --kl_coef 0.01)
PRM=(--max_steps 800 --learning_rate 7e-4)
EVAL=(--num_samples 4)
mkdir -p "$RUNS"

# Tests and PRM together are not the paper's: as in micro.sh.
arms ARMS << 'END'
sft             | SFT                                  | evaluate "$SFT"
ppo-tests       | PPO, tests                           | ppo
ppo-orm-outcome | PPO, ORM (four outcomes)             | outcome_model orm-outcome
ppo-orm-ranking | PPO, ORM (ranking)                   | outcome_model orm-ranking
ppo-prm         | PPO, PRM                             | process_model prm
ppo-prm-own     | PPO, PRM that saw the policy's lines | process_model prm-own
ppo-tests-prm   | PPO, tests + PRM                     | ppo --prm "$FROM/prm" --lambda_fail 1 \
    --lambda_pass 1 --process_norm constant
dpo-prm         | DPO, pairs by the PRM=7500           | pairs_by prm samples --prm "$FROM/prm"
dpo-tests       | DPO, pairs by tests=7500             | pairs_by tests verdicts
END

outcome_model() { # arm, ORM
    ppo "$1" --outcome_reward orm --orm "$FROM/$2"
}

process_model() { # arm, PRM
    ppo "$1" --outcome_reward none --prm "$FROM/$2" --lambda_fail 1 --process_norm none
}

pairs_by() { # arm, what ranks the samples, their file, flags ...
    dpo "$1" --pairs response --rank_by "$2" --tasks "$TRAIN" "${@:4}" \
        --samples "$OUT/sft-samples/$3.jsonl"
}

sample_training_tasks() { # 7,500 samples of the supervised policy, five a task
    sample "$SFT" "$TRAIN" "$OUT/sft-samples" --num_samples 5
}

models() { # seed: a supervised policy; its reward models, with equal numbers of steps and texts
    SEED="$1" OUT="$RUNS/$1" SFT="$RUNS/$1/sft"
    mkdir -p "$OUT"
    python sft.py --tasks "$TASKS/sft.jsonl" --seed "$SEED" --output_dir "$SFT"
    reward_model prm "$RUNS/prm.jsonl" --objective regression
    reward_model orm-outcome "$RUNS/outcomes.jsonl" --objective outcome
    reward_model orm-ranking "$RUNS/outcomes.jsonl" --objective ranking
    # A PRM that has seen the policy's own mistakes too: its lines on the training tasks, each
    # executed in its place in the reference (possible where programs go in lock step, as here).
    sample_training_tasks
    python make_prm_data.py --method gold --tasks "$TRAIN" \
        --samples "$OUT/sft-samples/verdicts.jsonl" --output_file "$OUT/own.jsonl"
    if [ ! -f "$OUT/prm-own.jsonl" ]; then
        cat "$RUNS/prm.jsonl" "$OUT/own.jsonl" > "$OUT/.own"
        mv "$OUT/.own" "$OUT/prm-own.jsonl"
    fi
    reward_model prm-own "$OUT/prm-own.jsonl" --objective regression
}

one_seed() { # seed
    FROM="$RUNS/$(($1 % MODEL_SEEDS))"
    SEED="$1" OUT="$RUNS/$1" SFT="$FROM/sft"
    mkdir -p "$OUT"
    sample_training_tasks # which the pairs are drawn from
    run_arms "$ARMS"
    # The PRMs on what the supervised policy writes and on what their own arms write in the end.
    exact "$FROM/prm" ppo-prm
    exact "$FROM/prm-own" ppo-prm-own
}

[ -f "$TEST" ] || python make_tasks.py --source micro --output_dir "$TASKS"
python make_prm_data.py --method mutate --tasks "$TRAIN" --teacher ast --intents mutate \
    --max_variants_per_line 3 --packing program --rows_per_task 8 --change_rate 0.5 \
    --sandbox_workers 2 --output_file "$RUNS/prm.jsonl" --outcomes_file "$RUNS/outcomes.jsonl"
at_once models $(seq 0 $((MODEL_SEEDS - 1)))
at_once one_seed $SEEDS
python reproduce/tables.py seeds "$RUNS" ppo-tests "$ARMS" | tee "$RUNS/table.md"
python reproduce/tables.py prm "$RUNS" prm-on-sft prm-own-on-sft prm-on-ppo-prm \
    prm-own-on-ppo-prm-own | tee "$RUNS/prm_table.md"
