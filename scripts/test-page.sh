#!/usr/bin/env bash
# Tests the chat page: its types and units, that web/dist is what its sources give, and, in Chromium, what it must never do
# (with a mock server) and what it does with a real one. Usage: test-page.sh [BINARY]
# FATHOM_PAGE=all: every test in Chromium, some minutes more. Exits with 77, and says why, where something outside of this
# checkout is missing.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
fathom=${1:-$root/build/fathom}
source "$root/scripts/node_project.sh"
enter_node_project "$root/web"
npm run --silent check
npm run --silent test
npm run --silent verify-dist

chromium=${CHROMIUM:-/usr/bin/chromium}
[[ -x $chromium ]] || skip "$chromium is missing (scripts/setup-debian.sh web installs it)."
export CHROMIUM=$chromium
if [[ ${FATHOM_PAGE:-} == all ]]; then
  npm run --silent e2e
else
  node --test tests/e2e/safety.test.mjs
fi

log=$(mktemp)
"$fathom" serve --model "$root/models/fathom-tiny" --port 0 2> "$log" &
server=$!
trap 'kill "$server" 2> /dev/null || true; rm -f "$log"' EXIT
for _ in $(seq 200); do
  url=$(grep -oE 'https?://[0-9.]+:[0-9]+' "$log" | head -n 1 || true)
  [[ -n $url ]] && break
  kill -0 "$server" 2> /dev/null || { cat "$log"; exit 1; }
  sleep 0.1
done
FATHOM_URL=$url node --test tests/e2e/server.test.mjs
