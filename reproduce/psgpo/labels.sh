#!/usr/bin/env bash
# Other labels of the samples that main.sh labels by search. Goes on from its runs.
#
#     bash reproduce/psgpo/labels.sh
#     SEEDS="10 11" JOBS=1 bash reproduce/psgpo/labels.sh
STEPS="${STEPS:-8}" STUDIES=labels
source "$(dirname "$0")/base.sh"

# "Completions not shared": without what the samples of one prompt tell about each other. Soft
# labels are the share of passing completions, of every line: of a quarter of the prompts, so that
# they cost not much more.
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

labels() {
    run_arms "$LABELS"
}

labels_tables() { # steps
    results "$1" "$LABELS"
}

after_main ppo-tests ppo-dense
make_tasks
settings
run_studies
show_studies
