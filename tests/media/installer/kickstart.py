"""Reading the kickstart with pykickstart's RHEL 9 handler, the parser Anaconda itself uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pykickstart.errors import KickstartError
from pykickstart.parser import KickstartParser, Script
from pykickstart.sections import NullSection, PreScriptSection, Section
from pykickstart.version import makeVersion

from .errors import KickstartProblem

VERSION = "RHEL9"


class AddonSection(Section):
    """`%addon NAME ARGUMENTS`: kept by name, as Anaconda's addon registry does."""

    sectionOpen = "%addon"

    def __init__(self, handler: Any, **kwargs: Any) -> None:
        super().__init__(handler, **kwargs)
        self._name = ""

    def handleHeader(self, lineno: int, args: list[str]) -> None:
        super().handleHeader(lineno, args)
        self._name = args[1] if len(args) > 1 else ""
        self.handler.addon_lines[self._name] = [" ".join(args[2:])]

    def handleLine(self, line: str) -> None:
        self.handler.addon_lines[self._name].append(line.rstrip("\n"))


class Parser(KickstartParser):
    """The full parser: %include must exist, errors are fatal."""

    def setupSections(self) -> None:
        super().setupSections()
        self.registerSection(AddonSection(self.handler))


class PreParser(KickstartParser):
    """The first pass: nothing but %pre is looked at, %include may not exist yet."""

    def handleCommand(self, lineno: int, args: list[str]) -> None:
        return

    def setupSections(self) -> None:
        self._sections = {}
        self.registerSection(PreScriptSection(self.handler, dataObj=Script))
        for name in ("%pre-install", "%post", "%onerror", "%traceback", "%packages", "%addon", "%certificate"):
            self.registerSection(NullSection(self.handler, sectionOpen=name))


def read_pre_scripts(path: Path) -> list[Any]:
    """The %pre scripts, in order."""
    handler = makeVersion(VERSION)
    _read(PreParser(handler, missingIncludeIsFatal=False), path)
    return list(handler.scripts)


def read(path: Path) -> Any:
    """The whole kickstart as pykickstart's handler, with `addon_lines` added."""
    handler = makeVersion(VERSION)
    handler.addon_lines = {}
    _read(Parser(handler), path)
    return handler


def _read(parser: KickstartParser, path: Path) -> None:
    try:
        parser.readKickstart(str(path))
    except KickstartError as error:
        raise KickstartProblem(str(error)) from error
