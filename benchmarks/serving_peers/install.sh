#!/bin/sh
# A venv for each line of serving_peers.txt, in the folder that is given. They share torch and what
# else the project's own venv holds, behind what the peer itself installs.
set -eu
folder=$1
here=$(cd "$(dirname "$0")/.." && pwd)
python=$here/../.venv/bin/python
shared=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
grep -v '^#' "$here/serving_peers.txt" | while read -r pinned; do
    venv=$folder/$(printf %s "$pinned" | sed 's/[=[].*//')
    "$python" -m venv "$venv"
    echo "$shared" > "$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/zz-shared.pth"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "$pinned"
done
