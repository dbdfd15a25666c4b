#!/bin/sh
# ctest: timeout=900
# The Python package: installed by pip as users do, checked by ruff and mypy, tested by pytest.
# Arguments go to pytest.
set -eu
root=$RB_SOURCE_DIR
python=$root/.venv/bin/python
[ "${RESBM_NO_VENV:-0}" = 1 ] && { echo "skipped: RESBM_NO_VENV=1, no Python packages"; exit 77; }
cmp -s "$root/tests/requirements-python.txt" "$root/.venv/requirements-python.stamp" || "$root/scripts/venv.sh" python || {
    echo "skipped: pip cannot install tests/requirements-python.txt here"
    exit 77
}
rm -rf site hf && mkdir site
"$python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --target site "$root/python"
unset RESBM_LIBRARY
PYTHONPATH=$PWD/site
OMP_NUM_THREADS=1
HF_HOME=$PWD/hf
export PYTHONPATH OMP_NUM_THREADS HF_HOME
cd "$root/python"
"$python" -m ruff check --quiet --no-cache . && "$python" -m ruff format --check --quiet --no-cache .
"$python" -m mypy --no-incremental
exec "$python" -m pytest -q -p no:cacheprovider "$@"
