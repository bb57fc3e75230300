//! `agent run`: takes this machine from its first boot to a ready node, and
//! then follows its configuration.
//!
//! [`state`] says how far a node is and what may come next; [`driver`] does
//! what each state asks for, as often as it takes; [`store`] keeps the state;
//! [`seeds`] finds what a node goes by; what comes after is [`follow`], and
//! [`tend`] for servers.

mod driver;
mod follow;
mod join;
mod network;
mod rotate;
mod seeds;
mod shown;
pub mod state;
mod store;
mod tend;
mod token;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use kiln_protocol::ApiError;
use sd_notify::NotifyState;

pub use driver::{Node, Outcome};
pub(crate) use store::parse as parse_state;

use crate::host::ThisMachine;
use crate::progress::Console;
use crate::retry::Pace;
use crate::root::Root;

/// The exit code that keeps systemd from starting the agent again: only an
/// operator can help (`RestartPreventExitStatus=` in kiln-agent.service).
const ONLY_AN_OPERATOR: u8 = 78;

/// Runs `agent run`.
pub fn command() -> Result<ExitCode> {
    let root = Root::open("/".as_ref())?;
    let console = Console::of_this_machine();
    let state = match store::load(&root) {
        Ok(state) => state,
        Err(error) => return without_state(&console, error),
    };
    // Nothing in the boot waits for what comes now.
    if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
        tracing::warn!("telling systemd that the agent is up: {error}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let host = ThisMachine::new(&root);
    let node = Node::new(&root, &host, &console, Pace::default());
    let outcome = runtime.context("starting the runtime")?.block_on(async {
        let outcome = node.run(state).await?;
        if outcome == Outcome::Ready {
            let ready = store::load(&root)?;
            tokio::join!(node.follow(ready.clone()), node.tend(&ready));
        }
        anyhow::Ok(outcome)
    })?;
    Ok(match outcome {
        Outcome::Ready => ExitCode::SUCCESS,
        Outcome::Cloned => ExitCode::from(ONLY_AN_OPERATOR),
    })
}

/// Says why there is no state to go on from. Only one that is none needs an
/// operator; what kept it from being read (no memory, too many open files, a
/// disk that came back) may be over when systemd starts the agent again.
fn without_state(console: &Console, error: ApiError) -> Result<ExitCode> {
    console.line(&format!("kiln: {error}"));
    if !error.class.needs_operator() {
        return Err(error.into());
    }
    eprintln!("agent: {error}");
    Ok(ExitCode::from(ONLY_AN_OPERATOR))
}

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod fakes;
#[cfg(test)]
mod tests;
