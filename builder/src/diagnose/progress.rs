//! How far the installer is, from its own lines.

use serde::Serialize;

use super::prefix::message;

/// What the machine is doing, in the order of an installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Switched on; nothing heard yet.
    Firmware,
    /// Firmware or kernel talks, no installer yet.
    Booting,
    /// The installer runs and reads its kickstart.
    Starting,
    /// %pre scripts.
    PreScripts,
    /// Partitions and file systems.
    Storage,
    /// Packages come in.
    Downloading,
    /// Packages are installed, configured, verified.
    Installing,
    /// The boot loader.
    BootLoader,
    /// The installed system is set up.
    Configuring,
    /// %post scripts.
    PostScripts,
    /// All is done: powering off.
    Closing,
}

impl Phase {
    /// What a person reads.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Firmware => "powering on",
            Self::Booting => "booting the installer",
            Self::Starting => "starting the installer",
            Self::PreScripts => "running %pre scripts",
            Self::Storage => "preparing the disk",
            Self::Downloading => "downloading packages",
            Self::Installing => "installing packages",
            Self::BootLoader => "installing the boot loader",
            Self::Configuring => "configuring the system",
            Self::PostScripts => "running %post scripts",
            Self::Closing => "powering off",
        }
    }
}

/// One step of progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Which phase.
    pub phase: Phase,
    /// How much of `total`: packages, or percent while downloading.
    pub done: Option<u64>,
    /// How much there is.
    pub total: Option<u64>,
    /// What exactly: a package, a script's step.
    pub item: Option<String>,
}

impl Progress {
    /// Just a phase.
    pub fn phase(phase: Phase) -> Self {
        Self { phase, done: None, total: None, item: None }
    }

    /// A phase and what it is at.
    pub fn item(phase: Phase, item: impl Into<String>) -> Self {
        Self { item: Some(item.into()), ..Self::phase(phase) }
    }

    /// Reads a clean line of either log. None when it says nothing of progress.
    ///
    /// The texts are those of Anaconda 34 (EL9): `installation.py`,
    /// `payload/dnf/download_progress.py` and `transaction_progress.py`.
    pub fn parse(line: &str) -> Option<Self> {
        let text = message(line);
        phase_line(text).or_else(|| download(text)).or_else(|| package(text))
    }
}

/// Lines that name a phase; the longest spellings of several releases.
const PHASES: [(&str, Phase); 25] = [
    ("Starting installer, one moment...", Phase::Starting),
    ("Starting automated install", Phase::Starting),
    ("Checking software selection", Phase::Starting),
    ("Checking storage configuration...", Phase::Starting),
    ("Generating updated storage configuration", Phase::Starting),
    ("Setting up the installation environment", Phase::Storage),
    ("Configuring storage", Phase::Storage),
    ("Creating disklabel on", Phase::Storage),
    ("Running pre-installation scripts", Phase::PreScripts),
    ("Running pre-installation tasks", Phase::Storage),
    ("Starting package installation process", Phase::Downloading),
    ("Downloading packages", Phase::Downloading),
    ("Preparing transaction from installation source", Phase::Installing),
    ("Installing.", Phase::Installing),
    ("Installing boot loader", Phase::BootLoader),
    ("Configuring kernel", Phase::Configuring),
    ("Configuring installed system", Phase::Configuring),
    ("Writing network configuration", Phase::Configuring),
    ("Creating users", Phase::Configuring),
    ("Configuring addons", Phase::Configuring),
    ("Generating initramfs", Phase::Configuring),
    ("Storing configuration files and kickstarts", Phase::Configuring),
    ("Running post-installation scripts", Phase::PostScripts),
    ("Installation complete", Phase::Closing),
    ("Installing the software", Phase::Installing),
];

fn phase_line(text: &str) -> Option<Progress> {
    // `14:03:11 Running pre-installation scripts` has a clock before it.
    let text = match text.split_at_checked(9) {
        Some((clock, rest)) if clock.as_bytes()[2] == b':' && clock.as_bytes()[5] == b':' => rest,
        _ => text,
    };
    let is = |name: &str| {
        text.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', ' ', '/']))
    };
    let started = text.starts_with("anaconda ") && text.ends_with(" started.");
    let (_, phase) =
        PHASES.iter().find(|(name, _)| is(name)).copied().or(started.then_some(("", Phase::Starting)))?;
    Some(Progress::phase(phase))
}

/// `Downloading 338 RPMs, 12.54 MiB / 340.1 MiB (3%) done.`
fn download(text: &str) -> Option<Progress> {
    let (size, rest) = text.strip_prefix("Downloading ")?.rsplit_once(" (")?;
    let percent: u64 = rest.strip_suffix("%) done.")?.parse().ok()?;
    Some(Progress {
        phase: Phase::Downloading,
        done: Some(percent.min(100)),
        total: Some(100),
        item: Some(size.to_owned()),
    })
}

/// `Installing name.arch (i/N)`, `Verifying name.arch (i/N)`, `Configuring name.arch`,
/// `name.arch (i/N)`, and packaging.log's `Installed:` and `Configuring (running scriptlet for):`.
fn package(text: &str) -> Option<Progress> {
    if let Some(rest) = text
        .strip_prefix("Configuring (running scriptlet for): ")
        .or_else(|| text.strip_prefix("Installed: "))
    {
        return Some(Progress::item(Phase::Installing, rest.split(' ').next()?));
    }
    let (verb, rest) = ["Installing ", "Configuring ", "Verifying "]
        .iter()
        .find_map(|verb| Some((Some(*verb), text.strip_prefix(verb)?)))
        .unwrap_or((None, text));
    let (name, count) = match rest.rsplit_once(" (") {
        Some((name, count)) => (name, Some(count.strip_suffix(')')?.split_once('/')?)),
        None => (rest, None),
    };
    let (_, arch) = name.rsplit_once('.')?;
    let known = ["x86_64", "aarch64", "noarch", "i686"].contains(&arch) && !name.contains(' ');
    if !known || (verb.is_none() && count.is_none()) {
        return None;
    }
    let number = |text: &str| text.parse::<u64>().ok();
    let (done, total) = count.map_or((None, None), |(done, total)| (number(done), number(total)));
    Some(Progress { phase: Phase::Installing, done, total, item: Some(name.to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_counted() {
        for line in [
            "[  215.804411] anaconda[2628]: Installing bash.x86_64 (17/338)",
            "11:33:24,436 INFO anaconda:anaconda: ui.lib.progress: Installing bash.x86_64 (17/338)",
            "bash.x86_64 (17/338)",
            "Verifying bash.x86_64 (17/338)",
        ] {
            let expected = Progress {
                done: Some(17),
                total: Some(338),
                ..Progress::item(Phase::Installing, "bash.x86_64")
            };
            assert_eq!(Progress::parse(line), Some(expected), "{line}");
        }
        let scriptlet = "10:02:01,003 INFO packaging: Configuring (running scriptlet for): glibc-2.34-100.el9.x86_64 1709 ab12";
        assert_eq!(
            Progress::parse(scriptlet),
            Some(Progress::item(Phase::Installing, "glibc-2.34-100.el9.x86_64"))
        );
    }

    #[test]
    fn downloads_are_in_percent() {
        let progress = Progress::parse("Downloading 338 RPMs, 12.54 MiB / 340.1 MiB (3%) done.").unwrap();
        assert_eq!((progress.phase, progress.done, progress.total), (Phase::Downloading, Some(3), Some(100)));
        assert_eq!(progress.item.as_deref(), Some("338 RPMs, 12.54 MiB / 340.1 MiB"));
    }

    #[test]
    fn phases_are_named() {
        for (line, phase) in [
            ("[   33.517655] anaconda[2628]: Installing.", Phase::Installing),
            ("anaconda 34.25.5.9-1.el9.alma.1 for AlmaLinux 9.5 started.", Phase::Starting),
            ("14:03:11 Running pre-installation scripts", Phase::PreScripts),
            ("Configuring storage", Phase::Storage),
            ("Generating initramfs", Phase::Configuring),
            ("Running post-installation scripts", Phase::PostScripts),
        ] {
            assert_eq!(Progress::parse(line), Some(Progress::phase(phase)), "{line}");
        }
        for line in [
            "Installing the world",
            "a.b (1/2)",
            "[ 1.0] systemd[1]: Started x.",
            "Configuring storage-foo",
            "",
        ] {
            assert_eq!(Progress::parse(line), None, "{line}");
        }
    }
}
