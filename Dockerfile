# longtail as a job: docker build -t longtail .
#
# FLAVOUR=gpu takes the FAISS that uses CUDA; run it with --gpus all. torch from PyPI carries the
# CUDA libraries; for a smaller CPU image add
#   --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS wheel
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /dist .

FROM python:${PYTHON}-slim AS install
ARG FLAVOUR=cpu
ARG TORCH_INDEX=https://pypi.org/simple
COPY constraints.txt /
COPY --from=wheel /dist /dist
RUN python -m venv /opt/longtail
# torch by itself, so that its index is asked for nothing else.
RUN /opt/longtail/bin/pip install --no-cache-dir --no-deps --index-url "${TORCH_INDEX}" \
        "$(grep '^torch==' /constraints.txt)"
RUN /opt/longtail/bin/pip install --no-cache-dir -c /constraints.txt \
        "$(echo /dist/longtail-*.whl)[${FLAVOUR},openvino,aws,demo]"

FROM python:${PYTHON}-slim
COPY --from=install /opt/longtail /opt/longtail
RUN useradd --uid 10001 --create-home longtail \
    && install --directory --owner longtail /workspace
ENV PATH=/opt/longtail/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    LONGTAIL_WORKSPACE=/workspace
USER longtail
WORKDIR /workspace
VOLUME /workspace
ENTRYPOINT ["longtail"]
CMD ["--help"]
