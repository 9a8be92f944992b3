# kosmos_plugin with fairseq.
#
#     docker build --target cpu -t kosmos .
#     docker run --rm -v "$PWD:/work" kosmos kosmos-generate --path model.pt --prompt "<image>" --image cat.png
#
#     docker build --target cuda -t kosmos:cuda .
#     docker run --rm --gpus all --ipc host -v "$PWD:/work" kosmos:cuda fairseq-train DATA.yaml …
#
# torch's wheels bring CUDA's libraries, so a GPU needs no other base image, only the driver and NVIDIA's container
# toolkit on the host. --ipc host gives the processes that load data enough shared memory.

FROM python:3.12-slim-bookworm AS cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
COPY constraints.txt /opt/kosmos/
# First what changes rarely and is large: a change of the plugin does not install it again.
RUN pip install -c /opt/kosmos/constraints.txt torch torchvision torchaudio
COPY setup.py pyproject.toml README.md LICENSE MANIFEST.in /opt/kosmos/
COPY fairseq_hook /opt/kosmos/fairseq_hook
COPY fairseq_cli_ext /opt/kosmos/fairseq_cli_ext
COPY kosmos_plugin /opt/kosmos/kosmos_plugin
ARG EXTRAS=fairseq,huggingface,evaluation,curation,serve,page,lora,remote,quickstart
RUN pip install -c /opt/kosmos/constraints.txt "/opt/kosmos[$EXTRAS]" \
  && useradd --uid 1000 --create-home kosmos
USER 1000
WORKDIR /work
CMD ["kosmos-generate", "--help"]

# With a compiler, which --compile needs, and the settings of NVIDIA's container toolkit.
FROM cpu AS cuda
USER 0
# hadolint ignore=DL3008
RUN apt-get update \
  && apt-get install -y --no-install-recommends gcc g++ libc6-dev \
  && rm -rf /var/lib/apt/lists/*
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000
