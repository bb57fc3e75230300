"""The installer's kernel command line."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

# Arguments Anaconda copies from the installer's command line to the installed
# system's (`preserved_arguments` of its data/anaconda.conf).
PRESERVED = (
    "cio_ignore rd.znet rd_ZNET zfcp.allow_lun_scan speakup_synth apic noapic apm ide noht acpi video "
    "pci nodmraid nompath nomodeset noiswmd fips selinux biosdevname ipv6.disable net.ifnames "
    "net.ifnames.prefix nosmt vga"
).split()


@dataclass(frozen=True)
class BootArguments:
    """Words of a kernel command line, in order."""

    words: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> BootArguments:
        try:
            return cls(tuple(shlex.split(text)))
        except ValueError:
            return cls(tuple(text.split()))

    def value(self, name: str) -> str | None:
        """The value of the last `name=value`, "" for a bare `name`, None without either."""
        found = None
        for word in self.words:
            key, _, value = word.partition("=")
            if key == name:
                found = value
        return found

    def all_values(self, name: str) -> list[str]:
        """Every value given as `name=value`, in order."""
        return [word.partition("=")[2] for word in self.words if word.startswith(f"{name}=")]

    def is_set(self, name: str) -> bool:
        """Whether the switch is there and not turned off."""
        value = self.value(name)
        return value is not None and value not in ("0", "no", "off")

    def nosave(self) -> set[str]:
        """What `inst.nosave=` asks not to leave on the installed system."""
        known = {"input_ks", "output_ks", "all_ks", "logs", "all"}
        wanted = set((self.value("inst.nosave") or "").split(",")) & known
        if "all" in wanted:
            wanted |= {"input_ks", "output_ks", "logs"}
        if "all_ks" in wanted:
            wanted |= {"input_ks", "output_ks"}
        return wanted & {"input_ks", "output_ks", "logs"}

    def preserved(self) -> list[str]:
        """The words the installed system's command line takes over."""
        return [word for word in self.words if word.partition("=")[0] in PRESERVED]
