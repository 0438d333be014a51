#!/usr/bin/env bash
# PRLCoder's comparison on MBPP with a real model: what reproduce/prlcoder.sh does at micro scale. For one GPU of 80 GB or
# more (several: PROCESSES=8); a small model and MBPP's 374 training tasks keep a seed to some hours. Not yet run by the
# authors: no GPU was at hand. The paper's policy is CodeT5+ 770M; this takes a current small code model in its place.
#
#     bash reproduce/prlcoder_mbpp.sh mbpp.jsonl                       # the published file
#     PLUS=MbppPlus.jsonl.gz HUMANEVAL=HumanEval.jsonl.gz bash reproduce/prlcoder_mbpp.sh mbpp.jsonl
# The flags that matter, and why they have these values:
#   --learning_rate              1e-5 for supervised stages, 1e-6 for PPO, 5e-7 for DPO: what is usual at 0.5B to 7B parameters
#   --value_learning_rate 1e-5   the critic's head starts at zero and has to catch up with the policy
#   --num_prompts, --num_generations  samples a batch; their product times --max_steps is an arm's budget, equal for all arms
#   --max_completion_length 512  MBPP's references have 330 characters at the 90th percentile
#   --per_device_train_batch_size  rows a forward pass: memory alone, the result does not depend on it
#   --temperature 1.0 in training (the policy gradient needs the policy's own distribution), 0.8 for pass@k
#   --sandbox_workers 8          processes that run programs while the model works; one a free core
#   --kl_coef 0.02               keeps the policy near the starting one, where the reward models have seen programs
#   --lambda_fail 1 --process_norm none  the paper's reward: the plain sum over lines, whatever the tests say
set -euo pipefail
INPUT="$(realpath "${1:?usage: bash reproduce/prlcoder_mbpp.sh path/to/mbpp.jsonl}")"
PLUS="${PLUS:+$(realpath "$PLUS")}" HUMANEVAL="${HUMANEVAL:+$(realpath "$HUMANEVAL")}"
cd "$(dirname "$0")/.."
source reproduce/setup.sh requirements.txt

MODEL="${MODEL:-Qwen/Qwen2.5-Coder-0.5B}"       # any causal language model whose tokenizer keeps newlines
TEACHER="${TEACHER:-ast}"                       # or an endpoint: TEACHER=http://127.0.0.1:8000/v1 TEACHER_MODEL=deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct
SEED="${SEED:-0}" PROCESSES="${PROCESSES:-1}"
RUNS="${RUNS:-runs/prlcoder-mbpp-$SEED}" TASKS="${TASKS:-tasks/prlcoder-mbpp}"
mkdir -p "$RUNS"

train() { # script, its flags ...
    if [ "$PROCESSES" = 1 ]; then python "$@"; else torchrun --standalone --nproc_per_node="$PROCESSES" "$@"; fi
}

evaluate() { # arm: pass@1, @10 and @80 on MBPP's test split, as the paper reports; HumanEval where its file is given
    python eval.py --tasks "$TASKS/test.jsonl" --model_name_or_path "$RUNS/$1" --num_samples 80 --k 1 10 80 --temperature 0.8 \
        --max_completion_length 512 --batch_size 4 --sandbox_workers 8 --seed "$SEED" --output_dir "$RUNS/eval-$1"
    [ -z "$HUMANEVAL" ] || python eval.py --tasks "$TASKS-humaneval/test.jsonl" --model_name_or_path "$RUNS/$1" --num_samples 80 --k 1 10 80 \
        --temperature 0.8 --max_completion_length 512 --batch_size 4 --sandbox_workers 8 --seed "$SEED" --output_dir "$RUNS/eval-humaneval-$1"
}

reward_model() { # name, objective, data
    train train_prm.py --data "$RUNS/$3" --objective "$2" --model_name_or_path "$RUNS/sft" --learning_rate 1e-5 --max_steps 600 \
        --train_batch_size 64 --per_device_train_batch_size 8 --max_length 1024 --seed "$SEED" --output_dir "$RUNS/$1"
}

# 64 prompts x 4 completions a batch, 100 batches; every arm the same KL weight, since a reward model alone would else be
# over-optimised (the paper has the term, not its weight).
ppo() { # arm, its flags ...
    local arm="$1"
    shift
    train ppo.py --tasks "$TASKS/train.jsonl" --model_name_or_path "$RUNS/sft" --max_steps 100 --num_prompts 64 --num_generations 4 \
        --max_completion_length 512 --learning_rate 1e-6 --value_learning_rate 1e-5 --kl_coef 0.02 --per_device_train_batch_size 8 \
        --sandbox_workers 8 --seed "$SEED" "$@" --output_dir "$RUNS/$arm"
    evaluate "$arm"
}

dpo() { # arm, its flags of --method rank ...
    local arm="$1"
    shift
    python make_prm_data.py --method rank "$@" --seed "$SEED" --output_file "$RUNS/$arm.pairs.jsonl"
    train dpo.py --data "$RUNS/$arm.pairs.jsonl" --model_name_or_path "$RUNS/sft" --learning_rate 5e-7 --max_steps 200 \
        --per_device_train_batch_size 4 --seed "$SEED" --output_dir "$RUNS/$arm"
    evaluate "$arm"
}

# Tasks. With PLUS, inputs of MBPP+ strengthen the tests of the tasks that it covers, so that fewer mutations pass.
[ -f "$TASKS/test.jsonl" ] || python make_tasks.py --source mbpp --input "$INPUT" ${PLUS:+--plus "$PLUS"} --sandbox_workers 8 --output_dir "$TASKS"
[ -z "$HUMANEVAL" ] || [ -f "$TASKS-humaneval/test.jsonl" ] || python make_tasks.py --source humaneval --input "$HUMANEVAL" --output_dir "$TASKS-humaneval"

# Supervised stage on the 374 training tasks: three epochs.
train sft.py --tasks "$TASKS/train.jsonl" --model_name_or_path "$MODEL" --learning_rate 1e-5 --max_steps 36 --train_batch_size 32 \
    --per_device_train_batch_size 8 --max_length 1024 --seed "$SEED" --output_dir "$RUNS/sft"
evaluate sft

# Line labels, each verified by execution, and the executed programs for the outcome models.
python make_prm_data.py --method mutate --tasks "$TASKS/train.jsonl" --teacher "$TEACHER" ${TEACHER_MODEL:+--teacher_model "$TEACHER_MODEL"} \
    --sandbox_workers 8 --output_file "$RUNS/prm.jsonl" --outcomes_file "$RUNS/outcomes.jsonl" --seed "$SEED"
reward_model prm classification prm.jsonl       # two classes, as the paper's labels
reward_model orm-outcome outcome outcomes.jsonl # CodeRL's four outcomes
reward_model orm-ranking ranking outcomes.jsonl # passing above failing

ppo ppo-tests
ppo ppo-orm-outcome --outcome_reward orm --orm "$RUNS/orm-outcome"
ppo ppo-orm-ranking --outcome_reward orm --orm "$RUNS/orm-ranking"
ppo ppo-prm --outcome_reward none --prm "$RUNS/prm" --lambda_fail 1 --process_norm none # the paper's reward, eq. 2 and 3

# DPO from as many samples as a PPO arm draws: 25,600, 69 a task.
python eval.py --tasks "$TASKS/train.jsonl" --model_name_or_path "$RUNS/sft" --num_samples 69 --temperature 1.0 --max_completion_length 512 \
    --batch_size 4 --sandbox_workers 8 --seed "$SEED" --output_dir "$RUNS/sft-samples"
dpo dpo-prm --pairs response --rank_by prm --prm "$RUNS/prm" --tasks "$TASKS/train.jsonl" --samples "$RUNS/sft-samples/samples.jsonl"
dpo dpo-step --pairs step --data "$RUNS/prm.jsonl" --tasks "$TASKS/train.jsonl"

python eval.py --compare "$RUNS/eval-ppo-tests" "$RUNS/eval-sft" "$RUNS/eval-ppo-orm-outcome" "$RUNS/eval-ppo-orm-ranking" "$RUNS/eval-ppo-prm" \
    "$RUNS/eval-dpo-prm" "$RUNS/eval-dpo-step" --output_dir "$RUNS/compare"
