//! Whether KVM works here. That `/dev/kvm` opens proves nothing: there are
//! hosts where it does and every guest hangs. So a real guest has to show a
//! first sign of life, once per boot of the host and version of QEMU.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::command::{Command, PROGRAM};
use super::parts::{Accel, Disk, Kernel, OnReset};
use super::vm::{Lifetime, Vm};

/// What the user wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum AccelChoice {
    /// KVM if a guest proves that it works, else TCG with a warning.
    #[default]
    Auto,
    /// KVM, unproved.
    Kvm,
    /// QEMU's own translator.
    Tcg,
}

/// What a guest is started from to prove that KVM works.
#[derive(Debug, Clone, Copy)]
pub enum Evidence<'a> {
    /// A Linux kernel; its first line is enough. Takes a second.
    Kernel(&'a Path),
    /// A bootable qcow2 image that logs to ttyS0; it is not changed.
    Image(&'a Path),
}

/// What was decided, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What to use.
    pub accel: Accel,
    /// A warning, when it is not what one would hope for.
    pub warning: Option<String>,
}

/// A verdict that was reached by trying.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Verdict {
    boot_id: String,
    qemu: String,
    works: bool,
    why: String,
}

const VERDICT_FILE: &str = "kvm.json";
/// A kernel under working KVM prints within a second; this allows for a busy
/// host.
const KERNEL_TIMEOUT: Duration = Duration::from_secs(10);
/// Firmware and boot loader come before the kernel.
const IMAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// Decides what runs the guests. `cache` keeps the verdict; `work` is an
/// existing directory for the proof's own files, emptied by its owner.
pub async fn decide(
    choice: AccelChoice,
    evidence: Evidence<'_>,
    cache: &Path,
    work: &Path,
) -> Result<Decision> {
    match choice {
        AccelChoice::Kvm => return Ok(Decision { accel: Accel::Kvm, warning: None }),
        AccelChoice::Tcg => return Ok(Decision { accel: Accel::Tcg, warning: None }),
        AccelChoice::Auto => {}
    }
    let kvm = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    if let Err(error) = kvm {
        return Ok(tcg(&format!("/dev/kvm cannot be opened ({error})")));
    }
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .context("reading the host's boot id")?
        .trim()
        .to_owned();
    let qemu = version().await?;
    let path = cache.join(VERDICT_FILE);
    let known = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Verdict>(&bytes).ok());
    let known = known.filter(|known| known.boot_id == boot_id && known.qemu == qemu);
    let verdict = if let Some(known) = known {
        known
    } else {
        let (works, why) = prove(evidence, work).await?;
        let verdict = Verdict { boot_id, qemu, works, why };
        // Without it the proof is made again, no more.
        let _ = std::fs::write(&path, serde_json::to_vec_pretty(&verdict)?);
        verdict
    };
    if verdict.works { Ok(Decision { accel: Accel::Kvm, warning: None }) } else { Ok(tcg(&verdict.why)) }
}

fn tcg(why: &str) -> Decision {
    let warning = format!("{why}: using TCG, which is many times slower (--accel kvm insists)");
    Decision { accel: Accel::Tcg, warning: Some(warning) }
}

/// QEMU's first line about itself.
pub async fn version() -> Result<String> {
    let program = super::vm::installed_qemu()?;
    let output = tokio::process::Command::new(program)
        .arg("--version")
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("running {PROGRAM} --version"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

/// Starts a guest and watches for its first sign of life.
async fn prove(evidence: Evidence<'_>, work: &Path) -> Result<(bool, String)> {
    let dir = tempfile::Builder::new().prefix("kvm-proof-").tempdir_in(work)?;
    let serial = dir.path().join("serial.log");
    let command = Command::new("kiln-kvm-proof", Accel::Kvm)
        .memory_mib(512)
        .on_reset(OnReset::Exit)
        .serial_file(&serial);
    let (command, timeout) = match evidence {
        Evidence::Kernel(kernel) => {
            let append = "console=ttyS0 earlyprintk=serial,ttyS0,115200 panic=-1".to_owned();
            let kernel = Kernel { kernel: kernel.to_owned(), initrd: None, append };
            (command.kernel(kernel), KERNEL_TIMEOUT)
        }
        Evidence::Image(image) => {
            let overlay = dir.path().join("overlay.qcow2");
            super::img::create_overlay(image, &overlay, None).await?;
            (command.disk(Disk::qcow2(overlay, "proof").throwaway()), IMAGE_TIMEOUT)
        }
    };
    let mut vm = match Vm::spawn(&command, dir.path(), Lifetime::Builder).await {
        Ok(vm) => vm,
        Err(error) => return Ok((false, format!("KVM does not work here: {}", error.root_cause()))),
    };
    let alive = async {
        loop {
            let said = std::fs::read(&serial).unwrap_or_default();
            if is_sign_of_life(&said) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let outcome = tokio::select! {
        () = alive => (true, "a guest runs under KVM".to_owned()),
        exit = vm.wait() => {
            let said = std::fs::read(&serial).unwrap_or_default();
            exit?;
            (is_sign_of_life(&said), "QEMU ended under KVM before the guest said anything".to_owned())
        }
        () = tokio::time::sleep(timeout) => {
            (false, format!("/dev/kvm opens, but a guest under KVM says nothing within {} s", timeout.as_secs()))
        }
    };
    vm.stop(Duration::from_secs(1)).await?;
    Ok(outcome)
}

/// A kernel's or an init system's own words; firmware and boot loaders run on
/// hosts where kernels hang.
fn is_sign_of_life(said: &[u8]) -> bool {
    let said = String::from_utf8_lossy(said);
    ["Linux version", "Kernel command line", "systemd["].iter().any(|sign| said.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_kernel_is_a_sign_of_life() {
        assert!(!is_sign_of_life(b"SeaBIOS (version 1.16.2)\nBooting from ROM..\nWelcome to GRUB!"));
        assert!(is_sign_of_life(b"\x1bc[    0.000000] Linux version 5.14.0"));
    }

    #[tokio::test]
    async fn an_explicit_choice_is_not_argued_with() {
        let nowhere = Path::new("/nonexistent");
        let evidence = Evidence::Kernel(nowhere);
        let decision = decide(AccelChoice::Tcg, evidence, nowhere, nowhere).await.unwrap();
        assert_eq!(decision, Decision { accel: Accel::Tcg, warning: None });
    }
}
