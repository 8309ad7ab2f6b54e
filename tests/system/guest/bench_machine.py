#!/usr/bin/env python3
"""In place of doppel, for bench/compare: a console that answers as its guest does. The engine's
name tells what is wrong with it, from the second command on."""
import os
import sys
import time

if "--dry-run" in sys.argv:
    sys.exit(0)
WAY = sys.argv[sys.argv.index("--engine") + 1]
if WAY == "missing":
    sys.exit("doppel: this engine is broken")
print("[    0.000000] Linux\nRun /init as init process\n@ready processors 1", flush=True)
count = 0
for line in sys.stdin:
    if not line.startswith("run "):
        continue
    name = line.split()[1]
    count += 1
    print(f"[ 1.0] noise @begin {name}", flush=True)
    sys.stdin.readline()
    status, length = 0, 17
    if count > 1:
        if WAY == "ends":
            os._exit(3)
        if WAY == "hangs":
            time.sleep(1000)
        if WAY == "fails":
            status = 5
        if WAY == "differs":
            length = 18
    print(f"@done {name} status {status} wall 2000000 user 1000 system 500 length {length} "
          f"hash 00ff text what it wrote", flush=True)
