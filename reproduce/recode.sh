#!/usr/bin/env bash
# ReCode at micro scale, on the embedded benchmark with plans: does a reward for the reasoning help, and does execution have
# to gate it? GRPO from tests alone, with the reward of a reasoning reward model added, gated softly by the pass rate, and
# gated by execution, on five seeds; then reward models from single kinds of pairs and of reasonings.
# Two supervised policies with a reward model each (MODEL_SEEDS=5: one a seed); seed s starts from those of seed s modulo
# MODEL_SEEDS. Run it again to go on where it was cut off.
#
#     bash reproduce/recode.sh                       # seeds 0 to 4, two processes at a time
#     SEEDS="0 1" MODEL_SEEDS=1 JOBS=1 bash reproduce/recode.sh
set -euo pipefail
cd "$(dirname "$0")/.."
source reproduce/setup.sh requirements.txt

export SEEDS="${SEEDS:-0 1 2 3 4}" MODEL_SEEDS="${MODEL_SEEDS:-2}" JOBS="${JOBS:-2}"
export TASKS="${TASKS:-tasks/recode}" RUNS="${RUNS:-runs/recode}"
mkdir -p "$RUNS"

sample() { # policy, split, samples a task, folder
    python eval.py --tasks "$TASKS/$2.jsonl" --model_name_or_path "$1" --num_samples "$3" --seed "$SEED" --output_dir "$4"
}

contrast() { # split, samples, output, flags ...
    local split="$1" samples="$2" output="$3"
    shift 3
    [ -f "$output" ] || python make_prm_data.py --method contrast --tasks "$TASKS/$split.jsonl" --samples "$samples/samples.jsonl" \
        --seed "$SEED" --output_file "$output" "$@"
}

models() { # seed: the policy, and a reward model from its own plans on the training tasks, rewritten for better and worse
    SEED="$1" FROM="$RUNS/$1"
    mkdir -p "$FROM"
    python sft.py --tasks "$TASKS/sft.jsonl" --seed "$SEED" --output_dir "$FROM/sft"
    sample "$FROM/sft" train 4 "$FROM/samples-train"
    contrast train "$FROM/samples-train" "$FROM/pairs.jsonl" --lines_file "$FROM/lines.jsonl"
    # It learns which lines are right first: a ranking loss alone does not teach the tiny model order and numbers, which
    # it sees late and then at once, after 1,000 to 2,000 steps; hence no decay of the learning rate before.
    # Then it ranks whole reasonings by the mean over their lines.
    python train_prm.py --data "$FROM/lines.jsonl" --model_name_or_path "$FROM/sft" --learning_rate 1e-3 --lr_scheduler_type constant \
        --max_steps 3000 --eval_fraction 0.02 --eval_steps 1500 --seed "$SEED" --output_dir "$FROM/lines"
    reward_model rm "$FROM/pairs.jsonl" --objective ranking --model_name_or_path "$FROM/lines" --score_pooling lines --max_steps 100
    # Is it any good? Pairs on held-out compositions, and, as on LCB-RB, sound against unsound samples of the policy.
    sample "$FROM/sft" test 16 "$FROM/samples-test"
    contrast test "$FROM/samples-test" "$FROM/pairs-test.jsonl"
    [ -f "$FROM/benchmark.jsonl" ] || python make_prm_data.py --method contrast --tasks "$TASKS/test.jsonl" --from_verdicts "$FROM/samples-test/verdicts.jsonl" \
        --seed "$SEED" --output_file "$FROM/benchmark.jsonl"
    judge rm
    # And one from the pairs alone, of the kind that a reward model for long reasonings would be: it is worse.
    reward_model rm-pairs "$FROM/pairs.jsonl" --objective ranking --model_name_or_path "$FROM/sft" --max_steps 300
    judge rm-pairs
}

reward_model() { # name, pairs, flags ...
    local name="$1" pairs="$2"
    shift 2
    python train_prm.py --data "$pairs" --eval_fraction 0.02 --eval_steps 250 --seed "$SEED" "$@" --output_dir "$FROM/$name"
}

judge() { # reward model: its accuracy on the held-out pairs and on the benchmark
    python eval.py --pairs "$FROM/pairs-test.jsonl" --reasoning_rm "$FROM/$1" --output_dir "$FROM/eval-$1-pairs"
    python eval.py --pairs "$FROM/benchmark.jsonl" --reasoning_rm "$FROM/$1" --output_dir "$FROM/eval-$1-benchmark"
}

# 60 batches of 128 samples, the format reward for all; the first arm logs R_proc, but does not pay it.
grpo() { # arm, flags ...
    local arm="$1"
    shift
    python grpo.py --tasks "$TASKS/train.jsonl" --model_name_or_path "$FROM/sft" --seed "$SEED" "$@" --output_dir "$OUT/$arm"
    sample "$OUT/$arm" test 4 "$OUT/eval-$arm"
}

one_seed() {
    SEED="$1" OUT="$RUNS/$1" FROM="$RUNS/$(($1 % MODEL_SEEDS))"
    mkdir -p "$OUT"
    sample "$FROM/sft" test 4 "$OUT/eval-sft"
    grpo outcome --reasoning_rm "$FROM/rm" --process_weight 0
    grpo sum --reasoning_rm "$FROM/rm" --gate none
    grpo soft --reasoning_rm "$FROM/rm" --gate soft
    grpo hard --reasoning_rm "$FROM/rm" --gate hard
    grpo sum-pairs --reasoning_rm "$FROM/rm-pairs" --gate none
    grpo hard-pairs --reasoning_rm "$FROM/rm-pairs" --gate hard
}

ablation() { # reward model, objective, flags of --method contrast ...: ranked from the policy, without the labelled lines
    local name="rm-$1" objective="$2"
    SEED=0 FROM="$RUNS/0"
    shift 2
    contrast train "$FROM/samples-train" "$FROM/pairs-$name.jsonl" "$@"
    reward_model "$name" "$FROM/pairs-$name.jsonl" --model_name_or_path "$FROM/sft" --objective "$objective" --max_steps 300
    judge "$name"
}

case "${1:-}" in
models) models "$2"; exit ;;
seed) one_seed "$2"; exit ;;
ablation) shift; ablation "$@"; exit ;;
esac
# Programs of 2 to 5 lines: plan and program are about twice as long as the program alone.
[ -f "$TASKS/test.jsonl" ] || python make_tasks.py --source micro --plans true --max_steps 5 --train_min_steps 3 --output_dir "$TASKS"
seq 0 $((MODEL_SEEDS - 1)) | xargs -P "$JOBS" -I SEED bash reproduce/recode.sh models SEED
printf '%s\n' $SEEDS | xargs -P "$JOBS" -I SEED bash reproduce/recode.sh seed SEED
xargs -P "$JOBS" -L 1 bash reproduce/recode.sh ablation <<< "optimisation ranking --kinds optimisation
degradation ranking --kinds degradation
strong ranking --kinds strong
policy ranking --reference_bases false
reference ranking --num_bases 0
score score"
{
    python reproduce/recode_table.py "$TASKS/test.jsonl" "$RUNS" outcome "sft=SFT" "outcome=tests" "sum=tests + R_proc" "soft=tests + R_proc, soft gate" "hard=tests + R_proc, gated (ReCode)" \
        "sum-pairs=tests + R_proc of the worse reward model" "hard-pairs=tests + R_proc of the worse reward model, gated" \
        sum:hard sum-pairs:hard-pairs
    echo
    python reproduce/pairs_table.py "$RUNS" "rm=labelled lines, then ranking" "rm-pairs=ranking alone" "rm-score=regression on ratings (Score)" \
        "rm-optimisation=ranking, optimised > base alone" "rm-degradation=ranking, base > degraded alone" "rm-strong=ranking, optimised > degraded alone" \
        "rm-policy=ranking, the policy's reasonings alone" "rm-reference=ranking, reference reasonings alone"
} | tee "$RUNS/table.md"
