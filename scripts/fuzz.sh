#!/usr/bin/env bash
# Runs every fuzz target of build-fuzz for some seconds. Usage: fuzz.sh SECONDS
# Inputs found are kept in build-fuzz/corpus/TARGET, so that the next run begins where this one ended.
set -euo pipefail
cd "$(dirname "$0")/../build-fuzz"
seconds=$1
for source in ../fuzz/*_fuzz.cc; do
  target=$(basename "$source" .cc)
  mkdir -p "corpus/$target"
  echo "$target: $seconds s"
  seeds=()
  [[ -d ../fuzz/corpus/$target ]] && seeds=("../fuzz/corpus/$target")
  "./$target" -max_total_time="$seconds" -rss_limit_mb=4096 -timeout=20 -print_final_stats=1 \
    -artifact_prefix="$target-" "corpus/$target" "${seeds[@]}" 2>&1 | tail -n 8
done
