//! A machine's TPM: `swtpm`, one process beside each QEMU that has one.
//!
//! It runs in the VM's directory, keeps its state in [`STATE`] and ends by
//! itself when a QEMU that had it lets go of it; `builder gc` knows it by its
//! working directory, as it knows QEMU.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::process::Child;
use tokio::time::Instant;

use super::vm::{Lifetime, bound_to_builder, find_program};

/// The program.
pub const PROGRAM: &str = "swtpm";
/// Its control socket, in the directory the VM runs in.
pub const SOCKET: &str = "tpm.sock";
/// Its state: what makes it this machine's own.
const STATE: &str = "tpm";
/// What it had to say.
const LOG: &str = "swtpm.log";
/// It makes its socket within this, or something is wrong with it.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether there is one, or what to do about its not being there.
pub fn installed() -> Result<()> {
    find_program(PROGRAM).map(drop).with_context(|| {
        format!("{PROGRAM} is not installed, which machines with Secure Boot have as their TPM (Debian, Ubuntu, EL, Fedora, Arch: the package swtpm)")
    })
}

/// Starts the TPM of the VM in `dir`; returns once QEMU can connect.
pub(super) async fn start(dir: &Path, lifetime: Lifetime) -> Result<Child> {
    installed()?;
    let starting = || format!("starting {PROGRAM} in {}", dir.display());
    crate::run::dirs::create_private(&dir.join(STATE)).with_context(starting)?;
    // One that a killed run left would only be in the way.
    let socket = dir.join(SOCKET);
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(starting);
        }
        _ => {}
    }
    let log = std::fs::File::create(dir.join(LOG)).with_context(starting)?;
    let mut process = bound_to_builder(Path::new(PROGRAM), lifetime);
    process.args(["socket", "--tpm2", "--terminate", "--tpmstate"]).arg(format!("dir={STATE}"));
    process.arg("--ctrl").arg(format!("type=unixio,path={SOCKET},mode=0600"));
    process.current_dir(dir).process_group(0);
    process.stdin(Stdio::null()).stdout(log.try_clone().with_context(starting)?).stderr(log);
    process.kill_on_drop(lifetime == Lifetime::Builder);
    let mut child = process.spawn().with_context(starting)?;
    let deadline = Instant::now() + START_TIMEOUT;
    while !socket.exists() {
        let ended = child.try_wait().with_context(starting)?;
        if ended.is_some() || Instant::now() > deadline {
            let _ = child.kill().await;
            let said = std::fs::read_to_string(dir.join(LOG)).unwrap_or_default();
            let how = ended.map_or_else(|| format!("no socket within {START_TIMEOUT:?}"), |s| s.to_string());
            bail!("{}: {how}; {}", starting(), said.lines().next_back().unwrap_or("it said nothing"));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(child)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::process::helpers_of;

    #[tokio::test]
    async fn a_tpm_whose_machine_never_came_is_known_by_its_directory_and_goes_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let child = start(dir.path(), Lifetime::Builder).await.unwrap();
        let [tpm] = helpers_of(dir.path())[..] else { panic!("it is not known by its working directory") };
        drop(child);
        let deadline = Instant::now() + START_TIMEOUT;
        while tpm.is_alive() {
            assert!(Instant::now() < deadline, "it outlived its owner");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
