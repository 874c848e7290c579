#!/usr/bin/env bash
# Creates a virtual environment with Python 3.11 or later, also where the distribution ships venv without ensurepip.
#   tools/create_environment.sh <folder>            PYTHON=<interpreter> chooses one by hand
set -euo pipefail
folder=$1

if [ -x "$folder/bin/python" ] && "$folder/bin/python" -m pip --version >/dev/null 2>&1; then
    exit 0
fi

is_recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

chosen=""
for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.14 python}; do
    if command -v "$candidate" >/dev/null 2>&1 && is_recent "$candidate"; then
        chosen=$candidate
        break
    fi
done
if [ -z "$chosen" ]; then
    {
        echo "found:    ${PYTHON:-python3} is $("${PYTHON:-python3}" --version 2>&1 || echo absent)"
        echo "expected: Python 3.11 or later"
        echo "cure:     install it, then: PYTHON=/path/to/python3.11 make"
    } >&2
    exit 1
fi

echo "creating $folder with $("$chosen" --version)"
if ! "$chosen" -m venv "$folder" >/dev/null 2>&1; then
    # Debian splits ensurepip off into python3-venv; the interpreter's own pip can do its work.
    rm -rf "$folder"
    "$chosen" -m venv --without-pip "$folder"
    if ! "$chosen" -m pip --python "$folder/bin/python" install -q pip; then
        {
            echo "found:    $chosen can neither make an environment with pip nor put pip into one"
            echo "cure:     install pip for it (on Debian and Ubuntu: apt install python3-venv), then: make"
        } >&2
        rm -rf "$folder"
        exit 1
    fi
fi
