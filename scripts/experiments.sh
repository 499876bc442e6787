#!/usr/bin/env bash
# The comparisons of docs/experiments.md: trains the runs of one (or of all) side by side and draws them over each other.
# A run that was stopped goes on where it was. Everything lies in runs/experiments; pictures in runs/experiments/NAME.
# Usage: experiments.sh fp8|balance|mtp|all
set -euo pipefail
cd "$(dirname "$0")/.."
fathom=${FATHOM:-build/fathom}
runs=runs/experiments

usage() {
  echo 'Usage: experiments.sh fp8|balance|mtp|all' >&2
  exit 2
}

prepare() {
  mkdir -p "$runs"
  [[ -f $runs/corpus.jsonl ]] ||
    "$fathom" data generate --megabytes 20 --seed 3 --longest-retrieval 100 --out "$runs/corpus.jsonl"
  [[ -d $runs/tokenizer ]] ||
    "$fathom" tokenizer train --vocab-size 1024 --out "$runs/tokenizer" "$runs/corpus.jsonl"
  [[ -d $runs/data ]] ||
    "$fathom" data pack --tokenizer "$runs/tokenizer" --sequence-length 256 --validation 0.01 --seed 1 \
      --out "$runs/data" "$runs/corpus.jsonl"
}

# What people wrote, about a megabyte of it; its paragraphs become documents.
prepare_text() {
  local text=${FATHOM_TEXT:-../shared/data/tinyshakespeare.txt}
  mkdir -p "$runs"
  [[ -d $runs/text-data ]] && return
  [[ -f $text ]] || { echo "$text is missing: FATHOM_TEXT names a plain text of about a megabyte." >&2; exit 2; }
  [[ -d $runs/text-tokenizer ]] ||
    "$fathom" tokenizer train --vocab-size 512 --out "$runs/text-tokenizer" "$text"
  sed 's/^$/====/' "$text" > "$runs/text.txt"
  "$fathom" data pack --tokenizer "$runs/text-tokenizer" --sequence-length 256 --validation 0.05 --separator '====' \
    --seed 1 --out "$runs/text-data" "$runs/text.txt"
}

train() {
  if [[ -f $runs/$1/recipe.json ]]; then
    "$fathom" train pretrain --run "$runs/$1" --resume
  else
    "$fathom" train pretrain "configs/experiments/$1.json" --run "$runs/$1"
  fi
}

# compare NAME SMOOTH RUN LABEL [RUN LABEL ...]: the first run is the reference.
compare() {
  local name=$1 smooth=$2 paths=() labels=()
  shift 2
  while (($#)); do
    train "$1"
    paths+=("$runs/$1")
    labels+=(--label "$2")
    shift 2
  done
  "$fathom" train plot "${paths[@]}" --out "$runs/$name" "${labels[@]}" --smooth "$smooth"
}

fp8() {
  prepare_text
  compare fp8-against-bf16 100 fp8-reference BF16 fp8 FP8 fp8-noise 'BF16, other rounding'
  compare fp8-against-bf16-2 100 fp8-reference-2 'BF16, seed 2' fp8-2 'FP8, seed 2'
  "$fathom" train plot "$runs/fp8-reference,$runs/fp8-reference-2" "$runs/fp8,$runs/fp8-2" --smooth 100 \
    --out "$runs/fp8-against-bf16-mean" --label 'BF16, mean of two seeds' --label 'FP8, mean of two seeds'
}
balance() {
  prepare
  compare balance 100 base 'bias, no auxiliary loss' auxiliary-loss-1e-3 'auxiliary loss, 0.001' \
    auxiliary-loss-1e-2 'auxiliary loss, 0.01'
}
mtp() {
  prepare
  compare mtp 100 base 'with MTP' no-mtp 'without MTP'
}

(($# == 1)) || usage
case $1 in
  fp8 | balance | mtp) "$1" ;;
  all) balance && mtp && fp8 ;;
  *) usage ;;
esac
