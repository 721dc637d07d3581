#!/usr/bin/env bash
# Chromium, which the tests in tests/browser drive: Debian's, where it is missing and this user may.
set -euo pipefail

there() { command -v chromium || command -v chromium-browser; } > /dev/null

if ! there && [[ "$(id -u)" == 0 ]] && command -v apt-get > /dev/null; then
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends chromium
fi
if ! there; then
    echo "There is no Chromium here, and only root of a Debian system gets it by this: install the" \
        "package chromium, so that the tests in a browser can run." >&2
    exit 1
fi
