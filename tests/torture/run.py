"""Kills, faults, damaged and hostile files in numbers: python -m tests.torture.run (make torture).

Results are lines of `<out>/log.jsonl`; a second call does what is not there yet and prints the table of all of it.
Lines of other code are left out, so that a table is of one version.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
for _name in ("tests", "tests/torture", "tests/checkpoints"):
    if str(ROOT / _name) not in sys.path:
        sys.path.append(str(ROOT / _name))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: a child of a process with a pool of threads has none
os.environ.setdefault("EG3D_OPS", "reference")  # no compiler while something is killed

from plan import Item, Sizes, Torture, items_of  # noqa: E402
from toys import COMMANDS  # noqa: E402

from eg3d.code_hash import code_sha256  # noqa: E402
from eg3d.run_folder import code_version  # noqa: E402

PARTS = {"kills": "lost", "faults": "unclear", "fuzz": "unexpected", "hostile": "not refused in one line"}
PACKAGES = ("eg3d.run", "reward_model_training.train", "dataset_preprocessing.archive", "paper_result_analyses.stages")


def main(arguments: list[str] | None = None) -> int:
    """Do what is left, print the table; 0 when nothing was lost, unclear, unexpected or executed."""
    options = _parser().parse_args(arguments)
    commands = tuple(options.commands.split(",")) if options.commands else tuple(COMMANDS)
    sizes = Sizes(options.kills, options.faults, options.fuzz, options.hostile, commands)
    out = Path(options.out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    log, code = out / "log.jsonl", code_sha256(PACKAGES)[:16]
    items = items_of(sizes, options.seed, out / "work")
    done = _logged(log, code, options.seed)
    left = [item for item in items if item.key not in done]
    print(f"{len(items)} items, {len(items) - len(left)} of them done before; log: {log}", flush=True)
    if left:
        _do(left, sizes, options, log, code)
        done = _logged(log, code, options.seed)
    keys = {item.key for item in items}
    print(table([line for key, line in done.items() if key in keys]))
    return int(any(line["bad"] or line["executed"] for key, line in done.items() if key in keys))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.torture.run", description=__doc__)
    parser.add_argument("--kills", type=int, default=240, help="runs that are killed, some of them twice")
    parser.add_argument("--faults", type=int, default=520, help="faults of disks and files")
    parser.add_argument("--fuzz", type=int, default=2000, help="damaged files a reader")
    parser.add_argument("--hostile", type=int, default=None, help="hostile pickles (default: all)")
    parser.add_argument("--commands", default="", help="that are killed and see faults, with commas (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lanes", type=int, default=os.cpu_count() or 1, help="items at once")
    parser.add_argument("--out", default="runs/torture", help="folder of the log")
    return parser


def _do(items: list[Item], sizes: Sizes, options: argparse.Namespace, log: Path, code: str) -> None:
    """Do the items in lanes: forked processes that each take every n-th."""
    work = Path(options.out).resolve() / "work"
    shutil.rmtree(work, ignore_errors=True)
    needed = sorted({item.name for item in items if item.part in ("kills", "faults")})
    started = time.monotonic()
    torture = Torture(work, options.seed, sizes, needed)
    print(f"unbroken runs of {len(needed)} commands: {time.monotonic() - started:.0f} s", flush=True)
    lanes = []
    for lane in range(options.lanes):
        pid = os.fork()
        if pid == 0:
            _lane(torture, items[lane :: options.lanes], lane, log, {"code": code, "seed": options.seed})
        lanes.append(pid)
    for pid in lanes:
        os.waitpid(pid, 0)
    shutil.rmtree(work, ignore_errors=True)


def _lane(torture: Torture, items: list[Item], lane: int, log: Path, about: dict[str, Any]) -> None:
    """Never returns. Every result is in the log before the next item begins; a lane whose parent was killed ends."""
    status, parent = 1, os.getppid()
    try:
        for item in items:
            result = torture.do(item, lane)
            if os.getppid() != parent:
                break
            with open(log, "a", encoding="utf-8") as file:
                file.write(json.dumps({**about, **result.as_dict()}) + "\n")
            for line in result.bad:
                print(f"{item.key}: {line}", flush=True)
        status = 0
    except BaseException as error:
        print(f"lane {lane}: {error!r}", flush=True)
    finally:
        os._exit(status)


def _logged(log: Path, code: str, seed: int) -> dict[str, dict[str, Any]]:
    """Results by key; a line that a stop cut short does not count."""
    found = {}
    for text in log.read_text(encoding="utf-8").splitlines() if log.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if (line["code"], line["seed"]) == (code, seed):
            found[line["key"]] = line
    return found


def table(lines: list[dict[str, Any]]) -> str:
    """The figures as a Markdown table."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        name = "all files" if line["part"] == "hostile" else line["name"]
        groups[line["part"], name].append(line)
    rows = ["| part | of | count | bad | seconds |", "| --- | --- | ---: | --- | ---: |"]
    for part, word in PARTS.items():
        of_part = [line for line in lines if line["part"] == part]
        for name in sorted(name for p, name in groups if p == part):
            rows.append(_row(f"{part}", name, groups[part, name], word))
        if of_part:
            rows.append(_row(f"**{part}**", "**all**", of_part, word))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, code {code_version()}"
    return "\n".join([*rows, "", machine])


def _row(part: str, name: str, lines: list[dict[str, Any]], word: str) -> str:
    bad = f"{sum(bool(line['bad']) if part.strip('*') != 'fuzz' else len(line['bad']) for line in lines)} {word}"
    if part.strip("*") == "hostile":
        bad = f"{sum(line['executed'] for line in lines)} executed, {bad}"
    return (
        f"| {part} | {name} | {sum(line['count'] for line in lines)} | {bad} | {sum(x['seconds'] for x in lines):.0f} |"
    )


if __name__ == "__main__":
    raise SystemExit(main())
