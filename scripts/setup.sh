#!/bin/sh
# Makes .venv and installs Sojourn into it, with what is needed to run it (run), to test it (test) or to
# measure it against its peers (bench). Debian packages are installed when this is root; otherwise it says
# exactly which are missing. Safe to run again: pip does nothing for what is there.
set -eu

kind=${1:-run}
python=${PYTHON:-python3}
venv=.venv

say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $1"; say "Try: $2"; exit 1; }

command -v "$python" >/dev/null 2>&1 || fail "there is no $python" "apt-get install python3"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$python" --version) is too old: Sojourn needs Python 3.11 or later" "make $kind PYTHON=python3.11"

# Debian packages: install what is missing, or name it.
need_packages() {
    missing=
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    if ! command -v apt-get >/dev/null 2>&1; then
        fail "not a Debian machine, and these are needed:$missing" "install them with this system's own tool"
    fi
    [ "$(id -u)" = 0 ] || fail "these Debian packages are missing:$missing" "sudo apt-get install$missing"
    say "installing$missing"
    apt-get update -qq
    # shellcheck disable=SC2086 # a list of names
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
}

need_wasm_clang() {
    need_packages clang lld wasi-libc
    version=$(clang --version | sed -n 's/.*clang version \([0-9]*\).*/\1/p')
    need_packages "libclang-rt-$version-dev-wasm32"
}

if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    need_packages "python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
fi

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }

say "installing Sojourn into $venv ($kind)"
pip install --upgrade "pip>=25.1"
case $kind in
run) pip install --editable . ;;
test) pip install --editable . --group test --group lint ;;
bench) pip install --editable . --group test --group bench ;;
*) fail "no such set: $kind" "scripts/setup.sh run|test|bench" ;;
esac

if [ "$kind" = test ] && command -v apt-get >/dev/null 2>&1; then
    need_wasm_clang
    need_packages mmdebstrap qemu-user-static # a machine of another CPU, decision 18
fi
if [ "$kind" = bench ] && command -v apt-get >/dev/null 2>&1; then
    need_packages bubblewrap binaryen
    need_wasm_clang
fi
touch "$venv/.$kind"
