#!/usr/bin/env bash
# ReCode at micro scale, on the embedded benchmark with plans: does a reward for the reasoning help,
# and does execution have to gate it? GRPO from tests alone, with the reward of a reasoning reward
# model added, and gated by execution. The reward model learns from pairs of better and worse
# reasonings, as ReCode's does. With MORE_ARMS=true also gated softly by the pass rate, and with a
# better reward model, which has learned exact labels of lines first (ours).
#
# Written down before the runs: the primary outcome is the area under the curve of the pass rate of
# the training samples, the mean over all batches, each of 128 samples. Nothing is chosen by results
# on the test split, which is read once, at the end of each run.
#
# Every seed has its own supervised policy, samples, pairs and reward models. Reward models learn
# from one half of the training tasks, policies from the other: no reward model knows a plan of a
# task that it rewards. Only the tasks themselves are the same for all seeds. What R_proc costs
# beside the samples of reinforcement learning: two samples of each of the labelled tasks, and their
# reference plans.
#
#     bash reproduce/recode.sh                            # 10 seeds, two jobs at a time
#     SEEDS="10 11" JOBS=1 bash reproduce/recode.sh run   # runs alone
#     bash reproduce/recode.sh tables                     # of the seeds that are whole
set -euo pipefail
cd "$(dirname "$0")/.."
source reproduce/lib.sh
source reproduce/pool.sh
setup requirements.txt

SEEDS="${SEEDS:-$(seq -s ' ' 10 19)}" BATCHES="${BATCHES:-60}"
SFT_STEPS="${SFT_STEPS:-600}" LINE_STEPS="${LINE_STEPS:-3000}"
TASKS="${TASKS:-tasks/recode}" RUNS="${RUNS:-runs/recode}" TEST="$TASKS/test.jsonl"
GRPO=(--max_steps "$BATCHES" --num_prompts 16 --num_generations 8)
PRM=(--eval_fraction 0.02 --eval_steps 3000)
EVAL=(--num_samples 2)
mkdir -p "$RUNS"

# The format reward is all arms'. The arm of tests logs R_proc, but does not pay it.
arms ARMS << 'END'
outcome    | tests                          | grpo --reasoning_rm "$OUT/rm" --process_weight 0
sum        | tests + R_proc                 | grpo --reasoning_rm "$OUT/rm" --gate none
hard       | tests + R_proc, gated (ReCode) | grpo --reasoning_rm "$OUT/rm" --gate hard
END

arms LESS << 'END'
sft            | SFT                                         | evaluate "$SFT"
sft-references | SFT on the references of the labelled tasks | sft_on_references
END

arms OTHERS << 'END'
soft       | tests + R_proc, soft gate                          | grpo --gate soft \
    --reasoning_rm "$OUT/rm"
sum-lines  | tests + R_proc of the better reward model          | grpo --gate none \
    --reasoning_rm "$OUT/rm-lines"
hard-lines | tests + R_proc of the better reward model, gated   | grpo --gate hard \
    --reasoning_rm "$OUT/rm-lines"
END

arms REWARD_MODELS << 'END'
rm              | ranking                                |
END

arms OTHER_REWARD_MODELS << 'END'
rm-lines        | labelled lines, then ranking           | line_model
rm-score        | regression on ratings (Score)          | ablation score
rm-optimisation | ranking, optimised > base alone        | ablation ranking --kinds optimisation
rm-degradation  | ranking, base > degraded alone         | ablation ranking --kinds degradation
rm-strong       | ranking, optimised > degraded alone    | ablation ranking --kinds strong
rm-policy       | ranking, the policy's reasonings alone | ablation ranking --reference_bases false
rm-reference    | ranking, reference reasonings alone    | ablation ranking --num_bases 0
END

CLAIMS=(
    "R_proc, gated, against tests=+hard -outcome"
    "R_proc, ungated, against tests=+sum -outcome"
    "gated against ungated=+hard -sum"
)
if [ "${MORE_ARMS:-}" = true ]; then
    ARMS+="$OTHERS" REWARD_MODELS+="$OTHER_REWARD_MODELS"
    CLAIMS+=("better reward model: gated against ungated=+hard-lines -sum-lines")
fi

contrast() { # tasks, samples, output, flags ...: better and worse versions of the samples' plans
    [ -f "$3" ] || python make_prm_data.py --method contrast --tasks "$1" \
        --samples "$2/samples.jsonl" --seed "$SEED" --output_file "$3" "${@:4}"
}

accuracy() { # reward model: on the held-out pairs and on the benchmark
    python eval_prm.py --pairs "$OUT/pairs-test.jsonl" --reasoning_rm "$OUT/$1" \
        --output_dir "$OUT/eval-$1-pairs"
    python eval_prm.py --pairs "$OUT/benchmark.jsonl" --reasoning_rm "$OUT/$1" \
        --output_dir "$OUT/eval-$1-benchmark"
}

supervised() { # a policy, and its own plans on the labelled tasks, for better and for worse
    python reproduce/rewrite.py half-1 "$TASKS/train.jsonl" "$LABELS" "$SEED"
    python reproduce/rewrite.py half-2 "$TASKS/train.jsonl" "$TRAIN" "$SEED"
    python sft.py --tasks "$TASKS/sft.jsonl" --max_steps "$SFT_STEPS" --seed "$SEED" \
        --output_dir "$SFT"
    sample "$SFT" "$LABELS" "$OUT/samples-train" --num_samples 2
    contrast "$LABELS" "$OUT/samples-train" "$OUT/pairs.jsonl" --lines_file "$OUT/lines.jsonl"
}

reasoning_model() { # of held-out pairs, on seed 20: 300 steps .810, 1,000 steps .875
    reward_model rm "$OUT/pairs.jsonl" --objective ranking --max_steps 1000
}

# A ranking loss alone does not teach the tiny model order and numbers. This reward model learns
# which lines are right first: late and then at once, after 1,000 to 2,000 steps; hence no decay of
# the learning rate before. Then it ranks whole reasonings by the mean over their lines.
line_model() { # reward model
    reward_model lines "$OUT/lines.jsonl" --learning_rate 1e-3 --lr_scheduler_type constant \
        --max_steps "$LINE_STEPS"
    reward_model "$1" "$OUT/pairs.jsonl" --model_name_or_path "$OUT/lines" --objective ranking \
        --score_pooling lines --max_steps 100
    accuracy "$1"
}

quality() { # pairs on held-out compositions, and, as in LCB-RB, sound against unsound samples
    sample "$SFT" "$TEST" "$OUT/samples-test" --num_samples 4
    contrast "$TEST" "$OUT/samples-test" "$OUT/pairs-test.jsonl"
    [ -f "$OUT/benchmark.jsonl" ] || python make_prm_data.py --method contrast --tasks "$TEST" \
        --from_verdicts "$OUT/samples-test/verdicts.jsonl" --seed "$SEED" \
        --output_file "$OUT/benchmark.jsonl"
    accuracy rm
}

ablation() { # reward model, objective, flags of --method contrast ...
    contrast "$LABELS" "$OUT/samples-train" "$OUT/pairs-$1.jsonl" "${@:3}"
    reward_model "$1" "$OUT/pairs-$1.jsonl" --objective "$2" --max_steps 1000
    accuracy "$1"
}

sft_on_references() { # arm: the references with their plans, as a demonstration writes them
    [ -f "$OUT/references.jsonl" ] || python reproduce/rewrite.py plans "$LABELS" \
        "$OUT/references.jsonl"
    sft "$1" --tasks "$OUT/references.jsonl" --model_name_or_path "$SFT" --max_steps 150 \
        --learning_rate 5e-4
}

plan() { # the jobs: a seed's before the next seed's
    local seed arm needs
    for seed in $SEEDS; do
        job "$seed-sft-run" "" in_half "$seed" supervised
        job "$seed-rm" "$seed-sft-run" in_half "$seed" reasoning_model
        for arm in $(trained "$LESS"); do
            job "$seed-$arm" "$seed-sft-run" in_half "$seed" run_arms "$LESS" "$arm"
        done
        job "$seed-quality" "$seed-rm" in_half "$seed" quality
        for arm in $(trained "$REWARD_MODELS"); do
            job "$seed-$arm" "$seed-quality" in_half "$seed" run_arms "$REWARD_MODELS" "$arm"
        done
        for arm in $(trained "$ARMS"); do
            needs="$seed-rm"
            [[ "$arm" != *-lines ]] || needs="$seed-rm-lines"
            job "$seed-$arm" "$needs" in_half "$seed" run_arms "$ARMS" "$arm"
        done
    done
}

show() {
    echo "Primary outcome: area under the curve of the pass rate of the training samples"
    table contrasts "$RUNS" rewards/tests/mean "${CLAIMS[@]}"
    table curves "$RUNS" rewards/tests/mean "$ARMS"
    # Groups in which only R_proc can tell samples apart: gated it counts in the first alone.
    table curves "$RUNS" frac_all_pass "$ARMS"
    table curves "$RUNS" frac_all_fail "$ARMS"
    table recode "$TEST" "$RUNS" outcome "$LESS" "$ARMS"
    table contrasts "$RUNS" pass@1 "${CLAIMS[@]}"
    table pairs "$RUNS" "$REWARD_MODELS"
}

# Programs of 2 to 5 lines: plan and program are about twice as long as the program alone.
[ -f "$TEST" ] || python make_tasks.py --source micro --plans true --max_steps 5 \
    --train_min_steps 3 --num_train_tasks 2000 --output_dir "$TASKS"
plan
if [ "${1:-}" != tables ]; then
    same_settings "$RUNS" BATCHES SFT_STEPS LINE_STEPS
    run_jobs
fi
[ "${1:-}" = run ] || show | tee "$RUNS/table.md"
