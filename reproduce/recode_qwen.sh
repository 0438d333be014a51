#!/usr/bin/env bash
# ReCode with the model of the paper, Qwen2.5-Coder-7B-Instruct: what reproduce/recode.sh does at
# micro scale. Written for 8 GPUs of 80 GB and an endpoint for the teacher; not run by the authors,
# who had neither. Every flag has been parsed, no number of it is known. Weights, gradients and
# Adam's moments are float32, 112 GB for 7B parameters over all GPUs, and the policy and the reward
# model are gathered whole on each: MODEL=Qwen/Qwen2.5-Coder-0.5B-Instruct needs one GPU.
#
#     vllm serve Qwen/Qwen2.5-Coder-32B-Instruct --port 8000 # elsewhere; any endpoint like OpenAI's
#     PROCESSES=8 bash reproduce/recode_qwen.sh mbpp.jsonl   # the published file
#     HUMANEVAL=HumanEval.jsonl.gz HUMANEVALPLUS=HumanEvalPlus.jsonl.gz TRAIN=deepcoder.jsonl \
#         PROCESSES=8 bash reproduce/recode_qwen.sh mbpp.jsonl
#
# What differs from the paper:
# - It trains on DeepCoder-Preview. TRAIN takes any tasks.jsonl whose prompts ask for <think> and
#   <answer>; without TRAIN, MBPP's 374 training tasks.
# - Its base reasonings are the 32B model's. These are the policy's own, which are what the reward
#   model will score.
# - Its benchmark LCB-RB is from LiveCodeBench and read by people. This one is from MBPP's
#   validation split and by execution alone.
# - LiveCodeBench and BigCodeBench are not evaluated. MBPP+ is not either: it holds tasks of MBPP's
#   training split.
# The flags that matter, and why they have these values:
#   --max_completion_length 4096: ReCode's longest output
#   --num_generations 8, --learning_rate 1e-6, --temperature 1.0, --epsilon 0.2,
#       --epsilon_high 0.28: not published; what is usual at 7B, and DAPO's clip range. No KL term
#       (--beta 0), as in the paper
#   --gate hard --process_weight 1: ReCode's reward, eq. 1; the paper does not say how R_proc is
#       mapped to [0, 1], here by a sigmoid
#   --num_bases 2 --num_degraded 1: 374 x 2 reasonings x 3 dimensions x (1 better, 1 worse), about
#       4,500 calls of the teacher
#   --max_new_tokens 2048: a rewritten reasoning is as long as its base; a longer answer is cut off
#       and left out by --match_length
#   --match_length: 0.15 for rewritten pairs, since templated rewriting leaves marks that a reward
#       model learns; none for pairs of samples, of which hardly two have the same number of lines
#   --train_batch_size 64 --max_steps 100: 6,400 draws; the calls above make 6,700 pairs, of which
#       --match_length leaves a part
#   --max_length 6144: a task, the two texts of a row one by one, each with up to 4096 tokens of
#       reasoning
#   --num_samples 50: of a problem for the benchmark, as in LCB-RB; 2 a problem as bases
#   --temperature 0: pass@1 is of greedy decoding, and a judge gives its likeliest verdict
#   --per_device_train_batch_size 1, --batch_size 8: memory alone, the result does not change
set -euo pipefail
INPUT="$(realpath "${1:?usage: bash reproduce/recode_qwen.sh path/to/mbpp.jsonl}")"
TRAIN="${TRAIN:+$(realpath "$TRAIN")}" HUMANEVAL="${HUMANEVAL:+$(realpath "$HUMANEVAL")}"
HUMANEVALPLUS="${HUMANEVALPLUS:+$(realpath "$HUMANEVALPLUS")}"
cd "$(dirname "$0")/.."
source reproduce/lib.sh
setup requirements.txt

MODEL="${MODEL:-Qwen/Qwen2.5-Coder-7B-Instruct}" STEPS="${STEPS:-100}"
TEACHER="${TEACHER:-http://127.0.0.1:8000/v1}"
TEACHER_MODEL="${TEACHER_MODEL:-Qwen/Qwen2.5-Coder-32B-Instruct}" # the paper's teacher
RUNS="${RUNS:-runs/recode-qwen-$SEED}" TASKS="${TASKS:-tasks/recode-qwen}"
# An instruct model needs no supervised stage for the form of think and answer.
OUT="$RUNS" SFT="$MODEL" TRAIN="${TRAIN:-$TASKS/train.jsonl}" TEST="$TASKS/test.jsonl"
# 64 prompts x 8 completions a batch.
GRPO=(--reasoning_rm "$OUT/rm" --max_steps "$STEPS" --num_prompts 64 --num_generations 8
    --num_mini_batches 4 --max_completion_length 4096 --temperature 1.0 --learning_rate 1e-6
    --epsilon 0.2 --epsilon_high 0.28 --beta 0 --per_device_train_batch_size 1 --sandbox_workers 2)
PRM=(--learning_rate 1e-5 --max_steps 100 --warmup_steps 10 --train_batch_size 64
    --per_device_train_batch_size 1 --max_length 6144 --eval_steps 50)
SAMPLE=(--max_completion_length 4096 --batch_size 8 --sandbox_workers 8)
EVAL=(--temperature 0) # MBPP's test split, HumanEval and HumanEval+ where their files are given
MORE="${HUMANEVAL:+humaneval} ${HUMANEVALPLUS:+humanevalplus}"
mkdir -p "$RUNS"

# Outcome and format alone, the paper's baseline, then ReCode.
arms ARMS << 'END'
outcome | tests                   | grpo --process_weight 0
base    | the model as it is      |
hard    | tests + R_proc (ReCode) | grpo --gate hard --process_weight 1
END

# Tasks, whose prompts ask for <think> and <answer>.
[ -f "$TEST" ] ||
    python make_tasks.py --source mbpp --input "$INPUT" --think true --output_dir "$TASKS"
[ -z "$HUMANEVAL" ] || [ -f "$TASKS-humaneval/test.jsonl" ] || python make_tasks.py \
    --source humaneval --input "$HUMANEVAL" --think true --output_dir "$TASKS-humaneval"
[ -z "$HUMANEVALPLUS" ] || [ -f "$TASKS-humanevalplus/test.jsonl" ] || python make_tasks.py \
    --source humanevalplus --input "$HUMANEVALPLUS" --think true \
    --output_dir "$TASKS-humanevalplus"
evaluate base "$MODEL"

# Pairs: base reasonings, each made better and worse in three dimensions by the teacher.
sample "$MODEL" "$TRAIN" "$OUT/samples-train" --num_samples 2
python make_prm_data.py --method contrast --tasks "$TRAIN" \
    --samples "$OUT/samples-train/samples.jsonl" --teacher "$TEACHER" \
    --teacher_model "$TEACHER_MODEL" --max_new_tokens 2048 --num_bases 2 --num_degraded 1 \
    --match_length 0.15 --seed "$SEED" --output_file "$OUT/pairs.jsonl"

# The reasoning reward model, and the paper's baseline: regression on a rating of each reasoning.
# The paper's ratings are a language model's; --teacher URL writes none, so here a chosen text
# counts 1 and a rejected one 0.
reward_model rm "$OUT/pairs.jsonl" --objective ranking
reward_model rm-score "$OUT/pairs.jsonl" --objective score

# Are they any good? Sound against unsound samples on problems that they have not seen, next to two
# zero-shot judges.
sample "$MODEL" "$TASKS/validation.jsonl" "$OUT/samples-validation" --num_samples 50
python make_prm_data.py --method contrast --tasks "$TASKS/validation.jsonl" \
    --from_verdicts "$OUT/samples-validation/verdicts.jsonl" --num_pairs 3 --match_length none \
    --seed "$SEED" --output_file "$OUT/benchmark.jsonl"
on_benchmark() { # name, flags of eval_prm.py ...
    python eval_prm.py --pairs "$OUT/benchmark.jsonl" "${@:2}" --batch_size 8 \
        --output_dir "$OUT/eval-$1"
}
on_benchmark rm --reasoning_rm "$OUT/rm"
on_benchmark rm-score --reasoning_rm "$OUT/rm-score"
greedy=(--temperature 0 --max_completion_length 1024)
on_benchmark judge --judge "$MODEL" "${greedy[@]}"
on_benchmark judge-teacher --judge "$TEACHER" --judge_model "$TEACHER_MODEL" "${greedy[@]}"

run_arms "$ARMS"
compare "$ARMS"
