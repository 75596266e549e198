"""Runs that are killed at any moment and started again: the result must be that of a run that nothing stopped."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import forked
from forked import Kill, Outcome
from toys import COMMANDS, Command, leftovers, results_of

TIMEOUT = 240.0  # seconds of one run, on a busy machine
SIGNALS = (signal.SIGKILL,) * 3 + (signal.SIGTERM, signal.SIGINT)
STOP_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


@dataclass(frozen=True)
class Reference:
    """What an unbroken run gives, how long it took, and what it did at the points where it touched files."""

    results: dict[str, str]
    seconds: float
    points: list[str]
    largest: int  # bytes of the largest file
    pages: int  # of 4096 bytes, that all files need


@contextlib.contextmanager
def own_folder(place: Path, toys: Path) -> Iterator[Path]:
    """An empty folder with the toys in it; gone after the block."""
    place.mkdir(parents=True)
    try:
        shutil.copytree(toys, place / "toys")
        yield place
    finally:
        shutil.rmtree(place)


def reference_of(command: Command, place: Path, toys: Path) -> Reference:
    """Run twice, first to count the points and to import here what the command imports, then to take the time.

    Raises RuntimeError when the command fails or is not repeatable.
    """
    log, modules = place.with_suffix(".points"), place.with_suffix(".modules")
    log.unlink(missing_ok=True)

    def count(number: int, what: str, path: str) -> None:
        with open(log, "a") as file:
            file.write(f"{what}\n")

    with own_folder(place, toys) as folder:
        _whole(command, folder, at_point=count, modules=modules)
        wanted = results_of(folder)
        absent = [name for name in command.state if not (folder / name).is_file()]
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file() and "/toys/" not in str(path)]
    if absent:  # would never be damaged, without a word
        raise RuntimeError(f"{command.name}: leaves no {', '.join(absent)}")
    forked.import_all(modules.read_text().split("\n"))
    with own_folder(place, toys) as folder:
        second = _whole(command, folder)
        different = differences(results_of(folder), wanted)
    if different:
        raise RuntimeError(f"{command.name}: two unbroken runs differ in {', '.join(different)}")
    pages = sum(-(-size // 4096) for size in sizes)
    return Reference(wanted, second.seconds, log.read_text().splitlines(), max(sizes), pages)


def _whole(command: Command, folder: Path, **options: object) -> Outcome:
    done = forked.run_command(command.module, command.words, folder, timeout=TIMEOUT, **options)  # type: ignore[arg-type]
    if done.code != 0:
        raise RuntimeError(f"{command.name}: exit code {done.code}; {done.err[-2000:]}")
    return done


def kill_once(name: str, reference: Reference, rng: random.Random, place: Path, toys: Path) -> tuple[list[str], int]:
    """Kill a run, perhaps twice, and let it go on to its end.

    Returns what was wrong, nothing if all is well, and the number of kills that met the run at work.
    """
    command, faults, count = COMMANDS[name], [], 0
    with own_folder(place, toys) as folder:
        for _ in range(rng.choice((1, 1, 1, 2))):
            found, is_met = _killed(command, reference, rng, folder)
            faults += found
            count += is_met
        faults += continued(command, reference, folder)
    return faults, count


def _killed(command: Command, reference: Reference, rng: random.Random, folder: Path) -> tuple[list[str], bool]:
    """Start the command and send it a signal; returns what was wrong, and whether it ended by it."""
    number = rng.choice(SIGNALS)
    if rng.random() < 0.5:
        moment = f"after {(seconds := rng.uniform(0.0, reference.seconds)):.3f} s"
        done = forked.run_command(command.module, command.words, folder, kill=Kill(number, seconds), timeout=TIMEOUT)
    else:
        aim = rng.randint(1, len(reference.points))
        moment = f"at point {aim}"

        def at_point(count: int, what: str, path: str) -> None:
            if count == aim:
                os.kill(os.getpid(), number)

        done = forked.run_command(command.module, command.words, folder, at_point=at_point, timeout=TIMEOUT)
    allowed = {0, -number, STOP_CODES.get(number, 0)}
    where = f"{command.name}, {signal.Signals(number).name} {moment}"
    if done.is_late or done.code not in allowed or "Traceback" in done.err:
        return [f"{where}: ended with code {done.code}: {done.err[-300:]!r}"], True
    return [], done.code != 0


def continued(command: Command, reference: Reference, folder: Path) -> list[str]:
    """Run a command to its end where an earlier run was broken off; returns what is wrong with the result."""
    done = forked.run_command(command.module, command.words, folder, timeout=TIMEOUT)
    try:
        different = differences(results_of(folder), reference.results)
    except Exception as error:
        return [f"{command.name}: a result cannot be read ({error})"]
    faults = []
    if done.code != 0 and different:  # a finished run may say that it is finished
        faults.append(f"{command.name}: does not go on, code {done.code}: {done.err[-300:]!r}")
    elif different:
        faults.append(f"{command.name}: other results: {', '.join(different[:5])}")
    if left := leftovers(folder):
        faults.append(f"{command.name}: left behind: {', '.join(left[:5])}")
    return faults


def differences(found: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """Names of files that are not as they should be, missing ones and ones too many included."""
    return sorted(name for name in found | wanted if found.get(name, "-") != wanted.get(name, "-"))
