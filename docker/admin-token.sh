#!/bin/sh
# Make the admin token that docker-compose.yml asks for, once. Run it again at will.
# The folder is yours alone; the file in it is readable, because the container reads it as uid 10001.
set -eu
cd "$(dirname "$0")/.."

if [ ! -s secrets/admin_token ]; then
    mkdir -p secrets
    chmod 700 secrets
    od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > secrets/admin_token
    chmod 644 secrets/admin_token
    echo "made secrets/admin_token"
fi
if ! grep -qs '^FEND_ADMIN_TOKEN_PATH=' .env; then
    echo "FEND_ADMIN_TOKEN_PATH=./secrets/admin_token" >> .env
    echo "noted its place in .env, which docker compose reads"
fi
