//! How packages are installed on the distributions Kiln is used on.

use serde::Serialize;

/// Distributions that name and install packages alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// Debian, Ubuntu and what is made from them.
    Debian,
    /// Fedora, RHEL, AlmaLinux and their like.
    Fedora,
    /// Arch Linux.
    Arch,
    /// openSUSE and SLE.
    Suse,
    /// Any other.
    Other,
}

/// A package by the names it has: Debian, Fedora and EL, Arch, openSUSE. One
/// with a blank in it is a command of its own, where no package exists.
pub type Package = [&'static str; 4];

impl Family {
    /// From the text of `/etc/os-release`: `ID`, else `ID_LIKE`.
    pub fn of(os_release: &str) -> Self {
        let words = |key: &str| {
            let line = os_release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
        };
        let known = |id: &str| match id {
            "debian" | "ubuntu" => Some(Self::Debian),
            "fedora" | "rhel" | "centos" | "almalinux" | "rocky" => Some(Self::Fedora),
            "arch" | "archlinux" => Some(Self::Arch),
            "suse" | "opensuse" | "sles" => Some(Self::Suse),
            id if id.starts_with("opensuse-") => Some(Self::Suse),
            _ => None,
        };
        let (id, like) = (words("ID"), words("ID_LIKE"));
        std::iter::once(id.as_str()).chain(like.split(' ')).find_map(known).unwrap_or(Self::Other)
    }

    /// The command that installs a package.
    pub fn install(self, package: Package) -> String {
        let name = match self {
            Self::Debian | Self::Other => package[0],
            Self::Fedora => package[1],
            Self::Arch => package[2],
            Self::Suse => package[3],
        };
        if name.contains(' ') {
            return name.to_owned();
        }
        match self {
            Self::Debian => format!("apt-get install {name}"),
            Self::Fedora => format!("dnf install {name}"),
            Self::Arch => format!("pacman -S {name}"),
            Self::Suse => format!("zypper install {name}"),
            Self::Other => format!("install {name} (as Debian calls it)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_is_the_distributions_own() {
        let package = ["debs", "rpms", "pkgs", "suses"];
        for (release, command) in [
            ("ID=debian\n", "apt-get install debs"),
            ("NAME=Ubuntu\nID=ubuntu\nID_LIKE=debian\n", "apt-get install debs"),
            ("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", "apt-get install debs"),
            ("ID=\"almalinux\"\nID_LIKE=\"rhel centos fedora\"\n", "dnf install rpms"),
            ("ID=\"ol\"\nID_LIKE=\"fedora\"\n", "dnf install rpms"),
            ("ID=fedora\n", "dnf install rpms"),
            ("ID=arch\n", "pacman -S pkgs"),
            ("ID=manjaro\nID_LIKE=arch\n", "pacman -S pkgs"),
            ("ID=\"opensuse-tumbleweed\"\nID_LIKE=\"opensuse suse\"\n", "zypper install suses"),
            ("ID=\"sles\"\nID_LIKE=\"suse\"\n", "zypper install suses"),
            ("ID=nixos\n", "install debs (as Debian calls it)"),
            ("", "install debs (as Debian calls it)"),
        ] {
            assert_eq!(Family::of(release).install(package), command, "{release:?}");
        }
        assert_eq!(Family::Arch.install(["a", "b", "pipx install c", "d"]), "pipx install c");
    }
}
