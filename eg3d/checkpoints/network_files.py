"""Reading network files (.safetensors of store.py): metadata as checked plain data, and the tensors of one network.

Whatever is damaged, of another type or unknown ends in one line, a ValueError that begins with the file.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NoReturn, Self

from safetensors import SafetensorError, safe_open
from torch import Tensor

from eg3d.checkpoints.plain_configs import Config, config_from_data
from eg3d.checkpoints.tensor_rules import listed, shown_name
from eg3d.one_line import one_line
from eg3d.plain_data import refuse_code

FORMAT = "eg3d-networks-1"
_NUMBERS = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL")  # kinds that torch has everywhere


class NetworkFile:
    """An open file of networks. Raises FileNotFoundError without one, ValueError for what is none."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"no network file at {path}")
        try:
            self._file: Any = safe_open(str(path), framework="pt")
        except SafetensorError as error:
            raise ValueError(f"{path} is not a safetensors file: {one_line(error)}") from None

    def __enter__(self) -> Self:
        self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.__exit__(*error)

    def metadata(self) -> dict[str, Any]:
        """`format`, `configs` (settings by network), `kinds` (of its generators, by network) and `extra`."""
        texts = self._file.metadata() or {}
        if texts.get("format") != FORMAT:
            found = shown_name(ascii(texts.get("format")))
            raise ValueError(f"{self.path} is not a network file: format is {found}, expected {FORMAT!r}")
        tables = {name: self._table(name, texts.get(name)) for name in ("configs", "extra")}
        tables["kinds"] = self._table("kinds", texts.get("kinds", "{}"))
        for name, kind in (("configs", dict), ("kinds", str)):
            wrong = [key for key, value in tables[name].items() if not isinstance(value, kind)]
            if wrong:
                self._damaged(f"{name} of {listed(wrong)} is no {'table' if kind is dict else 'text'}")
        return {"format": FORMAT, **tables}

    def config(self, net: str, cls: type[Config], metadata: dict[str, Any]) -> Config:
        """The configuration of a network, as an instance of `cls`."""
        configs = metadata["configs"]
        if net not in configs:
            there = listed(list(configs)) or "none"
            raise ValueError(f"{self.path} holds no configuration of {net!r}; it holds {there}")
        return config_from_data(cls, configs[net], f"{self.path}, {net}")

    def tensors(self, net: str) -> dict[str, Tensor]:
        """State dict of one network, by the names in it."""
        names = list(self._file.keys())
        own = [name for name in names if name.startswith(f"{net}/")]
        if not own:
            nets = sorted({name.split("/")[0] for name in names if "/" in name})
            raise ValueError(f"{self.path} holds no network {net!r}; it holds {listed(nets) or 'none'}")
        strange = [name for name in own if self._file.get_slice(name).get_dtype() not in _NUMBERS]
        if strange:
            kinds = sorted({str(self._file.get_slice(name).get_dtype()) for name in strange})
            raise ValueError(f"{self.path}: has numbers of the kind {', '.join(kinds)} in {listed(strange)}")
        return {name.removeprefix(f"{net}/"): self._file.get_tensor(name) for name in own}

    def _table(self, name: str, text: str | None) -> dict[str, Any]:
        if text is None:
            self._damaged(f"it has no {name}")
        try:
            value = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            self._damaged(f"{name}: {one_line(error)[:200]}")
        refuse_code(value, str(self.path))
        if not isinstance(value, dict):
            self._damaged(f"{name} is no table")
        return value

    def _damaged(self, what: str) -> NoReturn:
        raise ValueError(f"{self.path}: its metadata is damaged ({what}); write the file again")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Format, configs (plain dictionaries by network), kinds of its generators and extra of a file.

    Raises ValueError if it is not a file of `save_networks`, FileNotFoundError if there is none.
    """
    with NetworkFile(path) as file:
        return file.metadata()


def read_tensors(path: str | os.PathLike[str], net: str) -> dict[str, Tensor]:
    """State dict of one network of a file. Raises ValueError, naming those it has, when there is no such network."""
    with NetworkFile(path) as file:
        return file.tensors(net)
