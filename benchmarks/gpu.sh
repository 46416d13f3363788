#!/usr/bin/env bash
# All that is measured on a GPU, in one command of ten minutes or less, for machines that are lent by the minute.
#
#   benchmarks/gpu.sh prepare     # on any machine with a .venv: what the GPU's lacks, in .gpu (30 MB); minutes
#   benchmarks/gpu.sh             # there, from the tree and .gpu: exactness, speed, tests; into $OUT
#
# The GPU's machine needs Python 3.11 or later with CUDA builds of torch and Triton, h5py, numpy, rich, safetensors,
# scikit-learn and pillow; cupy, nvidia-ml-py, numba, pytest, hypothesis, pytest-timeout and pytest-xdist add what they
# are for. It needs no network and no .venv. What the first lines set may be set otherwise, for a try on a CPU:
# DEVICE=cpu VARIANTS=cifar LARGE=dvsg BATCHES=1 benchmarks/gpu.sh.
set -uo pipefail
cd "$(dirname "$0")/.."
GPU_FOLDER=${GPU_FOLDER:-.gpu}
VARIANTS=${VARIANTS:-ti s} # the first is measured in full
LARGE=${LARGE:-l}          # too large to travel: made there
BATCHES=${BATCHES:-32 128}
EXACT_BATCHES=${EXACT_BATCHES:-1 8 32}
CONTESTANTS=${CONTESTANTS:-compiled-autocast 2-compiled-autocast 2-autocast}
SINGLE=${SINGLE:-compiled-autocast graphs-autocast 2-autocast cupy-autocast} # of batches of one
SPEED_SECONDS=${SPEED_SECONDS:-220}
COMPILE_SECONDS=${COMPILE_SECONDS:-140}
PARTS=${PARTS:-exactness speed single large tests} # what is late falls out
LIMIT=${LIMIT:-560}
# shellcheck disable=SC2086 # lists of words

if [ "${1:-}" = prepare ]; then
  set -e
  PYTHON=${PYTHON:-.venv/bin/python}
  mkdir -p "$GPU_FOLDER/first" "$GPU_FOLDER/second"
  # pure Python, for whatever version; the first is the one that the authors pin
  fetch() { "$PYTHON" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 -d "$@"; }
  fetch "$GPU_FOLDER/first" nir==1.0.8 spikingjelly==0.0.0.0.14
  fetch "$GPU_FOLDER/second" spikingjelly==2.0.0 loguru==0.7.3
  git rev-parse --short HEAD >"$GPU_FOLDER/commit"
  export PYTHONPATH=$PWD/src
  "$PYTHON" benchmarks/gpu_exact.py --prepare --variants $VARIANTS --images "${IMAGES:-6}" --folder "$GPU_FOLDER/exact"
  du -sh "$GPU_FOLDER" "$GPU_FOLDER"/*
  exit
fi

PYTHON=${PYTHON:-python3}
OUT=${OUT:-build/gpu}
DEVICE=${DEVICE:-cuda}
MADE=build/gpu-networks
mkdir -p "$OUT" "$MADE" build/gpu-first build/gpu-second
export PYTHONUNBUFFERED=1

for which in first second; do
  [ "${1:-}" = networks ] && continue
  for wheel in "$GPU_FOLDER/$which"/*.whl; do "$PYTHON" -m zipfile -e "$wheel" "build/gpu-$which"; done
done
export PYTHONPATH=$PWD/src:$PWD/build/gpu-first

# part SECONDS NAME COMMAND...: as long as it may take, and as is left of all
part() {
  local left=$((LIMIT - SECONDS)) seconds=$1 name=$2
  shift 2
  [ "$seconds" -gt "$left" ] && seconds=$left
  echo "== $name (at ${SECONDS} s, ${seconds} s at most)"
  if [ "$seconds" -lt 5 ]; then
    echo "== no time left for it"
    return
  fi
  timeout --kill-after=5 "$seconds" "$@"
  echo "== $name: code $? (at ${SECONDS} s)"
}
sim_vs() { # SECONDS NAME ARGUMENTS...
  local left=$((LIMIT - SECONDS)) seconds=$1 name=$2
  shift 2
  [ "$seconds" -gt "$left" ] && seconds=$left
  part "$seconds" "$name" "$PYTHON" benchmarks/sim_vs_spikingjelly.py --device "$DEVICE" --folder "$MADE" --prepared \
    --spikingjelly-2 build/gpu-second --seconds $((seconds - 8)) --log "$OUT/contestants.txt" "$@"
}

# Networks that both run; and the reference on the large one, which does not travel.
if [ "${1:-}" = networks ]; then
  "$PYTHON" benchmarks/sim_vs_spikingjelly.py --prepare --variants "$2" --folder "$MADE"
  [ "$2" = "$LARGE" ] &&
    "$PYTHON" benchmarks/gpu_exact.py --prepare --variants "$2" --images 1 --folder "$MADE/exact" --checkpoints "$MADE"
  exit 0
fi

{
part 20 machine "$PYTHON" - <<'END'
import importlib.metadata as metadata
import sys
import torch
print(sys.version)
for index in range(torch.cuda.device_count()):
    print(torch.cuda.get_device_properties(index))
for name in ("torch", "triton", "cupy-cuda13x", "numpy", "numba", "nvidia-ml-py", "pytest"):
    try:
        print(name, metadata.version(name))
    except metadata.PackageNotFoundError:
        print(name, "is not installed")
END
echo "commit $(cat "$GPU_FOLDER/commit" 2>/dev/null)"
nvidia-smi --query-gpu=name,driver_version,power.limit,clocks.max.sm,temperature.gpu --format=csv

wants() { case " $PARTS " in *" $1 "*) ;; *) return 1 ;; esac; }
FIRST=${VARIANTS%% *}
: >"$OUT/prepare.txt"
networks() { timeout --kill-after=5 "$1" bash benchmarks/gpu.sh networks "$2" >>"$OUT/prepare.txt" 2>&1; }

# Alone: SpikingJelly compiles on all of the processor, and then nothing here gets its turn.
if wants exactness; then
  part 150 "exactness" "$PYTHON" benchmarks/gpu_exact.py --device "$DEVICE" --folder "$GPU_FOLDER/exact" \
    --variants $VARIANTS --batches $EXACT_BATCHES
fi
if wants speed; then
  networks 60 $FIRST
  sim_vs "$SPEED_SECONDS" "speed: $FIRST" --variants $FIRST --batches $BATCHES --contestants $CONTESTANTS \
    --prepare-seconds "$COMPILE_SECONDS" --rounds 4
fi
if wants single; then
  networks 60 $FIRST
  sim_vs "$SPEED_SECONDS" "speed: $FIRST, one by one" --variants $FIRST --batches 1 --contestants $SINGLE \
    --prepare-seconds "$COMPILE_SECONDS" --rounds 4
fi
if wants large; then
  networks 150 $LARGE
  part 70 "exactness: $LARGE" "$PYTHON" benchmarks/gpu_exact.py --device "$DEVICE" --folder "$MADE/exact" \
    --variants $LARGE --batches 1 ${BATCHES%% *}
fi
if wants tests; then
  part 150 "tests" "$PYTHON" -m pytest -x -q -p no:cacheprovider -n 4 --dist loadfile @tests/gpu/arguments.txt
fi

tail -n 3 "$OUT/prepare.txt"
echo "== done (at ${SECONDS} s)"
} 2>&1 | tee "$OUT/gpu.txt"
