//! One run of the installer: its volume, its machine, and what comes of it.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::Bake;
use super::bundle::{self, Evidence};
use super::kickstart::{DISK_SERIAL, Stage};
use super::watch::{self, Done, LogFiles};
use crate::diagnose::{self, Class, Classifier, Diagnosis, Ending, Limits};
use crate::image::Size;
use crate::inputs::media::Media;
use crate::inputs::xorriso::{self, Entry};
use crate::machine::qemu::vm::NeverRan;
use crate::machine::qemu::{Accel, Command, Disk, Firmware, Kernel, Lifetime, Net, OnReset, PortEnd, Vm};
use crate::progress::Progress;
use crate::run::RunId;
use crate::run::dirs::create_private;

/// Where Anaconda's rsyslog writes to, if it is there.
const LOG_PORT: &str = "org.fedoraproject.anaconda.log.0";
/// Where our scripts write to.
const MARK_PORT: &str = "io.kiln.bake.0";
/// Where the guest agent of the installed system would listen.
const AGENT_PORT: &str = "org.qemu.guest_agent.0";
/// The label by which kickstart and payload are found. Anaconda leaves disks
/// of this label alone.
const VOLUME: &str = "OEMDRV";
/// What a hanging QEMU gets before it is killed.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// What the installer's machine is made of.
#[derive(Debug, Clone, Copy)]
pub struct MachineSize {
    /// Processors.
    pub cpus: NonZeroU32,
    /// Memory.
    pub memory: Size,
}

/// One run of the installer.
#[derive(Debug)]
pub(crate) struct Installation {
    /// The stage it is.
    pub stage: Stage,
    /// The disk it works on.
    pub disk: PathBuf,
    /// What starts the machine.
    pub firmware: Firmware,
    /// The rendered kickstart.
    pub kickstart: String,
    /// What is on the volume besides.
    pub volume: Vec<Entry>,
    /// One more port the guest may write to, and the file that takes it.
    pub port: Option<(&'static str, PathBuf)>,
}

/// What every run of the installer has in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Installer<'a> {
    /// The medium it starts from.
    pub media: &'a Media,
    /// What runs its machine.
    pub accel: Accel,
    /// What that is made of.
    pub size: MachineSize,
    /// After how long without a sign of life it counts as hanging.
    pub stall_after: Option<Duration>,
    /// The run it belongs to.
    pub run_id: &'a RunId,
    /// Where failures are kept.
    pub state: &'a Path,
    /// Versions of the programs that take part.
    pub tools: &'a BTreeMap<String, String>,
    /// Who looks on.
    pub progress: &'a Progress,
}

/// A stage that failed.
#[derive(Debug, thiserror::Error)]
#[error("the {stage} stage failed: {diagnosis}{}", bundle.as_ref().map(|dir| format!("\n  everything about it: {}", dir.display())).unwrap_or_default())]
pub struct StageFailed {
    /// The stage.
    pub stage: &'static str,
    /// Why.
    pub diagnosis: Box<Diagnosis>,
    /// The directory with everything about it.
    pub bundle: Option<PathBuf>,
}

/// What the installer's kernel is told.
///
/// `no_timer_check`: a kernel that finds no paravirtual clock counts timer
/// interrupts while it boots and panics ("IO-APIC + timer doesn't work!",
/// linux `io_apic.c`) when a busy host, under emulation,
/// delivers too few of them.
pub(super) fn kernel_arguments(media: &Media) -> String {
    format!(
        "inst.stage2=hd:LABEL={} inst.ks=hd:LABEL={VOLUME}:/ks.cfg inst.cmdline inst.notmux inst.nosave=all \
         rd.live.check=0 console=tty0 console=ttyS0,115200n8 net.ifnames=0 biosdevname=0 \
         no_timer_check",
        media.escaped_label()
    )
}

impl Bake<'_> {
    /// What runs the installer for this bake.
    pub(super) async fn installer(&self) -> Result<Installer<'_>> {
        Ok(Installer {
            media: &self.inputs.media,
            accel: self.accel().await?,
            size: self.options.machine,
            stall_after: self.options.stall_after,
            run_id: &self.run_id,
            state: &self.options.state,
            tools: self.tools().await?,
            progress: self.progress,
        })
    }

    /// Runs the installer in `dir`, which is made.
    pub(super) async fn install(&self, installation: &Installation, dir: &Path) -> Result<Done> {
        self.installer().await?.install(installation, dir).await
    }
}

impl Installer<'_> {
    /// Runs the installer in `dir`, which is made.
    pub(crate) async fn install(&self, installation: &Installation, dir: &Path) -> Result<Done> {
        let stage = installation.stage.as_str();
        create_private(dir)?;
        let kickstart = dir.join("ks.cfg");
        std::fs::write(&kickstart, &installation.kickstart)
            .with_context(|| format!("writing {}", kickstart.display()))?;
        self.progress.step(stage, "writing the volume with kickstart and payload");
        let volume = dir.join("oemdrv.iso");
        let mut entries = vec![Entry { source: kickstart, target: "/ks.cfg".to_owned(), executable: false }];
        entries.extend(installation.volume.iter().cloned());
        xorriso::create(&volume, VOLUME, &entries).await.context("writing the volume with the kickstart")?;

        let accel = self.accel;
        let logs = LogFiles {
            installer: dir.join("installer.log"),
            serial: dir.join("serial.log"),
            marks: dir.join("marks.log"),
        };
        let command = self.machine(installation, accel, &volume, &logs);
        self.progress.step(stage, "starting the installer's machine");
        let mut classifier = Classifier::new(self.run_id.as_str(), which(installation.stage));
        let (vm, mut diagnosis) = match Vm::spawn(&command, dir, Lifetime::Builder).await {
            Ok(mut vm) => {
                let limits = self.limits();
                match watch::watch(&mut vm, &logs, classifier, limits, stage, self.progress).await? {
                    Ok(done) => return Ok(done),
                    Err(diagnosis) => (Some(vm), diagnosis),
                }
            }
            Err(error) => match error.downcast_ref::<NeverRan>() {
                Some(NeverRan { status, log_tail }) => {
                    let ending = Ending::Exited { status: status.to_string(), stderr: log_tail.clone() };
                    (None, classifier.finish(&ending).err().context("QEMU ended for no reason")?)
                }
                None => return Err(error),
            },
        };
        if accel == Accel::Kvm && diagnosis.class == Class::HostQemu {
            diagnosis.next = format!("Try `--accel tcg`. {}", diagnosis.next);
        }
        let shell = command.to_shell(dir);
        let evidence = Evidence {
            diagnosis: &diagnosis,
            stage,
            logs: &logs,
            vm_dir: dir,
            kickstart: &installation.kickstart,
            command: &shell,
            tools: self.tools,
        };
        let bundle = self.give_up(vm, &evidence).await;
        if let Err(error) = &bundle {
            self.progress.warn(format!("what there is about the failure could not be kept: {error:#}"));
        }
        Err(StageFailed { stage, diagnosis: Box::new(diagnosis), bundle: bundle.ok() }.into())
    }

    fn limits(&self) -> Limits {
        let limits = Limits::default();
        self.stall_after.map_or(limits, |quiet| limits.quiet_at_most(quiet))
    }

    /// Takes a picture, ends the machine, keeps what is known.
    async fn give_up(&self, vm: Option<Vm>, evidence: &Evidence<'_>) -> Result<PathBuf> {
        let dir = bundle::dir(self.state, self.run_id);
        create_private(&dir)?;
        if let Some(mut vm) = vm {
            // There is none when the machine is gone already.
            if let Err(error) = vm.screendump(&dir.join(bundle::SCREEN)).await {
                tracing::debug!("no screenshot: {error:#}");
            }
            vm.stop(STOP_GRACE).await?;
        }
        bundle::write(&dir, evidence)?;
        Ok(dir)
    }

    fn machine(&self, installation: &Installation, accel: Accel, volume: &Path, logs: &LogFiles) -> Command {
        let media = self.media;
        let kernel = Kernel {
            kernel: media.kernel.clone(),
            initrd: Some(media.initrd.clone()),
            append: kernel_arguments(media),
        };
        // The link the kickstart wants up leads nowhere: all there is to
        // install is on the medium.
        let network = Net::User { forwards: Vec::new(), restrict: true };
        let machine = Command::new(&format!("kiln-bake-{}", installation.stage.as_str()), accel)
            .cpus(self.size.cpus)
            .memory_mib(self.size.memory.as_mib())
            .firmware(installation.firmware.clone())
            .on_reset(OnReset::Exit)
            .screen()
            .kernel(kernel)
            // The result counts once it was brought to the disk as a whole.
            .disk(Disk::qcow2(&installation.disk, DISK_SERIAL).throwaway())
            .cdrom(&media.iso.path)
            .cdrom(volume)
            .nic(network, None)
            .serial_file(&logs.serial)
            .port(LOG_PORT, PortEnd::File(logs.installer.clone()))
            .port(MARK_PORT, PortEnd::File(logs.marks.clone()))
            .port(AGENT_PORT, PortEnd::Socket("agent.sock".into()));
        match &installation.port {
            Some((name, file)) => machine.port(name, PortEnd::File(file.clone())),
            None => machine,
        }
    }
}

fn which(stage: Stage) -> diagnose::Stage {
    match stage {
        Stage::Os => diagnose::Stage::Os,
        Stage::Node => diagnose::Stage::Node,
        Stage::Inspect => diagnose::Stage::Inspect,
    }
}
