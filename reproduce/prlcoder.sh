#!/usr/bin/env bash
# PRLCoder's comparison at micro scale: PPO with a process reward model, with two outcome reward models, with tests, and
# DPO, each with the same number of samples, over five seeds. The tasks and the executed changes of reference programs
# are the same for all. There are MODEL_SEEDS supervised policies with their reward models (25 minutes of a core each);
# seed s uses those of seed s modulo MODEL_SEEDS, and changes the samples of reinforcement learning, the pairs and the
# evaluation (20 minutes). Run it again to go on where it was cut off.
#
#     bash reproduce/prlcoder.sh                       # seeds 0 to 4, two at a time
#     SEEDS="0 1" MODEL_SEEDS=1 JOBS=1 bash reproduce/prlcoder.sh
set -euo pipefail
cd "$(dirname "$0")/.."
source reproduce/setup.sh requirements.txt

export SEEDS="${SEEDS:-0 1 2 3 4}" MODEL_SEEDS="${MODEL_SEEDS:-2}" JOBS="${JOBS:-2}"
export TASKS="${TASKS:-tasks/micro}" RUNS="${RUNS:-runs/prlcoder}"
mkdir -p "$RUNS"

evaluate() { # arm, folder of its policy
    python eval.py --tasks "$TASKS/test.jsonl" --model_name_or_path "$2" --num_samples 4 --seed "$SEED" --output_dir "$OUT/eval-$1"
}

models() { # seed: a supervised policy, and its reward models with equal numbers of steps and texts
    SEED="$1" FROM="$RUNS/$1"
    mkdir -p "$FROM"
    python sft.py --tasks "$TASKS/sft.jsonl" --seed "$SEED" --output_dir "$FROM/sft"
    reward_model prm regression "$RUNS/prm.jsonl"
    reward_model orm-outcome outcome "$RUNS/outcomes.jsonl"
    reward_model orm-ranking ranking "$RUNS/outcomes.jsonl"
    # A PRM that has seen the policy's own mistakes too: its lines on the training tasks, each executed in its place in
    # the reference (possible where programs go in lock step, as here).
    sample_training_tasks "$FROM"
    python make_prm_data.py --method gold --tasks "$TASKS/train.jsonl" --samples "$FROM/sft-samples/verdicts.jsonl" --output_file "$FROM/own.jsonl"
    [ -f "$FROM/prm-own.jsonl" ] || { cat "$RUNS/prm.jsonl" "$FROM/own.jsonl" > "$FROM/.own" && mv "$FROM/.own" "$FROM/prm-own.jsonl"; }
    reward_model prm-own regression "$FROM/prm-own.jsonl"
}

sample_training_tasks() { # folder: 7,500 samples of the policy, five a task
    python eval.py --tasks "$TASKS/train.jsonl" --model_name_or_path "$FROM/sft" --num_samples 5 --seed "$SEED" --output_dir "$1/sft-samples"
}

reward_model() { # name, objective, data
    python train_prm.py --data "$3" --objective "$2" --model_name_or_path "$FROM/sft" --max_steps 800 --learning_rate 7e-4 \
        --seed "$SEED" --output_dir "$FROM/$1"
}

# 60 batches of 128 samples. The reward models alone would let the policy go where they have seen nothing: every arm has
# the same small KL term (the paper has one; its weight is not published).
ppo() { # arm, its flags ...
    local arm="$1"
    shift
    python ppo.py --tasks "$TASKS/train.jsonl" --model_name_or_path "$FROM/sft" --max_steps 60 --num_prompts 32 --num_generations 4 \
        --kl_coef 0.01 --seed "$SEED" "$@" --output_dir "$OUT/$arm"
    evaluate "$arm" "$OUT/$arm"
}

dpo() { # arm, its flags of --method rank ...
    local arm="$1"
    shift
    python make_prm_data.py --method rank "$@" --seed "$SEED" --output_file "$OUT/$arm.pairs.jsonl"
    python dpo.py --data "$OUT/$arm.pairs.jsonl" --model_name_or_path "$FROM/sft" --seed "$SEED" --output_dir "$OUT/$arm"
    evaluate "$arm" "$OUT/$arm"
}

one_seed() {
    SEED="$1" OUT="$RUNS/$1" FROM="$RUNS/$(($1 % MODEL_SEEDS))"
    mkdir -p "$OUT"
    evaluate sft "$FROM/sft"
    ppo ppo-tests
    ppo ppo-orm-outcome --outcome_reward orm --orm "$FROM/orm-outcome"
    ppo ppo-orm-ranking --outcome_reward orm --orm "$FROM/orm-ranking"
    ppo ppo-prm --outcome_reward none --prm "$FROM/prm" --lambda_fail 1 --process_norm none
    ppo ppo-prm-own --outcome_reward none --prm "$FROM/prm-own" --lambda_fail 1 --process_norm none
    ppo ppo-tests-prm --prm "$FROM/prm" --lambda_fail 1 --lambda_pass 1 --process_norm constant # not the paper's: both, as in micro.sh
    sample_training_tasks "$OUT" # which the pairs are drawn from
    dpo dpo-prm --pairs response --rank_by prm --prm "$FROM/prm" --tasks "$TASKS/train.jsonl" --samples "$OUT/sft-samples/samples.jsonl"
    dpo dpo-tests --pairs response --rank_by tests --tasks "$TASKS/train.jsonl" --samples "$OUT/sft-samples/verdicts.jsonl"
    # The PRMs against exact line labels, on what the supervised policy writes and on what their own arms write in the end.
    for policy in sft ppo-prm ppo-prm-own; do
        python make_prm_data.py --method gold --tasks "$TASKS/test.jsonl" --samples "$OUT/eval-$policy/samples.jsonl" --output_file "$OUT/gold-$policy.jsonl"
    done
    for prm in prm prm-own; do
        for policy in sft "ppo-$prm"; do
            python eval.py --prm "$FROM/$prm" --data "$OUT/gold-$policy.jsonl" --output_dir "$OUT/eval-$prm-on-$policy"
        done
    done
}

case "${1:-}" in
models) models "$2"; exit ;;
seed) one_seed "$2"; exit ;;
esac
[ -f "$TASKS/test.jsonl" ] || python make_tasks.py --source micro --output_dir "$TASKS"
python make_prm_data.py --method mutate --tasks "$TASKS/train.jsonl" --teacher ast --intents mutate --max_variants_per_line 3 \
    --packing program --rows_per_task 8 --change_rate 0.5 --sandbox_workers 2 --output_file "$RUNS/prm.jsonl" --outcomes_file "$RUNS/outcomes.jsonl"
seq 0 $((MODEL_SEEDS - 1)) | xargs -P "$JOBS" -I SEED bash reproduce/prlcoder.sh models SEED
printf '%s\n' $SEEDS | xargs -P "$JOBS" -I SEED bash reproduce/prlcoder.sh seed SEED
python reproduce/seeds_table.py "$RUNS" ppo-tests "sft=SFT" "ppo-tests=PPO, tests" "ppo-orm-outcome=PPO, ORM (four outcomes)" \
    "ppo-orm-ranking=PPO, ORM (ranking)" "ppo-prm=PPO, PRM" "ppo-prm-own=PPO, PRM that saw the policy's lines" "ppo-tests-prm=PPO, tests + PRM" "dpo-prm=DPO, pairs by the PRM=7500" "dpo-tests=DPO, pairs by tests=7500" | tee "$RUNS/table.md"
python reproduce/prm_table.py "$RUNS" prm-on-sft prm-own-on-sft prm-on-ppo-prm prm-own-on-ppo-prm-own | tee "$RUNS/prm_table.md"
