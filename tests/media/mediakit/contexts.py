"""The policy's file contexts, less those for programs that are not on the medium.

setfiles tries every expression for every file; under emulation Debian's whole
list makes relabelling a small root take longer than installing it.
"""

from __future__ import annotations

from collections.abc import Callable

META = frozenset(".^$?*+|[({")
PRUNED = "/usr/"
KEPT = "/usr/local"


def literal_prefix(expression: str) -> tuple[str, bool]:
    """The part before the first metacharacter, and whether there is one."""
    text = ""
    characters = iter(expression)
    for character in characters:
        if character == "\\":
            text += next(characters, "")
        elif character in META:
            return text, True
        else:
            text += character
    return text, False


def prune(contexts: str, exists: Callable[[str], bool]) -> str:
    """Drop lines below /usr that can match nothing there; elsewhere files appear later."""
    return "".join(line for line in contexts.splitlines(keepends=True) if _useful(line, exists))


def _useful(line: str, exists: Callable[[str], bool]) -> bool:
    fields = line.split()
    if not fields or not fields[0].startswith(PRUNED) or fields[0].startswith(KEPT):
        return True
    prefix, more = literal_prefix(fields[0])
    return exists(prefix.rpartition("/")[0] if more else prefix)
