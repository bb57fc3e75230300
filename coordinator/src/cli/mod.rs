//! The program `coordinator`: one file a subcommand.

mod admin;
mod admins;
mod arguments;
mod completions;
mod connect;
mod duration;
mod events;
mod examples;
mod recovery;
mod serve;
mod state;
pub(crate) mod table;
mod ticket;
mod until_ready;
mod vouch;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;

use crate::client::ClientError;
use crate::hardening;
use crate::store::dir;
use arguments::{Arguments, Command};

pub use table::status_table;

/// What the exit code says, as `--help` tells it.
const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  the command line is wrong
  3  the coordinator cannot be reached, or another one answers
  4  the coordinator refused
  5  serve --until-ready: not every node was ready in time
  6  confirm: the node is held: another key than the one on the console has enrolled, or it was before";

/// Parses the command line and runs it.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    hardening::no_core_dumps();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime.context("starting the runtime") {
        Ok(runtime) => runtime.block_on(run(arguments.command)),
        Err(error) => Err(error),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("{}", render(&error));
            exit_code(&error)
        }
    }
}

async fn run(command: Command) -> Result<()> {
    match command {
        Command::Init(init) => serve::init(&init),
        Command::Serve(serve) => serve::serve(&serve).await,
        Command::Ticket(ticket) => ticket::ticket(&ticket).await,
        Command::Status(status) => admin::status(&status).await,
        Command::Kubeconfig(kubeconfig) => admin::kubeconfig(&kubeconfig).await,
        Command::Apply(apply) => admin::apply(&apply).await,
        Command::Confirm(confirm) => vouch::confirm(&confirm).await,
        Command::Approve(approve) => vouch::approve(&approve).await,
        Command::Pending(pending) => vouch::pending(&pending).await,
        Command::Extend(extend) => admin::extend(&extend).await,
        Command::Release(node) => admin::release(&node).await,
        Command::Revoke(node) => admin::revoke(&node).await,
        Command::Rotate(node) => admin::rotate(&node).await,
        Command::RotateTokens(rotate) => admin::rotate_tokens(&rotate).await,
        Command::RotateCa(_) => Err(admin::rotate_ca()),
        Command::RaiseEpoch(raise) => admin::raise_epoch(&raise).await,
        Command::PinChange(change) => recovery::pin_change(&change),
        Command::Replace(replace) => admin::replace(&replace).await,
        Command::MemberGone(node) => admin::member_gone(&node).await,
        Command::End(end) => admin::end(&end).await,
        Command::Events(events) => events::events(&events).await,
        Command::Admin(admin) => admins::admin(&admin.command).await,
        Command::Completions(completions) => completions::completions(&completions),
        Command::Man(man) => completions::man(&man),
        Command::Backup(backup) => state::backup(&backup),
        Command::Restore(restore) => state::restore(&restore),
        Command::UnlockKey(command) => state::unlock_key(&command),
    }
}

fn exit_code(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Refused(_)) => ExitCode::from(4),
        _ if connect::is_unreachable(error) => ExitCode::from(3),
        _ if error.is::<until_ready::NotReady>() => ExitCode::from(5),
        _ if error.is::<vouch::Held>() => ExitCode::from(6),
        _ => ExitCode::FAILURE,
    }
}

/// The error on one line, its causes below, what to do last.
fn render(error: &anyhow::Error) -> String {
    let mut text = String::new();
    let refusal = error.downcast_ref::<ClientError>().and_then(|error| match error {
        ClientError::Refused(refusal) => Some(refusal),
        _ => None,
    });
    if let Some(refusal) = refusal {
        let _ = writeln!(text, "coordinator: {} ({})", refusal.message, refusal.class);
        if let Some(hint) = &refusal.hint {
            let _ = writeln!(text, "  {hint}");
        }
        if let Some(request) = &refusal.request {
            let _ = writeln!(text, "  request {request} in the coordinator's log");
        }
        return text;
    }
    let _ = writeln!(text, "coordinator: {error}");
    for cause in error.chain().skip(1) {
        let _ = writeln!(text, "  because: {cause}");
    }
    text
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<std::io::Error>();
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Prints to standard output.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    Ok(out.write_all(text.as_bytes()).and_then(|()| out.flush())?)
}

/// Prints a secret to standard output, or writes it to a file that only its
/// owner can read.
fn deliver(text: &str, file: Option<&Path>) -> Result<()> {
    match file {
        None => print(text),
        Some(path) => dir::replace_private(path, text.as_bytes()),
    }
}
