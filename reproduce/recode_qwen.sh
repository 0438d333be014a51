#!/usr/bin/env bash
# ReCode with the model of the paper, Qwen2.5-Coder-7B-Instruct. It wants an endpoint for the
# teacher. Not run by the authors: every flag has been parsed, no number of it is known.
#
#     vllm serve Qwen/Qwen2.5-Coder-32B-Instruct --port 8000 # elsewhere; any endpoint like OpenAI's
#     PROCESSES=8 bash reproduce/recode_qwen.sh mbpp.jsonl   # the published file
#     HUMANEVAL=HumanEval.jsonl.gz HUMANEVALPLUS=HumanEvalPlus.jsonl.gz TRAIN=deepcoder.jsonl \
#         PROCESSES=8 bash reproduce/recode_qwen.sh mbpp.jsonl
#     LAUNCH="srun ... torchrun --nnodes=2 ..." bash reproduce/recode_qwen.sh mbpp.jsonl  # lib.sh
#
# What it needs. GiB a GPU of a GRPO step, by bench/memory.py --stage grpo --prompt_length 512
# --max_completion_length 4096 --rollout_batch_size $SAMPLES --max_tokens_per_forward $TOKENS;
# beside these some GiB for CUDA, NCCL and fragments:
#     one of 24 GB     MODEL=Qwen/Qwen2.5-Coder-0.5B-Instruct TOKENS=8192 SAMPLES=128
#                                                    rollout 14.4, update 9.9
#     one of 80 GB     MODEL=Qwen/Qwen2.5-Coder-1.5B-Instruct SAMPLES=256
#                                                    rollout 55.0, update 30.4
#     eight of 80 GB   PROCESSES=8                   rollout 42.3, update 27.9
#     two such nodes   LAUNCH                        rollout 28.3, update 20.0
# Hours of the third line, if a GPU does 300 TFLOP/s and decodes a token of each of its samples in
# 10 ms, and every text has its full length (an answer to MBPP is far shorter):
#     GRPO arm  51,200 samples x 4608 tokens x 12 x 7.6e9 FLOP / (8 x 300e12) = 2.5, and decoding
#               100 batches x 4096 tokens x 10 ms = 1.1; two arms: 7.2
#     RM        100 x 128 texts x 6144 tokens x 8 x 7.6e9 FLOP / (8 x 300e12) = 0.6; two: 1.2
#     samples   90 tasks x 50, 8 x 100 at a time: 6 x 4096 tokens x 10 ms = 0.1
#     a FLOP count of 12 a weight and token: 8 to train with gradient checkpointing, 2 each for the
#               scores of policy and reward model
# With evaluations and judges about 10 hours, and the endpoint's 4,500 calls.
#
# What differs from reproduce/recode.sh, the comparison at micro scale: no arm with R_proc ungated,
# so that what the gate does is not seen; the reward model learns from pairs on the very tasks that
# the policy is rewarded for, not on others; one seed.
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
#   --max_tokens_per_forward, --gradient_checkpointing, --rollout_batch_size, --batch_size: memory
#       and speed alone, the result does not change. --bf16 is on without a word on GPUs
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
TOKENS="${TOKENS:-16384}" SAMPLES="${SAMPLES:-512}"
FIT=(--gradient_checkpointing true --max_tokens_per_forward "$TOKENS")
# 64 prompts x 8 completions a batch.
GRPO=(--reasoning_rm "$OUT/rm" --max_steps "$STEPS" --num_prompts 64 --num_generations 8
    --num_mini_batches 4 --max_completion_length 4096 --temperature 1.0 --learning_rate 1e-6
    --epsilon 0.2 --epsilon_high 0.28 --beta 0 "${FIT[@]}" --rollout_batch_size "$SAMPLES"
    --sandbox_workers 2)
PRM=(--learning_rate 1e-5 --max_steps 100 --warmup_steps 10 --train_batch_size 64
    "${FIT[@]}" --max_length 6144 --eval_steps 50)
SAMPLE=(--max_completion_length 4096 --sandbox_workers 8)
# MBPP's test split, HumanEval and HumanEval+ where their files are given
EVAL=(--temperature 0 --batch_size 64)
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
sample "$MODEL" "$TRAIN" "$OUT/samples-train" --num_samples 2 --batch_size 32
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
sample "$MODEL" "$TASKS/validation.jsonl" "$OUT/samples-validation" --num_samples 50 \
    --batch_size 2
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
