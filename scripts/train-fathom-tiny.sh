#!/usr/bin/env bash
# Trains the bundled model from nothing: corpus, tokenizer, shards; a beginning, drills in looking back, pretraining at
# 512 tokens, extension to 2,048 and 4,096, then facts to find again, the second and third time such as are easily mixed up.
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
# pack NAME LENGTH VALIDATION FILE...
pack() {
  local name=$1 length=$2 validation=$3
  shift 3
  [[ -d $runs/data-$name ]] || "$fathom" data pack --tokenizer "$runs/tokenizer" --sequence-length "$length" \
    --validation "$validation" --seed 1 --out "$runs/data-$name" "${@/#/$runs/}"
}
corpus corpus-512.jsonl --megabytes 80 --seed 1 --longest-retrieval 250
corpus corpus-long.jsonl --megabytes 40 --seed 2 --longest-retrieval 1050
corpus corpus-sums.jsonl --megabytes 14 --seed 4 --kinds arithmetic
corpus corpus-drill.jsonl --megabytes 12 --seed 3 --kinds arithmetic,list,drill
[[ -d $runs/tokenizer ]] ||
  "$fathom" tokenizer train --vocab-size 2048 --out "$runs/tokenizer/tokenizer.json" "$runs/corpus-512.jsonl"
pack 128 128 0.02 corpus-drill.jsonl
pack 512 512 0.004 corpus-512.jsonl
pack 2048 2048 0.01 corpus-long.jsonl corpus-sums.jsonl
pack 4096 4096 0.01 corpus-long.jsonl corpus-sums.jsonl

rest=(--kinds story,arithmetic,list,code,dialogue)
facts=(--kinds retrieval)
corpus recall-facts.jsonl --megabytes 4 --seed 5 --longest-retrieval 1050 "${facts[@]}"
corpus recall-places.jsonl --megabytes 3 --seed 6 --longest-retrieval 1050 "${facts[@]}" --task places
corpus recall-words.jsonl --megabytes 2 --seed 7 --longest-retrieval 1050 "${facts[@]}" --task words
corpus recall-rest.jsonl --megabytes 3.5 --seed 8 "${rest[@]}"
pack recall 1536 0.01 recall-{facts,places,words,rest}.jsonl
corpus alike-facts.jsonl --megabytes 3 --seed 5 --longest-retrieval 1050 "${facts[@]}" --alike-facts
corpus alike-near.jsonl --megabytes 3 --seed 6 --longest-retrieval 60 "${facts[@]}" --alike-facts
corpus alike-places.jsonl --megabytes 3 --seed 7 --longest-retrieval 200 "${facts[@]}" --task places --alike-facts
corpus alike-words.jsonl --megabytes 0.7 --seed 9 --longest-retrieval 200 "${facts[@]}" --task words
corpus alike-rest.jsonl --megabytes 2.5 --seed 8 "${rest[@]}"
pack alike 1536 0.01 alike-{facts,near,places,words,rest}.jsonl
corpus again-facts.jsonl --megabytes 3.5 --seed 15 --longest-retrieval 1050 "${facts[@]}" --alike-facts
corpus again-near.jsonl --megabytes 3 --seed 16 --longest-retrieval 60 "${facts[@]}" --alike-facts
corpus again-places.jsonl --megabytes 1.5 --seed 17 --longest-retrieval 200 "${facts[@]}" --task places --alike-facts
corpus again-words.jsonl --megabytes 1.5 --seed 19 --longest-retrieval 200 "${facts[@]}" --task words
corpus again-rest.jsonl --megabytes 2 --seed 18 "${rest[@]}"
pack again 1536 0.01 again-{facts,near,places,words,rest}.jsonl

phases=(begin drill pretrain extend-2048 extend-4096 recall alike again)
for phase in "${phases[@]}"; do
  if [[ -f $runs/$phase/recipe.json ]]; then
    "$fathom" train pretrain --run "$runs/$phase" --resume
  else
    "$fathom" train pretrain "configs/fathom-tiny/$phase.json" --run "$runs/$phase"
  fi
  "$fathom" train plot "$runs/$phase"
done

if [[ ${1:-} == --install ]]; then
  last=$(ls -d "$runs/${phases[-1]}"/checkpoints/step-* | tail -1)
  rm -rf models/fathom-tiny
  mkdir -p models/fathom-tiny
  cp "$last"/*.json "$last"/model-*.safetensors models/fathom-tiny/
  rm -f models/fathom-tiny/training_state.json
  echo "models/fathom-tiny is now the model of $last."
fi
