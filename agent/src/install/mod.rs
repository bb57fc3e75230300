//! `agent install`: puts agent, k3s and units onto a root filesystem, seals
//! it, sets SELinux labels, and looks again at everything it did.
//!
//! ```text
//! payload checked -> root checked -> files placed -> hardened -> sealed -> labelled -> report
//! ```
//!
//! Nothing is touched before the whole payload has been checked against
//! `install.json`. Every step looks first and acts only on what differs: a
//! second run changes nothing, and a run that was cut short is repaired by the
//! next one. It runs in the stage 2 of Anaconda, which has few tools: files
//! are handled here, and only SELinux's own tools are run, those of the root.
//!
//! With the root `/`, an existing host becomes a node. It keeps its identity:
//! nothing is sealed.

mod accounts;
mod bls;
mod harden;
mod labels;
mod login;
mod packages;
mod payload;
mod place;
mod report;
mod rules;
mod seal;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use kiln_protocol::seed::Contact;

pub use labels::{Chroot, Labels, Tools};
pub use report::{Placed, Report, Sealed};

use crate::os_release::OsRelease;
use crate::root::Root;

/// Runs `agent install` and prints its report.
pub fn command(root: &Path, payload: &Path, coordinator: Option<Contact>, json: bool) -> Result<ExitCode> {
    let report = install(root, payload, coordinator, &Chroot)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&report).context("writing the report as JSON")?);
    } else {
        print!("{report}");
    }
    if report.ok {
        return Ok(ExitCode::SUCCESS);
    }
    bail!("{}", report.problems().join("; "))
}

/// Installs `payload` onto `root`, with the coordinator that a machine without
/// a ticket asks, if not the one that the payload names. An error means that it could not go on; a
/// report that is not ok means that it did, and what is wrong now.
pub fn install(
    root: &Path,
    payload: &Path,
    coordinator: Option<Contact>,
    tools: &dyn Tools,
) -> Result<Report> {
    let seal = !is_running_system(root)?;
    let root = Root::open(root)?;
    let mut payload = payload::Payload::check(payload)?;
    payload.spec.coordinator = coordinator.or(payload.spec.coordinator);
    check_system(&root)?;
    tools.prepare(&root)?;
    let installed = packages::list(&root, tools)?;
    let plan = place::Plan::of(&payload);
    plan.check_space(&root, &payload)?;

    step("installing files");
    let placed = plan.carry_out(&root, &payload)?;
    let mut touched: Vec<_> = placed.iter().flat_map(Placed::paths).collect();
    let mut kept = None;
    if let Some(login) = &payload.spec.login {
        step("making the break-glass login");
        touched.extend(login::apply(&root, login)?.iter().flat_map(Placed::paths));
        kept = login::keys_dir(login);
    }
    let mut hardened = Vec::new();
    if payload.spec.image.harden.has_baseline() {
        step("hardening");
        hardened = harden::apply(&root)?;
        touched.extend(hardened.iter().flat_map(Placed::paths));
    }
    let sealed = if seal {
        step("sealing");
        let sealed = seal::seal(&root, rules::RULES, kept.as_deref());
        touched.extend(seal::written(&root, rules::RULES)?);
        sealed
    } else {
        Vec::new()
    };
    step("setting SELinux labels");
    let labels = labels::apply(&root, tools, touched);
    step("writing everything to the disk");
    root.sync(&["/", "/usr", "/var", "/boot", "/boot/efi"])?;
    let report = Report::new(root.path(), payload.spec.image, placed, hardened, sealed, labels);
    Ok(Report { packages: installed, ..report })
}

fn step(what: &str) {
    eprintln!("agent install: {what}");
}

/// Whether `root` is the system this program itself runs in.
fn is_running_system(root: &Path) -> Result<bool> {
    let real = root.canonicalize().with_context(|| format!("looking for the root {}", root.display()))?;
    Ok(real == Path::new("/"))
}

fn check_system(root: &Root) -> Result<()> {
    let release = root.read_text("/etc/os-release")?.with_context(|| {
        format!(
            "{} holds no system: there is no etc/os-release (is the disk mounted?)",
            root.path().display()
        )
    })?;
    let release = OsRelease::parse(&release);
    if !release.is_el9() {
        bail!(
            "{} holds {:?}, not an Enterprise Linux 9 (PLATFORM_ID=\"platform:el9\")",
            root.path().display(),
            release.pretty_name
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;
