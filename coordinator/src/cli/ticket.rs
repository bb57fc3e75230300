//! `ticket`: the caller's half of a mint.
//!
//! The seed is made here, journalled (0600) before anything else is done with
//! it, and only its public key is told to the coordinator: a crash in between
//! loses nothing, because the next run finds the journal and goes on. The
//! journal is not in the state directory, so that a stolen state holds no
//! ticket.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use kiln_protocol::admin::{Hints, MintRequest, NodeStatus, TicketRecord};
use kiln_protocol::ticket::{MAX_ADDRESSES, Ticket, TicketSeed};
use kiln_protocol::{ApiError, ErrorClass, Fingerprint, NodeName};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::arguments::Ticket as Arguments;
use super::{connect, deliver};
use crate::client::ClientError;
use crate::store::dir;

/// Minutes by which a ticket begins in the past, for clocks that disagree.
const BACKDATED: SignedDuration = SignedDuration::from_mins(5);

/// What is kept of a ticket: enough to print it again.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Journal {
    pin: Fingerprint,
    seed: TicketSeed,
    record: TicketRecord,
}

pub(super) async fn ticket(arguments: &Arguments) -> Result<()> {
    // Before anything is made that nobody could be handed.
    let addresses = arguments.advertise.len();
    ensure!(
        addresses <= MAX_ADDRESSES,
        "--advertise was given {addresses} times: a ticket holds at most {MAX_ADDRESSES} addresses"
    );
    let client = connect::connect(&arguments.remote)?;
    let status = client.status().await?;
    let pin = status.pin;
    let node = status.node(&arguments.node).ok_or_else(|| not_planned(&arguments.node))?;
    let path = journal_path(arguments.journal.as_deref(), pin, &arguments.node)?;
    let kept = read(&path)?.filter(|_| !arguments.new).filter(|kept| goes_on(kept, pin, node, arguments));
    let again = kept.is_some();
    let journal = kept.map_or_else(|| make(arguments, pin, node), Ok)?;
    let ticket = Ticket::new(arguments.advertise.clone(), pin, journal.seed.clone())?;
    if !again {
        let text = Zeroizing::new(serde_json::to_string(&journal)?);
        dir::replace_private(&path, text.as_bytes())?;
    }
    let (key, record) = (journal.seed.public_key(), journal.record.clone());
    // An operator may have given it more time since.
    let known = node.ticket.as_ref().filter(|ticket| ticket.ticket == key);
    let expires = known.map_or(record.expires, |ticket| ticket.expires);
    let generation = record.generation;
    client.mint(&MintRequest { ticket: key, record }).await?;
    deliver(&Zeroizing::new(format!("{}\n", *ticket.to_text())), arguments.out.as_deref())?;
    eprintln!(
        "ticket of node {} (generation {generation}), to be used before {expires}: \
         whoever reads it first may become that node",
        arguments.node
    );
    if again {
        eprintln!(
            "it was made before and is printed again, with the end it has; for more time: coordinator extend {}; \
             for another ticket, add --new",
            arguments.node
        );
    }
    Ok(())
}

/// Whether a journalled ticket is the one to hand out: it waits to be used, or
/// the coordinator was never told of it.
fn goes_on(kept: &Journal, pin: Fingerprint, node: &NodeStatus, arguments: &Arguments) -> bool {
    let key = kept.seed.public_key();
    let waits =
        node.ticket.as_ref().is_some_and(|ticket| ticket.ticket == key && ticket.expires > Timestamp::now());
    let untold = kept.record.generation == node.next_generation
        && kept.record.role == node.role
        && kept.record.expires > Timestamp::now();
    let same = kept.record.confirm_console == arguments.confirm_console;
    kept.pin == pin && same && (waits || untold)
}

fn make(arguments: &Arguments, pin: Fingerprint, node: &NodeStatus) -> Result<Journal> {
    let now = Timestamp::now();
    let lifetime = SignedDuration::from_secs(i64::try_from(arguments.lifetime.seconds())?);
    let record = TicketRecord {
        node: arguments.node.clone(),
        generation: node.next_generation,
        role: node.role,
        not_before: now - BACKDATED,
        expires: now.checked_add(lifetime).context("the ticket's end is beyond all calendars")?,
        confirm_console: arguments.confirm_console,
        hints: Hints::default(),
    };
    Ok(Journal { pin, seed: TicketSeed::generate(), record })
}

fn not_planned(node: &NodeName) -> ClientError {
    ApiError::new(ErrorClass::Policy, format!("node {node} is not in the cluster file in force"))
        .hint("add it and apply the file: coordinator apply FILE")
        .into()
}

fn journal_path(chosen: Option<&Path>, pin: Fingerprint, node: &NodeName) -> Result<PathBuf> {
    let directory = match chosen {
        Some(directory) => directory.to_owned(),
        None => {
            default_directory().context("HOME is not set: say where seeds are kept, with --journal DIR")?
        }
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .with_context(|| format!("making the directory {}", directory.display()))?;
    let pin = pin.to_string();
    Ok(directory.join(format!("{}-{node}.json", &pin[..16])))
}

fn default_directory() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state.join("kiln/tickets"))
}

fn read(path: &Path) -> Result<Option<Journal>> {
    match fs::read_to_string(path).map(Zeroizing::new) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        Ok(text) => serde_json::from_str(&text)
            .map(Some)
            .with_context(|| format!("reading {}: remove it if it is damaged", path.display())),
    }
}
