#!/usr/bin/env bash
# ReCode on the embedded benchmark with plans: does a reward for the reasoning help, and does execution have to gate it?
# A policy that plans before it answers, a reasoning reward model from contrasting plans, and four arms of GRPO, each on
# every seed of SEEDS; two arms at a time on two CPU cores. Run it again to go on where a run was cut off. Its stages have
# been tried one by one; the whole has not been run yet, and no table of it is in the README.
#
#     bash reproduce/recode.sh                     # seeds 0 1 2
#     SEEDS="0" bash reproduce/recode.sh
set -euo pipefail
cd "$(dirname "$0")/.."
source reproduce/setup.sh requirements.txt

SEEDS="${SEEDS:-0 1 2}" STEPS="${STEPS:-60}"
TASKS="${TASKS:-tasks/recode}" RUNS="${RUNS:-runs/recode}"
mkdir -p "$RUNS"

sample() { # policy, split, samples a task, folder
    python eval.py --tasks "$TASKS/$2.jsonl" --model_name_or_path "$1" --num_samples "$3" --output_dir "$4"
}

# The policy. Programs of 2 to 5 lines: plan and program are about twice as long as the program alone.
[ -f "$TASKS/test.jsonl" ] || python make_tasks.py --source micro --plans true --max_steps 5 --train_min_steps 3 --output_dir "$TASKS"
python sft.py --tasks "$TASKS/sft.jsonl" --output_dir "$RUNS/sft"

# The reasoning reward model: the policy's own plans on the training tasks, rewritten for the better and the worse.
sample "$RUNS/sft" train 4 "$RUNS/samples-train"
# It learns which lines are right first: a ranking loss alone does not teach the tiny model order and numbers.
python make_prm_data.py --method contrast --tasks "$TASKS/train.jsonl" --samples "$RUNS/samples-train/samples.jsonl" --output_file "$RUNS/pairs.jsonl" --lines_file "$RUNS/lines.jsonl"
python train_prm.py --data "$RUNS/lines.jsonl" --model_name_or_path "$RUNS/sft" --learning_rate 1e-3 --max_steps 700 --output_dir "$RUNS/lines"
python train_prm.py --objective ranking --data "$RUNS/pairs.jsonl" --model_name_or_path "$RUNS/lines" --max_steps 250 --output_dir "$RUNS/rm"

# Is it any good? Pairs on held-out compositions, and, as on LCB-RB, sound against unsound samples of the policy.
sample "$RUNS/sft" test 4 "$RUNS/eval-sft"
sample "$RUNS/sft" test 16 "$RUNS/samples-test"
python make_prm_data.py --method contrast --tasks "$TASKS/test.jsonl" --samples "$RUNS/eval-sft/samples.jsonl" --output_file "$RUNS/pairs-test.jsonl"
python make_prm_data.py --method contrast --tasks "$TASKS/test.jsonl" --from_verdicts "$RUNS/samples-test/verdicts.jsonl" --output_file "$RUNS/benchmark.jsonl"
python eval.py --pairs "$RUNS/pairs-test.jsonl" --reasoning_rm "$RUNS/rm" --output_dir "$RUNS/eval-rm-pairs"
python eval.py --pairs "$RUNS/benchmark.jsonl" --reasoning_rm "$RUNS/rm" --output_dir "$RUNS/eval-rm-benchmark"

# The arms. All of them see the format reward, and the same number of samples; the first logs R_proc, but does not pay it.
reinforce() { # name, seed, flags ...
    local name="$1-$2" seed="$2"
    shift 2
    python grpo.py --tasks "$TASKS/train.jsonl" --model_name_or_path "$RUNS/sft" --reasoning_rm "$RUNS/rm" --max_steps "$STEPS" \
        --seed "$seed" "$@" --output_dir "$RUNS/$name"
    sample "$RUNS/$name" test 4 "$RUNS/eval-$name"
}
chain() { # seed, arms ...
    local seed="$1" arm
    shift
    for arm in "$@"; do
        case "$arm" in
            outcome) reinforce outcome "$seed" --process_weight 0 ;;
            sum) reinforce sum "$seed" --gate none ;;
            soft) reinforce soft "$seed" --gate soft ;;
            hard) reinforce hard "$seed" --gate hard ;;
        esac
    done
}
set -m # each chain is a process group of its own, so that it can be ended whole
trap 'for chain in $(jobs -p); do kill -- "-$chain" 2>/dev/null || true; done' EXIT
for seed in $SEEDS; do
    chain "$seed" outcome sum &
    chain "$seed" soft hard &
    wait -n # ends the script, and by the trap the other chain, if the first to finish has failed
    wait -n
done

# Each arm against outcome alone, over tasks and seeds.
folders() { for seed in $SEEDS; do echo -n "${comma:-}$RUNS/eval-$1-$seed" && comma=","; done; }
python eval.py --compare "$(folders outcome)" "$(folders sum)" "$(folders soft)" "$(folders hard)" --output_dir "$RUNS/compare-$(echo "$SEEDS" | tr ' ' '-')"
