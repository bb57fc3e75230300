//! The host's name, for now and for later boots.

use anyhow::{Context as _, Result};
use kiln_protocol::NodeName;

use crate::root::{Access, Root};

const FILE: &str = "/etc/hostname";

/// Writes the name for later boots.
pub(crate) fn write(root: &Root, name: &NodeName) -> Result<()> {
    root.put(FILE, Access::ours(0o644), format!("{name}\n").as_bytes()).map(|_| ())
}

/// Gives the running kernel the name.
pub(crate) fn set(name: &NodeName) -> Result<()> {
    let now = nix::unistd::gethostname().context("asking for the host name")?;
    if now != name.as_str() {
        nix::unistd::sethostname(name.as_str()).with_context(|| format!("setting the host name {name}"))?;
    }
    Ok(())
}
