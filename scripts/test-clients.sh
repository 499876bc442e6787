#!/usr/bin/env bash
# Tests `fathom serve` with the clients that people use: tests/clients. Usage: test-clients.sh [BINARY]
# Exits with 77, and says why, where something outside of this checkout is missing.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
export FATHOM_BINARY=${1:-${FATHOM_BINARY:-$root/build/fathom}}
cd "$root/tests/clients"

skip() {
  echo "Not run: $1"
  exit 77
}
for program in node npm; do
  command -v "$program" > /dev/null || skip "$program is missing (scripts/setup-debian.sh web installs it)."
done
version=$(node -p process.versions.node)
((${version%%.*} >= 20)) || skip "node $version is too old for the clients; they need 20."

# What npm last put there is as the lock says, or it is put there again.
installed=node_modules/.fathom-lock.json
if ! cmp -s package-lock.json "$installed"; then
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  if ! npm ci --ignore-scripts --no-audit --no-fund --fetch-retries=1 --fetch-timeout=30000 > "$log" 2>&1; then
    cat "$log"
    if grep -qE 'ENOTFOUND|EAI_AGAIN|ETIMEDOUT|ECONNREFUSED|ECONNRESET|ENETUNREACH|EHOSTUNREACH|ERR_SOCKET_TIMEOUT|network' "$log"; then
      skip "the packages of tests/clients/package-lock.json cannot be loaded."
    fi
    exit 1
  fi
  cp package-lock.json "$installed"
fi
exec node --test --test-concurrency=2 --test-reporter=spec ./*.test.mjs
