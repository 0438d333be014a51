#!/usr/bin/env bash
# What a line reward is worth to PPO, and which labels give it: tests alone; exact labels of the
# policy's own lines, in place and by prefix (no PRM: the bound of what line rewards can do); PRMs
# from labels by search and from mutated references. The mutations' labels are those of lines in
# place; labels by search are those of prefixes: so one PRM has the mutations' labels by prefix.
# Some mutations are the very mistakes of which the benchmark makes wrong programs; one PRM never
# sees those. Then PSGPO's claims: the critic starts as the PRM (fitted to the first batch's returns
# in scale and offset); which prompts the PRM learns from; what changes on programs of 4 steps.
#
# Labels by search: a response of each of four policies to a prompt, 8 completions of a prefix (the
# paper: up to 20). What one response proves counts for the others of its policy and prompt
# (--share_completions, ours): here a policy has one.
#
# Written down before the runs: the primary outcome is the area under the curve of the pass rate of
# the training samples, the mean over all batches, each of 64 samples. A prompt is drawn at most
# once (16 of the 1,500 a batch), so that its samples are of a policy that has not learned from it.
# The paper's claims are CLAIMS, and are counted together (Holm); MORE_CLAIMS explain them, and are
# counted apart. That a PRM helps more at 8 steps than at 4 also needs that it helps at 8. Nothing
# is chosen by results on the test split, which is read once, at the end of each run. Settings were
# chosen on seeds 0 to 5, of which tables of earlier versions were made too: the seeds here are
# others.
#
# Every seed has its own supervised policy, samples, labels and PRMs; tasks and mutated references
# are the same for all. PRMs and policies share tasks: the labelled ones (LABELLED) are the first
# half of those that reinforcement learning draws, so that PRMs from mutated references know the
# references of half of the tasks that they reward (prlcoder.sh keeps the two apart). Each PRM
# learns for as many steps, from four rows a task, but for the selections, which leave tasks out.
#
#     bash reproduce/psgpo/main.sh                               # 15 seeds, two jobs at a time
#     SEEDS="10 11" JOBS=1 bash reproduce/psgpo/main.sh run      # runs alone
#     bash reproduce/psgpo/main.sh tables                        # of the seeds that are whole
STEPS="${STEPS:-8 4}"
source "$(dirname "$0")/base.sh"
source reproduce/pool.sh

arms ARMS_8 << 'END'
ppo-tests         | tests                                          | ppo
ppo-again         | tests, other prompts and samples               | ppo \
    --seed $((SEED + 1000))
ppo-exact         | tests + exact labels in place                  | ppo exact_labels
ppo-exact-prefix  | tests + exact labels by prefix                 | ppo exact_labels \
    --labels prefix
ppo-dense         | tests + PRM by search, four checkpoints        | ppo --prm "$OUT/prm"
ppo-search        | tests + PRM by search, starting policy         | from_start
ppo-mutate        | tests + PRM by mutations, in place             | by_mutations mutate
ppo-mutate-prefix | tests + PRM by mutations, by prefix            | by_mutations mutate-prefix
ppo-disjoint      | tests + PRM by mutations, other mistakes alone | by_mutations disjoint
ppo-value         | tests, critic from the PRM by search           | ppo --prm "$OUT/prm" \
    --value_init prm --lambda_fail 0 --lambda_pass 0
ppo-dense-value   | tests + PRM by search, critic from it          | ppo --prm "$OUT/prm" \
    --value_init prm
ppo-revised_only  | tests + PRM by search, revised prompts alone   | selected revised_only
ppo-remove_hard   | tests + PRM by search, without hard prompts    | selected remove_hard
ppo-medium_only   | tests + PRM by search, medium prompts alone    | selected medium_only
END

arms ARMS_4 << 'END'
ppo-tests         | tests                                          | ppo
ppo-dense         | tests + PRM by search, four checkpoints        | ppo --prm "$OUT/prm"
END

# Without reinforcement learning (the mutations and the exact labels know references too), and with
# twice as many samples: labels of four checkpoints have cost those of the run with tests too.
arms LESS_8 << 'END'
sft            | SFT                                         | evaluate "$SFT"
sft-references | SFT on the references of the labelled tasks | sft \
    --tasks "$DATA/labelled.jsonl" --model_name_or_path "$SFT" --max_steps 150 --learning_rate 5e-4
ppo-long       | tests, twice as many samples                | ppo --max_steps $((2 * BATCHES))
END

CLAIMS=( # signed sums of arms, <steps>/<arm>
    "dense rewards by search help=+8/ppo-dense -8/ppo-tests"
    "the critic from the PRM helps=+8/ppo-value -8/ppo-tests"
    "both together help=+8/ppo-dense-value -8/ppo-tests"
    "revised prompts alone are best: against all=+8/ppo-revised_only -8/ppo-dense"
    "dense rewards help more at 8 steps than at 4=+8/ppo-dense -8/ppo-tests -4/ppo-dense \
+4/ppo-tests"
)
MORE_CLAIMS=(
    "nothing but other samples (no difference)=+8/ppo-again -8/ppo-tests"
    "exact labels in place help=+8/ppo-exact -8/ppo-tests"
    "exact labels by prefix help=+8/ppo-exact-prefix -8/ppo-tests"
    "in place against by prefix, exact labels=+8/ppo-exact -8/ppo-exact-prefix"
    "the bound, exact by prefix, against search=+8/ppo-exact-prefix -8/ppo-dense"
    "a PRM by search, starting policy, helps=+8/ppo-search -8/ppo-tests"
    "four checkpoints against the starting policy=+8/ppo-dense -8/ppo-search"
    "a PRM by mutations helps=+8/ppo-mutate -8/ppo-tests"
    "a PRM by mutations that are other mistakes helps=+8/ppo-disjoint -8/ppo-tests"
    "mutations, in place against by prefix=+8/ppo-mutate -8/ppo-mutate-prefix"
    # Also known references of half of the prompts against none.
    "mutations by prefix against search=+8/ppo-mutate-prefix -8/ppo-dense"
    "the critic from the PRM helps, beside the PRM=+8/ppo-dense-value -8/ppo-dense"
    "revised prompts alone against tests=+8/ppo-revised_only -8/ppo-tests"
    "revised prompts alone against no hard ones=+8/ppo-revised_only -8/ppo-remove_hard"
    "revised prompts alone against medium ones=+8/ppo-revised_only -8/ppo-medium_only"
    "dense rewards by search help at 4 steps=+4/ppo-dense -4/ppo-tests"
)

PRMS="prm prm-start prm-mutate prm-mutate-prefix prm-disjoint prm-revised_only"

supervised() { # seed: the policy that all of its runs start from
    python sft.py --tasks "$TASKS/sft.jsonl" --max_steps "$SFT_STEPS" --seed "$1" \
        --output_dir "$RUNS/sft/$1"
}

labels() { # labels of samples of the run with tests alone, and their PRM
    search search labelled --share_completions true
    reward_model prm "$OUT/search.jsonl"
}

# As many samples, labelled alike: the supervised policy in all four places, under four names.
from_start() { # arm
    local again
    for again in 2 3 4; do ln -sfn "$SEED" "$SFT-$again"; done
    python make_prm_data.py --method search --tasks "$DATA/labelled.jsonl" --num_generations 1 \
        --num_completions 8 --seed "$SEED" --share_completions true \
        --output_file "$OUT/search-start.jsonl" --model_name_or_path "$SFT" "$SFT"-{2,3,4}
    reward_model prm-start "$OUT/search-start.jsonl"
    ppo "$1" --prm "$OUT/prm-start"
}

by_mutations() { # arm, name of the labels
    reward_model "prm-$2" "$DATA/$2.jsonl"
    ppo "$1" --prm "$OUT/prm-$2"
}

selected() { # arm, selection of prompts
    relabelled "$1" search labelled --share_completions true --data_selection "$2"
}

# The same for all seeds. Labels by prefix say nothing new after the first wrong line: at a change
# rate of 0.2 half of the programs have their first three lines right, at 0.5 an eighth.
mutations() {
    local data="$TASKS/8" changes=(--rows_per_task 4 --change_rate 0.2)
    mutate "$data/labelled.jsonl" "$data/mutate.jsonl" "${changes[@]}"
    mutate "$data/labelled.jsonl" "$data/disjoint.jsonl" "${changes[@]}" \
        --exclude_misconceptions true
    python reproduce/rewrite.py prefix "$data/mutate.jsonl" "$data/mutate-prefix.jsonl"
}

quality() { # each PRM against exact labels of both kinds, on lines of the supervised policy
    local kind name
    for kind in in_place prefix; do
        python make_prm_data.py --method gold --labels "$kind" --tasks "$TEST" \
            --samples "$OUT/eval-sft/samples.jsonl" --output_file "$OUT/gold-$kind-sft.jsonl"
        for name in $PRMS; do
            python eval_prm.py --prm "$OUT/$name" --data "$OUT/gold-$kind-sft.jsonl" \
                --output_dir "$OUT/eval-$name-on-$kind"
        done
    done
}

plan() { # the jobs: a seed's before the next seed's
    local seed arm steps
    [[ " $STEPS " != *" 8 "* ]] || job mutations "" mutations
    for seed in $SEEDS; do
        job "sft-$seed" "" supervised "$seed"
        for steps in $STEPS; do
            local arms="ARMS_$steps" first="$steps-$seed-ppo-tests" labels="$steps-$seed-labels"
            job "$first" "sft-$seed" at "$steps" "$seed" run_arms "${!arms}" ppo-tests
            job "$labels" "$first" at "$steps" "$seed" labels
            for arm in $(trained "${!arms}" | grep -v -x ppo-tests); do
                local needs="sft-$seed"
                case "$arm" in
                    ppo-dense* | ppo-value | ppo-*_*) needs="$labels" ;; # ppo-revised_only
                    ppo-mutate* | ppo-disjoint) needs="sft-$seed mutations" ;;
                esac
                job "$steps-$seed-$arm" "$needs" at "$steps" "$seed" run_arms "${!arms}" "$arm"
            done
        done
        if [[ " $STEPS " == *" 8 "* ]]; then
            for arm in $(trained "$LESS_8"); do
                job "8-$seed-$arm" "sft-$seed" at 8 "$seed" run_arms "$LESS_8" "$arm"
            done
            job "8-$seed-quality" "8-$seed-sft 8-$seed-labels 8-$seed-ppo-search \
                8-$seed-ppo-mutate 8-$seed-ppo-mutate-prefix 8-$seed-ppo-disjoint \
                8-$seed-ppo-revised_only" at 8 "$seed" quality
        fi
    done
}

claims() { # metric, claims ...: those whose lengths were run
    local claim steps known=()
    for claim in "${@:2}"; do
        for steps in 4 8; do
            [[ "$claim" != *[+-]$steps/* || " $STEPS " == *" $steps "* ]] || continue 2
        done
        known+=("$claim")
    done
    [ ${#known[@]} -eq 0 ] || table contrasts "$RUNS" "$1" "${known[@]}"
}

main_tables() {
    local steps arms
    echo "Primary outcome: area under the curve of the pass rate of the training samples"
    claims rewards/tests/mean "${CLAIMS[@]}"
    claims rewards/tests/mean "${MORE_CLAIMS[@]}"
    for steps in $STEPS; do
        arms="ARMS_$steps"
        printf '\nPrograms of %s steps\n' "$steps"
        table curves "$RUNS/$steps" rewards/tests/mean "${!arms}"
        table budget "$RUNS/$steps" "${!arms}"
        table curves "$RUNS/$steps" critic/vf_explained_var "${!arms}"
        [ "$steps" != 8 ] || table seeds "$RUNS/8" ppo-tests "$LESS_8" "$ARMS_8"
        [ "$steps" != 4 ] || table seeds "$RUNS/4" ppo-tests "$ARMS_4"
    done
    printf '\nAt the end of the run, on the test split\n'
    claims pass@1 "${CLAIMS[@]}"
    claims pass@1 "${MORE_CLAIMS[@]}"
    [[ " $STEPS " == *" 8 "* ]] || return 0
    table labels "$TASKS/8/train.jsonl" "four checkpoints=$RUNS/8/*/search.jsonl" \
        "starting policy=$RUNS/8/*/search-start.jsonl"
    table prm "$RUNS/8" $(for prm in $PRMS; do echo "$prm"-on-{in_place,prefix}; done)
}

make_tasks
plan
if [ "${1:-}" != tables ]; then
    settings
    run_jobs
fi
[ "${1:-}" = run ] || main_tables | tee "$RUNS/main.md"
