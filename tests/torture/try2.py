import os
import random
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), *(str(ROOT / "tests" / n) for n in ("", "torture", "checkpoints"))]
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["EG3D_OPS"] = "reference"
import shutil

import faults
import forked
import kills
import toys

W = Path(sys.argv[1])
shutil.rmtree(W, ignore_errors=True)
W.mkdir()
forked.in_child(lambda: toys.make_toys(W))
refs = {}
mode, pat, n0, n1 = sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
for n, c in toys.COMMANDS.items():
    if pat in n:
        refs[n] = kills.reference_of(c, W / "case", W / "toys")
print("refs", flush=True)
for i in range(n0, n1):
    for n in refs:
        rng = random.Random(f"{mode}/{n}/{i}")
        t = time.time()
        if mode == "kill":
            print(
                n,
                i,
                kills.kill_once(n, refs[n], rng, W / "case", W / "toys") or "ok",
                round(time.time() - t, 1),
                flush=True,
            )
        else:
            w, f = faults.inject(n, refs[n], rng, W / "case", W / "toys")
            print(i, w, "   ", f or "ok", round(time.time() - t, 1), flush=True)
