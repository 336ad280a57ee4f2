# Training: `docker build -f docker/training.Dockerfile -t fend-training .`
# As service.Dockerfile, with the extra `train` (torchvision, tensorboard) and `fend train`.
FROM scratch AS wheels

# ---- dependencies: rebuilt only when pyproject.toml or constraints.txt changes
FROM python:3.11-slim-bookworm AS dependencies
ARG TORCH="torch>=2.11"
ARG TORCH_INDEX=""
WORKDIR /build
RUN python -m venv --without-pip /opt/venv
COPY pyproject.toml constraints*.txt docker/requirements.py ./
RUN --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=cache,target=/root/.cache/pip \
    python requirements.py . "$TORCH" train \
 && PIP_EXTRA_INDEX_URL="$TORCH_INDEX" pip --python /opt/venv/bin/python install \
        --only-binary :all: --find-links /wheels -r requirements.txt -c constraints.txt

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
 && install -d -m 1777 /var/lib/fend/data /app/runs
COPY --from=dependencies /opt/venv /opt/venv
RUN --mount=type=bind,from=project,source=/dist,target=/dist \
    --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/venv/bin/python install --no-deps --no-index /dist/*.whl
WORKDIR /app
COPY models models

ARG REVISION=unknown
LABEL org.opencontainers.image.title="fend-training" \
      org.opencontainers.image.description="Trains and exports the models that fend serves" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="$REVISION"
# Data and runs are open to any uid: training writes its bundle as the user who owns models/.
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    FEND_DATA_DIR=/var/lib/fend/data
USER 10001:10001
ENTRYPOINT ["/usr/bin/tini", "--"]
CMD ["fend", "train", "--help"]
