#!/usr/bin/env bash
# VGGRPO Studio in one command, on a fresh machine or the hundredth time:
#   bash run.sh demo [app.py's options]   set up what is missing, then open the page
#   bash run.sh test [pytest's options]   set up what is missing, then run the tests
#   bash run.sh setup-demo | setup-test   only set up
# PYTHON=…       the interpreter to build on (3.11 to 3.13; found by itself otherwise)
# VGGRPO_VENV=…  where the virtual environment lives (default .venv)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
venv=${VGGRPO_VENV:-.venv}

say() { printf '%s\n' "$*" >&2; }

# Prints the first interpreter that the requirements support.
find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.12 python3.11 python3.13}; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  say "No Python 3.11, 3.12 or 3.13 found: install one, or name it with PYTHON=/path/to/python3.12."
  exit 2
}

# Installs Debian packages where we may; otherwise says the one line to run and goes on.
install_system_packages() {
  local become=""
  if ! command -v apt-get >/dev/null; then
    say "Missing on this system: $*. Please install them with your package manager."
    return
  fi
  if [ "$(id -u)" -ne 0 ]; then
    if ! { command -v sudo && sudo -n true; } >/dev/null 2>&1; then
      say "Missing on this system. Please run:  sudo apt-get install --no-install-recommends $*"
      return
    fi
    become="sudo -n"
  fi
  say "Installing $* …"
  { $become apt-get update -qq && DEBIAN_FRONTEND=noninteractive $become apt-get install -y -qq --no-install-recommends "$@"; } \
    >/dev/null || say "apt-get could not install: $*. The studio goes on without."
}

has_library() { [ "$(uname -s)" != Linux ] || { PATH="$PATH:/sbin:/usr/sbin" ldconfig -p | grep -q "$1"; }; }

has_browser() { command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null

# Brings the environment up to the requirements file $1; nothing happens when it already is.
set_up() {
  local requirements=$1 stamp wanted python
  # open3d, which renders the procedural world, loads these; the rest of the studio runs without.
  if ! { has_library libusb-1.0.so.0 && has_library libGL.so.1 && has_library libEGL.so.1; }; then
    # shellcheck disable=SC2046  # one word a package
    install_system_packages $(cat packages.txt)
  fi
  stamp=$venv/.installed-$requirements
  wanted=$(cat requirements*.txt | cksum)
  if [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    return
  fi
  if [ ! -x "$venv/bin/python" ]; then
    python=$(find_python)
    "$python" -c 'import ensurepip' 2>/dev/null || install_system_packages python3-venv
    say "Making $venv with $("$python" --version) …"
    "$python" -m venv "$venv"
  fi
  say "Installing $requirements into $venv (a few minutes the first time) …"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements"
  printf '%s\n' "$wanted" >"$stamp"
}

set_up_tests() {
  has_browser || install_system_packages chromium
  set_up requirements-dev.txt
}

command=${1:-demo}
shift || true
case $command in
  demo)
    set_up requirements.txt
    exec "$venv/bin/python" app.py "$@"
    ;;
  test)
    set_up_tests
    # One process a core and one thread in each: torch is far slower when threads outnumber free cores.
    export OMP_NUM_THREADS=1
    exec "$venv/bin/python" -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile "$@"
    ;;
  setup-demo) set_up requirements.txt ;;
  setup-test) set_up_tests ;;
  *)
    say "Unknown command '$command'. Usage: bash run.sh demo | test | setup-demo | setup-test"
    exit 2
    ;;
esac
