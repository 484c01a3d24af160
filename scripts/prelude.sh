# shellcheck shell=bash
# Sourced by scripts/build, scripts/test and scripts/demo: strict mode, the root of the project, and its dependencies.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
export PATH="$ROOT/node_modules/.bin:$PATH"

say() { printf '== %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Installs the locked npm packages unless they are there already, and makes sure that Bun runs.
ensure_dependencies() {
  command -v node >/dev/null || die "Node 20 or later and npm are needed (apt-get install nodejs npm)"
  if [[ ! -e node_modules/.package-lock.json || package-lock.json -nt node_modules/.package-lock.json ]]; then
    say "installing the locked npm packages"
    npm ci --no-audit --no-fund --loglevel=error >&2
    touch node_modules/.package-lock.json
  fi
  ensure_bun
}

# npm's package `bun` puts its binary in place by an install script, which npm may be set not to run.
ensure_bun() {
  [[ $(node_modules/.bin/bun --version 2>/dev/null) == "$(bun_pinned)" ]] && return
  local arch
  case $(uname -m) in
    x86_64) arch=x64 ;;
    aarch64) arch=aarch64 ;;
    *) die "Bun has no build for $(uname -m)" ;;
  esac
  ln -f "node_modules/@oven/bun-linux-$arch/bin/bun" node_modules/bun/bin/bun.exe
  [[ $(node_modules/.bin/bun --version) == "$(bun_pinned)" ]] || die "Bun $(bun_pinned) does not run on this machine"
}

bun_pinned() { node -p 'require("./package.json").engines.bun'; }
