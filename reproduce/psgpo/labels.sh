#!/usr/bin/env bash
# Where the PRM's labels come from: mutated references in place of the policy's samples; selections
# of the labelled prompts; other labels of the same samples. Goes on from main.sh's runs.
#
#     bash reproduce/psgpo/labels.sh
#     STUDIES=selection SEEDS="0 1" JOBS=1 bash reproduce/psgpo/labels.sh
STEPS="${STEPS:-8}" STUDIES="${STUDIES:-mutations selection labels}"
source "$(dirname "$0")/base.sh"

# PRMs from mutated references. The second never sees a mutation that is one of the misconceptions
# from which the benchmark makes wrong programs.
arms MUTATIONS << 'END'
ppo-tests    | tests                                        |
ppo-dense    | PRM by search                                |
ppo-mutate   | PRM by mutations                             |
ppo-disjoint | PRM by mutations, without the misconceptions | by_mutations
ppo-exact    | exact labels                                 |
END

arms MUTATIONS_HALF << 'END'
ppo-mutate-half   | PRM by mutations, half of the samples=1920 | half_of ppo-mutate
ppo-disjoint-half | without the misconceptions, half=1920      | half_of ppo-disjoint
END

# Which prompts' labels the PRM learns from.
arms SELECTION << 'END'
ppo-tests        | tests        |
ppo-dense        | full         |
ppo-remove_hard  | remove hard  | selected
ppo-medium_only  | medium only  | selected
ppo-revised_only | revised only |
END

# Other labels of the same checkpoints' samples. "Completions not shared": without what the samples
# of one prompt tell about each other. Soft labels are the share of passing completions, of every
# line: of a quarter of the prompts, so that they cost not much more.
arms LABELS << 'END'
ppo-tests    | tests                                 |
ppo-dense    | hard                                  |
ppo-masked   | hard, none after the first wrong line | masked
ppo-alone    | hard, completions not shared          | by_search labelled
ppo-soft     | soft                                  | by_search quarter --search exhaustive \
    --labels soft
ppo-marginal | marginal                              | relabelled search-soft quarter \
    --search exhaustive --labels marginal
END

mutate() { # folder of tasks, name, flags ...: mutations of the references, for every seed the same
    python make_prm_data.py --method mutate --tasks "$1/labelled.jsonl" --teacher ast \
        --intents mutate --max_variants_per_line 3 --packing program --rows_per_task 4 \
        --change_rate 0.5 "${@:3}" --output_file "$1/$2.jsonl"
}

by_mutations() { # arm
    local kind="${1#ppo-}"
    reward_model "prm-$kind" "$DATA/$kind.jsonl"
    ppo "$1" --prm "$OUT/prm-$kind"
    exact "$OUT/prm-$kind" "$1"
}

selected() { # arm
    relabelled "$1" search labelled --share_completions true --data_selection "${1#ppo-}"
}

mutations() {
    run_arms "$MUTATIONS"
    run_arms "$MUTATIONS_HALF"
    exact "$OUT/prm-mutate" ppo-mutate
}

selection() {
    run_arms "$SELECTION"
    exact "$OUT/prm-revised_only" ppo-revised_only
}

labels() {
    run_arms "$LABELS"
}

mutations_tables() { # steps
    results "$1" "$MUTATIONS"
    tables seeds "$RUNS/$1" ppo-tests "$MUTATIONS_HALF"
    tables budget "$RUNS/$1" "$MUTATIONS"
    tables gains "$RUNS/$1" "ppo-mutate:ppo-tests=PRM by mutations, against tests" \
        "ppo-disjoint:ppo-tests=without the misconceptions, against tests" \
        "ppo-disjoint-half:ppo-tests=that, half of the samples, against tests at all"
    tables prm "$RUNS/$1" prm-mutate-on-sft prm-mutate-on-ppo-mutate \
        prm-disjoint-on-sft prm-disjoint-on-ppo-disjoint
}

selection_tables() { # steps
    results "$1" "$SELECTION"
}

labels_tables() { # steps
    results "$1" "$LABELS"
}

after_main ppo-tests ppo-dense ppo-exact ppo-mutate ppo-revised_only
make_tasks
if [[ " $STUDIES " == *" mutations "* ]]; then
    for steps in $STEPS; do
        mutate "$TASKS/$steps" disjoint --exclude_misconceptions true
    done
fi
run_studies
show_studies
