#!/usr/bin/env bash
# A real browser for the tests of the live page: Chromium from the system's packages, and playwright-core, which drives
# it with Node.js and brings no browser of its own.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/packages.sh"

usage() {
  cat <<'TEXT'
usage: scripts/browser.sh COMMAND
  install   fetch what is missing: Chromium and Node.js with apt-get (as root), playwright-core from the npm registry
  env       print the exports that the tests need: eval "$(scripts/browser.sh env)"
environment, with defaults:
  TIDEMILL_BROWSER      ~/.cache/tidemill-browser
  CHROMIUM              chromium, chromium-browser or google-chrome of the PATH
  PLAYWRIGHT_VERSION 1.65.1 (its checksum is below)
TEXT
}

root=${TIDEMILL_BROWSER:-$HOME/.cache/tidemill-browser}
version=${PLAYWRIGHT_VERSION:-1.65.1}
checksum=${PLAYWRIGHT_SHA512:-hqPpz7blSMPxWVdoeE1yiBSzXsKiVOd2k+kjCvmUywD2GPO2Dd9HfcWnq9NN0GHbNZDFgZ9JfBFr+X5/BLo0qw==}
playwright=$root/playwright-core-$version

say() { echo "browser: $*" >&2; }
die() { say "$*"; exit 1; }

find_chromium() {
  local name
  for name in ${CHROMIUM:-chromium chromium-browser google-chrome}; do
    if command -v "$name"; then return; fi
  done
  return 1
}

node_major() { node --version 2>/dev/null | sed -n 's/^v\([0-9]*\).*/\1/p'; }

need_node() {
  if [ "$(node_major || true)" -ge 20 ] 2>/dev/null; then return; fi
  apt_install nodejs || die "Node.js 20 or later is missing. Install it: https://nodejs.org/en/download"
  [ "$(node_major)" -ge 20 ] || die "the Node.js that was installed is older than 20: https://nodejs.org/en/download"
}

fetch_playwright() {
  if [ -f "$playwright/.complete" ]; then return; fi
  say "fetching playwright-core $version from the npm registry"
  rm -rf "$playwright"; mkdir -p "$playwright"
  # A registry hiccup should not fail a test run, so it gets three tries.
  local try
  for try in 1 2 3; do
    if node --input-type=module - "$version" "$checksum" "$playwright/package.tgz" <<'SCRIPT'
import { createHash } from "node:crypto";
import { writeFileSync } from "node:fs";
const [version, checksum, file] = process.argv.slice(2);
const answer = await fetch(`https://registry.npmjs.org/playwright-core/-/playwright-core-${version}.tgz`);
if (!answer.ok) throw new Error(`the npm registry answers ${answer.status}`);
const bytes = Buffer.from(await answer.arrayBuffer());
if (createHash("sha512").update(bytes).digest("base64") !== checksum) throw new Error("the checksum is wrong");
writeFileSync(file, bytes);
SCRIPT
    then
      tar -xzf "$playwright/package.tgz" -C "$playwright" --strip-components=1
      touch "$playwright/.complete"
      return
    fi
    say "that failed (try $try of 3)"
  done
  die "could not fetch playwright-core $version"
}

install() {
  mkdir -p "$root"
  find_chromium >/dev/null || apt_install chromium || apt_install chromium-browser \
    || die "Chromium is missing. Install it: Debian has the package chromium. Or set CHROMIUM to a browser of its kind."
  need_node
  fetch_playwright
  say "$("$(find_chromium)" --version 2>/dev/null), playwright-core $version, Node.js $(node --version)"
}

case ${1:-} in
  install) install ;;
  env)
    echo "export TIDEMILL_TEST_CHROMIUM=$(find_chromium || die 'scripts/browser.sh install comes first')"
    echo "export TIDEMILL_TEST_PLAYWRIGHT=$playwright/index.mjs"
    ;;
  help | --help | -h) usage ;;
  *) usage >&2; exit 2 ;;
esac
