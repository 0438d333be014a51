#!/usr/bin/env bash
# ReCode at micro scale, on the embedded benchmark with plans: does a reward for the reasoning help,
# and does execution have to gate it? GRPO from tests alone, with the reward of a reasoning reward
# model added, gated softly by the pass rate, and gated by execution, on five seeds; then reward
# models from single kinds of pairs and of reasonings.
# Two supervised policies with a reward model each (MODEL_SEEDS=5: one a seed); seed s starts from
# those of seed s modulo MODEL_SEEDS. Run it again to go on where it was cut off.
#
#     bash reproduce/recode.sh                       # seeds 0 to 4, two processes at a time
#     SEEDS="0 1" MODEL_SEEDS=1 JOBS=1 bash reproduce/recode.sh
set -euo pipefail
cd "$(dirname "$0")/.."
source reproduce/lib.sh
setup requirements.txt

SEEDS="${SEEDS:-0 1 2 3 4}" MODEL_SEEDS="${MODEL_SEEDS:-2}"
TASKS="${TASKS:-tasks/recode}" RUNS="${RUNS:-runs/recode}"
TRAIN="$TASKS/train.jsonl" TEST="$TASKS/test.jsonl"
PRM=(--eval_fraction 0.02 --eval_steps 250)
EVAL=(--num_samples 4)
mkdir -p "$RUNS"

# 60 batches of 128 samples (grpo.py's defaults), the format reward for all. The arm of tests logs
# R_proc, but does not pay it.
arms ARMS << 'END'
sft        | SFT                            | evaluate "$SFT"
outcome    | tests                          | grpo --reasoning_rm "$FROM/rm" --process_weight 0
sum        | tests + R_proc                 | grpo --reasoning_rm "$FROM/rm" --gate none
soft       | tests + R_proc, soft gate      | grpo --reasoning_rm "$FROM/rm" --gate soft
hard       | tests + R_proc, gated (ReCode) | grpo --reasoning_rm "$FROM/rm" --gate hard
sum-pairs  | tests + R_proc of the worse reward model        | grpo --gate none \
    --reasoning_rm "$FROM/rm-pairs"
hard-pairs | tests + R_proc of the worse reward model, gated | grpo --gate hard \
    --reasoning_rm "$FROM/rm-pairs"
END

# Reward models; the ablations are ranked from the policy, without the labelled lines.
arms REWARD_MODELS << 'END'
rm              | labelled lines, then ranking           |
rm-pairs        | ranking alone                          |
rm-score        | regression on ratings (Score)          | ablation score
rm-optimisation | ranking, optimised > base alone        | ablation ranking --kinds optimisation
rm-degradation  | ranking, base > degraded alone         | ablation ranking --kinds degradation
rm-strong       | ranking, optimised > degraded alone    | ablation ranking --kinds strong
rm-policy       | ranking, the policy's reasonings alone | ablation ranking --reference_bases false
rm-reference    | ranking, reference reasonings alone    | ablation ranking --num_bases 0
END

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

ablation() { # reward model, objective, flags of --method contrast ...
    SEED=0 OUT="$RUNS/0" SFT="$RUNS/0/sft"
    contrast "$TRAIN" "$OUT/samples-train" "$OUT/pairs-$1.jsonl" "${@:3}"
    reward_model "$1" "$OUT/pairs-$1.jsonl" --objective "$2" --max_steps 300
    accuracy "$1"
}

# A policy, and a reward model from its own plans on the training tasks, rewritten for better and
# worse.
models() { # seed
    SEED="$1" OUT="$RUNS/$1" SFT="$RUNS/$1/sft"
    mkdir -p "$OUT"
    python sft.py --tasks "$TASKS/sft.jsonl" --seed "$SEED" --output_dir "$SFT"
    sample "$SFT" "$TRAIN" "$OUT/samples-train" --num_samples 4
    contrast "$TRAIN" "$OUT/samples-train" "$OUT/pairs.jsonl" --lines_file "$OUT/lines.jsonl"
    # The reward model learns which lines are right first: a ranking loss alone does not teach the
    # tiny model order and numbers, which it sees late and then at once, after 1,000 to 2,000
    # steps; hence no decay of the learning rate before. Then it ranks whole reasonings by the mean
    # over their lines.
    reward_model lines "$OUT/lines.jsonl" --learning_rate 1e-3 --lr_scheduler_type constant \
        --max_steps 3000 --eval_steps 1500
    reward_model rm "$OUT/pairs.jsonl" --model_name_or_path "$OUT/lines" --objective ranking \
        --score_pooling lines --max_steps 100
    # Pairs on held-out compositions, and, as in LCB-RB, sound against unsound samples.
    sample "$SFT" "$TEST" "$OUT/samples-test" --num_samples 16
    contrast "$TEST" "$OUT/samples-test" "$OUT/pairs-test.jsonl"
    [ -f "$OUT/benchmark.jsonl" ] || python make_prm_data.py --method contrast --tasks "$TEST" \
        --from_verdicts "$OUT/samples-test/verdicts.jsonl" --seed "$SEED" \
        --output_file "$OUT/benchmark.jsonl"
    accuracy rm
    # A worse one, from the pairs alone, as a reward model for long reasonings would be trained.
    reward_model rm-pairs "$OUT/pairs.jsonl" --objective ranking --max_steps 300
    accuracy rm-pairs
}

one_seed() { # seed
    FROM="$RUNS/$(($1 % MODEL_SEEDS))"
    SEED="$1" OUT="$RUNS/$1" SFT="$FROM/sft"
    mkdir -p "$OUT"
    run_arms "$ARMS"
}

# Programs of 2 to 5 lines: plan and program are about twice as long as the program alone.
[ -f "$TEST" ] || python make_tasks.py --source micro --plans true --max_steps 5 \
    --train_min_steps 3 --output_dir "$TASKS"
at_once models $(seq 0 $((MODEL_SEEDS - 1)))
at_once one_seed $SEEDS
at_once 'run_arms "$REWARD_MODELS"' $(trained "$REWARD_MODELS")
{
    python reproduce/tables.py recode "$TEST" "$RUNS" outcome "$ARMS" sum:hard sum-pairs:hard-pairs
    echo
    python reproduce/tables.py pairs "$RUNS" "$REWARD_MODELS"
} | tee "$RUNS/table.md"
