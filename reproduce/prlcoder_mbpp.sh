#!/usr/bin/env bash
# PRLCoder's comparison on MBPP with a real model: PPO with a process reward model, with outcome
# reward models and with tests. Not yet run by the authors. The paper's policy is CodeT5+ 770M; this
# takes a current small code model in its place, and MBPP's 374 training tasks.
#
# What differs from reproduce/prlcoder.sh, the comparison at micro scale:
# - Both outcome models learn from changed references alone, and no outcome model learns from the
#   policy's own samples and their verdicts (at micro scale, on one seed, that ORM was the better
#   one: an AUC of .87 against .63).
# - Reward models and policies share the 374 tasks: a reward model knows the reference of each task
#   that it rewards.
# - The KL term has one weight for all arms, whatever the spread of their rewards.
# - The reward of lines is their plain sum; there it is divided by 8.
# - One seed, and no arm of supervised training on the references. DPO is in.
#
#     bash reproduce/prlcoder_mbpp.sh mbpp.jsonl                       # the published file
#     PLUS=MbppPlus.jsonl.gz HUMANEVAL=HumanEval.jsonl.gz bash reproduce/prlcoder_mbpp.sh mbpp.jsonl
#
# What it needs. GiB a GPU of a PPO step, by bench/memory.py --prompt_length 512
# --max_completion_length 512 --rollout_batch_size $SAMPLES --max_tokens_per_forward $TOKENS; beside
# these some GiB for CUDA, NCCL and fragments:
#     one of 24 GB     TOKENS=8192 SAMPLES=128                            rollout 15.6, update 18.4
#     one of 80 GB     MODEL=Qwen/Qwen2.5-Coder-1.5B SAMPLES=256          rollout 50.6, update 56.7
#     eight of 80 GB   MODEL=Qwen/Qwen2.5-Coder-7B PROCESSES=8            rollout 39.8, update 43.9
#     several nodes    LAUNCH="srun ... torchrun --nnodes=2 ..."          see lib.sh
# Hours of the first line, if the GPU does 50 TFLOP/s and decodes a token of 128 samples in 5 ms,
# and every text has its full length:
#     PPO arm   25,600 samples x 1024 tokens x 24 x 0.5e9 FLOP / 50e12 = 1.7, and decoding 100
#               batches x 2 x 512 tokens x 5 ms = 0.1; four arms: 7.2
#     PRM, ORM  600 x 64 texts x 1024 tokens x 8 x 0.5e9 FLOP / 50e12 = 0.9; three: 2.7
#     samples   500 tasks x 80, 4 tasks at a time: 125 x 512 tokens x 10 ms = 0.2; eight times: 1.4
#     a FLOP count of 24 a weight and token: 8 each to train policy and critic with gradient
#               checkpointing, 2 each for the scores of policy, reference, critic and reward model
# With DPO about 12 hours.
#
# The flags that matter, and why they have these values:
#   --learning_rate 1e-5 for supervised stages, 1e-6 for PPO, 5e-7 for DPO: what is usual at 0.5B to
#       7B parameters
#   --value_learning_rate 1e-5: the critic's head starts at zero and has to catch up with the policy
#   --num_prompts, --num_generations: samples a batch; their product times --max_steps is an arm's
#       budget, equal for all arms
#   --max_completion_length 512: MBPP's references have 330 characters at the 90th percentile
#   --max_tokens_per_forward, --gradient_checkpointing, --rollout_batch_size, --batch_size: memory
#       and speed alone, the result does not change. --bf16 is on without a word on GPUs
#   --temperature 1.0 in training (the policy gradient needs the policy's own distribution), 0.8 for
#       pass@k
#   --sandbox_workers 8: processes that run programs while the model works; one a free core
#   --kl_coef 0.02: keeps the policy near the starting one, whose programs the reward models know
#   --lambda_fail 1 --process_norm none: the paper's reward, the plain sum over lines, whatever the
#       tests say
set -euo pipefail
INPUT="$(realpath "${1:?usage: bash reproduce/prlcoder_mbpp.sh path/to/mbpp.jsonl}")"
PLUS="${PLUS:+$(realpath "$PLUS")}" HUMANEVAL="${HUMANEVAL:+$(realpath "$HUMANEVAL")}"
cd "$(dirname "$0")/.."
source reproduce/lib.sh
setup requirements.txt

MODEL="${MODEL:-Qwen/Qwen2.5-Coder-0.5B}" # any causal language model whose tokenizer keeps newlines
# Or an endpoint: TEACHER=http://127.0.0.1:8000/v1
# TEACHER_MODEL=deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct
TEACHER="${TEACHER:-ast}"
RUNS="${RUNS:-runs/prlcoder-mbpp-$SEED}" TASKS="${TASKS:-tasks/prlcoder-mbpp}"
OUT="$RUNS" SFT="$RUNS/sft" TRAIN="$TASKS/train.jsonl" TEST="$TASKS/test.jsonl"
TOKENS="${TOKENS:-16384}" SAMPLES="${SAMPLES:-512}"
FIT=(--gradient_checkpointing true --max_tokens_per_forward "$TOKENS")
# 64 prompts x 4 completions a batch, 100 batches; every arm the same KL weight, since a reward
# model alone would else be over-optimised (the paper has the term, not its weight).
PPO=(--max_steps 100 --num_prompts 64 --num_generations 4 --max_completion_length 512
    --learning_rate 1e-6 --value_learning_rate 1e-5 --kl_coef 0.02
    "${FIT[@]}" --rollout_batch_size "$SAMPLES" --sandbox_workers 8)
DPO=(--learning_rate 5e-7 --max_steps 200 "${FIT[@]}")
PRM=(--learning_rate 1e-5 --max_steps 600 --train_batch_size 64 "${FIT[@]}" --max_length 1024)
SAMPLE=(--max_completion_length 512 --batch_size 4 --sandbox_workers 8)
# pass@1, @10 and @80, as the paper reports, on MBPP's test split, and on HumanEval where its file
# is given. With PLUS the tests are the strengthened ones; `base` in a report has MBPP's own.
EVAL=(--num_samples 80 --k 1 10 80 --temperature 0.8)
MORE="${HUMANEVAL:+humaneval}"
mkdir -p "$RUNS"

# The PRM's reward is the paper's, eq. 2 and 3.
arms ARMS << 'END'
ppo-tests       | PPO, tests                | ppo
sft             | SFT                       |
ppo-orm-outcome | PPO, ORM (four outcomes)  | ppo --outcome_reward orm --orm "$OUT/orm-outcome"
ppo-orm-ranking | PPO, ORM (ranking)        | ppo --outcome_reward orm --orm "$OUT/orm-ranking"
ppo-prm         | PPO, PRM                  | ppo --outcome_reward none --prm "$OUT/prm" \
    --lambda_fail 1 --process_norm none
dpo-prm         | DPO, responses by the PRM | dpo --pairs response --rank_by prm \
    --prm "$OUT/prm" --tasks "$TRAIN" --samples "$OUT/sft-samples/samples.jsonl"
dpo-step        | DPO, steps                | dpo --pairs step --data "$OUT/prm.jsonl" \
    --tasks "$TRAIN"
END

# With PLUS, inputs of MBPP+ strengthen the tests of the tasks that it covers, so that fewer
# mutations pass.
[ -f "$TEST" ] || python make_tasks.py --source mbpp --input "$INPUT" ${PLUS:+--plus "$PLUS"} \
    --sandbox_workers 8 --output_dir "$TASKS"
[ -z "$HUMANEVAL" ] || [ -f "$TASKS-humaneval/test.jsonl" ] || python make_tasks.py \
    --source humaneval --input "$HUMANEVAL" --output_dir "$TASKS-humaneval"

# Supervised stage on the 374 training tasks: three epochs.
sft sft --tasks "$TRAIN" --model_name_or_path "$MODEL" --learning_rate 1e-5 --max_steps 36 \
    --train_batch_size 32 "${FIT[@]}" --max_length 1024

# Line labels, each verified by execution, and the executed programs for the outcome models.
python make_prm_data.py --method mutate --tasks "$TRAIN" --teacher "$TEACHER" \
    ${TEACHER_MODEL:+--teacher_model "$TEACHER_MODEL"} --sandbox_workers 8 \
    --output_file "$OUT/prm.jsonl" --outcomes_file "$OUT/outcomes.jsonl" --seed "$SEED"
reward_model prm "$OUT/prm.jsonl" --objective classification       # two classes, as in the paper
reward_model orm-outcome "$OUT/outcomes.jsonl" --objective outcome # CodeRL's four outcomes
reward_model orm-ranking "$OUT/outcomes.jsonl" --objective ranking # passing above failing

# DPO's pairs come from as many samples as a PPO arm draws: 25,600, 69 a task.
sample "$SFT" "$TRAIN" "$OUT/sft-samples" --num_samples 69 --temperature 1.0
run_arms "$ARMS"
compare "$ARMS"
