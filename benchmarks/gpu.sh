#!/usr/bin/env bash
# All tests and benchmarks that need a CUDA device, in one call (planned for under 9 minutes).
# Not yet run on a GPU. Missing Python packages are taken from the folder of wheels in $WHEELS, if it is set.
#   bash benchmarks/gpu.sh [OUTPUT FOLDER]
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:-build/gpu}"
mkdir -p "$out"
if [ -n "${WHEELS:-}" ]; then
    python3 -m pip install -q --no-index --no-deps --upgrade --target build/site "$WHEELS"/*.whl
    export PYTHONPATH="$PWD/build/site:${PYTHONPATH:-}"
fi
export PYTHONPATH="$PWD:${PYTHONPATH:-}"
python3 -c 'import torch; print(torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device: running small on the CPU")'
python3 -m pytest -q -m gpu tests/training | tee "$out/tests.txt"
sizes=(--packs 1 16 64 100 --widths 64 128 --steps 32)
if ! python3 -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    sizes=(--packs 1 2 --widths 16 --steps 2 --rounds 1) # only to see that this script works
fi
python3 -m benchmarks.steps "${sizes[@]}" | tee "$out/steps.md"
