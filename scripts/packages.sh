# For the scripts beside it: installs packages of Debian or Ubuntu. It wants `root`, a directory for the log, and `say`.

apt_install() { # package...
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then return 1; fi
  say "installing $*"
  local log=$root/apt.log
  if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"; } >"$log" 2>&1
  then tail -n 20 "$log" >&2; return 1; fi
}
