"""Faults of disks and files: every run ends right, or says what is wrong in one line that names the file or setting."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import forked
import torch
from forked import Outcome
from kills import TIMEOUT, Reference, continued, differences, own_folder
from safetensors import safe_open
from safetensors.torch import save_file
from toys import COMMANDS, Command, leftovers, results_of

from reward_model_training.lightning_state import checksum

DISK_ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS, errno.EDQUOT)
FAILING = ("open", "os.rename", "os.mkdir", "fsync")  # points that a disk can refuse
LOGS = ("stats.jsonl", "trajectories.csv", "scores.csv", "rankings.csv", "before_after.csv")  # texts without a checksum
RUN_FOLDERS = ("train", "train_rlhf", "reward train", "rank", "pipeline")  # commands that go on where they were


def inject(name: str, reference: Reference, rng: random.Random, place: Path, toys: Path) -> tuple[str, list[str]]:
    """One fault of a command; returns what it was, and what was unclear about the answer (nothing if all is well)."""
    command = COMMANDS[name]
    kinds: list[Callable[[Command, Reference, random.Random, Path], tuple[str, list[str]]]] = [_refused_call] * 3
    kinds += [_file_limit]
    if command.inputs:
        kinds += [_damaged_input] * 2
    if command.state:
        kinds += [_damaged_state] * 3
    kind = rng.choice([*kinds, _full_disk])
    with _small_disk(place, toys) if kind is _full_disk else own_folder(place, toys) as folder:
        what, faults = kind(command, reference, rng, folder)
    return f"{name}: {what}", faults


# ---------------------------------------------------------------------------------------------- faults of disks


def _refused_call(command: Command, reference: Reference, rng: random.Random, folder: Path) -> tuple[str, list[str]]:
    """The n-th call that opens, syncs, renames or makes something fails, and perhaps all that follow."""
    number = rng.choice(DISK_ERRORS)
    aim = 1 + rng.choice([index for index, what in enumerate(reference.points) if what in FAILING])
    is_lasting, is_over = rng.random() < 0.5, False

    def at_point(count: int, what: str, path: str) -> None:
        nonlocal is_over
        if count < aim or what not in FAILING or is_over:
            return
        is_over = not is_lasting
        print(f"refused: {path}", flush=True)
        named = () if what == "fsync" else (path,)
        raise OSError(number, os.strerror(number), *named)

    done = _run(command, folder, at_point=at_point)
    refused = re.findall(r"^refused: (.*)$", done.out, re.MULTILINE)
    what = f"{errno.errorcode[number]}{' from' if is_lasting else ' at'} point {aim}"
    what += f" ({refused[0].removeprefix(str(folder) + '/')})" if refused else " (nothing was refused)"
    names = [part for path in refused for part in _names_in(path, folder)]
    return what, _judged(command, reference, folder, done, names)


def _file_limit(command: Command, reference: Reference, rng: random.Random, folder: Path) -> tuple[str, list[str]]:
    """No file may grow beyond a size: a real write fails in the middle, whoever writes."""
    size = int(reference.largest ** rng.uniform(0.3, 0.98))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    done = _run(command, folder, prepare=limit)
    return f"EFBIG beyond {size} bytes", _judged(command, reference, folder, done, _all_names(reference))


def _full_disk(command: Command, reference: Reference, rng: random.Random, folder: Path) -> tuple[str, list[str]]:
    """A file system with room for some of the results."""
    pages = rng.randrange(max(reference.pages - 1, 1))
    used = sum(-(-path.stat().st_size // 4096) + 1 for path in folder.rglob("*")) + 1
    is_small = _resize(folder, (used + pages) * 4096)
    done = _run(command, folder)
    if is_small:
        _resize(folder, 2**28)
    return f"{pages} pages left on the disk", _judged(command, reference, folder, done, _all_names(reference))


@contextlib.contextmanager
def _small_disk(place: Path, toys: Path) -> Iterator[Path]:
    """A file system of its own with the toys in it; an ordinary folder where this user may not mount one."""
    place.mkdir(parents=True)
    is_mounted = _quietly("mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(place))
    try:
        shutil.copytree(toys, place / "toys")
        yield place
    finally:
        if is_mounted:
            _quietly("umount", "-l", str(place))
        shutil.rmtree(place)


def _resize(folder: Path, size: int) -> bool:
    return os.path.ismount(folder) and _quietly("mount", "-o", f"remount,size={size}", str(folder))


def _quietly(*command: str) -> bool:
    return shutil.which(command[0]) is not None and subprocess.run(command, capture_output=True).returncode == 0


def _judged(command: Command, reference: Reference, folder: Path, done: Outcome, names: list[str]) -> list[str]:
    """After a fault of the disk: a clear answer, nothing half-written, and the next run ends as if nothing had been."""
    faults = _unclear(done, names)
    if left := leftovers(folder):
        faults.append(f"left behind: {', '.join(left[:5])}")
    try:
        found = results_of(folder)
    except Exception as error:
        return [*faults, f"half-written: {error}"]
    wrong = [name for name in differences(found, reference.results) if name in found and name in reference.results]
    if command.name not in RUN_FOLDERS and wrong:
        faults.append(f"half-written: {', '.join(wrong[:5])}")
    return faults + continued(command, reference, folder)


def _unclear(done: Outcome, names: list[str]) -> list[str]:
    """What is wrong with the answer of a command to a fault that it met."""
    if done.is_late:
        return ["it hangs"]
    if done.code == 0:
        return [] if "Traceback" not in done.err else [f"a trace, though all is well: {done.err[-400:]!r}"]
    lines = done.err.splitlines()
    is_clear = len(lines) == 1 and lines[0].startswith("error: ") and "Traceback" not in done.out
    if not is_clear:
        return [f"code {done.code}, not one line: {done.err[-600:]!r}"]
    if not any(name in lines[0] for name in names):
        return [f"names no file or setting: {lines[0][:400]!r}"]
    return []


def _names_in(path: str, folder: Path) -> list[str]:
    """The file of a path and the folders that it lies in, temporary ones by what they were to become."""
    parts = os.path.relpath(path, folder).split("/")
    return [re.sub(r"^\.(.+)-[a-z0-9_]{8}((?:\.[^.]*)?)$", r"\1\2", part) for part in parts]


def _all_names(reference: Reference) -> list[str]:
    return [name.rpartition("/")[2] for name in reference.results] + ["run/", "made/", "store/", "cache/", "rank/"]


def _run(command: Command, folder: Path, **options: object) -> Outcome:
    return forked.run_command(command.module, command.words, folder, timeout=TIMEOUT, **options)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------- damaged files


def _damaged_input(command: Command, reference: Reference, rng: random.Random, folder: Path) -> tuple[str, list[str]]:
    """A file that the command reads is damaged; other weights or pictures that are whole are another input."""
    path = folder / rng.choice(command.inputs)
    if path.is_dir():
        path = rng.choice(sorted(file for file in path.rglob("*") if file.is_file()))
    kind, must_refuse = damage(rng, path)
    done = _run(command, folder)
    faults = _unclear(done, [path.name, *_settings(command)])
    if left := leftovers(folder):
        faults.append(f"left behind: {', '.join(left[:5])}")
    if done.code == 0 and must_refuse and differences(results_of(folder), reference.results):
        faults.append("accepted, and the results are others")
    return f"{kind} {path.relative_to(folder)}", faults


def _damaged_state(command: Command, reference: Reference, rng: random.Random, folder: Path) -> tuple[str, list[str]]:
    """A file that a broken-off run goes on from is damaged."""
    aim = rng.randint(len(reference.points) // 2, len(reference.points))

    def at_point(count: int, what: str, path: str) -> None:
        if count == aim:
            os.kill(os.getpid(), 9)

    if rng.random() < 0.7:
        _run(command, folder, at_point=at_point)
    else:
        _run(command, folder)
    there = [folder / name for name in command.state if (folder / name).is_file()]
    there = [path for path in there if not _is_spent(path, folder)]
    if not there:
        return "no state yet", continued(command, reference, folder)
    path = rng.choice(there)
    kind, _ = damage(rng, path)
    before = leftovers(folder)  # of the kill; a run that is refused may leave them where they are
    done = _run(command, folder)
    faults = _unclear(done, [path.name, "out", str(path.parent.relative_to(folder))])
    if left := [name for name in leftovers(folder) if done.code == 0 or name not in before]:
        faults.append(f"left behind: {', '.join(left[:5])}")
    if done.code == 0:
        wrong = differences(results_of(folder), reference.results)
        if path.name in LOGS:  # nobody can know what stood there
            wrong = [name for name in wrong if name.rpartition("/")[2] not in LOGS]
        faults += [f"accepted, and the results are others: {', '.join(wrong[:5])}"] if wrong else []
    return f"{kind} {path.relative_to(folder)}", faults


def _is_spent(path: Path, folder: Path) -> bool:
    """Whether this is the state of a fine-tuning that the pipeline has done: nothing reads it again."""
    record = folder / "run" / "stages" / "tuned.json"
    return path.parent.name == "sfield" and record.is_file() and '"state": "done"' in record.read_text()


def _settings(command: Command) -> list[str]:
    """Names of the settings on its command line."""
    return [re.split(r"[=]", word.lstrip("-+"))[0] for word in command.words if re.match(r"[-+]{2}|[\w.]+=", word)]


def damage(rng: random.Random, path: Path) -> tuple[str, bool]:
    """Damage a file; returns how, and whether no reader may take it for a whole one."""
    is_binary = path.suffix in (".safetensors", ".pkl", ".npy", ".ckpt", ".zip", ".png")
    kinds: list[tuple[str, bool]] = [("cut", is_binary), ("flipped", False), ("empty", True), ("missing", True)]
    kinds += [("garbage", True)]
    if path.suffix in (".safetensors", ".ckpt"):
        kinds += [("NaN in", True), ("foreign version of", True)]
    kind, must_refuse = rng.choice(kinds)
    content = path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "NaN in":
        (_nan_in_checkpoint if path.suffix == ".ckpt" else _changed_tensors)(path, rng)
    elif kind == "foreign version of":
        (_foreign_checkpoint if path.suffix == ".ckpt" else _foreign_metadata)(path)
    else:
        at = rng.randrange(len(content)) if content else 0
        flipped = content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :] if content else b""
        new = {"cut": content[:at], "flipped": flipped, "empty": b"", "garbage": rng.randbytes(200)}
        path.write_bytes(new[kind])
    return kind, must_refuse


def _changed_tensors(path: Path, rng: random.Random) -> None:
    """One NaN among the weights."""
    with safe_open(str(path), framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    names = [name for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.numel()]
    tensors[rng.choice(names)].view(-1)[0] = float("nan")
    save_file(tensors, path, metadata)


def _foreign_metadata(path: Path) -> None:
    with safe_open(str(path), framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = file.metadata() or {}
    save_file(tensors, path, {**metadata, "format": "of-another-program-9"})


def _nan_in_checkpoint(path: Path, rng: random.Random) -> None:
    state = torch.load(path, map_location="cpu", weights_only=True)
    state.pop("sha256", None)
    next(t for t in state["state_dict"].values() if t.is_floating_point()).view(-1)[0] = float("nan")
    torch.save({**state, "sha256": checksum(state)}, path)  # as if it had been written so


def _foreign_checkpoint(path: Path) -> None:
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name in ("callbacks", "sha256"):
        state.pop(name, None)
    state["pytorch-lightning_version"] = "9.9.9"
    torch.save({**state, "sha256": checksum(state)}, path)
