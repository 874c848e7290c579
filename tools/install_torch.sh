#!/usr/bin/env bash
# Installs torch: on Linux without an NVIDIA GPU the CPU wheel (never CUDA packages), otherwise what pip is configured for.
#   tools/install_torch.sh <python> <version> <index of CPU wheels>
set -euo pipefail
python=$1 version=$2 index=$3

has_nvidia_gpu() { command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q '^GPU'; }

if [ "$(uname -s)" != Linux ] || has_nvidia_gpu; then
    exec "$python" -m pip install -q -c constraints.txt "torch==$version"
fi

if "$python" -c "import torch, sys; sys.exit(torch.__version__ != '$version+cpu')" >/dev/null 2>&1; then
    exit 0
fi

# CPU wheels carry the local version +cpu: asking for it cannot give a CUDA build, whatever the indexes hold.
# --no-deps: its dependencies come with the project, from the index that pip is configured for.
echo "installing torch $version (CPU)"
if "$python" -m pip install -q --no-deps "torch==$version+cpu" 2>/dev/null; then
    exit 0
fi
if "$python" -m pip install -q --no-deps --index-url "$index" "torch==$version+cpu"; then
    exit 0
fi
{
    echo "found:    no CPU wheel of torch $version, neither where pip is configured to look nor at $index"
    echo "cure:     TORCH_INDEX=<an index with CPU wheels> make, or install torch into the environment by hand"
    echo "          (docs/install.md), then: make"
} >&2
exit 1
