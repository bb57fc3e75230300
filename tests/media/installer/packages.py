"""The catalogue of package names on the medium and what a %packages section selects."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass, field

ENVIRONMENTS = {"minimal-environment": "core"}


@dataclass(frozen=True)
class Package:
    """One line of `catalogue.tsv`."""

    name: str
    evr: str
    arch: str
    repository: str
    groups: frozenset[str]
    optional_groups: frozenset[str]
    archive: str

    @property
    def nevra(self) -> str:
        return f"{self.name}-{self.evr}.{self.arch}"


@dataclass(frozen=True)
class Request:
    """What a kickstart asks for, and what the installer needs on its own."""

    packages: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    groups: tuple[str, ...] = ("core",)
    excluded_groups: tuple[str, ...] = ()
    environment: str | None = None
    required: tuple[str, ...] = ()
    extra_repositories: bool = False


@dataclass(frozen=True)
class Selection:
    """The packages to install, in the catalogue's order, and what was not found."""

    packages: tuple[Package, ...]
    missing_packages: tuple[str, ...] = ()
    missing_groups: tuple[str, ...] = ()

    def problem(self) -> str | None:
        """DNF's words for what is missing, or None."""
        lines = []
        if self.missing_packages:
            lines.append("missing packages: " + ", ".join(self.missing_packages))
        if self.missing_groups:
            lines.append("missing groups or modules: " + ", ".join(self.missing_groups))
        return "Problems in request:\n" + "\n".join(lines) if lines else None


@dataclass(frozen=True)
class Catalogue:
    """Every package the medium claims to carry."""

    packages: tuple[Package, ...]
    groups: frozenset[str] = field(default=frozenset())

    @classmethod
    def parse(cls, text: str) -> Catalogue:
        packages = [_parse_line(line) for line in text.splitlines() if line and not line.startswith("#")]
        groups: set[str] = set()
        for package in packages:
            groups |= package.groups | package.optional_groups
        return cls(tuple(packages), frozenset(groups))

    def matching(self, spec: str, extra_repositories: bool) -> list[Package]:
        """The packages a name, `name.arch` or glob stands for."""
        return [
            package
            for package in self.packages
            if (extra_repositories or package.repository != "extra")
            and (fnmatch.fnmatchcase(package.name, spec) or fnmatch.fnmatchcase(f"{package.name}.{package.arch}", spec))
        ]

    def select(self, request: Request) -> Selection:
        """Apply a request. Exclusions win over everything, as in DNF."""
        groups = set(request.groups)
        missing_groups = []
        if request.environment is not None:
            if request.environment in ENVIRONMENTS:
                groups.add(ENVIRONMENTS[request.environment])
            else:
                missing_groups.append(request.environment)
        missing_groups += [group for group in request.groups if group not in self.groups]
        groups -= set(request.excluded_groups)

        excluded = self._names(request.excluded, request.extra_repositories)
        chosen = {
            package.name for package in self.packages if (package.groups | package.optional_groups) & groups
        }
        missing = []
        for spec in (*request.packages, *request.required):
            found = [p for p in self.matching(spec, request.extra_repositories) if p.name not in excluded]
            if not found and spec not in missing:
                missing.append(spec)
            chosen |= {package.name for package in found}
        chosen -= excluded
        return Selection(
            tuple(package for package in self.packages if package.name in chosen),
            tuple(missing),
            tuple(missing_groups),
        )

    def _names(self, specs: Iterable[str], extra_repositories: bool) -> set[str]:
        return {package.name for spec in specs for package in self.matching(spec, extra_repositories)}


def _parse_line(line: str) -> Package:
    name, evr, arch, repository, groups, archive = line.split("\t")
    members = [] if groups == "-" else groups.split(",")
    return Package(
        name=name,
        evr=evr,
        arch=arch,
        repository=repository,
        groups=frozenset(group for group in members if not group.endswith("?")),
        optional_groups=frozenset(group[:-1] for group in members if group.endswith("?")),
        archive=archive,
    )
