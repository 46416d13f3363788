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
# shellcheck disable=SC2086 # lists of words
set -uo pipefail
cd "$(dirname "$0")/.."
GPU_FOLDER=${GPU_FOLDER:-.gpu}
VARIANTS=${VARIANTS:-ti s} # all are held against the reference, the first is timed
LARGE=${LARGE:-l}          # too large to travel: made there
BATCHES=${BATCHES:-32 128}
EXACT_BATCHES=${EXACT_BATCHES:-1 8 32}
CONTESTANTS=${CONTESTANTS:-compiled-autocast 2-compiled-autocast 2-autocast}
SINGLE=${SINGLE:-compiled-autocast graphs-autocast 2-autocast cupy-autocast} # of batches of one
SPEED_SECONDS=${SPEED_SECONDS:-220}
COMPILE_SECONDS=${COMPILE_SECONDS:-140}
PARTS=${PARTS:-exactness speed single large tests} # in this order, whatever order they are named in
LIMIT=${LIMIT:-560}                                # seconds; what is late falls out

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
  for wheel in "$GPU_FOLDER/$which"/*.whl; do "$PYTHON" -m zipfile -e "$wheel" "build/gpu-$which"; done
done
export PYTHONPATH=$PWD/src:$PWD/build/gpu-first

# at_most SECONDS: as many, or as are left of all
at_most() { echo $(($1 < LIMIT - SECONDS ? $1 : LIMIT - SECONDS)); }
part() { # SECONDS NAME COMMAND...
  local seconds name=$2
  seconds=$(at_most "$1")
  shift 2
  echo "== $name (at ${SECONDS} s, ${seconds} s at most)"
  if [ "$seconds" -lt 5 ]; then
    echo "== no time left for it"
    return
  fi
  timeout --kill-after=5 "$seconds" "$@"
  echo "== $name: code $? (at ${SECONDS} s)"
}
sim_vs() { # SECONDS NAME ARGUMENTS...
  local seconds name=$2
  seconds=$(at_most "$1")
  shift 2
  part "$seconds" "$name" "$PYTHON" benchmarks/sim_vs_spikingjelly.py --device "$DEVICE" --folder "$MADE" --prepared \
    --spikingjelly-2 build/gpu-second --seconds $((seconds - 8)) --log "$OUT/contestants.txt" "$@"
}

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

# First and alone: while SpikingJelly compiles on all of the processor, nothing else gets its turn.
if wants exactness; then
  part 150 "exactness" "$PYTHON" benchmarks/gpu_exact.py --device "$DEVICE" --folder "$GPU_FOLDER/exact" \
    --variants $VARIANTS --batches $EXACT_BATCHES
fi
if wants speed || wants single; then
  part 60 "network: $FIRST" "$PYTHON" benchmarks/sim_vs_spikingjelly.py --prepare --variants $FIRST --folder "$MADE"
fi
if wants speed; then
  sim_vs "$SPEED_SECONDS" "speed: $FIRST" --variants $FIRST --batches $BATCHES --contestants $CONTESTANTS \
    --prepare-seconds "$COMPILE_SECONDS" --rounds 4
fi
if wants single; then
  sim_vs "$SPEED_SECONDS" "speed: $FIRST, one by one" --variants $FIRST --batches 1 --contestants $SINGLE \
    --prepare-seconds "$COMPILE_SECONDS" --rounds 4
fi
if wants large; then
  part 150 "network and reference: $LARGE" "$PYTHON" benchmarks/gpu_exact.py --prepare --variants $LARGE --images 1 \
    --folder "$MADE/exact" --checkpoints "$MADE"
  part 70 "exactness: $LARGE" "$PYTHON" benchmarks/gpu_exact.py --device "$DEVICE" --folder "$MADE/exact" \
    --variants $LARGE --batches 1 ${BATCHES%% *}
fi
if wants tests; then
  part 150 "tests" "$PYTHON" -m pytest -x -q -p no:cacheprovider -n 4 --dist loadfile @tests/gpu/arguments.txt
fi

echo "== done (at ${SECONDS} s)"
} 2>&1 | tee "$OUT/gpu.txt"
