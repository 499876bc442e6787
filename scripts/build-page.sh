#!/usr/bin/env bash
# Builds the chat page, web/dist, from its sources: what `npm run build` does, with the packages of the lock file.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
source "$root/scripts/node_project.sh"
enter_node_project "$root/web"
npm run --silent build
