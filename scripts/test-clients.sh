#!/usr/bin/env bash
# Tests `fathom serve` with the clients that people use: tests/clients. Usage: test-clients.sh [BINARY]
# Exits with 77, and says why, where something outside of this checkout is missing.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
export FATHOM_BINARY=${1:-${FATHOM_BINARY:-$root/build/fathom}}
source "$root/scripts/node_project.sh"
enter_node_project "$root/tests/clients"
exec node --test --test-concurrency=2 --test-reporter=spec ./*.test.mjs
