#!/bin/bash
# The demo boots the distribution's kernel to its marker and powers off. TAP.
# usage: test_demo.sh DOPPEL SOURCE-DIRECTORY
set -uo pipefail
build=$(cd "$(dirname "$1")" && pwd)
cd "$2" || exit 1

echo 1..1
if ! scripts/fetch-kernel >/dev/null 2>&1 || ! scripts/make-initramfs >/dev/null 2>&1; then
    echo "# no kernel package or no busybox: scripts/fetch-kernel and scripts/make-initramfs say why"
    echo "not ok 1 - demo"
    exit 1
fi
if output=$(BUILD=$build DOPPEL_DEMO_SECONDS=200 scripts/demo </dev/null 2>&1); then
    echo "ok 1 - demo"
else
    printf '%s\n' "$output" | tail -n 20 | sed 's/^/# /'
    echo "not ok 1 - demo"
fi
