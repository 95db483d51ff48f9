#!/usr/bin/env bash
# All tests, on a machine with nothing but Python 3.10 - 3.12: makes the environment, then runs ruff and pytest.
# Further words go to pytest: ./test.sh tests/lab -k infotext
# WEBUI_DIR=/path/to/stable-diffusion-webui runs the contract tests against the real webui too.
set -uo pipefail

. "$(dirname "${BASH_SOURCE[0]}")/requirements/environment.sh"

# The browser test is skipped, with a reason, where there is no Chromium and none can be installed.
if ! command -v chromium > /dev/null && ! command -v google-chrome > /dev/null &&
    [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
    say "Installing Chromium for the browser test …"
    if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } \
        > /dev/null 2>&1; then
        say "Chromium could not be installed; the browser test will be skipped."
    fi
fi

# One worker a core. A real webui is one server, which files would wait for in turn.
workers=()
[ -n "${WEBUI_DIR:-}" ] || workers=(-n logical --maxprocesses 4 --dist loadfile)

failed=0
"$python" -m ruff check . || failed=1
"$python" -m ruff format --check . || failed=1
"$python" -m pytest -rs ${workers[@]+"${workers[@]}"} "$@" || failed=1
exit $failed
