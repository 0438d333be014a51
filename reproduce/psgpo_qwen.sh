#!/usr/bin/env bash
# PSGPO with the paper's public model, Qwen2.5-7B. Not run by the authors: every flag has been
# parsed, no number of it is known. The paper's 30,000 prompts are not public: this takes MBPP's 374
# training tasks, or TRAIN, any tasks.jsonl.
#
# What differs from reproduce/psgpo/main.sh, the comparison at micro scale: the paper's 2 x 2 alone,
# without exact labels and PRMs from other labels; the PRM learns from revised prompts alone, of
# four responses a prompt and checkpoint (there all prompts, of one response); up to 20 completions
# of a prefix, not 8; a KL term; one seed. All training tasks are labelled; there the first half.
#
#     PROCESSES=8 bash reproduce/psgpo_qwen.sh mbpp.jsonl                       # the published file
#     TRAIN=taco.jsonl HUMANEVAL=HumanEval.jsonl.gz PROCESSES=8 \
#         bash reproduce/psgpo_qwen.sh mbpp.jsonl
#     LAUNCH="srun ... torchrun --nnodes=2 ..." bash reproduce/psgpo_qwen.sh mbpp.jsonl  # lib.sh
#
# What it needs. GiB a GPU of a PPO step, by bench/memory.py --prompt_length 512
# --max_completion_length 512 --rollout_batch_size $SAMPLES --max_tokens_per_forward $TOKENS; beside
# these some GiB for CUDA, NCCL and fragments:
#     one of 24 GB     MODEL=Qwen/Qwen2.5-0.5B TOKENS=8192 SAMPLES=128    rollout 15.6, update 18.4
#     one of 80 GB     MODEL=Qwen/Qwen2.5-1.5B SAMPLES=256                rollout 50.6, update 56.7
#     eight of 80 GB   PROCESSES=8                                        rollout 39.8, update 43.9
# Hours of the last line, if a GPU does 300 TFLOP/s and decodes a token of each of its samples in
# 10 ms, and every text has its full length:
#     PPO arm   25,600 samples x 1024 tokens x 24 x 7.6e9 FLOP / (8 x 300e12) = 0.6, and decoding
#               100 batches x 512 tokens x 10 ms = 0.1; four arms: 2.8
#     search    5984 responses, 3000 of them failing x 4 prefixes x 20 completions = 240,000; with
#               8 x 160 at a time 188 x 512 tokens x 10 ms = 0.3
#     PRM       600 x 64 texts x 1024 tokens x 8 x 7.6e9 FLOP / (8 x 300e12) = 0.5
#     a FLOP count of 24 a weight and token: 8 each to train policy and critic with gradient
#               checkpointing, 2 each for the scores of policy, reference, critic and PRM
# With evaluations (0.1 each) and loading, about 5 hours.
# The flags that matter, and why they have these values:
#   --num_completions 20: PSGPO's K, completions of a prefix, any of which may pass; with
#       --share_completions (ours) what one sample proves counts for the others of its prompt, at no
#       cost
#   --num_generations 4: responses a prompt and checkpoint; the paper gives no number, its ablation
#       goes below one
#   --save_steps 25 --save_total_limit 0: keeps four checkpoints of the run with tests alone, evenly
#       spaced, as in the paper
#   --data_selection revised_only: the paper's best, prompts of which a failing response could be
#       put right from some prefix
#   --lambda_fail 0.25 --lambda_pass 0.025 --process_norm lines: the paper's reward (ppo.py's
#       defaults, not repeated below); where comments take over (completions/comment_ratio):
#       --neutral_comments true --process_norm scored_lines
#   --value_init prm: the critic starts as the PRM, brought to the scale of the first batch's
#       returns
#   --learning_rate 1e-6, --value_learning_rate 1e-5, --kl_coef 0.02: not published; what is usual
#       at this size
#   --max_completion_length 512: MBPP's references have 330 characters at the 90th percentile
#   --num_samples 30 --k 1 ... 30: Best-of-K up to 30, the paper's Figure 3
#   --max_tokens_per_forward, --gradient_checkpointing, --rollout_batch_size, --batch_size: memory
#       and speed alone, the result does not depend on them. --bf16 is on without a word on GPUs
set -euo pipefail
INPUT="$(realpath "${1:?usage: bash reproduce/psgpo_qwen.sh path/to/mbpp.jsonl}")"
TRAIN="${TRAIN:+$(realpath "$TRAIN")}" HUMANEVAL="${HUMANEVAL:+$(realpath "$HUMANEVAL")}"
cd "$(dirname "$0")/.."
source reproduce/lib.sh
setup requirements.txt

MODEL="${MODEL:-Qwen/Qwen2.5-7B}"
RUNS="${RUNS:-runs/psgpo-qwen-$SEED}" TASKS="${TASKS:-tasks/psgpo-qwen}"
OUT="$RUNS" SFT="$RUNS/sft" TRAIN="${TRAIN:-$TASKS/train.jsonl}" TEST="$TASKS/test.jsonl"
TOKENS="${TOKENS:-16384}" SAMPLES="${SAMPLES:-512}"
FIT=(--gradient_checkpointing true --max_tokens_per_forward "$TOKENS")
# 100 batches of 64 prompts x 4 completions: the same samples for every arm.
PPO=(--max_steps 100 --num_prompts 64 --num_generations 4 --max_completion_length 512
    --learning_rate 1e-6 --value_learning_rate 1e-5 --kl_coef 0.02
    "${FIT[@]}" --rollout_batch_size "$SAMPLES" --save_steps 25 --save_total_limit 0
    --sandbox_workers 8)
PRM=(--objective regression --learning_rate 1e-5 --max_steps 600 --train_batch_size 64
    "${FIT[@]}" --max_length 1024)
SAMPLE=(--max_completion_length 512 --batch_size 4 --sandbox_workers 8)
EVAL=(--num_samples 30 --k 1 3 10 30 --temperature 0.8)
MORE="${HUMANEVAL:+humaneval}"
mkdir -p "$RUNS"

# The 2 x 2 of the paper.
arms ARMS << 'END'
ppo-tests       | tests                       | baseline
sft             | SFT                         |
ppo-dense       | tests + PRM                 | ppo --prm "$OUT/prm"
ppo-value       | tests, critic from the PRM  | ppo --prm "$OUT/prm" --lambda_fail 0 \
    --lambda_pass 0 --value_init prm
ppo-dense-value | tests + PRM, critic from it | ppo --prm "$OUT/prm" --value_init prm
END

baseline() { # arm: the run with tests alone, whose checkpoints answer and complete; labels; the PRM
    ppo "$1"
    launch make_prm_data.py --method search --tasks "$TRAIN" \
        --model_name_or_path "$OUT/$1"/checkpoint-{25,50,75} "$OUT/$1" \
        --num_generations 4 --num_completions 20 --share_completions true \
        --data_selection revised_only --temperature 1.0 --max_completion_length 512 \
        --batch_size 8 --chunk_size 256 --sandbox_workers 8 --seed "$SEED" \
        --output_file "$OUT/prm.jsonl"
    reward_model prm "$OUT/prm.jsonl"
}

[ -f "$TEST" ] || python make_tasks.py --source mbpp --input "$INPUT" --output_dir "$TASKS"
[ -z "$HUMANEVAL" ] || [ -f "$TASKS-humaneval/test.jsonl" ] || python make_tasks.py \
    --source humaneval --input "$HUMANEVAL" --output_dir "$TASKS-humaneval"

# Supervised stage on MBPP's 374 training tasks, three epochs: the base model learns to answer with
# a program alone.
sft sft --tasks "$TASKS/train.jsonl" --model_name_or_path "$MODEL" --learning_rate 1e-5 \
    --max_steps 36 --train_batch_size 32 "${FIT[@]}" --max_length 1024
run_arms "$ARMS"
compare "$ARMS"
