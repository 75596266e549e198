import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), *(str(ROOT / "tests" / n) for n in ("", "torture", "checkpoints"))]
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["EG3D_OPS"] = "reference"
import shutil

import forked
import kills
import toys

W = Path("/tmp/torture1")
shutil.rmtree(W, ignore_errors=True)
W.mkdir()
o = forked.in_child(lambda: toys.make_toys(W))
print(o.code, o.err[-2000:], o.seconds)
forked.import_all([c.module for c in toys.COMMANDS.values()])
for n, c in toys.COMMANDS.items():
    if len(sys.argv) > 1 and sys.argv[1] not in n:
        continue
    t = time.time()
    try:
        r = kills.reference_of(c, W / "case", W / "toys")
        print(n, round(r.seconds, 2), len(r.points), len(r.results), round(time.time() - t, 2), flush=True)
    except Exception as e:
        print(n, "ERR", e, flush=True)
