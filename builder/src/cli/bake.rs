//! `builder bake`: the command, from its options to its summary.

use std::fmt::Write as _;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use kiln_protocol::names::K3sVersion;

use crate::bake::{self, Baked, Compression, MachineSize, OnError, StageFailed};
use crate::failure::BadInput;
use crate::image::manifest::{DISK, gigabytes};
use crate::image::{Size, VersionName};
use crate::inputs::Wanted;
use crate::inputs::lockfile::{self, LockOptions};
use crate::inputs::network::{Downloads, Network};
use crate::inputs::source::{InvalidSource, Source};
use crate::machine::qemu::AccelChoice;
use crate::progress::{Event, Progress, Style};
use crate::run::dirs;
use crate::run::interrupt::or_interrupted;

/// More processors than this do not make an installation faster.
const MOST_CPUS: u32 = 4;

/// Arguments of `builder bake`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The image's name: alma{major}-k3-node-{arch}-v{k3s version}-v{release}.
    #[arg(long, value_name = "NAME")]
    version: String,
    #[command(flatten)]
    inputs: Sources,
    /// Your own template for the os stage instead of Kiln's (see `builder kickstart os --template`).
    #[arg(long, value_name = "FILE")]
    kickstart: Option<PathBuf>,
    /// Where the image's directory goes.
    #[arg(long, value_name = "DIR", default_value = "images")]
    out: PathBuf,
    /// Where results of stages are kept [default: ~/.cache/kiln].
    #[arg(long, value_name = "DIR", env = "KILN_CACHE")]
    cache: Option<PathBuf>,
    #[command(flatten)]
    pins: Pins,
    /// What runs the machines; auto takes KVM if a guest proves that it works.
    #[arg(long, value_enum, default_value_t)]
    accel: AccelChoice,
    /// Processors of the installer's machine [default: the host's, at most 4].
    #[arg(long, value_name = "N")]
    cpus: Option<NonZeroU32>,
    /// Memory of the installer's machine.
    #[arg(long, value_name = "SIZE", default_value = "4GiB")]
    memory: Size,
    /// The disk's size as a node sees it; a node's own disk may be larger.
    #[arg(long, value_name = "SIZE", default_value = "10GiB")]
    disk_size: Size,
    /// How the disk is compressed.
    #[arg(long, value_enum, default_value_t)]
    compression: Compression,
    #[command(flatten)]
    order: super::order::Args,
    /// What becomes of what a failed bake has made.
    #[arg(long, value_enum, default_value_t)]
    on_error: OnError,
    /// Give up when a machine shows no progress for so long, such as 90s or 10m
    /// [default: by what it is doing].
    #[arg(long, value_name = "TIME", value_parser = super::duration)]
    stall_after: Option<Duration>,
    /// Do not try clones of the image.
    #[arg(long)]
    no_smoke: bool,
    /// Say which stages would run and which input made them stale, and do nothing.
    #[arg(long)]
    explain: bool,
    /// Events as JSON lines on stdout instead of a display.
    #[arg(long)]
    json: bool,
    // Last: it begins a section of its own in the help.
    #[command(flatten)]
    downloads: Downloads,
}

/// A path or a URL.
fn source(text: &str) -> Result<Source, InvalidSource> {
    text.parse()
}

/// Options about what an image is made from.
#[derive(Debug, clap::Args)]
struct Sources {
    /// AlmaLinux's DVD image [default: the newest of the version's major].
    #[arg(long, value_name = "FILE|URL[#sha256=HEX]", value_parser = source)]
    iso: Option<Source>,
    /// The OpenPGP key that signs the CHECKSUM beside the DVD image [default: AlmaLinux's].
    #[arg(long, value_name = "FILE")]
    iso_key: Option<PathBuf>,
    /// The k3s binary [default: that of the release in the name].
    #[arg(long, value_name = "FILE|URL[#sha256=HEX]", value_parser = source)]
    k3s: Option<Source>,
    /// The k3s build, where it is not +k3s1 of the release in the name.
    #[arg(long, value_name = "VERSION")]
    k3s_version: Option<K3sVersion>,
    /// Container images k3s imports without a network (.tar, .tar.gz, .tar.zst).
    #[arg(long, value_name = "FILE|URL[#sha256=HEX]", num_args = 1.., value_parser = source)]
    k3s_images: Vec<Source>,
    /// Put the k3s release's own container images in, so that a node needs no registry.
    #[arg(long)]
    airgap: bool,
    /// k3s's SELinux policy (k3s-selinux-*.el9.noarch.rpm).
    #[arg(long, value_name = "RPM|URL[#sha256=HEX]", value_parser = source)]
    k3s_selinux: Option<Source>,
    /// The agent's binary [default: `agent` beside this program].
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
}

/// Options about the lock file.
#[derive(Debug, clap::Args)]
struct Pins {
    /// What images were made from [default: kiln.lock in the directory of --out].
    #[arg(long, value_name = "FILE")]
    lock_file: Option<PathBuf>,
    /// Refuse to bake from anything else than the lock file says.
    #[arg(long, conflicts_with = "update")]
    locked: bool,
    /// Ask for what is newest instead of taking what the lock file says.
    #[arg(long, conflicts_with = "offline")]
    update: bool,
}

/// Bakes and prints what came of it.
pub(super) async fn run(args: Args) -> Result<()> {
    if args.explain {
        return explain(args).await;
    }
    let progress = Progress::new(if args.json { Style::Json } else { Style::Human });
    let outcome = match options(args) {
        Ok(options) => Box::pin(or_interrupted(bake::bake(&options, &progress))).await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(baked) => {
            progress.tell(&Event::Finished { result: baked.dir.display().to_string() });
            if progress.is_for_people() {
                print!("{}", summary(&baked, progress.elapsed()));
            }
            Ok(())
        }
        Err(error) => {
            let stage = error.chain().find_map(<dyn std::error::Error>::downcast_ref::<StageFailed>);
            progress.tell(&Event::Failed {
                class: stage.map(|failed| failed.diagnosis.class.to_string()),
                message: format!("{error:#}"),
                bundle: stage.and_then(|failed| failed.bundle.as_ref()).map(|dir| dir.display().to_string()),
            });
            Err(error)
        }
    }
}

/// Prints what a bake would do.
async fn explain(args: Args) -> Result<()> {
    let json = args.json;
    let options = options(args)?;
    let progress = Progress::new(Style::Human);
    let explained = or_interrupted(bake::explain::explain(&options, &progress)).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&explained)?);
    } else {
        print!("{explained}");
    }
    Ok(())
}

fn options(args: Args) -> Result<bake::Options> {
    let version: VersionName =
        args.version.parse().map_err(|error| BadInput(format!("--version: {error}")))?;
    let host =
        std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(MOST_CPUS));
    let cpus = args.cpus.or_else(|| NonZeroU32::new(host.min(MOST_CPUS))).unwrap_or(NonZeroU32::MIN);
    let cache = args.cache.map_or_else(dirs::cache, Ok)?;
    let lock_file = args.pins.lock_file.unwrap_or_else(|| args.out.join(lockfile::NAME));
    Ok(bake::Options {
        wanted: Wanted {
            version,
            k3s_version: args.inputs.k3s_version,
            iso: args.inputs.iso,
            iso_key: args.inputs.iso_key,
            k3s: args.inputs.k3s,
            k3s_images: args.inputs.k3s_images,
            airgap: args.inputs.airgap,
            k3s_selinux: args.inputs.k3s_selinux,
            agent: args.inputs.agent,
            network: Network { update: args.pins.update, ..args.downloads.network() },
            lock: LockOptions { path: std::path::absolute(lock_file)?, locked: args.pins.locked },
        },
        kickstart: args.kickstart,
        // QEMU runs elsewhere: relative paths would not be found there.
        out: std::path::absolute(args.out)?,
        cache: std::path::absolute(cache)?,
        state: dirs::state()?,
        accel: args.accel,
        machine: MachineSize { cpus, memory: args.memory },
        disk_size: args.disk_size,
        compression: args.compression,
        order: args.order.order()?,
        on_error: args.on_error,
        smoke: !args.no_smoke,
        stall_after: args.stall_after,
    })
}

fn summary(baked: &Baked, took: Duration) -> String {
    let manifest = &baked.manifest;
    let mut text = String::new();
    for stage in &baked.stages {
        let cached = if stage.cached { "  (made before)" } else { "" };
        let _ = writeln!(text, "  {:<7} {:>7.1} s{cached}", stage.stage, stage.seconds);
    }
    let _ = writeln!(text, "  {}", baked.inspection);
    if let Some(login) = &manifest.login {
        let _ = writeln!(text, "  BREAK-GLASS LOGIN: {login}");
    }
    let size = manifest.outputs.get("disk").map_or(0.0, |disk| gigabytes(disk.size));
    let how = if baked.existed { "was there already" } else { "baked" };
    let seconds = took.as_secs_f64();
    let _ = writeln!(text, "{} {how} in {seconds:.1} s, {size:.2} GiB:", manifest.version);
    let _ = writeln!(text, "  {}", baked.dir.join(DISK).display());
    text
}
