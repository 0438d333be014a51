# Jobs that run side by side, $JOBS at a time; a script sources this file after lib.sh.
#
#     job sft "" supervised 0                # name, the jobs that it waits for, function, arguments
#     job tests "sft" run_arms "$ARMS" tests
#     run_jobs
#
# The first job in the list whose needs are done starts first: a script that lists seed 0 before
# seed 1 has seed 0 whole first. $RUNS/jobs has a file NAME.done for each finished job, which does
# not run again, and its output, NAME.log. A job that fails does not end the others; those that wait
# for it do not run.

table() { # name of a table, its arguments ...: a blank line before; why there is none, in its place
    echo
    python reproduce/tables.py "$@" 2>&1 || true
}

in_seed() { # seed, function, arguments ...
    SEED="$1" OUT="$RUNS/$1" SFT="$RUNS/$1/sft"
    mkdir -p "$OUT"
    "${@:2}"
}

in_half() { # seed, function, arguments ...: with the seed's half of the tasks, and those labelled
    local TRAIN="$RUNS/$1/train.jsonl" LABELS="$RUNS/$1/labelled.jsonl"
    in_seed "$@"
}

JOB_NAMES=() JOB_NEEDS=() JOB_WORDS=()

job() { # name, names of the jobs that it waits for, function, arguments ...
    JOB_NAMES+=("$1") JOB_NEEDS+=("$2") JOB_WORDS+=("$(printf '%q ' "${@:3}")")
}

run_jobs() {
    local i name need running=0 started=() failed=()
    mkdir -p "$RUNS/jobs"
    set -m # each job is a process group of its own, so that it can be ended whole
    trap 'for group in $(jobs -p); do kill -- "-$group" 2> /dev/null || true; done' EXIT
    while true; do
        for i in "${!JOB_NAMES[@]}"; do
            name="$RUNS/jobs/${JOB_NAMES[i]}"
            [ "$running" -lt "$JOBS" ] || break
            [ -z "${started[i]:-}" ] && [ ! -f "$name.done" ] || continue
            for need in ${JOB_NEEDS[i]}; do
                [ -f "$RUNS/jobs/$need.done" ] || continue 2
            done
            (
                set -e
                eval "${JOB_WORDS[i]}"
                touch "$name.done"
            ) > "$name.log" 2>&1 &
            started[i]=true running=$((running + 1))
        done
        [ "$running" -gt 0 ] || break
        wait -n || true
        running=$((running - 1))
    done
    set +m
    for i in "${!started[@]}"; do
        [ -f "$RUNS/jobs/${JOB_NAMES[i]}.done" ] || failed+=("$RUNS/jobs/${JOB_NAMES[i]}.log")
    done
    [ ${#failed[@]} -eq 0 ] || {
        printf 'failed: %s\n' "${failed[@]}" >&2
        return 1
    }
}
