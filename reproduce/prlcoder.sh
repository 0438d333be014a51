#!/usr/bin/env bash
# PRLCoder's comparison at micro scale: PPO with a process reward model (PRM), with outcome reward
# models (ORM), and with tests. The PRM learns from executed changes of reference programs. So does
# one ORM; two others learn from what an ORM would have: the supervised policy's own samples and
# their verdicts. Some of the changes are the very mistakes of which the benchmark makes wrong
# programs: a second PRM never sees those. With MORE_ARMS=true also a PRM that saw the policy's
# lines, tests and PRM together, and DPO.
#
# Written down before the runs: the primary outcome is the area under the curve of the pass rate of
# the training samples, the mean over all batches, each of 64 samples. Nothing is chosen by results
# on the test split, which is read once, at the end of each run. Arms are compared at equal numbers
# of samples in reinforcement learning; the table of costs has what labels cost besides. Each arm of
# a reward model alone has also judged 256 samples for the weight of its KL term (below).
#
# Every seed has its own supervised policy, samples, changed references and reward models. Reward
# models learn from one half of the training tasks, policies from the other: no reward model knows a
# reference of a task that it rewards. Only the tasks themselves are the same for all seeds.
#
# All reward models learn for as many steps. On seed 20, by the AUC on held-out labelled tasks at
# 300 and at 1,000 steps: PRM .957, .970; ORM of own samples .866, .909; of changes .629, .633.
#
# The reward models alone would let the policy go where they have seen nothing, so that every arm
# has a KL term. Its weight is 0.01 in the arms with tests (of tests and PRM together too, whose
# rewards are not matched); in an arm of a reward model alone, whose rewards of the supervised
# policy's samples have c times the standard deviation of those by tests, it is 0.01 c.
#
#     bash reproduce/prlcoder.sh                            # 10 seeds, two jobs at a time
#     SEEDS="10 11" JOBS=1 bash reproduce/prlcoder.sh run   # runs alone
#     bash reproduce/prlcoder.sh tables                     # of the seeds that are whole
set -euo pipefail
cd "$(dirname "$0")/.."
source reproduce/lib.sh
source reproduce/pool.sh
setup requirements.txt

SEEDS="${SEEDS:-$(seq -s ' ' 10 19)}" BATCHES="${BATCHES:-60}" LABELLED="${LABELLED:-750}"
SFT_STEPS="${SFT_STEPS:-600}" RM_STEPS="${RM_STEPS:-600}" # of a policy, of a reward model
TASKS="${TASKS:-tasks/prlcoder}" RUNS="${RUNS:-runs/prlcoder}" TEST="$TASKS/test.jsonl"
PPO=(--max_steps "$BATCHES" --num_prompts 16 --num_generations 4 --kl_coef 0.01)
PRM=(--max_steps "$RM_STEPS" --eval_steps "$RM_STEPS" --learning_rate 7e-4)
EVAL=(--num_samples 2)
mkdir -p "$RUNS"

arms ARMS << 'END'
ppo-tests       | PPO, tests                                  | ppo
ppo-orm-mutants | PPO, ORM (four outcomes), changed programs  | outcome_model mutants outcome
ppo-orm-outcome | PPO, ORM (four outcomes), own samples       | outcome_model own outcome
ppo-orm-ranking | PPO, ORM (ranking), own samples             | outcome_model own ranking
ppo-prm         | PPO, PRM, changed programs                  | process_model prm
ppo-prm-other   | PPO, PRM, other mistakes alone              | process_model prm-other
END

arms LESS << 'END'
sft             | SFT                                         | evaluate "$SFT"
sft-references  | SFT on the references of the labelled tasks | sft --tasks "$LABELS" \
    --model_name_or_path "$SFT" --max_steps 150 --learning_rate 5e-4
ppo-tests-long  | PPO, tests, twice as many samples           | ppo --max_steps $((2 * BATCHES))
END

# Tests and PRM together are not the paper's: as in micro.sh.
arms OTHERS << 'END'
ppo-prm-own     | PPO, PRM that saw the policy's lines        | process_model prm-own
ppo-tests-prm   | PPO, tests + PRM                            | ppo --prm "$OUT/prm" \
    --lambda_fail 1 --lambda_pass 1 --process_norm constant
dpo-prm         | DPO, pairs by the PRM=6000                  | pairs_by prm samples \
    --prm "$OUT/prm"
dpo-tests       | DPO, pairs by tests=6000                    | pairs_by tests verdicts
END

CLAIMS=(
    "PRM against tests=+ppo-prm -ppo-tests"
    "PRM against ORM, changed programs=+ppo-prm -ppo-orm-mutants"
    "PRM against ORM (four outcomes), own samples=+ppo-prm -ppo-orm-outcome"
    "PRM against ORM (ranking), own samples=+ppo-prm -ppo-orm-ranking"
    "PRM, other mistakes, against ORM (four outcomes), own samples=+ppo-prm-other -ppo-orm-outcome"
    "ORM: own samples against changed programs=+ppo-orm-outcome -ppo-orm-mutants"
)
MODELS="orm-mutants-outcome orm-own-outcome orm-own-ranking prm prm-other"

if [ "${MORE_ARMS:-}" = true ]; then
    ARMS+="$OTHERS"
    CLAIMS+=("tests + PRM against tests=+ppo-tests-prm -ppo-tests")
fi

supervised() { # and its samples of the labelled tasks, with their verdicts
    python reproduce/rewrite.py half-2 "$TASKS/train.jsonl" "$TRAIN" "$SEED"
    python reproduce/rewrite.py half-1 "$TASKS/train.jsonl" "$OUT/half.jsonl" "$SEED"
    head -n "$LABELLED" "$OUT/half.jsonl" > "$LABELS"
    python sft.py --tasks "$TASKS/sft.jsonl" --max_steps "$SFT_STEPS" --seed "$SEED" \
        --output_dir "$SFT"
    sample "$SFT" "$LABELS" "$OUT/samples" --num_samples 8
    spread ppo-tests
}

changed() { # changes of the references, executed
    local some=(--rows_per_task 4 --change_rate 0.5 --seed "$SEED")
    mutate "$LABELS" "$OUT/prm.jsonl" "${some[@]}" --outcomes_file "$OUT/outcomes.jsonl"
    cp "$OUT/prm.report.json" "$OUT/outcomes.report.json" # what they have cost
    mutate "$LABELS" "$OUT/prm-other.jsonl" "${some[@]}" --exclude_misconceptions true
}

spread() { # arm, flags ...: one batch, whose rewards show how far the arm's rewards are apart
    stage ppo.py --tasks "$TRAIN" --model_name_or_path "$SFT" "${PPO[@]}" --seed "$SEED" \
        --output_dir "$OUT/spread-$1" -- --max_steps 1 --num_prompts 64 --kl_coef 0 "${@:2}"
}

matched() { # arm, flags ...: the KL term's weight by the spread of the arm's rewards
    local weight
    spread "$@"
    weight="$(python reproduce/tables.py spread "$OUT/spread-$1" "$OUT/spread-ppo-tests" 0.01)"
    ppo "$@" --kl_coef "${weight:-0.01}"
}

outcome_model() { # arm, its data, objective
    local data="$OUT/outcomes.jsonl"
    [ "$2" = mutants ] || data="$OUT/samples/verdicts.jsonl"
    reward_model "orm-$2-$3" "$data" --objective "$3"
    matched "$1" --outcome_reward orm --orm "$OUT/orm-$2-$3"
}

process_model() { # arm, PRM
    local data="$OUT/$2.jsonl"
    if [ "$2" = prm-own ]; then
        # The policy's own mistakes too: its lines on the labelled tasks, each executed in its place
        # in the reference (possible where programs go in lock step, as here).
        python make_prm_data.py --method gold --tasks "$LABELS" \
            --samples "$OUT/samples/verdicts.jsonl" --output_file "$OUT/own.jsonl"
        data="$OUT/prm-own.jsonl"
        cat "$OUT/prm.jsonl" "$OUT/own.jsonl" > "$data"
        cp "$OUT/prm.report.json" "$OUT/prm-own.report.json" # without what its own lines have cost
    fi
    reward_model "$2" "$data"
    # The sum over the lines, divided by 8: returns of which the critic learns as fast as of tests'.
    matched "$1" --outcome_reward none --prm "$OUT/$2" --lambda_fail 1 --process_norm constant
}

pairs_by() { # arm, what ranks the samples, their file, flags ...
    dpo "$1" --pairs response --rank_by "$2" --tasks "$LABELS" "${@:4}" \
        --samples "$OUT/samples/$3.jsonl"
}

# The PRMs against exact labels, on lines of the supervised policy and of their own; all reward
# models as rankers of eight samples of the supervised policy.
quality() {
    local model flag
    exact "$OUT/prm" ppo-prm
    exact "$OUT/prm-other" ppo-prm-other
    sample "$SFT" "$TEST" "$OUT/eval-eight" --num_samples 8
    for model in $MODELS; do
        flag=--orm
        [[ "$model" != prm* ]] || flag=--prm
        python eval_prm.py --samples "$OUT/eval-eight/verdicts.jsonl" --tasks "$TEST" \
            "$flag" "$OUT/$model" --output_dir "$OUT/eval-choice-$model"
    done
}

plan() { # the jobs: a seed's before the next seed's
    local seed arm needs
    for seed in $SEEDS; do
        job "$seed-sft-run" "" in_half "$seed" supervised
        job "$seed-changed" "$seed-sft-run" in_half "$seed" changed
        for arm in $(trained "$ARMS"); do
            needs="$seed-sft-run"
            case "$arm" in
                ppo-tests-prm | dpo-prm) needs="$seed-ppo-prm" ;;
                ppo-prm* | ppo-orm-mutants) needs="$seed-changed" ;;
            esac
            job "$seed-$arm" "$needs" in_half "$seed" run_arms "$ARMS" "$arm"
        done
        for arm in $(trained "$LESS"); do
            job "$seed-$arm" "$seed-sft-run" in_half "$seed" run_arms "$LESS" "$arm"
        done
        needs="$seed-sft"
        for arm in $(trained "$ARMS"); do needs+=" $seed-$arm"; done
        job "$seed-quality" "$needs" in_half "$seed" quality
    done
}

show() {
    echo "Primary outcome: area under the curve of the pass rate of the training samples"
    table contrasts "$RUNS" rewards/tests/mean "${CLAIMS[@]}"
    table curves "$RUNS" rewards/tests/mean "$(grep -v dpo- <<< "$ARMS")"
    table seeds "$RUNS" ppo-tests "$LESS" "$ARMS"
    table contrasts "$RUNS" pass@1 "${CLAIMS[@]}"
    table budget "$RUNS" "$(grep -v dpo- <<< "$ARMS")"
    # A reward of each line pays for more lines; a reward model's policy goes where the KL lets it.
    table curves "$RUNS" completions/mean_lines "$(grep -v dpo- <<< "$ARMS")"
    table curves "$RUNS" objective/kl "$(grep -v dpo- <<< "$ARMS")"
    table prm "$RUNS" prm-on-sft prm-on-ppo-prm prm-other-on-sft prm-other-on-ppo-prm-other
    table rankers "$RUNS" $(printf 'choice-%s ' $MODELS)
}

[ -f "$TEST" ] || python make_tasks.py --source micro --num_train_tasks 2000 --output_dir "$TASKS"
plan
if [ "${1:-}" != tables ]; then
    same_settings "$RUNS" BATCHES LABELLED SFT_STEPS RM_STEPS
    run_jobs
fi
[ "${1:-}" = run ] || show | tee "$RUNS/table.md"
