//! `builder kickstart`: a stage's kickstart as a bake would run it.

use std::path::PathBuf;

use anyhow::Result;
use kiln_protocol::names::OscapProfile;

use crate::bake::kickstart::{Stage, Template, Values};

/// Arguments of `builder kickstart`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The stage it is for.
    stage: Stage,
    /// Render this template for the os stage instead of Kiln's own.
    #[arg(long, value_name = "FILE")]
    kickstart: Option<PathBuf>,
    /// As when k3s's SELinux policy is installed from an RPM.
    #[arg(long)]
    k3s_selinux: bool,
    /// The template itself, as `--kickstart` takes one.
    #[arg(long, conflicts_with = "kickstart")]
    template: bool,
    /// As when the system is made to follow this profile of the SCAP Security Guide.
    #[arg(long, value_name = "PROFILE")]
    oscap_profile: Option<OscapProfile>,
}

/// Prints it, with zeros for the run's id.
pub(super) fn run(args: &Args) -> Result<()> {
    let template = match (&args.kickstart, args.stage) {
        (Some(path), Stage::Os) => Template::read(path)?,
        _ => Template::of(args.stage),
    };
    if args.template {
        print!("{}", template.text());
        return Ok(());
    }
    let values = Values::without_run(args.stage, args.k3s_selinux).with_oscap(args.oscap_profile.as_ref());
    print!("{}", template.render(&values)?);
    Ok(())
}
