#!/usr/bin/env bash
# The three systems on a pretrained model and MBPP: supervised start, line labels, reward models,
# and policies from tests, from line rewards and from both. A run that was cut off goes on.
#
#     bash reproduce/pretrained.sh MODEL mbpp.jsonl
#     SIZE=minutes bash reproduce/pretrained.sh Qwen/Qwen2.5-Coder-0.5B-Instruct mbpp.jsonl
#
# SIZE, and what it is for:
#     cpu       two cores and a night; SmolLM2-135M-Instruct
#     minutes   one GPU; 0.5B. All arms side by side take about 100 GB; JOBS=2 for 40 GB. On
#               one H200, with less room a forward pass and nine other processes on the cores, parts
#               1 to 3 took five and a half minutes; the arms have run on a CPU alone
#     day       one GPU of 80 GB for a day; 0.5B
# JOBS: jobs at a time. SEEDS: one run of every arm each, all from one set of reward models.
# ONLY: names of arms; all unless set.
#
# 1. SFT on MBPP's training references in the model's chat format. pass@1 and pass@8 before and
#    after, on validation and test tasks. No setting was chosen by the test tasks.
# 2. The pool: training tasks of which the supervised policy solves 1 to 7 of 8 samples. The others
#    teach a policy nothing.
# 3. PRLCoder: line labels by mutation of the training references, a PRM; an ORM from the policy's
#    own verdicts on the training tasks.
# 4. PSGPO: line labels by search on tasks of the pool, a PRM, which also starts the critic.
# 5. The arms, on the pool, the same samples a batch.
#
#   RATE: a few dozen batches have to show; 1e-6 is usual where there is time
#   --kl_coef 0.02: keeps the policy near the starting one, whose programs the PRM knows
set -euo pipefail
USAGE="usage: bash reproduce/pretrained.sh MODEL mbpp.jsonl"
MODEL="${1:?$USAGE}" MBPP="$(realpath "${2:?$USAGE}")"
[ ! -d "$MODEL" ] || MODEL="$(realpath "$MODEL")"
cd "$(dirname "$0")/.."
SIZE="${SIZE:-cpu}" TASKS="${TASKS:-tasks/pretrained}" RUNS="${RUNS:-runs/pretrained}"
case "$SIZE" in # any of these numbers can be set from outside
    cpu) sizes="STEPS=30 SFT_STEPS=40 PRM_STEPS=60 ROWS=8 PROMPTS=8 GENERATIONS=4 SEARCHED=16
        COMPLETIONS=4 LONGEST=160 WORKERS=2 BATCH=8 RATE=3e-6 JOBS=1" MEMORY=() ;;
    minutes) sizes="STEPS=20 SFT_STEPS=24 PRM_STEPS=120 ROWS=32 PROMPTS=16 GENERATIONS=8 SEARCHED=48
        COMPLETIONS=8 LONGEST=256 WORKERS=8 BATCH=64 RATE=5e-6 JOBS=5"
        MEMORY=(--gradient_checkpointing true --max_tokens_per_forward 8192) ;;
    day) sizes="STEPS=200 SFT_STEPS=36 PRM_STEPS=600 ROWS=64 PROMPTS=32 GENERATIONS=8 SEARCHED=374
        COMPLETIONS=20 LONGEST=384 WORKERS=8 BATCH=64 RATE=3e-6 JOBS=1"
        MEMORY=(--gradient_checkpointing true --max_tokens_per_forward 16384) ;;
    *) echo "SIZE is cpu, minutes or day, not $SIZE" >&2; exit 2 ;;
esac
for size in $sizes; do
    name="${size%%=*}"
    printf -v "$name" '%s' "${!name:-${size#*=}}"
done
SEEDS="${SEEDS:-0}"
source reproduce/lib.sh
source reproduce/pool.sh
setup requirements.txt

OUT="$RUNS" SFT="$RUNS/sft" TRAIN="$TASKS/train.jsonl" POOL="$RUNS/pool.jsonl"
FIT=(--train_batch_size "$ROWS" --per_device_train_batch_size "$ROWS" --eval_steps 10000
    --save_steps 10000 "${MEMORY[@]}")
PRM=("${FIT[@]}" --learning_rate 2e-5 --warmup_steps 10 --max_steps "$PRM_STEPS")
SAMPLE=(--num_samples 8 --k 1 8 --temperature 0.8 --max_completion_length "$LONGEST"
    --batch_size "$BATCH" --sandbox_workers "$WORKERS")
RL=(--max_steps "$STEPS" --num_prompts "$PROMPTS" --num_generations "$GENERATIONS"
    --num_mini_batches 1 --max_completion_length "$LONGEST" --learning_rate "$RATE" --warmup_steps 3
    --per_device_train_batch_size 32 --save_steps "${SAVE_STEPS:-20}" "${MEMORY[@]}"
    --sandbox_workers "$WORKERS")
PPO=("${RL[@]}" --value_learning_rate 1e-5 --kl_coef 0.02)
GRPO=("${RL[@]}")
mkdir -p "$RUNS"

arms ARMS << 'END'
ppo-tests  | PPO, tests                              | ppo
ppo-prm    | PPO, PRM by mutation                    | ppo --outcome_reward none --lambda_fail 1 \
    --prm "$RUNS/prm-mutate"
ppo-both   | PPO, tests + PRM by mutation            | ppo --prm "$RUNS/prm-mutate"
ppo-psgpo  | PPO, tests + PRM by search, value start | ppo --prm "$RUNS/prm-search" \
    --value_init prm
grpo-tests | GRPO, tests                             | grpo
END

[ -f "$TRAIN" ] || python make_tasks.py --source mbpp --input "$MBPP" --output_dir "$TASKS"

evaluate() { true; } # each policy's evaluation is a job of its own, after all that learn

evaluated() { # name, policy: on validation and test tasks
    local split
    for split in validation test; do
        sample "$2" "$TASKS/$split.jsonl" "$OUT/$split-$1"
    done
}

supervised() { # SFT; the pool; the ORM's data
    stage sft.py --tasks "$TRAIN" --model_name_or_path "$MODEL" --learning_rate 1e-5 \
        --warmup_steps 4 --max_steps "$SFT_STEPS" --train_batch_size 32 \
        --per_device_train_batch_size "$ROWS" --save_steps 1000 "${MEMORY[@]}" --seed "$SEED" \
        --output_dir "$SFT" --
    sample "$SFT" "$TRAIN" "$OUT/train-sft"
    [ -f "$POOL" ] || python reproduce/select_tasks.py --tasks "$TRAIN" \
        --verdicts "$OUT/train-sft/verdicts.jsonl" --output_file "$POOL"
}

by_mutation() { # labels of lines of the references, and a PRM of the pretrained model
    python make_prm_data.py --method mutate --tasks "$TRAIN" --balance true --seed "$SEED" \
        --sandbox_workers "$WORKERS" --output_file "$OUT/mutate.jsonl" \
        --outcomes_file "$OUT/mutate-outcomes.jsonl"
    SFT="$MODEL" reward_model prm-mutate "$OUT/mutate.jsonl" --objective classification
}

by_search() { # labels of lines of the policy's programs, and a PRM of the policy
    head -n "$SEARCHED" "$POOL" > "$OUT/searched.jsonl"
    launch make_prm_data.py --method search --tasks "$OUT/searched.jsonl" --seed "$SEED" \
        --model_name_or_path "$SFT" --max_completion_length "$LONGEST" \
        --num_completions "$COMPLETIONS" --batch_size "$BATCH" --sandbox_workers "$WORKERS" \
        --output_file "$OUT/search.jsonl"
    reward_model prm-search "$OUT/search.jsonl" --objective regression
}

outcome() { # an ORM from the verdicts of the policy's own samples
    reward_model orm "$OUT/train-sft/verdicts.jsonl" --objective outcome
}

best_of_8() { # of the pretrained model's and of the supervised policy's samples, by each model
    local policy
    for policy in model sft; do
        python eval_prm.py --tasks "$TASKS/test.jsonl" \
            --samples "$OUT/test-$policy/verdicts.jsonl" --prm "$OUT/prm-mutate" --orm "$OUT/orm" \
            --agreement true --sandbox_workers "$WORKERS" --output_dir "$OUT/best-of-8-$policy"
    done
}

page() { # ten programs of the supervised policy, line by line
    head -n 10 "$OUT/test-sft/verdicts.jsonl" > "$OUT/ten.jsonl"
    python plot.py --page "$OUT/ten.jsonl" --prm "$OUT/prm-mutate" \
        --output_file "$OUT/programs.html"
}

in_arm() { # seed, function, arguments ...: on the pool
    SEED="$1" OUT="$RUNS/seed-$1" TRAIN="$POOL"
    mkdir -p "$OUT"
    "${@:2}"
}

job supervised "" supervised
job mutation "" by_mutation
job search supervised by_search
for seed in $SEEDS; do
    for name in ${ONLY:-$(names "$ARMS")}; do
        case "$name" in
            ppo-prm | ppo-both) needs="supervised mutation" ;;
            ppo-psgpo) needs=search ;;
            *) needs=supervised ;;
        esac
        job "$name-$seed" "$needs" in_arm "$seed" run_arms "$ARMS" "$name"
    done
done
job orm supervised outcome
job evaluate-model "" evaluated model "$MODEL"
job evaluate-sft supervised evaluated sft "$SFT"
for seed in $SEEDS; do
    for name in ${ONLY:-$(names "$ARMS")}; do
        job "evaluate-$name-$seed" "$name-$seed" in_arm "$seed" \
            evaluated "$name" "$RUNS/seed-$seed/$name"
    done
done
job best-of-8 "mutation orm evaluate-model evaluate-sft" best_of_8
job page "mutation evaluate-sft" page
run_jobs
python reproduce/pretrained.py "$RUNS"
