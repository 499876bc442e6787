#!/usr/bin/env bash
# Trains the bundled model from nothing: corpus, tokenizer, shards; a beginning, drills in looking back, pretraining at
# 512 tokens, extension to 2,048 and 4,096.
# A run that was stopped goes on where it was. Everything lies in runs/fathom-tiny; the result is copied by --install.
# Usage: train-fathom-tiny.sh [--install]
set -euo pipefail
cd "$(dirname "$0")/.."
fathom=${FATHOM:-build/fathom}
runs=runs/fathom-tiny
mkdir -p "$runs"

# Facts and questions lie as far apart as the sequences of a phase are long.
corpus() {
  local name=$1
  shift
  [[ -f $runs/$name ]] || "$fathom" data generate --out "$runs/$name" "$@"
}
pack() {
  [[ -d $runs/data-$1 ]] || "$fathom" data pack --tokenizer "$runs/tokenizer" --sequence-length "$1" \
    --validation "$3" --seed 1 --out "$runs/data-$1" "$runs/$2"
}
corpus corpus-512.jsonl --megabytes 80 --seed 1 --longest-retrieval 250
corpus corpus-long.jsonl --megabytes 40 --seed 2 --longest-retrieval 1050
corpus corpus-drill.jsonl --megabytes 12 --seed 3 --kinds arithmetic,list,drill
[[ -d $runs/tokenizer ]] ||
  "$fathom" tokenizer train --vocab-size 2048 --out "$runs/tokenizer/tokenizer.json" "$runs/corpus-512.jsonl"
pack 128 corpus-drill.jsonl 0.02
pack 512 corpus-512.jsonl 0.004
pack 2048 corpus-long.jsonl 0.01
pack 4096 corpus-long.jsonl 0.01

for phase in begin drill pretrain extend-2048 extend-4096; do
  if [[ -f $runs/$phase/recipe.json ]]; then
    "$fathom" train pretrain --run "$runs/$phase" --resume
  else
    "$fathom" train pretrain "configs/fathom-tiny/$phase.json" --run "$runs/$phase"
  fi
  "$fathom" train plot "$runs/$phase"
done

if [[ ${1:-} == --install ]]; then
  last=$(ls -d "$runs"/extend-4096/checkpoints/step-* | tail -1)
  rm -rf models/fathom-tiny
  mkdir -p models/fathom-tiny
  cp "$last"/*.json "$last"/model-*.safetensors models/fathom-tiny/
  rm -f models/fathom-tiny/training_state.json
  echo "models/fathom-tiny is now the model of $last."
fi
