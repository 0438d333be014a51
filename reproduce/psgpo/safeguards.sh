#!/usr/bin/env bash
# What happens to a policy that optimises a PRM without PSGPO's safeguards (tests beside the PRM,
# small weights, division by the program's lines), and other cures. Goes on from main.sh's runs;
# of the studies, forms goes on from padding and safeguards.
#
#     bash reproduce/psgpo/safeguards.sh
#     STUDIES=safeguards SEEDS="10 11" JOBS=1 bash reproduce/psgpo/safeguards.sh
STEPS="${STEPS:-8}" STUDIES="${STUDIES:-padding safeguards forms comments}"
source "$(dirname "$0")/base.sh"

# A PRM without labels after the first wrong line, alone and beside tests: its scores are positive
# on average, so that their sum pays for more lines.
arms PADDING << 'END'
pad-none  | PRM alone, sum over lines | alone --prm "$OUT/prm-masked" --process_norm none
pad-lines | PRM alone, divided by the program's lines | alone --prm "$OUT/prm-masked"
pad-tests | with tests, sum over lines | ppo --prm "$OUT/prm-masked" --process_norm none
END

arms MASKED << 'END'
ppo-masked | with tests, divided by the lines (PSGPO) | masked
END

# The PRM alone, without the reward from tests beside it that PSGPO has.
arms SAFEGUARDS << 'END'
hack-none  | PRM alone, sum over lines | alone --prm "$OUT/prm" --process_norm none
hack-lines | PRM alone, divided by the program's lines | alone --prm "$OUT/prm"
ppo-dense  | with tests and PSGPO's weights |
END

# Other cures: other forms of the process reward, an ensemble's minimum, and a PRM that follows the
# policy. Its new labels come from execution: by search with K = 8 they took 94,000 completions and
# 12 minutes in 39 batches.
arms FORMS << 'END'
hack-none     | sum over lines |
hack-delta    | change from line to line | alone process_delta --prm "$OUT/prm" --process_norm none
hack-min      | soft minimum | alone process_min --prm "$OUT/prm" --process_norm none
hack-ensemble | sum, minimum of two PRMs | alone ensemble --prm "$OUT/prm" "$OUT/prm-second" \
    --process_norm none
hack-refresh  | sum, PRM trained on the policy's lines every 5 batches | alone prm_refresh \
    --prm_refresh 5 --prm "$OUT/prm" --process_norm none
END

# The same beside tests, where a PRM that stays as it is is hacked by padding.
arms REFRESHED << 'END'
pad-tests   | with tests, PRM of the padding, sum |
pad-refresh | with tests, that PRM trained every 5 batches, sum | ppo prm_refresh \
    --prm_refresh 5 --prm "$OUT/prm-masked" --process_norm none
END

# A policy whose teacher writes comments, with PRMs from its own samples. A neutral 0 is above the
# mean of failing programs, so that comments still raise the mean, unless the mean is over the lines
# of code alone (the last arm).
arms COMMENTS << 'END'
comments-labelled           | PRM alone, comments labelled as other lines | alone \
    --prm "$OUT/prm-neutral-false"
comments-neutral-labels     | PRM alone, neutral in the labels            | alone \
    --prm "$OUT/prm-neutral-true"
comments-neutral-reward     | PRM alone, neutral in the reward            | alone \
    --prm "$OUT/prm-neutral-false" --neutral_comments true --process_norm scored_lines
comments-with-tests         | with tests, labelled as other lines         | ppo \
    --prm "$OUT/prm-neutral-false"
comments-neutral-with-tests | with tests, neutral in the labels           | ppo \
    --prm "$OUT/prm-neutral-true"
comments-psgpo              | with tests, neutral, all lines labelled (PSGPO) | ppo \
    --prm "$OUT/prm-psgpo"
comments-scored             | that, divided by the lines of code          | ppo \
    --prm "$OUT/prm-psgpo" --neutral_comments true --process_norm scored_lines
END

alone() { # arm, studies ..., flags ...: the PRM's reward alone, of equal weight for all programs
    ppo "$@" --outcome_reward none --lambda_fail 1
}

padding() {
    run_arms "$MASKED"
    run_arms "$PADDING"
    exact "$OUT/prm-masked" $(trained "$PADDING" "$MASKED")
}

safeguards() {
    run_arms "$SAFEGUARDS"
    exact "$OUT/prm" $(names "$SAFEGUARDS") # the table shows ppo-dense too
}

forms() {
    SEED="$((SEED + 100))" reward_model prm-second "$OUT/search.jsonl"
    run_arms "$FORMS"
    exact "$OUT/prm" $(trained "$FORMS")
    run_arms "$REFRESHED"
    exact "$OUT/prm-masked" $(trained "$REFRESHED")
}

comments_prm() { # name, flags of the labels ...: labels of one search, and a PRM
    [ "$1" = neutral-false ] || same_search "$1" neutral-false
    python make_prm_data.py --method search --tasks "$DATA/quarter.jsonl" --num_generations 4 \
        --num_completions 8 --seed "$SEED" --model_name_or_path "$SFT" --share_completions true \
        "${@:2}" --output_file "$OUT/$1.jsonl"
    reward_model "prm-$1" "$OUT/$1.jsonl"
}

# Labels after the first wrong line are left out, but in the last PRM (PSGPO's labels): with them
# the scores are so low that an empty program is the best one.
comments() {
    OUT="$RUNS/comments/$(basename "$DATA")/$SEED" SFT="$RUNS/comments/sft/$SEED"
    evaluate sft "$SFT"
    comments_prm neutral-false --mask_after_first_error true --neutral_comments false
    comments_prm neutral-true --mask_after_first_error true --neutral_comments true
    comments_prm psgpo
    run_arms "$COMMENTS"
    exact "$OUT/prm-neutral-false" $(trained "$COMMENTS")
}

supervised() { # seed: the policy that writes comments
    python sft.py --tasks "$TASKS/comments/sft.jsonl" --seed "$1" \
        --output_dir "$RUNS/comments/sft/$1"
}

padding_tables() { # steps
    python reproduce/tables.py hack "$RUNS/$1" "$PADDING" "$MASKED"
}

safeguards_tables() { # steps
    python reproduce/tables.py hack "$RUNS/$1" "$SAFEGUARDS"
}

forms_tables() { # steps
    python reproduce/tables.py hack "$RUNS/$1" "$FORMS" "$REFRESHED"
}

comments_tables() { # steps
    python reproduce/tables.py hack "$RUNS/comments/$1" "$COMMENTS"
}

after_main ppo-tests ppo-dense
make_tasks
settings
if [[ " $STUDIES " == *" comments "* ]]; then
    [ -f "$TASKS/comments/sft.jsonl" ] || python make_tasks.py --source micro --comment_rate 0.15 \
        --num_train_tasks 1 --num_test_tasks 1 --output_dir "$TASKS/comments"
    at_once supervised $SEEDS
fi
run_studies
show_studies
