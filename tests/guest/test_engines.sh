#!/bin/bash
# usage: test_engines.sh DOPPEL ENGINE...
# The guest tests must run on every engine that this build has; meson.build names them.
set -uo pipefail
doppel=$1
shift
has=$("$doppel" help run | tr '\n' ' ' | sed -n 's/.*works *here: auto, \([a-z, ]*\) --cpus.*/\1/p' | tr -d ',')
has=$(echo $has)
if [ -n "$has" ] && [ "$has" = "$*" ]; then
    echo "ok 1 - the guest tests run on: $has"
else
    echo "not ok 1 - doppel has the engines '$has', the guest tests run on '$*'"
fi
echo "1..1"
