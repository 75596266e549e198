"""Entry points: a Hydra command line checked against a dataclass, with one-line errors.

The dataclass beside the code owns fields, defaults and checks; `configs/<name>.yaml` and `configs/experiment/` only say
what differs. `python -m eg3d.train experiment=twin seed=1` composes them, turns the result into an instance of the
dataclass and calls the decorated function. A field whose type is a family of configs (see config_families) becomes a
group: `model/backbone=NAME` chooses its member; the command's YAML names the default.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import logging
import os
import re
import sys
import typing
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from eg3d.clean_errors import CLEAN_ERRORS, errors_of_threads, is_clean
from eg3d.config_checks import configs_in, faults_of, one_of
from eg3d.config_families import families_of
from eg3d.installation import own_folder
from eg3d.multirun import Sweep, sweep_of
from eg3d.one_line import one_line
from eg3d.program import program_name
from eg3d.stop_signals import HeldStops, Stopped, raised_stops

CONFIG_DIR = own_folder("configs")
# Keys of earlier versions, by what an override begins with; command lines and scripts that use them go on working.
RENAMED_KEYS = {
    "model.backbone=": "model/backbone=",
    "model.sigma_unet3d.": "model.backbone.",
    "data.slab.psi=": "data.sample.psi=",
    "data.slab.truncation_cutoff=": "data.sample.truncation_cutoff=",
    "data.slab.": "data.representation.",
    "data.slab_dir=": "data.store_dir=",
    "slab.psi=": "sample.psi=",
    "slab.truncation_cutoff=": "sample.truncation_cutoff=",
}
_registered_groups: list[str] = []  # top names in Hydra's store
_VALUED = ("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd")


class ConfigError(ValueError):
    """A command line or YAML file that does not fit the schema; its text is one line."""


def hydra_command(*, config_name: str, schema: type) -> Callable[[Callable[[Any], None]], Callable[[], None]]:
    """Make `main(cfg)` a command.

    Exit codes: 0 done, 1 the work failed, 2 the command line is wrong, 130 and 143 stopped by SIGINT and SIGTERM.
    """

    def decorate(main: Callable[[Any], None]) -> Callable[[], None]:
        @functools.wraps(main)
        def command() -> None:
            try:
                with HeldStops() as stops:  # not raised within OmegaConf, which may fail in other ways then
                    run(stops)
            except Stopped as stop:
                print(stop, file=sys.stderr)
                raise SystemExit(stop.exit_code) from None

        def run(stops: HeldStops) -> None:
            sys.argv[1:] = arguments = _renamed([_as_hydra_reads(argument) for argument in sys.argv[1:]])
            if any(argument in ("-h", "--help") for argument in arguments):
                print(help_text(main, config_name, schema))
                return
            sweep = None
            sys.argv[1:] = arguments = _respelled(arguments, schema)
            try:
                if any(argument in ("-m", "--multirun") for argument in arguments):
                    sweep = _checked_sweep(config_name, schema, arguments)
                else:
                    compose_config(config_name, schema, _overrides(arguments))
            except ConfigError as error:
                print(f"error: {one_line(error)}", file=sys.stderr)
                raise SystemExit(2) from None
            _register(config_name, schema)
            hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name=config_name)(
                lambda cfg: _run(main, cfg, sweep, stops)
            )()

        return command

    return decorate


def compose_config(config_name: str, schema: type, overrides: Sequence[str] = ()) -> Any:
    """Compose `configs/<config_name>.yaml` with `overrides`; return a checked instance of `schema`.

    Raises ConfigError (one line, names the key and the choices) for anything that does not fit.
    """
    _register(config_name, schema)
    overrides = [_spelled(override, schema) for override in _renamed([_as_hydra_reads(o) for o in overrides])]
    _check_groups(config_name, schema, overrides)
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            cfg = hydra.compose(config_name, overrides=overrides)
        return _instance(cfg)
    except OverrideParseException as error:
        raise ConfigError(f"{error.override}: not an override; write key=value") from None
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_one_line(error, _schema_node(schema, overrides))) from None


def experiments_for(config_name: str) -> list[str]:
    """Names of the experiment files whose first lines say that they belong to `config_name`."""
    pattern = re.compile(rf"^# config: {re.escape(config_name)}$", re.MULTILINE)
    files = sorted((CONFIG_DIR / "experiment").glob("*.yaml"))
    return [file.stem for file in files if pattern.search(file.read_text(encoding="utf-8"))]


def help_text(main: Callable[[Any], None], config_name: str, schema: type) -> str:
    """Usage, experiments, choices and every field with its default, as text."""
    families = families_of(schema).items()
    lines = [
        f"usage: {program_name(main.__module__)} [experiment=NAME] [key=value ...]",
        "",
        (main.__doc__ or "").strip(),
        "",
        f"experiments: {', '.join(experiments_for(config_name)) or 'none'}",
        *(f"{_group(path)}=NAME: {', '.join(family.members())}" for path, family in families),
        "options: --cfg job (print the resolved config),",
        "         --multirun (sweep over key=a,b,c; each job works in a folder of its own, OUT/key=a and so on)",
        "",
        f"fields and defaults (configs/{config_name}.yaml):",
        OmegaConf.to_yaml(OmegaConf.structured(schema)).rstrip(),
    ]
    return "\n".join(lines)


def given_keys() -> frozenset[str]:
    """Dotted names of the settings that this command line gives, whatever their values; none outside a command."""
    if not HydraConfig.initialized():
        return frozenset()
    return frozenset(override.partition("=")[0].lstrip("+") for override in HydraConfig.get().overrides.task)


def log_to_console() -> None:
    """Show the library's log lines on stdout, as bare text; for entry points."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)


def _run(main: Callable[[Any], None], cfg: Any, sweep: Sweep | None, stops: HeldStops) -> None:
    try:
        value = _instance(cfg)
        if sweep is not None:
            value = dataclasses.replace(value, out=sweep.out(value.out, HydraConfig.get().overrides.task))
        with raised_stops(), errors_of_threads():
            stops.raise_if_asked()
            main(value)
    except InstantiationException as error:  # of a `_target_`: what went wrong in it is the news
        cause = error.__cause__
        if cause is not None and not isinstance(cause, (*CLEAN_ERRORS, ImportError)):
            raise
        _fail(cause if isinstance(cause, CLEAN_ERRORS) else ConfigError(one_line(error)))
    except CLEAN_ERRORS as error:
        if not is_clean(error):
            raise
        _fail(error)


def _fail(error: BaseException) -> NoReturn:
    print(f"error: {one_line(error)}", file=sys.stderr)
    raise SystemExit(2 if isinstance(error, ConfigError) else 1) from None


def _as_hydra_reads(argument: str) -> str:
    """`+overlay=smoke` as `overlay=smoke`, both groups stand in the defaults of every command, so both spellings do;
    and a path with ~ quoted, which is no word of Hydra's grammar."""
    if argument.startswith(("+overlay=", "+experiment=")):
        return argument[1:]
    path = re.fullmatch(r"(?s)(\+{0,2}[\w.@/]+=)(~(?:/.*)?)", argument)
    return path[1] + "'" + path[2].replace("\\", "\\\\").replace("'", "\\'") + "'" if path else argument


def _renamed(overrides: Sequence[str]) -> list[str]:
    """The overrides with today's keys; a note on stderr says what replaces each key of an earlier version."""
    found = list(overrides)
    for old, new in RENAMED_KEYS.items():
        if any(override.startswith(old) for override in found):
            print(f"note: write {new} for {old}", file=sys.stderr)
        found = [new + override.removeprefix(old) if override.startswith(old) else override for override in found]
    return found


def _group(path: str) -> str:
    """Hydra's name of the group that chooses for a field: `model/backbone` for `model.backbone`."""
    return path.replace(".", "/")


def _spelled(argument: str, schema: type) -> str:
    """An override as Hydra wants it: open tables, and keys below them (reward.gain=2), are set whether there or not."""
    key, equals, value = argument.partition("=")
    bare = key.lstrip("+")
    is_plain = equals and not key.startswith("~") and "@" not in key and "/" not in key
    return f"++{bare}={value}" if is_plain and _is_open(bare, schema) else argument


def _is_open(key: str, schema: type) -> bool:
    """Whether a dotted key is a table of the schema that may hold any key, or lies below one, or below a value of any
    kind."""
    node: Any = schema
    for part in key.split("."):
        if node is Any:
            return True
        if not dataclasses.is_dataclass(node) or part not in {field.name for field in dataclasses.fields(node)}:
            return False
        node = typing.get_type_hints(node)[part]
        if typing.get_origin(node) is dict:
            return True
    return False


def _overrides(arguments: Sequence[str]) -> list[str]:
    """The arguments that are overrides: neither Hydra's options nor their values."""
    found, is_value = [], False
    for argument in arguments:
        if not is_value and not argument.startswith("-"):
            found.append(argument)
        is_value = argument in _VALUED
    return found


def _respelled(arguments: Sequence[str], schema: type) -> list[str]:
    """The arguments with their overrides as `_spelled` has them."""
    overrides = _overrides(arguments)
    return [_spelled(argument, schema) if argument in overrides else argument for argument in arguments]


def _checked_sweep(config_name: str, schema: type, arguments: list[str]) -> Sweep | None:
    """The sweep of a command line where its jobs need places of their own; Hydra's own record then goes to them all.

    Raises ConfigError, in one line, when any of the jobs has a fault, or when two of them would still share a place.
    """
    overrides = _overrides(arguments)
    try:
        sweep = sweep_of([override for override in overrides if not override.startswith("hydra")])
    except OverrideParseException as error:
        raise ConfigError(f"{error.override}: not an override; write key=value") from None
    except (HydraException, ValueError) as error:
        raise ConfigError(one_line(error)) from None
    configs = [compose_config(config_name, schema, job) for job in sweep.jobs]
    outs = [str(getattr(cfg, "out", number)) for number, cfg in enumerate(configs)]
    if len(set(outs)) == len(outs):
        return None
    own = [sweep.out(out, job) for out, job in zip(outs, sweep.jobs, strict=True)]
    if len(set(own)) < len(own):
        twice = next(out for out in own if own.count(out) > 1)
        raise ConfigError(
            f"out: two jobs of this sweep would work in {twice}; give every value once, or sweep over out"
        )
    if not any(override.startswith("hydra.sweep.dir=") for override in overrides):
        folder = str(sweep.folder(outs[0])).replace("\\", "\\\\").replace("'", "\\'")
        arguments += [f"hydra.sweep.dir='{folder}'", "hydra.sweep.subdir=."]
        sys.argv[1:] = arguments
    return sweep


def _check_groups(config_name: str, schema: type, overrides: Sequence[str]) -> None:
    """Raise ConfigError for a choice that does not exist, or an experiment that belongs to another command."""
    overlays = sorted(path.stem for path in (CONFIG_DIR / "overlay").glob("*.yaml"))
    choices = {"experiment": experiments_for(config_name), "overlay": overlays}
    choices |= {_group(path): list(family.members()) for path, family in families_of(schema).items()}
    faults = []
    for override in overrides:
        group, _, name = override.partition("=")
        if group in choices and name not in ("", "null"):
            faults += one_of(group, name, choices[group])
    if faults:
        raise ConfigError("; ".join(faults))


def _register(config_name: str, schema: type) -> None:
    """Tell Hydra of a command's schema, and of the members of every family in it.

    Groups of a command that was composed earlier in this process go: `data` is a group for one and a key for another.
    """
    store, node = ConfigStore.instance(), OmegaConf.structured(schema)
    for group in _registered_groups:
        store.repo.pop(group, None)
    _registered_groups[:] = {path.split(".")[0] for path in families_of(schema)}
    for path, family in families_of(schema).items():
        # OmegaConf merges a member into its base, never into another member.
        OmegaConf.update(node, path, OmegaConf.structured(family), merge=False)
        for name, member in family.members().items():
            store.store(group=_group(path), name=name, node=member)
    store.store(name=f"{config_name}_schema", node=node)


def _schema_node(schema: type, overrides: Sequence[str]) -> DictConfig:
    """The schema with its defaults, and with the members that the overrides choose."""
    node = OmegaConf.structured(schema)
    chosen = dict(override.split("=", 1) for override in overrides if "=" in override)
    for path, family in families_of(schema).items():
        member = family.members().get(chosen.get(_group(path), ""))
        if member is not None:
            OmegaConf.update(node, path, OmegaConf.structured(member), merge=False)
    return node


def _instance(cfg: Any) -> Any:
    """Dataclass instance of a composed config, checked; raises ConfigError with all faults in one line."""
    unknown = _keys_beyond_the_schema(cfg)
    if unknown:
        raise ConfigError("; ".join(_unknown_key(key, cfg) for key in unknown))
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise ConfigError(f"no value for {', '.join(missing)}; give {missing[0]}=... on the command line")
    value = OmegaConf.to_object(cfg)
    faults = faults_of(value)
    if faults:
        raise ConfigError("; ".join(faults))
    for _, config in configs_in(value):
        _expand_home(config)
    return value


def _expand_home(config: Any) -> None:
    """Expand the ~ of paths, in open tables too, which a shell leaves as it is after `=` or between quotes."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, (str, dict)):
            setattr(config, field.name, _with_home(value))


def _with_home(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_home(item) for key, item in value.items()}
    is_path = isinstance(value, str) and (value == "~" or value.startswith("~/"))
    return os.path.expanduser(value) if is_path else value


def _keys_beyond_the_schema(node: DictConfig, prefix: str = "") -> list[str]:
    """Keys that no dataclass declares: Hydra takes them with a plus, and the dataclass would lose them in silence."""
    kind = OmegaConf.get_type(node)
    known = {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else None
    found = [] if known is None else [f"{prefix}{key!s}" for key in node if key not in known]
    for key in node if known is None else known:
        if not OmegaConf.is_missing(node, key) and OmegaConf.is_dict(node[key]):
            found += _keys_beyond_the_schema(node[key], f"{prefix}{key!s}.")
    return found


def _one_line(error: BaseException, schema: DictConfig) -> str:
    """The innermost cause as one line; an unknown key is answered with the keys that exist there."""
    cause: BaseException = error
    while isinstance(cause.__cause__, (HydraException, OmegaConfBaseException)):
        cause = cause.__cause__
    text = str(cause) if str(cause).strip() else str(error)
    unknown = re.search(r"Key '([^']+)' (?:is not in struct|not in '[^']+')", f"{text}\n{error}")
    full_key = getattr(cause, "full_key", None)
    if unknown:
        return _unknown_key(str(full_key or unknown.group(1)), schema)
    first = [line.strip() for line in text.splitlines() if line.strip()]
    first = [line for line in first if not line.startswith(("object_type", "reference_type", "full_key", "See "))]
    line = " ".join(first).replace("\t", " ")
    return f"{full_key}: {line}" if full_key and str(full_key) not in line else line


def _unknown_key(full_key: str, schema: DictConfig) -> str:
    parent, _, name = full_key.rpartition(".")
    try:
        node: Any = OmegaConf.select(schema, parent) if parent else schema
    except OmegaConfBaseException:
        node = None
    choices = sorted(str(key) for key in node if str(key) != name) if OmegaConf.is_dict(node) else []
    near = difflib.get_close_matches(name, choices, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{full_key}: no such key; the keys here are {', '.join(choices)}{hint}"
