# shellcheck shell=bash
# Sourced by demo.sh and test.sh: makes the virtual environment .venv once, and again when the requirements change.
# Needs nothing but a Python 3.10 - 3.12 with venv. Sets $python to the environment's interpreter.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${ATTENTION_LAB_VENV:-$root/.venv}

say() { printf '%s\n' "$*" >&2; }

give_up() {
    say "$*"
    exit 1
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3.12 python3.11 python3.10 python3 python; do
        # Being found is not enough: version managers leave names behind that start nothing.
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' \
            > /dev/null 2>&1; then
            command -v "$candidate"
            return 0
        fi
    done
    return 1
}

# Errors are shown; warnings are about this machine's pip and its index, and nothing a user has to read.
quietly() { "$python" -m pip install -qq "$@"; }

install_all() {
    local exact
    say "1 of 3: torch, the largest part (200 MB and more) …"
    # The version that was tested; where this machine's package index has none, the newest one does too.
    quietly -r "$root/requirements/torch.txt" || quietly torch || return 1
    # Nothing that follows may exchange this torch for another build.
    exact=$(mktemp) || return 1
    "$python" -c 'from importlib.metadata import version; print("torch==" + version("torch"))' > "$exact"
    say "2 of 3: the other packages …"
    quietly -c "$exact" -c "$root/requirements/constraints.txt" \
        -r "$root/requirements/lab.txt" -r "$root/requirements/learn.txt" -r "$root/requirements/test.txt" &&
        say "3 of 3: packages that are installed alone …" &&
        quietly --no-deps -r "$root/requirements/without-dependencies.txt"
    local result=$?
    rm -f "$exact"
    return $result
}

make_environment() {
    local base wanted
    base=$(find_python) || give_up "Python 3.10, 3.11 or 3.12 with the venv module is needed (on Debian: apt install python3-venv)."
    wanted=$({ "$base" --version; cat "$root"/requirements/*.txt; } | cksum)
    python=$venv/bin/python
    if [ -x "$python" ] && [ "$(cat "$venv/made-from" 2> /dev/null)" = "$wanted" ]; then
        return 0
    fi
    say "Making a virtual environment in $venv (once; some minutes) …"
    # An environment that was left half made, or is older than the requirements, is not worth repairing.
    rm -rf "$venv"
    "$base" -m venv "$venv" || give_up "The virtual environment could not be made with $base."
    install_all || give_up "Installing the packages failed; see the messages above. Run the command again to retry."
    printf '%s\n' "$wanted" > "$venv/made-from"
    say "The environment is ready."
}

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
make_environment
export GRADIO_ANALYTICS_ENABLED=False HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
cd "$root" || exit 1
