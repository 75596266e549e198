"""python -m eg3d: what there is, and how each command is called."""

from __future__ import annotations

from eg3d.entries import ENTRIES


def main() -> None:
    """Print every command by both of its names."""
    print("python -m MODULE WORDS, or sculpt COMMAND WORDS; --help says what each takes.\n")
    for name, entry in ENTRIES.items():
        words = " ".join([entry.module.removesuffix(".__main__"), *entry.words])
        print(f"  {words:<46} {name:<9} {entry.meaning}")


if __name__ == "__main__":
    main()
