#!/usr/bin/env bash
# PSGPO's comparison at micro scale, on programs of 8 and of 4 steps: PPO from tests, with the process reward model (PRM)
# as dense reward, as the critic's start, as both, and with exact labels in the PRM's place (the bound of what line rewards
# can do). As in the paper, the PRM's labels come from binary search over samples of four checkpoints of the run with
# tests alone. Every seed has a supervised policy, labels and PRMs of its own. Then, at 8 steps: other kinds and selections
# of labels, PRMs from mutated references, switched-off safeguards, and other starts and settings of the critic.
# Run it again to go on where it was cut off. README.md has the tables, of five seeds.
# A seed costs, on one core of two that are both busy: 3 minutes of sft, at 8 steps 14 of base and 11 of main, at 4 steps
# 7 of each, and 2 to 3 for each arm of the other studies, 3 more for each PRM.
#
#     bash reproduce/psgpo.sh                                # everything, two processes at a time
#     STUDIES="main" SEEDS="0 1" JOBS=1 bash reproduce/psgpo.sh
set -euo pipefail
cd "$(dirname "$0")/.."
source reproduce/setup.sh requirements.txt

export SEEDS="${SEEDS:-0 1 2 3 4}" JOBS="${JOBS:-2}" STUDIES="${STUDIES:-main mutations padding selection labels safeguards forms comments critic schedules}"
export TASKS="${TASKS:-tasks/psgpo}" RUNS="${RUNS:-runs/psgpo}"

reward_model() { # name, data, flags ...
    local name="$1" data="$2"
    shift 2
    python train_prm.py --data "$data" --model_name_or_path "$SFT" --max_steps 500 --eval_steps 250 --learning_rate 7e-4 --seed "$SEED" "$@" --output_dir "$OUT/$name"
}

# 60 batches of 64 samples. The reward's constants are the paper's (ppo.py's defaults).
ppo() { # arm, its flags ...
    local arm="$1"
    shift
    python ppo.py --tasks "$TASKS/$STEPS/train.jsonl" --model_name_or_path "$SFT" --max_steps 60 --num_prompts "${PROMPTS:-16}" --num_generations 4 \
        --save_steps 15 --save_total_limit 0 --seed "$SEED" "$@" --output_dir "$OUT/$arm"
    evaluate "$arm" "$OUT/$arm"
}

evaluate() { # arm, folder of its policy
    python eval.py --tasks "$TASKS/$STEPS/test.jsonl" --model_name_or_path "$2" --num_samples 4 --seed "$SEED" --output_dir "$OUT/eval-$1"
}

search() { # name, tasks, flags ...: labels of one response of each checkpoint to each prompt
    local name="$1" tasks="$2"
    shift 2
    python make_prm_data.py --method search --tasks "$TASKS/$STEPS/$tasks.jsonl" --num_generations 1 --num_completions 8 --seed "$SEED" \
        --model_name_or_path "$OUT"/ppo-tests/checkpoint-{15,30,45} "$OUT/ppo-tests" "$@" --output_file "$OUT/$name.jsonl"
}

# The PRM against exact labels: on lines of the supervised policy, and of the policy that it has trained.
exact() { # PRM, arm
    local policy
    for policy in sft "$2"; do
        [ -f "$OUT/gold-$policy.jsonl" ] || python make_prm_data.py --method gold --tasks "$TASKS/$STEPS/test.jsonl" \
            --samples "$OUT/eval-$policy/samples.jsonl" --output_file "$OUT/gold-$policy.jsonl"
        python eval.py --prm "$OUT/$1" --data "$OUT/gold-$policy.jsonl" --output_dir "$OUT/eval-$1-on-$policy"
    done
}

sft() { # the policy that all of a seed's runs start from
    python sft.py --tasks "$TASKS/sft.jsonl" --seed "$SEED" --output_dir "$SFT"
}

base() { # what the other studies need: the run with tests alone, labels of its checkpoints' samples, the PRM
    evaluate sft "$SFT"
    ppo ppo-tests
    search search labelled --share_completions true
    reward_model prm "$OUT/search.jsonl"
}

main() { # the rest of the 2 x 2, the bound, and plain supervised training on the tasks that were labelled
    ppo ppo-dense --prm "$OUT/prm"
    ppo ppo-value --prm "$OUT/prm" --process_reward none --value_init prm --value_rescale range
    ppo ppo-dense-value --prm "$OUT/prm" --value_init prm --value_rescale range
    ppo ppo-oracle --process_reward oracle
    python sft.py --tasks "$TASKS/$STEPS/labelled.jsonl" --model_name_or_path "$SFT" --max_steps 150 --learning_rate 5e-4 --seed "$SEED" \
        --output_dir "$OUT/sft-references"
    evaluate sft-references "$OUT/sft-references"
    exact prm ppo-dense
    for arm in ppo-tests ppo-dense ppo-dense-value ppo-oracle; do # after half of the samples
        evaluate "$arm-half" "$OUT/$arm/checkpoint-30"
    done
}

mutations() { # PRMs from mutated references; the second never sees a mutation that is a misconception of the benchmark
    local kind
    for kind in mutate disjoint; do
        reward_model "prm-$kind" "$TASKS/$STEPS/$kind.jsonl"
        ppo "ppo-$kind" --prm "$OUT/prm-$kind"
        exact "prm-$kind" "ppo-$kind"
        evaluate "ppo-$kind-half" "$OUT/ppo-$kind/checkpoint-30"
    done
}

masked() { # a PRM that has no labels after the first wrong line; the same search: no completion is sampled twice
    [ -f "$OUT/search-masked.jsonl.progress" ] || cp "$OUT/search.jsonl.progress" "$OUT/search-masked.jsonl.progress"
    search search-masked labelled --share_completions true --mask_after_first_error true
    reward_model prm-masked "$OUT/search-masked.jsonl"
    ppo ppo-masked --prm "$OUT/prm-masked"
}

padding() { # that PRM alone and beside tests: its scores are positive on average, so that their sum pays for lines
    masked
    local alone=(--prm "$OUT/prm-masked" --outcome_reward none --lambda_fail 1) arm
    ppo pad-none "${alone[@]}" --process_norm none
    ppo pad-lines "${alone[@]}"
    ppo pad-tests --prm "$OUT/prm-masked" --process_norm none
    for arm in pad-none pad-lines pad-tests ppo-masked; do
        exact prm-masked "$arm"
    done
}

selection() { # which prompts' labels the PRM learns from
    local kept
    for kept in remove_hard medium_only revised_only; do
        # The same search: its results are copied, so that no completion is sampled twice.
        [ -f "$OUT/search-$kept.jsonl.progress" ] || cp "$OUT/search.jsonl.progress" "$OUT/search-$kept.jsonl.progress"
        search "search-$kept" labelled --share_completions true --data_selection "$kept"
        reward_model "prm-$kept" "$OUT/search-$kept.jsonl"
        ppo "ppo-$kept" --prm "$OUT/prm-$kept"
    done
    exact prm-revised_only ppo-revised_only
}

labels() { # other labels of the same checkpoints' samples
    masked
    search search-alone labelled # without what the samples of one prompt tell about each other
    # The share of passing completions, of every line: a quarter of the prompts, so that it costs not much more.
    search search-soft quarter --search exhaustive --labels soft
    [ -f "$OUT/search-marginal.jsonl.progress" ] || cp "$OUT/search-soft.jsonl.progress" "$OUT/search-marginal.jsonl.progress"
    search search-marginal quarter --search exhaustive --labels marginal
    local kind
    for kind in alone soft marginal; do
        reward_model "prm-$kind" "$OUT/search-$kind.jsonl"
        ppo "ppo-$kind" --prm "$OUT/prm-$kind"
    done
}

safeguards() { # the PRM alone, no reward from tests beside it, which PSGPO has
    ppo hack-none --prm "$OUT/prm" --outcome_reward none --lambda_fail 1 --process_norm none
    ppo hack-lines --prm "$OUT/prm" --outcome_reward none --lambda_fail 1
    exact prm hack-none
    exact prm hack-lines
}

forms() { # and other cures: other forms of the process reward, an ensemble's minimum, a PRM that follows the policy
    local alone=(--outcome_reward none --lambda_fail 1 --process_norm none --prm "$OUT/prm") arm
    ppo hack-delta "${alone[@]}" --process_form delta
    ppo hack-min "${alone[@]}" --process_form min
    SEED="$((SEED + 100))" reward_model prm-second "$OUT/search.jsonl"
    ppo hack-ensemble "${alone[@]}" "$OUT/prm-second"
    # Labels by execution: by search with K = 8 they took 94,000 completions and 12 minutes in 39 batches.
    ppo hack-refresh "${alone[@]}" --prm_refresh 5 --prm_refresh_labels gold
    for arm in delta min ensemble refresh; do
        exact prm "hack-$arm"
    done
    masked # the same beside tests, where a PRM that stays as it is is hacked by padding (pad-tests)
    ppo pad-refresh --prm "$OUT/prm-masked" --process_norm none --prm_refresh 5 --prm_refresh_labels gold
    exact prm-masked pad-refresh
}

comments_prm() { # name, flags of the rows ...: labels of one search, and a PRM
    local name="$1"
    shift
    [ "$name" = neutral-false ] || [ -f "$OUT/$name.jsonl.progress" ] || cp "$OUT/neutral-false.jsonl.progress" "$OUT/$name.jsonl.progress"
    python make_prm_data.py --method search --tasks "$TASKS/$STEPS/quarter.jsonl" --num_generations 4 --num_completions 8 --seed "$SEED" \
        --model_name_or_path "$SFT" --share_completions true "$@" --output_file "$OUT/$name.jsonl"
    reward_model "prm-$name" "$OUT/$name.jsonl"
}

# A policy whose teacher writes comments; PRMs from its own samples, with comments labelled and neutral. Labels after the
# first wrong line are left out, but in the last PRM: with them the scores are so low that an empty program is the best one.
comments() {
    OUT="$RUNS/comments/$STEPS/$SEED" SFT="$RUNS/comments/sft/$SEED"
    python sft.py --tasks "$TASKS/comments/sft.jsonl" --seed "$SEED" --output_dir "$SFT"
    evaluate sft "$SFT"
    comments_prm neutral-false --mask_after_first_error true --neutral_comments false
    comments_prm neutral-true --mask_after_first_error true --neutral_comments true
    comments_prm psgpo # PSGPO's labels: neutral comments, and -1 after the first wrong line
    local labelled=(--outcome_reward none --lambda_fail 1 --prm "$OUT/prm-neutral-false")
    ppo comments-labelled "${labelled[@]}"
    ppo comments-neutral-labels --outcome_reward none --lambda_fail 1 --prm "$OUT/prm-neutral-true"
    ppo comments-neutral-reward "${labelled[@]}" --neutral_comments true --process_norm scored_lines
    ppo comments-with-tests --prm "$OUT/prm-neutral-false"
    ppo comments-neutral-with-tests --prm "$OUT/prm-neutral-true"
    ppo comments-psgpo --prm "$OUT/prm-psgpo"
    # A neutral 0 is above the mean of failing programs: comments still raise it, unless it is over the lines of code alone.
    ppo comments-scored --prm "$OUT/prm-psgpo" --neutral_comments true --process_norm scored_lines
    local kind
    for kind in labelled neutral-labels neutral-reward with-tests neutral-with-tests psgpo scored; do
        exact prm-neutral-false "comments-$kind"
    done
}

critic_start() { # policy or prm
    INIT=(--value_init policy)
    [ "$1" = policy ] || INIT=(--prm "$OUT/prm" --process_reward none --value_init prm --value_rescale fit)
}

critic() { # the critic's start where it matters more: on the returns' scale, lines as actions and a smaller lambda, few samples
    local start
    ppo critic-fit --prm "$OUT/prm" --process_reward none --value_init prm --value_rescale fit
    for start in policy prm; do
        critic_start "$start"
        ppo "critic-lambda-$start" "${INIT[@]}" --gae_unit line --lam 0.8
        PROMPTS=4 ppo "critic-few-$start" "${INIT[@]}"
    done
}

schedules() { # and with a slower critic, or one that learns before the policy does; fitted, with the dense reward
    local start
    ppo critic-fit-dense --prm "$OUT/prm" --value_init prm --value_rescale fit
    for start in policy prm; do
        critic_start "$start"
        ppo "critic-slow-$start" "${INIT[@]}" --value_learning_rate 5e-5
        ppo "critic-warm-$start" "${INIT[@]}" --gae_unit line --lam 0.8 --critic_warmup_steps 5
    done
}

study() { # study, steps, seed
    export STEPS="$2" SEED="$3"
    export OUT="$RUNS/$STEPS/$SEED" SFT="$RUNS/sft/$SEED"
    mkdir -p "$OUT"
    "$1"
}

if [ "${1:-}" = study ]; then
    study "$2" "$3" "$4"
    exit
fi

mkdir -p "$TASKS" "$RUNS"
[ -f "$TASKS/sft.jsonl" ] || python make_tasks.py --source micro --output_dir "$TASKS" # the supervised policy's, of 2 to 8 steps
for steps in 4 8; do # reinforcement learning and evaluation: programs of one length
    [ -f "$TASKS/$steps/test.jsonl" ] || python make_tasks.py --source micro --min_steps "$steps" --train_min_steps "$steps" --max_steps "$steps" \
        --num_sft_tasks 1 --num_test_tasks 300 --output_dir "$TASKS/$steps"
    head -n 750 "$TASKS/$steps/train.jsonl" > "$TASKS/$steps/labelled.jsonl" # the tasks that are labelled
    head -n 190 "$TASKS/$steps/train.jsonl" > "$TASKS/$steps/quarter.jsonl"
done
[ -f "$TASKS/comments/sft.jsonl" ] || python make_tasks.py --source micro --comment_rate 0.15 --num_train_tasks 1 --num_test_tasks 1 --output_dir "$TASKS/comments"
mutate() { # name, flags ...: the same for every seed
    local name="$1"
    shift
    python make_prm_data.py --method mutate --tasks "$TASKS/8/labelled.jsonl" --teacher ast --intents mutate --max_variants_per_line 3 \
        --packing program --rows_per_task 8 --change_rate 0.5 --sandbox_workers 2 "$@" --output_file "$TASKS/8/$name.jsonl"
}
has() { case " $STUDIES " in *" $1 "*) true ;; *) false ;; esac; }
if has mutations; then
    mutate mutate
    mutate disjoint --exclude_misconceptions true
fi
jobs_of() { # study, steps ...
    local study="$1" steps seed
    shift
    for steps in "$@"; do for seed in $SEEDS; do echo "study $study $steps $seed"; done; done
}
run() { xargs -P "$JOBS" -L 1 bash reproduce/psgpo.sh; }

horizons=8
if has main; then horizons="8 4"; fi
jobs_of sft 8 | run
jobs_of base $horizons | run
for name in $STUDIES; do
    if [ "$name" = main ]; then jobs_of main $horizons | run; else jobs_of "$name" 8 | run; fi
done

tables() { # folder of the seeds, arms ...: pass@1 on held-out tasks, pass rate in training; against PPO from tests
    local folder="$1"
    shift
    echo
    python reproduce/seeds_table.py "$folder" ppo-tests "$@"
    echo
    python reproduce/curves_table.py "$folder" rewards/tests/mean "$@"
}
main_tables() {
    local steps arms=("ppo-tests=tests" "ppo-dense=tests + PRM" "ppo-value=tests, critic from the PRM"
        "ppo-dense-value=tests + PRM, critic from it" "ppo-oracle=tests + exact labels")
    for steps in 8 4; do
        echo "Programs of $steps steps"
        tables "$RUNS/$steps" "${arms[@]}"
        echo
        python reproduce/budget_table.py "$RUNS/$steps" "${arms[@]}"
        echo
        python reproduce/seeds_table.py "$RUNS/$steps" ppo-tests "sft=SFT" "sft-references=SFT on the references of the labelled tasks" \
            "ppo-tests-half=tests, half of the samples=1920" "ppo-dense-half=tests + PRM, half=1920" \
            "ppo-dense-value-half=tests + PRM, critic from it, half=1920" "ppo-oracle-half=tests + exact labels, half=1920"
        echo
        python reproduce/gains_table.py "$RUNS/$steps" "ppo-dense:ppo-tests=tests + PRM, against tests" "ppo-value:ppo-tests=critic from the PRM, against tests" \
            "ppo-dense-value:ppo-tests=both, against tests" "ppo-dense-value:ppo-dense=both, against tests + PRM" \
            "ppo-oracle:ppo-tests=exact labels, against tests" "ppo-dense-half:ppo-tests=tests + PRM at half of the samples, against tests at all" \
            "ppo-oracle-half:ppo-tests=exact labels at half, against tests at all"
    done
    echo
    python reproduce/curves_table.py "$RUNS/8" critic/vf_explained_var "${arms[@]}"
    echo
    python reproduce/label_table.py "$TASKS/8/train.jsonl" "8 steps, K = 8=$(echo "$RUNS"/8/*/search.jsonl | tr ' ' ,)"
    echo
    python reproduce/label_table.py "$TASKS/4/train.jsonl" "4 steps, K = 8=$(echo "$RUNS"/4/*/search.jsonl | tr ' ' ,)"
    echo
    python reproduce/prm_table.py "$RUNS/8" prm-on-sft prm-on-ppo-dense
}
mutations_tables() {
    local arms=("ppo-tests=tests" "ppo-dense=PRM by search" "ppo-mutate=PRM by mutations"
        "ppo-disjoint=PRM by mutations, without the misconceptions" "ppo-oracle=exact labels")
    tables "$RUNS/8" "${arms[@]}"
    echo
    python reproduce/seeds_table.py "$RUNS/8" ppo-tests "ppo-mutate-half=PRM by mutations, half of the samples=1920" \
        "ppo-disjoint-half=without the misconceptions, half=1920"
    echo
    python reproduce/budget_table.py "$RUNS/8" "${arms[@]}"
    echo
    python reproduce/gains_table.py "$RUNS/8" "ppo-mutate:ppo-tests=PRM by mutations, against tests" \
        "ppo-disjoint:ppo-tests=without the misconceptions, against tests" "ppo-disjoint-half:ppo-tests=that, half of the samples, against tests at all"
    echo
    python reproduce/prm_table.py "$RUNS/8" prm-mutate-on-sft prm-mutate-on-ppo-mutate prm-disjoint-on-sft prm-disjoint-on-ppo-disjoint
}
critic_tables() {
    local starts=("ppo-tests=policy" "ppo-value=PRM, (r + 1) / 2" "critic-fit=PRM, fitted")
    tables "$RUNS/8" "${starts[@]}" "critic-lambda-policy=policy; lambda 0.8 at line ends" "critic-lambda-prm=PRM, fitted; lambda 0.8 at line ends" \
        "critic-few-policy=policy; 16 samples a batch" "critic-few-prm=PRM, fitted; 16 samples a batch"
    echo
    python reproduce/curves_table.py "$RUNS/8" critic/vf_explained_var "${starts[@]}"
}
schedules_tables() {
    tables "$RUNS/8" "ppo-tests=policy" "ppo-dense-value=PRM, (r + 1) / 2; dense reward" "critic-fit-dense=PRM, fitted; dense reward" \
        "critic-slow-policy=policy, learning rate / 10" "critic-slow-prm=PRM, fitted, learning rate / 10" \
        "critic-warm-policy=policy, lambda 0.8 at line ends, 5 batches of warm-up" "critic-warm-prm=PRM, fitted, lambda 0.8 at line ends, 5 batches of warm-up"
    echo
    python reproduce/curves_table.py "$RUNS/8" rewards/tests/mean "critic-slow-policy=policy, learning rate / 10" "critic-slow-prm=PRM, fitted, learning rate / 10"
    echo
    python reproduce/gains_table.py "$RUNS/8" "critic-slow-prm:critic-slow-policy=PRM, fitted, against policy; learning rate / 10" \
        "critic-fit-dense:ppo-dense=PRM, fitted, against policy; dense reward"
}
for name in $STUDIES; do
    case "$name" in
        main) main_tables ;;
        mutations) mutations_tables ;;
        selection) tables "$RUNS/8" "ppo-tests=tests" "ppo-dense=full" "ppo-remove_hard=remove hard" "ppo-medium_only=medium only" "ppo-revised_only=revised only" ;;
        labels) tables "$RUNS/8" "ppo-tests=tests" "ppo-dense=hard" "ppo-masked=hard, none after the first wrong line" \
            "ppo-alone=hard, completions not shared" "ppo-soft=soft" "ppo-marginal=marginal" ;;
        safeguards) python reproduce/hack_table.py "$RUNS/8" "hack-none=PRM alone, sum over lines" \
            "hack-lines=PRM alone, divided by the program's lines" "ppo-dense=with tests and PSGPO's weights" ;;
        padding) python reproduce/hack_table.py "$RUNS/8" "pad-none=PRM alone, sum over lines" \
            "pad-lines=PRM alone, divided by the program's lines" "pad-tests=with tests, sum over lines" "ppo-masked=with tests, divided by the lines (PSGPO)" ;;
        forms) python reproduce/hack_table.py "$RUNS/8" "hack-none=sum over lines" "hack-delta=change from line to line" \
            "hack-min=soft minimum" "hack-ensemble=sum, minimum of two PRMs" "hack-refresh=sum, PRM trained on the policy's lines every 5 batches" \
            "pad-tests=with tests, PRM of the padding, sum" "pad-refresh=with tests, that PRM trained every 5 batches, sum" ;;
        comments) python reproduce/hack_table.py "$RUNS/comments/8" "comments-labelled=PRM alone, comments labelled as other lines" \
            "comments-neutral-labels=PRM alone, neutral in the labels" "comments-neutral-reward=PRM alone, neutral in the reward" \
            "comments-with-tests=with tests, labelled as other lines" "comments-neutral-with-tests=with tests, neutral in the labels" \
            "comments-psgpo=with tests, neutral, all lines labelled (PSGPO)" "comments-scored=that, divided by the lines of code" ;;
        critic) critic_tables ;;
        schedules) schedules_tables ;;
    esac | tee "$RUNS/$name.md"
done
