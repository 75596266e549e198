"""Words from elsewhere (libraries, files, records) for a message of ours, which is one line."""

from __future__ import annotations


def one_line(said: object) -> str:
    """What an error or a text says, without line ends and repeated spaces; the name of its class if it says nothing."""
    return " ".join(str(said).split()) or type(said).__name__
