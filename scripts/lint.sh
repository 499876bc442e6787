#!/usr/bin/env bash
# Checks the format of all sources and runs clang-tidy over them. Usage: lint.sh [--format-only | --fix]
set -euo pipefail
cd "$(dirname "$0")/.."

mapfile -t sources < <(git ls-files '*.cc' '*.h')
if [[ ${1:-} == --fix ]]; then
  clang-format -i "${sources[@]}"
  exit 0
fi
clang-format --dry-run --Werror "${sources[@]}"
echo "clang-format: ${#sources[@]} files are as they should be"
[[ ${1:-} == --format-only ]] && exit 0

# clang-tidy reads how each file is compiled from the release build.
[[ -f build/compile_commands.json ]] || cmake --preset release > /dev/null
mapfile -t units < <(git ls-files 'src/*.cc')
printf '%s\n' "${units[@]}" | xargs -P "$(nproc)" -n 1 clang-tidy -p build --quiet 2> /dev/null
echo "clang-tidy: ${#units[@]} files are clean"
