#!/usr/bin/env bash
# Where the critic starts (as the policy or as the PRM), where it matters more: on the returns'
# scale, with lines as actions and a smaller lambda, with few samples; then with a slower critic, or
# one that learns before the policy does. Goes on from main.sh's runs.
#
#     bash reproduce/psgpo/critic.sh
#     STUDIES=critic SEEDS="10 11" JOBS=1 bash reproduce/psgpo/critic.sh
STEPS="${STEPS:-8}" STUDIES="${STUDIES:-critic schedules}"
source "$(dirname "$0")/base.sh"

arms STARTS << 'END'
ppo-tests    | policy           |
critic-range | PRM, (r + 1) / 2 | from_prm critic_rescale --value_rescale range
ppo-value    | PRM, fitted      |
END

arms CRITIC << 'END'
critic-lambda-policy | policy; lambda 0.8 at line ends | ppo lambda_at_line_ends --lam 0.8 \
    --value_init policy
critic-lambda-prm    | PRM, fitted; lambda 0.8 at line ends | from_prm lambda_at_line_ends --lam 0.8
critic-few-policy    | policy; 16 samples a batch | ppo --num_prompts 4 --value_init policy
critic-few-prm       | PRM, fitted; 16 samples a batch | from_prm --num_prompts 4
END

arms DENSE << 'END'
ppo-tests          | policy                         |
critic-range-dense | PRM, (r + 1) / 2; dense reward | ppo critic_rescale --value_rescale range \
    --prm "$OUT/prm" --value_init prm
ppo-dense-value    | PRM, fitted; dense reward      |
END

arms SLOW << 'END'
critic-slow-policy | policy, learning rate / 10 | ppo --value_init policy --value_learning_rate 5e-5
critic-slow-prm    | PRM, fitted, learning rate / 10 | from_prm --value_learning_rate 5e-5
END

arms WARM << 'END'
critic-warm-policy | policy, lambda 0.8 at line ends, 5 batches of warm-up | ppo \
    lambda_at_line_ends critic_warmup --lam 0.8 --critic_warmup_steps 5 --value_init policy
critic-warm-prm    | PRM, fitted, lambda 0.8 at line ends, 5 batches of warm-up | from_prm \
    lambda_at_line_ends critic_warmup --lam 0.8 --critic_warmup_steps 5
END

from_prm() { # arm, studies ..., flags ...: the critic starts as the PRM, which pays no reward
    ppo "$@" --prm "$OUT/prm" --lambda_fail 0 --lambda_pass 0 --value_init prm
}

critic() {
    run_arms "$STARTS"
    run_arms "$CRITIC"
}

schedules() {
    run_arms "$DENSE"
    run_arms "$SLOW"
    run_arms "$WARM"
}

critic_tables() { # steps
    results "$1" "$STARTS" "$CRITIC"
    tables curves "$RUNS/$1" critic/vf_explained_var "$STARTS"
}

schedules_tables() { # steps
    results "$1" "$DENSE" "$SLOW" "$WARM"
    tables curves "$RUNS/$1" rewards/tests/mean "$SLOW"
    tables gains "$RUNS/$1" \
        "critic-slow-prm:critic-slow-policy=PRM, fitted, against policy; learning rate / 10" \
        "ppo-dense-value:ppo-dense=PRM, fitted, against policy; dense reward"
}

after_main ppo-tests ppo-value ppo-dense ppo-dense-value
make_tasks
settings
run_studies
show_studies
