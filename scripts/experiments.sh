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
    "$fathom" tokenizer train --vocab-size 1024 --out "$runs/tokenizer/tokenizer.json" "$runs/corpus.jsonl"
  [[ -d $runs/data ]] ||
    "$fathom" data pack --tokenizer "$runs/tokenizer" --sequence-length 256 --validation 0.01 --seed 1 \
      --out "$runs/data" "$runs/corpus.jsonl"
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

fp8() { compare fp8-against-bf16 100 fp8-reference BF16 fp8 FP8 fp8-noise 'BF16, other rounding'; }
balance() {
  compare balance 100 base 'bias, no auxiliary loss' auxiliary-loss-1e-3 'auxiliary loss, 0.001' \
    auxiliary-loss-1e-2 'auxiliary loss, 0.01'
}
mtp() { compare mtp 100 base 'with MTP' no-mtp 'without MTP'; }

(($# == 1)) || usage
case $1 in
  fp8 | balance | mtp) prepare && "$1" ;;
  all) prepare && fp8 && balance && mtp ;;
  *) usage ;;
esac
