//! `builder bake`: the command, from its options to its summary.

use std::fmt::Write as _;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use kiln_protocol::Fingerprint;
use kiln_protocol::names::K3sVersion;
use kiln_protocol::seed::Contact;
use kiln_protocol::ticket::Address;

use super::sign::signer;
use crate::bake::{self, Baked, Compression, Form, MachineSize, OnError, StageFailed};
use crate::failure::BadInput;
use crate::image::manifest::{DISK, gigabytes};
use crate::image::{Size, VersionName};
use crate::inputs::Wanted;
use crate::inputs::lockfile::{self, LockOptions};
use crate::inputs::network::{Downloads, Network};
use crate::inputs::selinux::Policy;
use crate::inputs::source::{InvalidSource, Source};
use crate::machine::qemu::AccelChoice;
use crate::progress::{Event, Progress, Style};
use crate::provider::NodeFirmware;
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
    /// Bake in a coordinator: a node that finds no ticket asks it for an operator's approval.
    #[arg(long, value_name = "HOST:PORT", requires = "pin")]
    coordinator: Vec<Address>,
    /// The pin of --coordinator, as `coordinator init` printed it.
    #[arg(long, value_name = "HEX", requires = "coordinator")]
    pin: Option<Fingerprint>,
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
    /// Other forms of the disk to make beside disk.qcow2.
    #[arg(long, value_enum, value_name = "FORM", value_delimiter = ',')]
    also: Vec<Form>,
    /// Sign the result with this key (see `builder sign --help`).
    #[arg(long, value_name = "FILE", env = "KILN_SIGN_KEY")]
    sign_key: Option<PathBuf>,
    /// The file with that key's password, if it has one.
    #[arg(long, value_name = "FILE", requires = "sign_key")]
    sign_password_file: Option<PathBuf>,
    /// What becomes of what a failed bake has made.
    #[arg(long, value_enum, default_value_t)]
    on_error: OnError,
    /// Give up when a machine shows no progress for so long, such as 90s or 10m
    /// [default: by what it is doing].
    #[arg(long, value_name = "TIME", value_parser = super::duration)]
    stall_after: Option<Duration>,
    /// What starts the clones of the image that are tried, one each; the first is the server.
    #[arg(
        long,
        value_enum,
        value_name = "FIRMWARE",
        value_delimiter = ',',
        default_value = "uefi,bios,secure-boot"
    )]
    smoke: Vec<NodeFirmware>,
    /// Do not try clones of the image.
    #[arg(long, conflicts_with = "smoke")]
    no_smoke: bool,
    #[command(flatten)]
    instead: Instead,
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
    /// k3s's SELinux policy (k3s-selinux-*.el9.noarch.rpm) [default: a release of Rancher's].
    #[arg(long, value_name = "RPM|URL[#sha256=HEX]", value_parser = source)]
    k3s_selinux: Option<Source>,
    /// The OpenPGP key that signed that package [default: Rancher's].
    #[arg(long, value_name = "FILE", conflicts_with = "no_k3s_selinux")]
    k3s_selinux_key: Option<PathBuf>,
    /// Bake without k3s's SELinux policy: k3s then runs without a domain of its own.
    #[arg(long, conflicts_with = "k3s_selinux")]
    no_k3s_selinux: bool,
    /// The agent's binary [default: `agent` beside this program].
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
}

/// What to do instead of a bake.
#[derive(Debug, clap::Args)]
struct Instead {
    /// Say which stages would run and which input made them stale, and do nothing; no input is
    /// downloaded for it.
    #[arg(long)]
    explain: bool,
    /// Get and check the inputs, and do no more; a bake with --offline can follow.
    #[arg(long, conflicts_with = "explain")]
    fetch: bool,
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
    if args.instead.explain {
        return explain(args).await;
    }
    let progress = Progress::new(if args.json { Style::Json } else { Style::Human });
    if args.instead.fetch {
        return fetch(args, &progress).await;
    }
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
            tell_failed(&progress, &error);
            Err(error)
        }
    }
}

fn tell_failed(progress: &Progress, error: &anyhow::Error) {
    let stage = error.chain().find_map(<dyn std::error::Error>::downcast_ref::<StageFailed>);
    progress.tell(&Event::Failed {
        class: stage.map(|failed| failed.diagnosis.class.to_string()),
        message: format!("{error:#}"),
        bundle: stage.and_then(|failed| failed.bundle.as_ref()).map(|dir| dir.display().to_string()),
    });
}

/// Gets the inputs and prints which they are.
async fn fetch(args: Args, progress: &Progress) -> Result<()> {
    let outcome = async {
        let options = options(args)?;
        Ok((Box::pin(bake::fetch(&options, progress)).await?, options.cache))
    };
    match Box::pin(or_interrupted(outcome)).await {
        Ok((inputs, cache)) => {
            progress.tell(&Event::Finished { result: cache.display().to_string() });
            if progress.is_for_people() {
                for file in inputs.values() {
                    println!("{} ({}, sha256 {})", file.name, Size::bytes(file.size), file.sha256);
                }
            }
            Ok(())
        }
        Err(error) => {
            tell_failed(progress, &error);
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
    let contact = args.pin.map(|pin| Contact::new(args.coordinator, pin)).transpose();
    let coordinator = contact.map_err(|error| BadInput(format!("--coordinator: {error}")))?;
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
            k3s_selinux: match args.inputs.k3s_selinux {
                Some(source) => Policy::Given(source),
                None if args.inputs.no_k3s_selinux => Policy::None,
                None => Policy::Pinned,
            },
            k3s_selinux_key: args.inputs.k3s_selinux_key,
            agent: args.inputs.agent,
            network: Network { update: args.pins.update, ..args.downloads.network() },
            lock: LockOptions { path: std::path::absolute(lock_file)?, locked: args.pins.locked },
        },
        kickstart: args.kickstart,
        coordinator,
        // QEMU runs elsewhere: relative paths would not be found there.
        out: std::path::absolute(args.out)?,
        cache: std::path::absolute(cache)?,
        state: dirs::state()?,
        accel: args.accel,
        machine: MachineSize { cpus, memory: args.memory },
        disk_size: args.disk_size,
        compression: args.compression,
        order: args.order.order()?,
        also: args.also.into_iter().collect(),
        signer: args.sign_key.map(|key| signer(&key, args.sign_password_file.as_deref())).transpose()?,
        on_error: args.on_error,
        smoke: if args.no_smoke { Vec::new() } else { args.smoke },
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
