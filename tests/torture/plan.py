"""What a torture run consists of: items with a name and a seed, each done in one process, each with a count."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import faults
import forked
import fuzz_datasets
import fuzz_networks
import fuzz_runs
import fuzz_tables
import hostile_readers
import kills
from kills import Reference, own_folder
from mutations import FuzzReport
from toys import COMMANDS, make_toys

from eg3d.run_folder import code_version

FUZZERS: dict[str, Callable[[int, int], FuzzReport]] = {
    "networks: safetensors and pkl": fuzz_networks.fuzz,
    "data sets": fuzz_datasets.fuzz,
    "codes and depths": fuzz_tables.fuzz_codes,
    "stored representations": fuzz_tables.fuzz_representations,
    "rankings": fuzz_tables.fuzz_rankings,
    "scores": fuzz_tables.fuzz_scores,
    "run records and configs": fuzz_runs.fuzz_run_records,
    "stage records": fuzz_runs.fuzz_stage_records,
    "training states": fuzz_runs.fuzz_training_states,
    "reward checkpoints": fuzz_runs.fuzz_reward_checkpoints,
    "reward bundles": fuzz_runs.fuzz_bundles,
}
CHUNK = 100  # cases of one item of fuzzing
CHUNK_SECONDS = 600.0
COMMANDS_A_FILE = 2  # that each hostile file is given to, all of them in turns


@dataclass(frozen=True)
class Sizes:
    """How much of each part."""

    kills: int
    faults: int
    fuzz: int  # cases a reader
    hostile: int | None = None  # files; None = all of them
    commands: tuple[str, ...] = tuple(COMMANDS)  # that are killed and see faults


@dataclass(frozen=True)
class Item:
    """One piece of work; its key says it in the log."""

    part: str  # kills, faults, fuzz, hostile
    name: str  # command, reader or file
    number: int

    @property
    def key(self) -> str:
        return f"{self.part}/{self.name}/{self.number}"


@dataclass
class Result:
    """What an item gave: `bad` has one line for everything that should not have been."""

    key: str
    part: str
    name: str
    count: int
    bad: list[str] = field(default_factory=list)
    note: str = ""
    executed: int = 0
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def items_of(sizes: Sizes, seed: int, place: Path) -> list[Item]:
    """All items, the parts mixed so that no kind of work waits for the end."""
    names, weights = sizes.commands, [COMMANDS[name].share for name in sizes.commands]
    rng = random.Random(seed)
    found = []
    for part, count in (("kills", sizes.kills), ("faults", sizes.faults)):
        chosen = list(names[:count]) + rng.choices(
            names, weights, k=max(count - len(names), 0)
        )  # every command at least once
        found += [Item(part, name, number) for number, name in enumerate(chosen)]
    chunks = -(-sizes.fuzz // CHUNK)
    found += [Item("fuzz", name, number) for name in FUZZERS for number in range(chunks)]
    found += [Item("hostile", name, n) for n, name in enumerate(hostile_readers.attempts(place / "ran"))][
        : sizes.hostile
    ]
    rng.shuffle(found)
    return found


class Torture:
    """Does items in a folder of its own; made once, before lanes are forked, so that they share what is imported."""

    def __init__(self, place: Path, seed: int, sizes: Sizes, commands: list[str]) -> None:
        """The toys and the unbroken runs of `commands` are made here. Raises RuntimeError when one of them fails."""
        self.place, self.seed, self.sizes = place, seed, sizes
        self.toys = place / "toys"
        place.mkdir(parents=True, exist_ok=True)
        made = forked.in_child(lambda: make_toys(place))
        if made.code != 0:
            raise RuntimeError(made.err)
        forked.import_all([command.module for command in COMMANDS.values()])
        forked.import_all([module for module, _ in hostile_readers.COMMANDS.values()])
        code_version()  # kept by the function, so that no child asks git, and a commit meanwhile changes nothing
        self.references: dict[str, Reference] = {}
        for name in commands:
            self.references[name] = kills.reference_of(COMMANDS[name], place / "reference", self.toys)

    def do(self, item: Item, lane: int) -> Result:
        """One item, in this process and its children."""
        started = time.monotonic()
        place = self.place / f"lane{lane}"
        rng = random.Random(f"{self.seed}/{item.key}")
        try:
            result = getattr(self, f"_{item.part}")(item, rng, place)
        except Exception as error:
            result = Result(item.key, item.part, item.name, 1, [f"the check itself failed: {error!r}"])
        result.seconds = round(time.monotonic() - started, 2)
        return result

    def _kills(self, item: Item, rng: random.Random, place: Path) -> Result:
        bad, count = kills.kill_once(item.name, self.references[item.name], rng, place, self.toys)
        return Result(item.key, item.part, item.name, count, bad)

    def _faults(self, item: Item, rng: random.Random, place: Path) -> Result:
        what, bad = faults.inject(item.name, self.references[item.name], rng, place, self.toys)
        return Result(item.key, item.part, item.name, 1, [f"{what}: {line}" for line in bad], what)

    def _fuzz(self, item: Item, rng: random.Random, place: Path) -> Result:
        """In a child, so that neither a crash nor a call that never comes back ends the run."""
        cases = min(CHUNK, self.sizes.fuzz - CHUNK * item.number)
        seed = 1000 * self.seed + item.number

        def work() -> None:
            report = FUZZERS[item.name](cases, seed)
            print(f"done {report.cases} {report.refused}")
            print("\n".join(" ".join(line.split()) for line in report.unexpected))

        done = forked.in_child(work, timeout=CHUNK_SECONDS)
        first, *bad = done.out.splitlines() or [""]
        if done.code != 0 or not first.startswith("done "):
            reason = "too slow" if done.is_late else repr(done.err[-500:])
            return Result(item.key, item.part, item.name, cases, [f"seed {seed}: died, code {done.code}: {reason}"])
        return Result(item.key, item.part, item.name, int(first.split()[1]), list(filter(None, bad)), first)

    def _hostile(self, item: Item, rng: random.Random, place: Path) -> Result:
        commands = list(hostile_readers.COMMANDS)
        at = COMMANDS_A_FILE * item.number
        given = [commands[(at + k) % len(commands)] for k in range(COMMANDS_A_FILE)]
        trace = self.place / "ran"
        data = hostile_readers.attempts(trace)[item.name]
        with own_folder(place, self.toys) as folder:
            count, executed, bad = hostile_readers.try_one(item.name, data, folder, trace, given)
        return Result(item.key, item.part, item.name, count, bad, executed=executed)
