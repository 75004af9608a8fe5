# Two images of one wheel:  docker build --target cuda -t opensama .
#                           docker build --target cpu -t opensama-cpu --build-arg TORCH_INDEX=<PyTorch's CPU wheel index> .
# Without TORCH_INDEX the second is the first: PyTorch's ordinary wheels bring CUDA along and run on a CPU, too.
# docs/install.md says how to run them.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir "hatchling>=1.26" && python -m hatchling build --target wheel --directory /wheels

FROM python:${PYTHON}-slim AS base
# OpenCV reads this library; video needs none, PyAV brings its own FFmpeg.
RUN apt-get update && apt-get install -y --no-install-recommends libglib2.0-0 && rm -rf /var/lib/apt/lists/*
RUN useradd opensama && mkdir /films /weights && chown opensama /films /weights
COPY --from=wheel /wheels /wheels
COPY constraints.txt /wheels/
ENV HF_HOME=/weights PYTHONUNBUFFERED=1
WORKDIR /films
ENTRYPOINT ["opensama"]
CMD ["--help"]

FROM base AS cpu
ARG TORCH_INDEX=
RUN pip install --no-cache-dir --constraint /wheels/constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
    "$(ls /wheels/*.whl)[wan,serve,evaluate,credentials,gguf]"
USER opensama

FROM base AS cuda
RUN pip install --no-cache-dir --constraint /wheels/constraints.txt "$(ls /wheels/*.whl)[wan,serve,evaluate,credentials,gguf]"
USER opensama
