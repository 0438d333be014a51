# What the scripts of this folder share; each sources this file first.
#
# PSGPO's comparison at micro scale: PPO from tests, and with a process reward model (PRM) whose
# labels come from binary search over samples of four checkpoints of the run with tests alone, as
# in the paper. main.sh goes first; labels.sh, safeguards.sh and critic.sh go on from its runs.
#
#     SEEDS     15 seeds; of the scripts that go on from main.sh, those that main.sh has run
#     STEPS     numbers of steps of the programs, each an experiment of its own: RUNS/<steps>/<seed>
#               (safeguards.sh and critic.sh: of 8 alone, since main.sh has fewer arms of 4)
#     STUDIES   which of a script's studies
#     BATCHES   of a run, 64 samples each; a multiple of 4. The pass rate still rises at their end
#     SFT_STEPS optimiser steps of the supervised policy
#     RM_STEPS  optimiser steps of a PRM
#     LABELLED  the first so many training tasks are labelled. Chosen by PRMs on lines that seed 0's
#               supervised policy wrote for validation tasks. AUC up to the first wrong line, from
#               160 tasks and 120 steps: .723 by search, .800 by mutations; 160 and 300: .723 and
#               .752; 320 and 250: .801 and .834; by mutations of 750 tasks and 500 steps .971.
set -euo pipefail
cd "$(dirname "$0")/../.."
source reproduce/lib.sh
setup requirements.txt

SEEDS="${SEEDS:-$(seq -s ' ' 10 24)}" BATCHES="${BATCHES:-60}" LABELLED="${LABELLED:-750}"
SFT_STEPS="${SFT_STEPS:-600}" RM_STEPS="${RM_STEPS:-300}"
QUARTER=$((BATCHES / 4))
TASKS="${TASKS:-tasks/psgpo}" RUNS="${RUNS:-runs/psgpo}"
# The reward's constants are the paper's (ppo.py's defaults). PPO's own were tried with tests alone
# on seed 5, by the area under pass@1 on validation tasks over 60 batches: .186 at the defaults,
# .154 with --lam 1; at learning rates 2.5 times as high the policy falls apart.
PPO=(--max_steps "$BATCHES" --num_prompts 16 --num_generations 4 --save_steps "$QUARTER" \
    --save_total_limit 0)
PRM=(--max_steps "$RM_STEPS" --eval_steps "$RM_STEPS" --learning_rate 7e-4)
EVAL=(--num_samples 2)
mkdir -p "$TASKS" "$RUNS"

# Tasks of the supervised policy, of 2 to 8 steps; then, for reinforcement learning and evaluation,
# programs of one length. The first training tasks are labelled, or a quarter of those (settings).
make_tasks() {
    local steps
    [ -f "$TASKS/sft.jsonl" ] || python make_tasks.py --source micro --output_dir "$TASKS"
    for steps in $STEPS; do
        [ -f "$TASKS/$steps/test.jsonl" ] || python make_tasks.py --source micro \
            --min_steps "$steps" --train_min_steps "$steps" --max_steps "$steps" \
            --num_sft_tasks 1 --num_test_tasks 300 --num_validation_tasks 100 \
            --output_dir "$TASKS/$steps"
    done
}

settings() { # before anything is trained: as they were, in RUNS and in TASKS
    local steps
    same_settings "$RUNS" BATCHES LABELLED SFT_STEPS RM_STEPS
    for steps in $STEPS; do
        first_tasks "$steps" "$LABELLED" labelled
        first_tasks "$steps" $((LABELLED / 4)) quarter
    done
}

first_tasks() { # steps, how many, name
    local tasks="$TASKS/$1/$3.jsonl"
    if [ ! -f "$tasks" ]; then
        head -n "$2" "$TASKS/$1/train.jsonl" > "$tasks.$$"
        mv "$tasks.$$" "$tasks"
    elif ! cmp -s "$tasks" <(head -n "$2" "$TASKS/$1/train.jsonl"); then
        echo "$tasks was made with another LABELLED than $LABELLED: set LABELLED so, or take" \
            "another TASKS folder" >&2
        return 1
    fi
}

after_main() { # arms ...: ends the script unless main.sh has trained them for each length and seed
    local steps seed arm
    for steps in $STEPS; do for seed in $SEEDS; do for arm in "$@"; do
        if [ ! -f "$RUNS/$steps/$seed/$arm/config.json" ]; then
            echo "$RUNS/$steps/$seed/$arm is missing: run reproduce/psgpo/main.sh first" >&2
            exit 1
        fi
    done; done; done
}

at() { # steps, seed, function, arguments ...
    SEED="$2" OUT="$RUNS/$1/$2" SFT="$RUNS/sft/$2"
    DATA="$TASKS/$1" TRAIN="$TASKS/$1/train.jsonl" TEST="$TASKS/$1/test.jsonl"
    mkdir -p "$OUT"
    "${@:3}"
}

run_studies() { # each of STUDIES, for each length and seed
    local study steps seed jobs
    for study in $STUDIES; do
        jobs=()
        for steps in $STEPS; do
            for seed in $SEEDS; do jobs+=("$steps $seed $study"); done
        done
        at_once at "${jobs[@]}"
    done
}

show_studies() { # each of STUDIES, for each length: <study>_tables <steps>
    local study steps
    for study in $STUDIES; do
        for steps in $STEPS; do "${study}_tables" "$steps"; done | tee "$RUNS/$study.md"
    done
}

tables() { # name of a table, its arguments ...: a blank line before
    echo
    python reproduce/tables.py "$@"
}

results() { # steps, arm lines ...: pass@1 on held-out tasks, pass rate in training
    tables seeds "$RUNS/$1" ppo-tests "${@:2}"
    tables curves "$RUNS/$1" rewards/tests/mean "${@:2}"
}

search() { # name, tasks, flags ...: labels of one response of each checkpoint to each prompt
    python make_prm_data.py --method search --tasks "$DATA/$2.jsonl" --num_generations 1 \
        --num_completions 8 --seed "$SEED" "${@:3}" --output_file "$OUT/$1.jsonl" \
        --model_name_or_path "$OUT/ppo-tests/checkpoint-$QUARTER" \
        "$OUT/ppo-tests/checkpoint-$((2 * QUARTER))" \
        "$OUT/ppo-tests/checkpoint-$((3 * QUARTER))" "$OUT/ppo-tests"
}

same_search() { # name, name of a finished search: its completions, so that none is sampled twice
    [ -f "$OUT/$1.jsonl.progress" ] || cp "$OUT/$2.jsonl.progress" "$OUT/$1.jsonl.progress"
}

by_search() { # arm, tasks, flags of the labels ...: labels, a PRM, and tests + PRM
    local kind="${1#ppo-}"
    search "search-$kind" "$2" "${@:3}"
    reward_model "prm-$kind" "$OUT/search-$kind.jsonl"
    ppo "$1" --prm "$OUT/prm-$kind"
}

relabelled() { # arm, finished search, tasks, flags of the labels ...: the same from its completions
    same_search "search-${1#ppo-}" "$2"
    by_search "$1" "${@:3}"
}

masked() { # arm: of a PRM without labels after the first wrong line
    relabelled "$1" search labelled --share_completions true --mask_after_first_error true
}
