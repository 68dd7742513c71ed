#!/usr/bin/env bash
# All tests, with everything they need: a browser, a real Kafka and a real HDFS, which are started and stopped again.
# Arguments go to cargo: scripts/test.sh --test it crash::
# Services that run already are used as they are: eval "$(scripts/services.sh env)" before calling this.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${TIDEMILL_TEST_CHROMIUM:-}" ] || [ -z "${TIDEMILL_TEST_PLAYWRIGHT:-}" ]; then
  scripts/browser.sh install
  eval "$(scripts/browser.sh env)"
fi
if [ -z "${TIDEMILL_TEST_KAFKA:-}" ] || [ -z "${TIDEMILL_TEST_HDFS:-}" ]; then
  trap 'scripts/services.sh stop' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  scripts/services.sh start
  eval "$(scripts/services.sh env)"
fi
# Every test runs, so that one failure does not hide another.
cargo test --locked --no-fail-fast "$@"
