#!/usr/bin/env bash
# Build the deployment, start it, check it, take it down: `make compose-test`.
#
# It has names, ports and a token of its own, so a deployment that runs here is left alone.
# FEND_TORCH and FEND_TORCH_INDEX choose torch, as for any build; SERVICES what is started.
set -euo pipefail
cd "$(dirname "$0")/../.."

if ! { docker info && docker compose version; } >/dev/null 2>&1; then
    echo "compose-test: skipped, no Docker Engine with the compose plugin answers here"
    exit 0
fi

work=$(mktemp -d)
od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$work/admin_token"
chmod 644 "$work/admin_token"
export FEND_ADMIN_TOKEN_PATH=$work/admin_token
export COMPOSE_PROJECT_NAME=fend-test FEND_IMAGE=fend-test
export FEND_PUBLISH_PORT=18100 FEND_PROMETHEUS_PORT=18190 FEND_GRAFANA_PORT=18130
services=(${SERVICES:-service prometheus grafana})

cleanup() {
    status=$?
    [ $status = 0 ] || docker compose logs --tail 50 || true
    docker compose down --volumes --timeout 10 >/dev/null 2>&1 || true
    rm -rf "$work"
    exit $status
}
trap cleanup EXIT

docker compose build service
docker compose up -d --wait "${services[@]}"
.venv/bin/pytest -q --noconftest -p no:cacheprovider tests/compose/live.py
