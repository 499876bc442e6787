#!/usr/bin/env bash
# Trains the bundled model from nothing: corpus, tokenizer, shards, pretraining at 512 tokens, extension to 2,048 and 4,096.
# A run that was stopped goes on where it was. Everything lies in runs/fathom-tiny; the result is copied by --install.
# Usage: train-fathom-tiny.sh [--install]
set -euo pipefail
cd "$(dirname "$0")/.."
fathom=build/fathom
runs=runs/fathom-tiny
mkdir -p "$runs"

if [[ ! -f $runs/corpus.jsonl ]]; then
  "$fathom" data generate --megabytes 60 --seed 1 --out "$runs/corpus.jsonl"
fi
if [[ ! -d $runs/tokenizer ]]; then
  "$fathom" tokenizer train --vocab-size 2048 --out "$runs/tokenizer/tokenizer.json" "$runs/corpus.jsonl"
fi
for length in 512 2048 4096; do
  if [[ ! -d $runs/data-$length ]]; then
    "$fathom" data pack --tokenizer "$runs/tokenizer" --sequence-length "$length" --validation 0.005 --seed 1 \
      --out "$runs/data-$length" "$runs/corpus.jsonl"
  fi
done

for phase in pretrain extend-2048 extend-4096; do
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
