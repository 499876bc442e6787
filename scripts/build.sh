#!/usr/bin/env bash
# Configures a preset if it is not yet, and builds a target. Usage: build.sh PRESET TARGET JOBS
set -euo pipefail
cd "$(dirname "$0")/.."
preset=$1 target=$2 jobs=$3
directory=build
[[ $preset == release ]] || directory=build-$preset

# A directory that was configured elsewhere (a copied tree) or not to the end is configured from the start.
if [[ ! -f $directory/build.ninja ]] || ! grep -qx "CMAKE_HOME_DIRECTORY:INTERNAL=$PWD" "$directory/CMakeCache.txt"; then
  rm -rf "$directory/CMakeCache.txt" "$directory/CMakeFiles"
  cmake --preset "$preset" > "/tmp/fathom-configure.$$" 2>&1 || { cat "/tmp/fathom-configure.$$"; rm -f "/tmp/fathom-configure.$$"; exit 1; }
  rm -f "/tmp/fathom-configure.$$"
fi
cmake --build "$directory" --target "$target" -j "$jobs"
