# Sourced by the scripts, from the project's folder: activates .venv, made here unless a virtual environment is active,
# and installs the packages of requirements file $1 where that has not been done.
# One torch thread a process: two processes share two cores better than two threads do.
if [ -z "${VIRTUAL_ENV:-}" ]; then
    [ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
    source .venv/bin/activate
fi
if ! cmp -s "$1" "$VIRTUAL_ENV/installed-$1"; then
    python -m pip install --quiet --disable-pip-version-check -r "$1"
    cp "$1" "$VIRTUAL_ENV/installed-$1"
fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" TOKENIZERS_PARALLELISM=false
