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
# pack LENGTH VALIDATION FILE...
pack() {
  local length=$1 validation=$2
  shift 2
  [[ -d $runs/data-$length ]] || "$fathom" data pack --tokenizer "$runs/tokenizer" --sequence-length "$length" \
    --validation "$validation" --seed 1 --out "$runs/data-$length" "${@/#/$runs/}"
}
corpus corpus-512.jsonl --megabytes 80 --seed 1 --longest-retrieval 250
corpus corpus-long.jsonl --megabytes 40 --seed 2 --longest-retrieval 1050
corpus corpus-sums.jsonl --megabytes 14 --seed 4 --kinds arithmetic
corpus corpus-drill.jsonl --megabytes 12 --seed 3 --kinds arithmetic,list,drill
[[ -d $runs/tokenizer ]] ||
  "$fathom" tokenizer train --vocab-size 2048 --out "$runs/tokenizer/tokenizer.json" "$runs/corpus-512.jsonl"
pack 128 0.02 corpus-drill.jsonl
pack 512 0.004 corpus-512.jsonl
pack 2048 0.01 corpus-long.jsonl corpus-sums.jsonl
pack 4096 0.01 corpus-long.jsonl corpus-sums.jsonl

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
