# The service: `docker build -f docker/service.Dockerfile -t fend .`
#
# TORCH chooses torch's build. The default is CUDA's, the largest by far; for a CPU see
# docs/deploying.md. A build context named "wheels" may hold wheels that pip prefers.
FROM scratch AS wheels

# ---- dependencies: rebuilt only when pyproject.toml or constraints.txt changes
FROM python:3.11-slim-bookworm AS dependencies
ARG TORCH="torch>=2.11"
ARG TORCH_INDEX=""
WORKDIR /build
RUN python -m venv --without-pip /opt/venv
COPY pyproject.toml constraints*.txt docker/requirements.py ./
# Wheels only, because no image here has a compiler, which torch's headers would be for; its tests
# nobody runs. An empty PIP_EXTRA_INDEX_URL is none.
RUN --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=cache,target=/root/.cache/pip \
    python requirements.py . "$TORCH" serve \
 && PIP_EXTRA_INDEX_URL="$TORCH_INDEX" pip --python /opt/venv/bin/python install \
        --only-binary :all: --find-links /wheels -r requirements.txt -c constraints.txt \
 && rm -rf /opt/venv/lib/python3.11/site-packages/torch/include \
           /opt/venv/lib/python3.11/site-packages/torch/test

# ---- the project as a wheel
FROM python:3.11-slim-bookworm AS project
WORKDIR /build
COPY pyproject.toml setup.py README.md LICENSE ./
COPY models/mnist models/mnist
COPY fend fend
COPY training training
COPY service service
RUN --mount=type=cache,target=/root/.cache/pip \
    pip wheel --no-deps --wheel-dir /dist .

# ---- the image that runs
FROM python:3.11-slim-bookworm
# Debian's tini gets security updates with the base image: no version to pin.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends tini \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin fend \
 && install -d -o fend -g fend -m 750 /var/lib/fend/state /var/lib/fend/data
COPY --from=dependencies /opt/venv /opt/venv
RUN --mount=type=bind,from=project,source=/dist,target=/dist \
    --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/venv/bin/python install --no-deps --no-index /dist/*.whl
WORKDIR /app
COPY docker/healthcheck.py /opt/fend/healthcheck.py
COPY models models

ARG REVISION=unknown
LABEL org.opencontainers.image.title="fend" \
      org.opencontainers.image.description="Robust image classification: denoises, classifies, attacks itself and reports how robust it is" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="$REVISION"
# The root file system may be read-only: only /tmp and the two folders of /var/lib/fend are written.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    FEND_MODELS_DIR=/app/models \
    FEND_DATA_DIR=/var/lib/fend/data \
    FEND_STATE_DIR=/var/lib/fend/state
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --start-period=60s --start-interval=1s --interval=5s --timeout=5s --retries=3 \
    CMD ["python", "/opt/fend/healthcheck.py"]
ENTRYPOINT ["/usr/bin/tini", "--"]
CMD ["fend", "serve", "--host", "0.0.0.0"]
