# What the scripts of this folder share. A script sources this file from the project's folder, and
# says where things are:
#
#     TRAIN, TEST    tasks to learn from, and to evaluate on
#     MORE           names of more benchmarks to evaluate on: $TASKS-<name>/test.jsonl
#     SFT            policy that the arms start from
#     OUT            folder of the run folders
#     SEED           of every stage
#     SEEDS, JOBS    the seeds, and how many jobs run at a time
#     PROCESSES      of a run that trains, samples or searches (torchrun), one a GPU; 1 unless set
#     LAUNCH         or what starts a script's processes on several machines. The recipe itself runs
#                    on one of them, and all see its folder. With Slurm, on two nodes:
#         export LAUNCH="srun --ntasks-per-node=1 torchrun --nnodes=2 --nproc_per_node=8 \
#             --rdzv_backend c10d --rdzv_endpoint $(hostname):29500"
#                    Without it, a stage is started by hand, by the same line on each machine:
#         torchrun --nnodes=2 --nproc_per_node=8 --rdzv_backend c10d --rdzv_endpoint HOST:29500 \
#             ppo.py ...
#     PPO=() GRPO=() DPO=() PRM=() EVAL=()    flags of a stage that all its runs have
#     SAMPLE=()      flags of every run of eval.py that samples
#
# An arm is one line, `name | label | how it is trained`, of a list that `arms` reads:
#
#     arms ARMS << 'END'
#     ppo-tests | tests            | ppo
#     ppo-dense | tests + PRM      | ppo --prm "$OUT/prm"
#     ppo-line  | lines as actions | ppo lambda_at_line_ends --lam 0.8
#     ppo-other | another study's  |
#     END
#     run_arms "$ARMS"                                             # trains, evaluates the arms
#     python reproduce/tables.py seeds "$RUNS" ppo-tests "$ARMS"   # a row for each arm
#
# name: the run folder under OUT; eval-<name> is its evaluation.
# label: what the tables print. `label=N` where the run folder does not say that the policy has
#     learned from N samples.
# How the arm is trained: a function (ppo, grpo, dpo, sft, evaluate, or one of the script's own);
#     studies (studies/<name>.diff, applied in this order); flags, each of which takes the place of
#     the same flag in PPO=() and its like. With nothing here, the arm is shown and not trained:
#     another list trains it.
# A line may go on after a backslash.
#
# Everything can be run again: a finished stage is not repeated, a run that was cut off goes on.

SEED="${SEED:-0}" PROCESSES="${PROCESSES:-1}" LAUNCH="${LAUNCH:-}" JOBS="${JOBS:-2}" MORE=
PPO=() GRPO=() DPO=() PRM=() EVAL=() SAMPLE=()

# Activates .venv, made here unless a virtual environment is active, and installs the packages of
# the requirements file where that has not been done. One torch thread a process: two processes
# share two cores better than two threads do.
setup() { # requirements file
    if [ -z "${VIRTUAL_ENV:-}" ]; then
        [ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
        source .venv/bin/activate
    fi
    if ! cmp -s "$1" "$VIRTUAL_ENV/installed-$1"; then
        python -m pip install --quiet --disable-pip-version-check -r "$1"
        cp "$1" "$VIRTUAL_ENV/installed-$1"
    fi
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" TOKENIZERS_PARALLELISM=false
}

# The file `settings` of a folder records what its runs were made with: a finished job is not looked
# at again, so that runs of two settings would stand in one table. A folder that has no record of a
# variable (an earlier version's) gets one.
same_settings() { # folder, names of variables ...: ends the script where one was recorded otherwise
    local name recorded="$1/settings"
    touch "$recorded"
    for name in "${@:2}"; do
        if ! grep -q "^$name=" "$recorded"; then
            echo "$name=${!name}" >> "$recorded"
        elif ! grep -q -F -x -e "$name=${!name}" "$recorded"; then
            echo "$1 was made with $(grep "^$name=" "$recorded"), not $name=${!name}:" \
                "set $name so, or take another folder" >&2
            return 1
        fi
    done
}

arms() { # variable: reads arm lines from standard input
    local text
    IFS= read -r -d '' text || true
    printf -v "$1" '%s' "${text//\\$'\n'/}" # a backslash joins lines
}

names() { # arm lines ...: the arms' names
    printf '%s\n' "$@" | sed -n 's/^ *\([^ |]\{1,\}\) *|.*/\1/p'
}

trained() { # arm lines ...: the names of those that the lines train
    printf '%s\n' "$@" | sed -n 's/^ *\([^ |]\{1,\}\) *|[^|]*| *[^ ].*/\1/p'
}

run_arms() { # arm lines, names ...: trains and evaluates the named arms, or all that are trained
    local lines="$1" name function flags
    shift
    [ $# -gt 0 ] || set -- $(trained "$lines")
    for name in "$@"; do
        read -r function flags <<< "$(sed -n "s/^ *$name *|[^|]*|//p" <<< "$lines")"
        # In a subshell: bash 5.2 prints an error of its own where set -e ends an eval in an eval.
        (eval "$function $name $flags")
    done
}

at_once() { # function, arguments ...: once for each argument, $JOBS at a time; the first that
    # fails ends the others. An argument may be several words.
    local argument running=0
    set -m # each job is a process group of its own, so that it can be ended whole
    trap 'for job in $(jobs -p); do kill -- "-$job" 2> /dev/null || true; done' EXIT
    for argument in "${@:2}"; do
        if [ "$running" -ge "$JOBS" ]; then
            wait -n
            running=$((running - 1))
        fi
        eval "$1 $argument" &
        running=$((running + 1))
    done
    while [ "$running" -gt 0 ]; do
        wait -n
        running=$((running - 1))
    done
    set +m
}

launch() { # script, its flags ...: of what runs in several processes
    if [ -n "$LAUNCH" ]; then
        $LAUNCH "$@"
    elif [ "$PROCESSES" = 1 ]; then
        python "$@"
    else
        torchrun --standalone --nproc_per_node="$PROCESSES" "$@"
    fi
}

stage() { # script, flags ..., --, studies ..., more flags ...: a flag after -- counts alone
    local script="$1" word kept=true flags=() studies=()
    shift
    while [ "$1" != -- ]; do
        flags+=("$1")
        shift
    done
    shift
    while [ $# -gt 0 ] && [[ "$1" != --* ]]; do
        studies+=("$1")
        shift
    done
    local own=" $* " defaults=()
    for word in "${flags[@]}"; do
        if [[ "$word" == --* ]]; then
            if [[ "$own" == *" $word "* ]]; then kept=false; else kept=true; fi
        fi
        if $kept; then defaults+=("$word"); fi
    done
    if [ ${#studies[@]} -gt 0 ]; then script=studies/run.py; fi
    launch "$script" "${studies[@]}" "${defaults[@]}" "$@"
}

sft() { # arm, flags ...
    local arm="$1"
    stage sft.py --seed "$SEED" --output_dir "$OUT/$arm" -- "${@:2}"
    evaluate "$arm" "$OUT/$arm"
}

mutate() { # tasks, prm.jsonl, flags ...: changes of their references, executed
    python make_prm_data.py --method mutate --tasks "$1" --teacher ast --intents mutate \
        --max_variants_per_line 3 --packing program --output_file "$2" "${@:3}"
}

reward_model() { # name, data, flags ...
    stage train_prm.py --data "$2" --model_name_or_path "$SFT" "${PRM[@]}" --seed "$SEED" \
        --output_dir "$OUT/$1" -- "${@:3}"
}

ppo() { # arm, studies ..., flags ...
    local arm="$1"
    stage ppo.py --tasks "$TRAIN" --model_name_or_path "$SFT" "${PPO[@]}" --seed "$SEED" \
        --output_dir "$OUT/$arm" -- "${@:2}"
    evaluate "$arm" "$OUT/$arm"
}

grpo() { # arm, studies ..., flags ...
    local arm="$1"
    stage grpo.py --tasks "$TRAIN" --model_name_or_path "$SFT" "${GRPO[@]}" --seed "$SEED" \
        --output_dir "$OUT/$arm" -- "${@:2}"
    evaluate "$arm" "$OUT/$arm"
}

dpo() { # arm, flags of make_prm_data.py --method rank ...: pairs, and the policy from them
    local arm="$1"
    python make_prm_data.py --method rank "${@:2}" --seed "$SEED" \
        --output_file "$OUT/$arm.pairs.jsonl"
    stage dpo.py --data "$OUT/$arm.pairs.jsonl" --model_name_or_path "$SFT" "${DPO[@]}" \
        --seed "$SEED" --output_dir "$OUT/$arm" --
    evaluate "$arm" "$OUT/$arm"
}

sample() { # policy, tasks, folder, flags ...
    launch eval.py --tasks "$2" --model_name_or_path "$1" "${SAMPLE[@]}" --seed "$SEED" "${@:4}" \
        --output_dir "$3"
}

evaluate() { # name, policy: on TEST, and on each benchmark of MORE
    local benchmark
    sample "$2" "$TEST" "$OUT/eval-$1" "${EVAL[@]}"
    for benchmark in $MORE; do
        sample "$2" "$TASKS-$benchmark/test.jsonl" "$OUT/eval-$benchmark-$1" "${EVAL[@]}"
    done
}

# The PRM against exact labels of the lines that policies wrote for TEST.
exact() { # PRM's folder, arms ...: on lines of the supervised policy, and of the arms' policies
    local policy
    for policy in sft "${@:2}"; do
        [ -f "$OUT/gold-$policy.jsonl" ] || python make_prm_data.py --method gold --tasks "$TEST" \
            --samples "$OUT/eval-$policy/samples.jsonl" --output_file "$OUT/gold-$policy.jsonl"
        python eval_prm.py --prm "$1" --data "$OUT/gold-$policy.jsonl" \
            --output_dir "$OUT/eval-$(basename "$1")-on-$policy"
    done
}

compare() { # arm lines: pass@1 of each arm against the first
    local name folders=()
    for name in $(names "$1"); do folders+=("$OUT/eval-$name"); done
    python eval.py --compare "${folders[@]}" --output_dir "$OUT/compare"
}
