#!/usr/bin/env bash
# Talks with a model: the one given, else the bundled one, else a small one with random weights. Usage: chat.sh [DIR]
set -euo pipefail
cd "$(dirname "$0")/.."
fathom=build/fathom

if [[ $# -gt 0 ]]; then
  exec "$fathom" chat --model "$1"
fi
if [[ -d models/fathom-tiny ]]; then
  echo "models/fathom-tiny tells stories and finds facts that it was told. It adds in its thoughts, and knows nothing else"
  echo "to think about: build/fathom chat --model models/fathom-tiny --thinking"
  exec "$fathom" chat --model models/fathom-tiny
fi
if [[ ! -f models/random/config.json ]]; then
  "$fathom" synth --config tiny --format fp8 --out models/random
fi
echo "This checkout has no trained model yet. models/random has the architecture of DeepSeek-V3 and RANDOM weights:"
echo "its answers are noise. For real ones: make chat MODEL=/path/to/a/checkpoint"
# Noise rarely says that it is finished.
exec "$fathom" chat --model models/random --max-new-tokens 100 --temperature 1
