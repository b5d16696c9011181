#!/usr/bin/env bash
# All tests and benchmarks that need a CUDA device, in one call of under 9 minutes (the limits below add up to that).
# Not yet run on a GPU. Missing Python packages are taken from the folder of wheels in $WHEELS, if it is set.
#   bash benchmarks/gpu.sh [OUTPUT FOLDER]
set -uo pipefail
cd "$(dirname "$0")/.."
out="${1:-build/gpu}"
mkdir -p "$out"
if [ -n "${WHEELS:-}" ]; then
    python3 -m pip install -q --no-index --no-deps --upgrade --target build/site "$WHEELS"/*.whl
    export PYTHONPATH="$PWD/build/site:${PYTHONPATH:-}"
fi
export PYTHONPATH="$PWD:${PYTHONPATH:-}" OMP_WAIT_POLICY=PASSIVE
python3 -c 'import torch; print(torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device: running small on the CPU")'
failed=0
run() { # run SECONDS NAME COMMAND...: the rest goes on if one fails or takes too long
    local limit="$1" name="$2"
    shift 2
    echo "== $name"
    timeout "$limit" "$@" 2>&1 | tee "$out/$name.log" || { echo "$name failed"; failed=1; }
}
run 130 tests python3 -m pytest -q -m gpu tests/training
if python3 -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    step=(--packs 1 4 16 32 64 100 --steps 16 --rounds 5 --backends grouped dense)
    steps=(--packs 1 16 64 100 --widths 64 128 --steps 32)
    bench=(fashion-mnist --packs 1,16,64,100 --time 30s)
    whole=(--minutes 2 --cohort 48 --trials 48)
    sharing=(--processes 1 16 --packs 16 64 100 --seconds 4)
else # only to see that this script works
    step=(--packs 2 --widths 16 --steps 1 --rounds 1 --active 1.5)
    steps=(--packs 1 2 --widths 16 --steps 2 --rounds 1)
    bench=(digits --packs 1,2 --time 1s)
    whole=(--minutes 1 --trials 4 --epochs 1 --max-train 256 --cohort 4 --width 16)
    sharing=(--processes 1 2 --packs 2 --width 16 --active 1.5 --seconds 0.2)
fi
if ! python3 -c 'import transformers' 2>/dev/null; then step+=(--without-transformers); fi
run 120 step python3 -m benchmarks.speed.step "${step[@]}" --out "$out/step.md"
run 70 sharing python3 -m benchmarks.speed.sharing "${sharing[@]}" --out "$out/sharing.md"
run 60 steps python3 -m benchmarks.steps "${steps[@]}"
run 45 bench python3 cli.py bench "${bench[@]}"
run 110 whole_study python3 -m benchmarks.speed.whole_study "${whole[@]}" --folder "$out/whole" --out "$out/whole_study.md"
exit "$failed"
