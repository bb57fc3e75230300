//! A stand-in for k3s: the parts of `k3s server`, `k3s agent` and `k3s
//! kubectl` that a node meets while it joins and lives, spoken as the real one
//! speaks them, without containers, etcd or pods. Installed as
//! `/usr/local/bin/k3s` in images the tests bake.
//!
//! What it was written from is named at the top of each module. Everything
//! below `/etc` is found elsewhere when `STANDIN_K3S_ETC` says so.

mod agent;
mod api;
mod auth;
mod bootstrap;
mod ca_hash;
mod client;
mod cluster;
mod config;
mod faults;
mod files;
mod flags;
mod interfaces;
mod kubeconfig;
mod kubectl;
mod kubelet;
mod labels;
mod listener;
mod log;
mod node;
mod notify;
mod passwd;
mod pki;
mod registry;
mod server;
mod settings;
mod store;
mod supervisor;
mod token;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use tokio::signal::unix::{SignalKind, signal};

use crate::faults::Faults;
use crate::flags::Command;

/// The release it stands in for.
const VERSION: &str = "v1.28.5+k3s1";

fn main() -> ExitCode {
    let mut args = std::env::args();
    // As k3s: linked to as kubectl, it is kubectl.
    let called = args.next().unwrap_or_default();
    let called = Path::new(&called).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let mut args: Vec<String> = args.collect();
    if ["kubectl", "crictl", "ctr"].contains(&called) {
        args.insert(0, called.to_owned());
    }
    // Refuses only if there is a provider already, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            match args.first().map(String::as_str) {
                Some("server" | "agent") => log::fatal(&format!("{error:#}")),
                _ => eprintln!("error: {error:#}"),
            }
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<()> {
    let etc = PathBuf::from(std::env::var("STANDIN_K3S_ETC").unwrap_or_else(|_| "/etc".to_owned()));
    let env = |name: &str| std::env::var(name).ok();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    match args.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        Some(("--version" | "-v", [])) => {
            println!("k3s version {VERSION} (standin)");
            Ok(())
        }
        Some(("kubectl", rest)) => runtime.block_on(kubectl::run(rest, &etc, env)),
        Some(("server", rest)) => {
            let values = config::load(Command::Server, rest, &etc, env)?;
            log::init(values.on("debug"));
            let (settings, faults) = (settings::Server::new(&values, &etc)?, Faults::load(&etc)?);
            runtime.block_on(until_told(server::run(settings, faults)))
        }
        Some(("agent", rest)) => {
            let values = config::load(Command::Agent, rest, &etc, env)?;
            log::init(values.on("debug"));
            let settings = settings::Agent::new(&values, &etc)?;
            let faults = Faults::load(&etc)?;
            runtime.block_on(until_told(agent::run(&settings, &faults)))
        }
        Some((other, _)) => {
            bail!("k3s {other}: the stand-in k3s has only server, agent, kubectl and --version")
        }
        None => Err(anyhow!("k3s: say server, agent, kubectl or --version")),
    }
}

/// Runs until the service fails or somebody ends it.
async fn until_told(service: impl Future<Output = Result<()>>) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("waiting for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("waiting for SIGINT")?;
    tokio::select! {
        result = service => return result,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    notify::stopping();
    Ok(())
}
