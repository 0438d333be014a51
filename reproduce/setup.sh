# Sourced by the scripts: activates .venv, made here with the packages of requirements file $1, unless a virtual
# environment is active already. One torch thread a process: two processes share two cores better than two threads do.
if [ -z "${VIRTUAL_ENV:-}" ]; then
    [ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
    source .venv/bin/activate
    stamp=".venv/installed-$1"
    if ! cmp -s "$1" "$stamp"; then
        python -m pip install --quiet --disable-pip-version-check -r "$1"
        cp "$1" "$stamp"
    fi
fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" TOKENIZERS_PARALLELISM=false
