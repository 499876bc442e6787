#!/usr/bin/env bash
# Installs the Debian 12 packages that Fathom needs and that are missing. Usage: setup-debian.sh GROUP... (build, lint, web)
# Says nothing and needs no network when nothing is missing.
set -euo pipefail

if (($# == 0)); then
  echo 'Usage: setup-debian.sh GROUP... (build, lint, web)' >&2
  exit 2
fi
packages=()
for group in "$@"; do
  case "$group" in
    # Compiler and tools; JSON, command line, formatting, regular expressions, line editing; the HTTP server and its TLS
    # (libboost1.81-dev takes the place of libboost1.74-dev, Debian's default); tests and benchmarks; what
    # `fathom train plot` draws with.
    build) packages+=(g++ cmake ninja-build ccache pkg-config
                      nlohmann-json3-dev libcli11-dev libfmt-dev libpcre2-dev libedit-dev libxxhash-dev
                      libboost1.81-dev libssl-dev prometheus-cpp-dev
                      libgtest-dev libgmock-dev libbenchmark-dev gnuplot-nox) ;;
    # Formatting, static analysis, and the compiler that has libFuzzer.
    lint) packages+=(clang clang-format clang-tidy libclang-rt-14-dev) ;;
    # What tests the server and its page. Node is often there from elsewhere, with npm inside, and Debian's package npm
    # conflicts with it: what has a command is not asked for.
    web) for command in node:nodejs npm:npm chromium:chromium; do
           command -v "${command%:*}" > /dev/null || packages+=("${command#*:}")
         done ;;
    *) echo "setup-debian.sh: unknown group $group; the groups are build, lint and web" >&2; exit 2 ;;
  esac
done

missing=()
if command -v dpkg-query > /dev/null; then
  for package in "${packages[@]}"; do
    status=$(dpkg-query --show --showformat='${Status}' "$package" 2> /dev/null || true)
    [[ $status == "install ok installed" ]] || missing+=("$package")
  done
else
  echo "This is not Debian: install the equivalents of these packages yourself: ${packages[*]}" >&2
  exit 0
fi
[[ ${#missing[@]} -eq 0 ]] && exit 0

as_root=()
if [[ $(id -u) -ne 0 ]]; then
  if ! command -v sudo > /dev/null; then
    echo "These packages are missing, and installing them needs root: ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
echo "Fathom needs these Debian packages, which are not installed yet:"
printf '  %s\n' "${missing[@]}"
echo "Installing them with: ${as_root[*]} apt-get install"
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
