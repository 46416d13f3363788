# Each target works on a bare clone: it makes .venv, installs what it needs and runs.
# Where Python is not called python3: make test PYTHON=python3.11

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LOCKED := $(BIN)/python -m pip install --quiet --no-deps --require-hashes
MNIST := examples/mnist

# Else each of the many processes that tests start compiles what it imports anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup lock wheel-test notebooks demo test interpreted test-gpu bad-input fuzz kill-rounds lint docs docs-test browser axe clean

setup: $(READY)

# All of it is pinned and hashed in locks/, Lava too, which declares Python 3.10 and works beyond. torch is the build for
# CPUs where a registry offers it; PyPI's own needs CUDA's libraries as well, but on macOS.
$(READY): pyproject.toml setup.py $(wildcard locks/*.lock)
	$(PYTHON) -m venv $(VENV)
	$(LOCKED) -r locks/torch-cpu.lock 2>/dev/null || $(LOCKED) -r locks/cuda.lock
	$(LOCKED) --ignore-requires-python -r locks/setup.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

# Writes locks/ anew after a change of pyproject.toml or constraints.txt; UPGRADE=1 takes the newest versions.
lock:
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet uv
	build/lock/bin/python tools/lock.py $(if $(UPGRADE),--upgrade)

# The wheel and its extras in clean environments, one for each Python that is here, from another folder.
wheel-test:
	$(PYTHON) tools/wheel_test.py $(if $(PYTHONS),--pythons $(PYTHONS))

# Runs the notebooks and writes what they show into them.
notebooks: $(READY)
	$(BIN)/python tools/notebooks.py notebooks/*.ipynb

demo: $(READY)
	$(BIN)/resformer-compile $(MNIST)/spikingresformer_mnist.pt --target lava,onnx -o build/mnist
	$(BIN)/resformer-verify build/mnist --model $(MNIST)/spikingresformer_mnist.pt \
	  --input $(MNIST)/test_images.npy --labels $(MNIST)/test_labels.npy \
	  --samples 32 --backend lava --json build/mnist-verify-lava.json
	$(BIN)/resformer-verify build/mnist --model $(MNIST)/spikingresformer_mnist.pt \
	  --input $(MNIST)/test_images.npy --labels $(MNIST)/test_labels.npy \
	  --backend sim --json build/mnist-verify-sim.json
	$(BIN)/resformer-report build/mnist --model $(MNIST)/spikingresformer_mnist.pt \
	  --input $(MNIST)/test_images.npy --labels $(MNIST)/test_labels.npy \
	  --verify build/mnist-verify-sim.json -o build/mnist-report.html

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# What the tests of the report's page open it with; any Chromium or Chrome will do. On Debian, as root.
browser:
	apt-get update -qq
	apt-get install -qq --no-install-recommends chromium-headless-shell

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# Every command and every snippet of the README and the documentation.
docs-test: $(READY)
	$(BIN)/python tests/docs/run.py

# Two processes: most tests wait for commands that they start. A file's tests stay together, for what they share, and
# files go in the order in which tests/conftest.py puts them: the long ones first, lest one process waits for the other.
test: $(READY)
	$(MAKE) -j 2 lint docs interpreted
	$(MAKE) bad-input
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

# The kernels of a GPU, in Triton's interpreter on the CPU.
interpreted: $(READY)
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -q -n 2 --disable-warnings -p no:cacheprovider --device interpreter tests/equivalence/test_sim_ops.py

# The equivalence suite with sim on a GPU; where there is none, all of it is skipped.
test-gpu: $(READY)
	$(BIN)/python -m pytest -n 4 --dist loadfile @tests/gpu/arguments.txt

# What comes from outside is refused without asserts as well, which python -O removes. The tests that are left out ask
# for -O themselves, in `make test`.
bad-input: $(READY)
	PYTHONOPTIMIZE=1 $(BIN)/pytest -q -n 2 --dist loadfile --disable-warnings -p no:cacheprovider tests/cli/test_bad_input.py tests/hostile \
	  --ignore tests/hostile/test_faults.py tests/unit/compiler/files tests/unit/compiler/ir \
	  --deselect tests/hostile/test_files.py::test_a_hostile_file_is_refused_in_one_line \
	  --deselect tests/hostile/test_programs.py::test_a_damaged_program_is_refused_in_one_line

# Ends compile, run and verify in Lava at random moments, and sees that nothing is left of them.
kill-rounds: $(READY)
	$(BIN)/python tests/hostile/kill_rounds.py --rounds $(or $(N),50) --seed $(or $(SEED),0)

# Hostile inputs for every reader and command, each in a process of its own with limits.
fuzz: $(READY)
	$(BIN)/python tests/hostile/fuzz.py --inputs $(or $(N),10000) --seed $(or $(SEED),1)

# What the tests look for barriers in pages with, which keep people from using them; they skip without it.
axe:
	npm install --silent --no-save --prefix build/axe axe-core@4

clean:
	rm -rf $(VENV) build dist site
