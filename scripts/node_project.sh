# Sourced by the scripts that test with node: `skip SENTENCE` ends with 77, which ctest takes for skipped;
# `enter_node_project DIR` goes there and installs what its lock file says, if that is not there yet.

skip() {
  echo "Not run: $1"
  exit 77
}

enter_node_project() {
  cd "$1"
  local program version installed log
  for program in node npm; do
    command -v "$program" > /dev/null || skip "$program is missing (scripts/setup-debian.sh web installs it)."
  done
  version=$(node -p process.versions.node)
  ((${version%%.*} >= 20)) || skip "node $version is too old; $1 needs 20."

  # What npm last put there is as the lock says, or it is put there again.
  installed=node_modules/.fathom-lock.json
  cmp -s package-lock.json "$installed" && return
  log=$(mktemp)
  if ! npm ci --ignore-scripts --no-audit --no-fund --fetch-retries=1 --fetch-timeout=30000 > "$log" 2>&1; then
    cat "$log"
    if grep -qE 'ENOTFOUND|EAI_AGAIN|ETIMEDOUT|ECONNREFUSED|ECONNRESET|ENETUNREACH|EHOSTUNREACH|ERR_SOCKET_TIMEOUT|network' "$log"; then
      rm -f "$log"
      skip "the packages of $1/package-lock.json cannot be loaded."
    fi
    rm -f "$log"
    exit 1
  fi
  rm -f "$log"
  cp package-lock.json "$installed"
}
