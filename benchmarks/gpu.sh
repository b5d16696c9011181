#!/usr/bin/env bash
# All tests and benchmarks that need a CUDA device, in one call of under 9 minutes, whatever fails or hangs.
# Not yet run on a GPU. Without one the same steps run very small, which shows that this script works.
#
#   bash benchmarks/gpu.sh [FOLDER]
#
# FOLDER gets summary.txt and one log per step, eight files, written as they come; `python -m benchmarks.gpu_page FOLDER`
# makes one page of them, on any machine. What a machine without a network lacks is taken from folders: Python packages
# from the wheels in $WHEELS, the four files of Fashion-MNIST from $IMAGES; without those, digits are searched instead.
# $LIMIT is how many seconds there are in all. What matters most comes first.
#
# Beside torch, scikit-learn, typer and pytest our tests and benchmarks need alembic annotated-types cffi colorlog mako
# moocore optuna platformdirs pycparser pydantic pydantic-core sqlalchemy typing-inspection (9 MB of wheels):
#   python3 -m pip download --no-deps --only-binary=:all: -d FOLDER alembic ...
set -uo pipefail
cd "$(dirname "$0")/.."
limit_of_all="${LIMIT:-530}"
out="${1:-build/gpu}"
mkdir -p "$out" build
out="$(cd "$out" && pwd)"
: >"$out/summary.txt"
failed=0

run() { # run SECONDS NAME COMMAND...: the rest goes on if one fails or takes too long
    local limit="$1" name="$2" begin="$SECONDS" left=$((limit_of_all - SECONDS)) code
    shift 2
    if [ "$limit" -gt "$left" ]; then limit="$left"; fi
    if [ "$limit" -lt 5 ]; then
        echo "$name: no time left" | tee -a "$out/summary.txt"
        failed=1
        return
    fi
    echo "== $name, at most $limit s"
    timeout -k 5 "$limit" "$@" >"$out/$name.log" 2>&1 </dev/null # no pipe: who outlives its parent would hold it
    code=$?
    tail -n 40 "$out/$name.log"
    echo "$name: rc $code after $((SECONDS - begin)) of $limit s" | tee -a "$out/summary.txt"
    if [ "$code" -ne 0 ]; then failed=1; fi
}

export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD:${PYTHONPATH:-}" OMP_WAIT_POLICY=PASSIVE
if [ -n "${WHEELS:-}" ]; then
    timeout -k 5 60 python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade \
        --target build/site "$WHEELS"/*.whl >>"$out/summary.txt" 2>&1
    PYTHONPATH="$PWD/build/site:$PYTHONPATH"
fi
if [ -n "${IMAGES:-}" ]; then # where the program looks for data
    mkdir -p build/home/dynamoe-search
    ln -sfn "$(cd "$IMAGES" && pwd)" build/home/dynamoe-search/data
    export XDG_DATA_HOME="$PWD/build/home"
fi

timeout -k 5 90 python3 - >>"$out/summary.txt" 2>&1 <<'PYTHON'
import platform
import traceback
from contextlib import contextmanager

import torch


@contextmanager
def what_fails():
    try:
        yield
    except Exception:
        traceback.print_exc()


print(f"torch {torch.__version__}, Python {platform.python_version()}")
if torch.cuda.is_available():
    print("HAS A GPU", torch.cuda.get_device_name(), torch.cuda.mem_get_info())
with what_fails():
    from dynamoe_search.data.vision import find_vision_set
    from dynamoe_search.specs import DataSection

    if find_vision_set(DataSection(name="fashion-mnist")):
        print("HAS FASHION-MNIST")
with what_fails():
    from benchmarks.speed.rivals import hugging_face

    hugging_face(48, 1, "grouped_mm")(torch.randn(4, 1, 28, 28))
    print("HAS TRANSFORMERS")
PYTHON
cat "$out/summary.txt"
has() { grep -q "^HAS $1" "$out/summary.txt"; }

data=(--data digits --max-train 1024)
study=digits
if has FASHION-MNIST; then data=(--data fashion-mnist) study=fashion-mnist; fi
if has "A GPU"; then
    step=(--packs 1 16 64 100 --steps 16 --rounds 4 --backends grouped dense)
    sharing=(--processes 16 --packs 16 64 100 --seconds 4)
    memory=(--packs 1 16 64 100)
    whole=("${data[@]}" --minutes 1.4 --cohort 24 --trials 24 --epochs 8)
    bench=("$study" --packs 1,16,64,100 --time 16s)
    widths=(--packs 1 16 --widths 64 256 512 --active 4 --steps 16 --rounds 2)
else
    step=(--packs 2 --widths 16 --steps 1 --rounds 1 --active 1.5)
    sharing=(--processes 2 --packs 2 --width 16 --active 1.5 --seconds 0.2)
    memory=(--packs 2 --width 16)
    whole=(--data digits --minutes 1.2 --trials 4 --epochs 1 --max-train 256 --cohort 4 --width 16)
    bench=(digits --packs 1,2 --time 1s)
    widths=(--packs 2 --widths 8 24 --steps 1 --rounds 1 --active 4)
fi
if ! has TRANSFORMERS; then step+=(--without-transformers); fi
rm -rf build/whole

# -W: a warning of another version of torch is no failure; what the tests log are the figures
run 130 tests python3 -m pytest -q -W default -m gpu --log-cli-level INFO --durations 10 tests/training/test_cuda.py
run 110 step python3 -m benchmarks.speed.step "${step[@]}"
run 90 sharing python3 -m benchmarks.speed.sharing "${sharing[@]}"
run 60 memory python3 -m benchmarks.speed.memory "${memory[@]}"
run 100 whole_study python3 -m benchmarks.speed.whole_study "${whole[@]}" --folder build/whole
run 50 bench python3 cli.py bench "${bench[@]}"
run 60 widths python3 -m benchmarks.speed.step --without-transformers "${widths[@]}"
echo "== summary"
cat "$out/summary.txt"
exit "$failed"
