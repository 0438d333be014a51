#!/usr/bin/env bash
# Real models through the stages: evaluation as EvalPlus does it, a PRM and an ORM of a pretrained
# model on MBPP, best of 8 by each of them, and PPO with a PRM that has another tokenizer.
# docs/results/real_models.md has the figures and says on what they were measured: two CPU cores
# take about five hours, most of them for decoding. A run that was cut off goes on.
#
#     bash reproduce/real_models.sh mbpp.jsonl HumanEvalPlus.jsonl.gz MbppPlus.jsonl.gz
#
#     MODEL      an instruct model with a chat template, which is evaluated and sampled from
#     SMALL      a smaller one: evaluated, the backbone of PRM and ORM, and the policy of PPO
#     PRM_BASE   the backbone of the PRM for PPO, with another tokenizer than SMALL
#   --learning_rate 1e-4: 60 steps of 8 rows have to do with a head that starts at zero
set -euo pipefail
MBPP="$(realpath "${1:?usage: bash reproduce/real_models.sh mbpp.jsonl HUMANEVALPLUS MBPPPLUS}")"
HUMANEVALPLUS="$(realpath "$2")" MBPPPLUS="$(realpath "$3")"
cd "$(dirname "$0")/.."
source reproduce/lib.sh
setup requirements.txt
export OMP_NUM_THREADS="${THREADS:-2}"

MODEL="${MODEL:-Qwen/Qwen2.5-Coder-0.5B-Instruct}"
SMALL="${SMALL:-HuggingFaceTB/SmolLM2-135M-Instruct}" PRM_BASE="${PRM_BASE:-$MODEL}"
OUT="${RUNS:-runs/real-models}" TASKS="${TASKS:-tasks/real-models}" TRAIN="$TASKS/mbpp/train.jsonl"
GREEDY=(--protocol evalplus --temperature 0 --max_completion_length 768 --sandbox_workers 2)
FIT=(--train_batch_size 8 --per_device_train_batch_size 4 --learning_rate 1e-4 --warmup_steps 6
    --eval_steps 1000 --max_steps "${STEPS:-60}" --seed "$SEED")

for benchmark in "humaneval $HUMANEVALPLUS" "mbpp $MBPPPLUS"; do
    read -r name file <<< "$benchmark"
    [ -f "$TASKS/$name-plus/test.jsonl" ] || python make_tasks.py --source "${name}plus" \
        --input "$file" --output_dir "$TASKS/$name-plus"
done
[ -f "$TRAIN" ] || python make_tasks.py --source mbpp --input "$MBPP" --output_dir "$TASKS/mbpp"

# Greedy, pass@1 with the added tests and with the benchmark's own.
evaluate_plus() { # name, benchmark, model, flags ...
    python eval.py --tasks "$TASKS/$2-plus/test.jsonl" --model_name_or_path "$3" "${GREEDY[@]}" \
        "${@:4}" --output_dir "$OUT/$1"
}
evaluate_plus humaneval humaneval "$MODEL"
evaluate_plus mbpp mbpp "$MODEL"
evaluate_plus small-chat humaneval "$SMALL" --prompt_format chat
evaluate_plus small-plain humaneval "$SMALL" --prompt_format plain

# Line labels on MBPP's training tasks; a PRM, an ORM, and a PRM with the other tokenizer.
python make_prm_data.py --method mutate --tasks "$TRAIN" --sandbox_workers 2 --balance true \
    --output_file "$OUT/prm.jsonl" --outcomes_file "$OUT/outcomes.jsonl" --seed "$SEED"
python train_prm.py --data "$OUT/prm.jsonl" --objective classification \
    --model_name_or_path "$SMALL" "${FIT[@]}" --output_dir "$OUT/prm"
python train_prm.py --data "$OUT/outcomes.jsonl" --objective ranking \
    --model_name_or_path "$SMALL" "${FIT[@]}" --output_dir "$OUT/orm"
python train_prm.py --data "$OUT/prm.jsonl" --objective classification \
    --model_name_or_path "$PRM_BASE" "${FIT[@]}" --output_dir "$OUT/prm-other"

# Best of 8 on the first 100 test tasks.
mkdir -p "$TASKS/mbpp-100"
head -n 100 "$TASKS/mbpp/test.jsonl" > "$TASKS/mbpp-100/test.jsonl"
python eval.py --tasks "$TASKS/mbpp-100/test.jsonl" --model_name_or_path "$MODEL" \
    --protocol evalplus --num_samples 8 --temperature 0.8 --max_completion_length 256 \
    --batch_size 10 --sandbox_workers 2 --seed "$SEED" --output_dir "$OUT/samples"
python eval_prm.py --tasks "$TASKS/mbpp-100/test.jsonl" --samples "$OUT/samples/verdicts.jsonl" \
    --prm "$OUT/prm" --orm "$OUT/orm" --agreement true --batch_size 8 --output_dir "$OUT/best-of-8"

# Three batches of PPO: the line rewards come from a PRM that reads the completions as text.
python ppo.py --tasks "$TRAIN" --model_name_or_path "$SMALL" --prm "$OUT/prm-other" --max_steps 3 \
    --num_prompts 4 --num_generations 4 --num_mini_batches 1 --max_completion_length 160 \
    --learning_rate 1e-6 --value_learning_rate 1e-5 --per_device_train_batch_size 4 \
    --save_steps 1 --seed "$SEED" --output_dir "$OUT/ppo"
