# The commands, for people who do not want Python on their machine:
#
#   docker build -t resformer .
#   docker run --rm -v "$PWD:/work" --user "$(id -u):$(id -g)" resformer model.pt --target lava -o build
#   docker run --rm -v "$PWD:/work" --user "$(id -u):$(id -g)" --entrypoint resformer-verify resformer build …
#
# PyTorch's own builds on PyPI are for CUDA on x86-64, and make the image 5 GB larger. Where an index offers builds for
# CPUs (locks/torch-cpu.lock), name it: --build-arg PIP_EXTRA_INDEX_URL=….
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /opt/resformer
WORKDIR /source
# the packages of others come first: they change seldom, and their layer is kept
COPY locks locks
RUN install="/opt/resformer/bin/python -m pip install --no-deps --require-hashes" \
  && { $install -r locks/torch-cpu.lock || $install -r locks/cuda.lock; } \
  && $install --ignore-requires-python -r locks/run.lock
COPY pyproject.toml setup.py README.md LICENSE ./
COPY compiler compiler
COPY models models
COPY runtime runtime
COPY src src
RUN /opt/resformer/bin/python -m pip install --no-deps --no-build-isolation .

FROM ${BASE}
COPY --from=build /opt/resformer /opt/resformer
RUN useradd --create-home --uid 1000 resformer
ENV PATH=/opt/resformer/bin:$PATH
# --user may name someone without a home
ENV HOME=/tmp
USER resformer
WORKDIR /work
ENTRYPOINT ["resformer-compile"]
CMD ["--help"]
