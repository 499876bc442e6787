#!/usr/bin/env bash
# Trains the bundled model from nothing: corpus, tokenizer, shards; a beginning, drills in looking back, pretraining at
# 512 tokens, extension to 2,048 and 4,096, then facts to find again, and three times such as are easily mixed up.
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

# Facts to find again: facts NAME MEGABYTES SEED MOST_WORDS_BETWEEN OPTION...; and everything else: rest NAME MEGABYTES SEED
facts() {
  corpus "$1.jsonl" --megabytes "$2" --seed "$3" --longest-retrieval "$4" --kinds retrieval "${@:5}"
}
rest() {
  corpus "$1.jsonl" --megabytes "$2" --seed "$3" --kinds story,arithmetic,list,code,dialogue
}
facts recall-facts 4 5 1050
facts recall-places 3 6 1050 --task places
facts recall-words 2 7 1050 --task words
rest recall-rest 3.5 8
pack recall 1536 0.01 recall-{facts,places,words,rest}.jsonl
# Facts that are alike: alike PHASE FACTS NEAR PLACES WORDS REST SEED MOST_WORDS_BETWEEN, megabytes of each; the last is for
# places and words
alike() {
  local phase=$1 seed=$7 between=$8
  facts "$phase-facts" "$2" "$seed" 1050 --alike-facts
  facts "$phase-near" "$3" $((seed + 1)) 60 --alike-facts
  facts "$phase-places" "$4" $((seed + 2)) "$between" --task places --alike-facts
  facts "$phase-words" "$5" $((seed + 4)) "$between" --task words
  rest "$phase-rest" "$6" $((seed + 3))
  pack "$phase" 1536 0.01 "$phase"-{facts,near,places,words,rest}.jsonl
}
alike alike 3 3 3 0.7 2.5 5 200
alike again 3.5 3 1.5 1.5 2 15 200
alike more 2.5 1 3.5 0.5 1.5 25 400

phases=(begin drill pretrain extend-2048 extend-4096 recall alike again more)
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
