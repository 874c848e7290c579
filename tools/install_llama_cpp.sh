#!/usr/bin/env bash
# Builds llama.cpp and lays its converter beside it, in an environment of its own: both come with the source of its
# Python bindings, so that they are of one version. Needs a C++ compiler; BUILD_JOBS=<n> compiles n files at once.
#   tools/install_llama_cpp.sh <folder of the environment> [<python>]
# The converter is then <folder>/bin/python <folder>/llama.cpp/convert_hf_to_gguf.py <model> --outfile <file>.gguf
set -euo pipefail
environment=$1 python=${2:-python3}
bindings=0.3.36 torch=2.13.0 transformers=5.23.0 sentencepiece=0.2.3

"$python" -m venv "$environment"
pip() { "$environment/bin/python" -m pip "$@"; }
pip install -q "torch==$torch+cpu" 2>/dev/null || pip install -q "torch==$torch"
# What the converter imports. The package of GGUF files that belongs to it lies in the same source.
pip install -q "transformers==$transformers" "sentencepiece==$sentencepiece" protobuf pyyaml requests tqdm
source=$(mktemp -d)
trap 'rm -rf "$source"' EXIT
pip download -q --no-deps --no-binary llama-cpp-python -d "$source" "llama-cpp-python==$bindings"
tar -xzf "$source"/llama_cpp_python-*.tar.gz -C "$source" --strip-components=1
CMAKE_BUILD_PARALLEL_LEVEL=${BUILD_JOBS:-2} CMAKE_ARGS="-DLLAVA_BUILD=OFF" pip install -q "$source"
rm -rf "$environment/llama.cpp"
mkdir "$environment/llama.cpp"
cp -r "$source"/vendor/llama.cpp/{convert_hf_to_gguf.py,conversion,gguf-py,LICENSE} "$environment/llama.cpp"
"$environment/bin/python" -c 'import llama_cpp; print("llama.cpp, bindings", llama_cpp.__version__)'
"$environment/bin/python" "$environment/llama.cpp/convert_hf_to_gguf.py" --help >"$source/help"
