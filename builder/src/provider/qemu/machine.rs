//! One node's virtual machine: its files, its power.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use kiln_protocol::names::MacAddr;
use nix::sys::signal::Signal;
use tokio::time::Instant;

use super::layout::{self, NetFile, NodeFile, PowerFile};
use crate::cluster::files;
use crate::machine::qemu::vm::{QEMU_LOG, VM_RECORD};
use crate::machine::qemu::{Accel, Command, Disk, Firmware, Forward, Lifetime, Net, OvmfFiles, Vm, img};
use crate::provider::record::Subject;
use crate::provider::types::{NodeFirmware, NodeRef, NodeSpec, PowerState};
use crate::run::process::helpers_of;

/// The API server's port in the guest.
const API_PORT: u16 = kiln_coordinator::plan::API_PORT;
/// How long a guest may take to shut down after its power button was pressed.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(90);
/// How long QEMU may take to quit.
const QUIT_GRACE: Duration = Duration::from_secs(5);

/// Makes what a node's directory lacks. Each file appears whole.
pub(super) async fn finish(cluster: &Path, dir: &Path, spec: &NodeSpec) -> Result<()> {
    let (disk, new) = (dir.join(layout::DISK), dir.join(".new-disk.qcow2"));
    if !disk.exists() {
        let image = layout::dir_of(cluster, &Subject::Image(spec.image)).join(layout::DISK);
        img::create_overlay(&image, &new, Some(spec.disk)).await?;
        std::fs::rename(&new, &disk).with_context(|| format!("making {}", disk.display()))?;
    }
    let (vars, new) = (dir.join(layout::VARS), dir.join(".new-vars.fd"));
    if let Some(ovmf) = ovmf(spec.firmware)?
        && !vars.exists()
    {
        ovmf.instantiate(&new)?;
        // The copy has the template's mode; these may come to hold keys.
        std::fs::set_permissions(&new, Permissions::from_mode(0o600))
            .with_context(|| format!("closing {}", new.display()))?;
        std::fs::rename(&new, &vars).with_context(|| format!("making {}", vars.display()))?;
    }
    Ok(())
}

/// The UEFI firmware a node needs, if any.
fn ovmf(firmware: NodeFirmware) -> Result<Option<OvmfFiles>> {
    match firmware {
        NodeFirmware::Bios => Ok(None),
        NodeFirmware::Uefi => OvmfFiles::find().map(Some),
        NodeFirmware::SecureBoot => OvmfFiles::find_secure().map(Some),
    }
}

/// The command that runs a node. Disk and console are named in full: a list
/// of processes then says which node each of them is.
fn command(
    dir: &Path,
    file: &NodeFile,
    net: NetFile,
    firmware: Firmware,
    seeded: bool,
    how: &How,
) -> Command {
    let NodeFile { spec, api_port } = file;
    let forward = |port: u16| Forward { host: ([127, 0, 0, 1], port).into(), guest: API_PORT };
    let mut disk = Disk::qcow2(dir.join(layout::DISK), "kiln-root");
    if how.throwaway {
        disk = disk.throwaway();
    }
    let nat = Net::User { forwards: api_port.map(forward).into_iter().collect(), restrict: false };
    let command = Command::new(&format!("{}-{}", spec.cluster, spec.node), how.accel)
        .cpus(spec.cores)
        .memory_mib(u32::try_from(spec.memory >> 20).unwrap_or(u32::MAX))
        .firmware(firmware)
        .disk(disk)
        .serial_file(dir.join(layout::CONSOLE))
        .nic(nat, Some(nat_mac(spec.mac)))
        .nic(Net::Segment { group: net.segment }, Some(spec.mac));
    if seeded { command.oem_string_file(layout::SEED) } else { command }
}

/// The first card's address: the second one's, with one bit of the vendor's
/// part changed, so that both follow from the plan.
fn nat_mac(mac: MacAddr) -> MacAddr {
    let mut bytes = mac.octets();
    bytes[2] ^= 1;
    MacAddr::new(bytes).unwrap_or(mac)
}

struct How {
    accel: Accel,
    throwaway: bool,
}

/// A node's machine.
pub(super) struct Machine<'a> {
    pub(super) cluster: &'a Path,
    pub(super) dir: &'a Path,
    pub(super) node: &'a NodeRef,
}

impl Machine<'_> {
    async fn attach(&self) -> Result<Option<Vm>> {
        Vm::attach(self.dir).await.with_context(|| format!("finding the machine of node {}", self.node.node))
    }

    pub(super) async fn on(&self, accel: Option<Accel>, throwaway: bool) -> Result<PowerState> {
        if let Some(vm) = self.attach().await? {
            // Killed between starting QEMU and starting the machine in it.
            let status = vm.qmp().run(qapi::qmp::query_status {}).await?;
            if status.status == qapi::qmp::RunState::prelaunch {
                vm.qmp().run(qapi::qmp::cont {}).await?;
            }
            // One connection at a time is all that QEMU's monitor serves.
            return Ok(state_of(&vm).await.0);
        }
        let starting = || format!("starting node {}", self.node.node);
        let last = PowerFile::read(self.dir).map(|power| power.accel);
        let accel = accel
            .or_else(|| [Accel::Kvm, Accel::Tcg].into_iter().find(|a| Some(a.as_str()) == last.as_deref()));
        let accel = accel.context("it was never started: `builder up` starts it").with_context(starting)?;
        let file = NodeFile::read(self.dir).with_context(starting)?;
        let net = NetFile::read(self.cluster).with_context(starting)?;
        let (wanted, vars) = (file.spec.firmware, layout::VARS.into());
        let firmware = match ovmf(wanted).with_context(starting)?.map(|ovmf| ovmf.code) {
            None => Firmware::SeaBios,
            Some(code) if wanted == NodeFirmware::SecureBoot => Firmware::SecureBoot { code, vars },
            Some(code) => Firmware::Ovmf { code, vars },
        };
        let seeded = self.dir.join(layout::SEED).exists();
        let command = command(self.dir, &file, net, firmware, seeded, &How { accel, throwaway });
        let console = self.dir.join(layout::CONSOLE);
        if console.exists() {
            std::fs::rename(&console, self.dir.join(layout::OLD_CONSOLE)).with_context(starting)?;
        }
        PowerFile { on: Timestamp::now(), accel: accel.as_str().to_owned() }.write(self.dir)?;
        let started = Vm::spawn(&command, self.dir, Lifetime::Detached).await;
        if let Err(error) = &started
            && let Some(port) = file.api_port
            && format!("{error:#}").contains("Could not set up host forwarding rule")
        {
            bail!(
                "port {port} of 127.0.0.1, which leads to the API server of node {}, is taken by another \
                 program: end it (`ss -ltnp sport = :{port}` names it), then run `builder up` again",
                self.node.node
            );
        }
        started.with_context(starting)?;
        Ok(PowerState::Running)
    }

    pub(super) async fn off(&self) -> Result<PowerState> {
        let Some(mut vm) = self.attach().await? else { return Ok(PowerState::Off) };
        let switching = || format!("switching off node {}", self.node.node);
        vm.powerdown().await.with_context(switching)?;
        if tokio::time::timeout(SHUTDOWN_GRACE, vm.wait()).await.is_err() {
            tracing::warn!(
                "node {} did not shut down within {} s: switched off",
                self.node.node,
                SHUTDOWN_GRACE.as_secs()
            );
            vm.stop(QUIT_GRACE).await.with_context(switching)?;
        }
        Ok(PowerState::Off)
    }

    pub(super) async fn reset(&self) -> Result<PowerState> {
        let Some(vm) = self.attach().await? else {
            bail!("node {} is off: `builder up` starts it", self.node.node);
        };
        if let Some(power) = PowerFile::read(self.dir) {
            PowerFile { on: Timestamp::now(), ..power }.write(self.dir)?;
        }
        vm.reset().await.with_context(|| format!("resetting node {}", self.node.node))?;
        Ok(PowerState::Running)
    }

    /// Whether it runs; why not, where that is known.
    pub(super) async fn state(&self) -> (PowerState, Option<String>) {
        match self.attach().await {
            Ok(Some(vm)) => state_of(&vm).await,
            Ok(None) => (PowerState::Off, last_words(self.dir)),
            // The process is there; what it is up to shows soon.
            Err(_) => (PowerState::Running, None),
        }
    }
}

/// The last line QEMU itself wrote: why it ended, if it was not asked to.
fn last_words(dir: &Path) -> Option<String> {
    super::console::tail(&dir.join(QEMU_LOG), 1).pop()
}

async fn state_of(vm: &Vm) -> (PowerState, Option<String>) {
    use qapi::qmp::RunState;
    let Ok(status) = vm.qmp().run(qapi::qmp::query_status {}).await else {
        return (PowerState::Running, None);
    };
    let stopped = |why: &str| (PowerState::Stopped, Some(why.to_owned()));
    match status.status {
        RunState::io_error => stopped("this machine's disk is full or broken (QEMU stopped the node)"),
        RunState::guest_panicked => stopped("the node's kernel panicked"),
        RunState::internal_error => stopped("QEMU reports an internal error"),
        RunState::paused | RunState::prelaunch => stopped("it is paused"),
        _ => (PowerState::Running, None),
    }
}

/// Ends whatever runs in a node's directory.
pub(super) async fn end_all(dir: &Path) -> Result<()> {
    if let Ok(Some(mut vm)) = Vm::attach(dir).await {
        vm.stop(QUIT_GRACE).await.with_context(|| format!("ending the machine in {}", dir.display()))?;
    }
    // One whose monitor does not answer, or that nobody wrote down.
    let deadline = Instant::now() + QUIT_GRACE;
    loop {
        let left = helpers_of(dir);
        if left.is_empty() {
            return files::remove(&dir.join(VM_RECORD));
        }
        if Instant::now() > deadline {
            bail!("process {} in {} does not end", left[0].pid, dir.display());
        }
        for process in left {
            process.signal(Signal::SIGKILL);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
