#!/usr/bin/env bash
# PSGPO's comparison: PPO from tests, with the PRM as dense reward, as the critic's start, as both,
# and with exact labels in the PRM's place (the bound of what line rewards can do), on programs of 8
# and of 4 steps. Every seed has a supervised policy, labels and a PRM of its own.
#
#     bash reproduce/psgpo/main.sh                                # seeds 0 to 4, two jobs at a time
#     STEPS=8 SEEDS="0 1" JOBS=1 bash reproduce/psgpo/main.sh     # one length, two seeds
STEPS="${STEPS:-8 4}" STUDIES=main
source "$(dirname "$0")/base.sh"

arms ARMS << 'END'
ppo-tests       | tests                             | baseline
ppo-dense       | tests + PRM                       | ppo --prm "$OUT/prm"
ppo-value       | tests, critic from the PRM        | ppo critic_rescale --value_rescale range \
    --prm "$OUT/prm" --lambda_fail 0 --lambda_pass 0 --value_init prm
ppo-dense-value | tests + PRM, critic from it       | ppo critic_rescale --value_rescale range \
    --prm "$OUT/prm" --value_init prm
ppo-exact      | tests + exact labels              | ppo exact_labels
END

# Without reinforcement learning, and after half of the samples.
arms LESS << 'END'
sft                  | SFT                                         | evaluate "$SFT"
sft-references       | SFT on the references of the labelled tasks | sft \
    --tasks "$DATA/labelled.jsonl" --model_name_or_path "$SFT" --max_steps 150 --learning_rate 5e-4
ppo-tests-half       | tests, half of the samples=1920             | half_of ppo-tests
ppo-dense-half       | tests + PRM, half=1920                      | half_of ppo-dense
ppo-dense-value-half | tests + PRM, critic from it, half=1920      | half_of ppo-dense-value
ppo-exact-half      | tests + exact labels, half=1920             | half_of ppo-exact
END

baseline() { # arm: the run with tests alone, labels of its checkpoints' samples, and the PRM
    ppo "$1"
    search search labelled --share_completions true
    reward_model prm "$OUT/search.jsonl"
}

main() {
    run_arms "$ARMS"
    run_arms "$LESS"
    exact "$OUT/prm" ppo-dense
}

supervised() { # seed: the policy that all of its runs start from
    python sft.py --tasks "$TASKS/sft.jsonl" --seed "$1" --output_dir "$RUNS/sft/$1"
}

main_tables() { # steps
    echo "Programs of $1 steps"
    results "$1" "$ARMS"
    tables budget "$RUNS/$1" "$ARMS"
    tables seeds "$RUNS/$1" ppo-tests "$LESS"
    tables gains "$RUNS/$1" "ppo-dense:ppo-tests=tests + PRM, against tests" \
        "ppo-value:ppo-tests=critic from the PRM, against tests" \
        "ppo-dense-value:ppo-tests=both, against tests" \
        "ppo-dense-value:ppo-dense=both, against tests + PRM" \
        "ppo-exact:ppo-tests=exact labels, against tests" \
        "ppo-dense-half:ppo-tests=tests + PRM at half of the samples, against tests at all" \
        "ppo-exact-half:ppo-tests=exact labels at half, against tests at all"
}

model_tables() { # steps ...: the critic and the PRM of the first length, the labels of each
    tables curves "$RUNS/$1" critic/vf_explained_var "$ARMS"
    local steps
    for steps in "$@"; do
        tables labels "$TASKS/$steps/train.jsonl" \
            "$steps steps, K = 8=$RUNS/$steps/*/search.jsonl"
    done
    tables prm "$RUNS/$1" prm-on-sft prm-on-ppo-dense
}

make_tasks
at_once supervised $SEEDS
run_studies
{
    for steps in $STEPS; do main_tables "$steps"; done
    model_tables $STEPS
} | tee "$RUNS/main.md"
