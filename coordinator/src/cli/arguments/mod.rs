//! The command line.

mod admins;
mod cluster;
mod nodes;
mod state;

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use kiln_protocol::Fingerprint;
use kiln_protocol::ticket::Address;

use super::EXIT_CODES;
use super::examples;
use crate::UnlockFile;

pub(super) use admins::{Admin, AdminCommand, AdminKeySource};
pub(super) use cluster::{Apply, End, Events, Kubeconfig, RaiseEpoch, RotateCa, RotateTokens, Status};
pub(super) use nodes::{Approve, Confirm, Extend, Node, Pending, Replace, Ticket};
pub(super) use state::{Backup, Init, LogFormat, PinChange, Restore, Serve, UnlockKey};

/// Where the state is unless said otherwise: what the systemd unit uses.
pub(super) const DEFAULT_STATE: &str = "/var/lib/kiln-coordinator";

/// Vouches for nodes' keys, tells nodes what to become, keeps a cluster's secrets.
#[derive(Debug, Parser)]
#[command(name = "coordinator", version, about, after_help = EXIT_CODES, help_expected = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a state directory with new keys, and print the coordinator's pin
    #[command(after_help = examples::INIT)]
    Init(Init),
    /// Answer nodes and admins until told to stop
    #[command(after_help = examples::SERVE)]
    Serve(Serve),
    /// Make a ticket for one node
    #[command(after_help = examples::TICKET)]
    Ticket(Ticket),
    /// Show every node and how far it is
    #[command(after_help = examples::STATUS)]
    Status(Status),
    /// Make a kubeconfig, without asking any node
    #[command(after_help = examples::KUBECONFIG)]
    Kubeconfig(Kubeconfig),
    /// Show what a cluster file changes, and put it in force
    #[command(after_help = examples::APPLY)]
    Apply(Apply),
    /// Say which key the console of a node's machine shows
    #[command(after_help = examples::CONFIRM)]
    Confirm(Confirm),
    /// Take a machine without a ticket for a node, by the key its console shows
    #[command(after_help = examples::APPROVE)]
    Approve(Approve),
    /// Show the machines that wait to be approved
    #[command(after_help = examples::PENDING)]
    Pending(Pending),
    /// Give a node's unused ticket more time
    #[command(after_help = examples::EXTEND)]
    Extend(Extend),
    /// Trust a held node's key again
    #[command(after_help = examples::RELEASE)]
    Release(Node),
    /// Take every right of a node away
    #[command(after_help = examples::REVOKE)]
    Revoke(Node),
    /// Have a node replace its key at its next contact
    ///
    /// The node makes another key and has the coordinator take it in place of
    /// the old one, within a second if it is connected, else when it connects
    /// next. Whoever uses the old key from then on is a second machine, and the
    /// node is held.
    #[command(after_help = examples::ROTATE)]
    Rotate(Node),
    /// Give the cluster another server token, and every agent another join token
    ///
    /// A ready server's agent gives the new server token to its k3s, and every
    /// other server takes it over: no node restarts, and one that is off follows
    /// when it is on again. Nobody joins while that is under way.
    #[command(after_help = examples::ROTATE_TOKENS)]
    RotateTokens(RotateTokens),
    /// Say how the cluster gets other certificate authorities
    #[command(after_help = examples::ROTATE_CA)]
    RotateCa(RotateCa),
    /// Decide for a state that is older than what nodes have seen
    ///
    /// A coordinator whose state was set back (an old copy, a snapshot) is told so
    /// by its nodes, and then enrols nobody and starts no k3s. If the newest
    /// state is lost, this makes the present one count: its unused tickets
    /// become void, and nodes that enrolled since need new tickets.
    #[command(after_help = examples::RAISE_EPOCH)]
    RaiseEpoch(RaiseEpoch),
    /// Give the coordinator a new key, by the recovery key's word
    ///
    /// For when the old key was stolen or lost. Stop the coordinator first. Nodes
    /// that enrolled before go on with the new key at their next contact;
    /// unused tickets are void, and CLIs elsewhere need the new pin.
    #[command(after_help = examples::PIN_CHANGE)]
    PinChange(PinChange),
    /// Say what becomes of the data of a server that is lost
    #[command(after_help = examples::REPLACE)]
    Replace(Replace),
    /// Say that a node's machine is gone, and that etcd has no member of it any more: you looked
    #[command(after_help = examples::MEMBER_GONE)]
    MemberGone(Node),
    /// End the cluster's incarnation: no node of it may do anything any more
    ///
    /// An incarnation is the cluster's life from `apply` to `end` (`builder up` to
    /// `builder down`): certificate authorities, tokens and node passwords belong to
    /// it and are wiped with it. k3s on machines that are still there goes on until
    /// they are removed. The next `apply` begins another one.
    #[command(after_help = examples::END)]
    End(End),
    /// Show the audit trail: who did what to which node, when, from where
    #[command(after_help = examples::EVENTS)]
    Events(Events),
    /// Say who may ask this coordinator from elsewhere
    #[command(after_help = examples::ADMIN)]
    Admin(Admin),
    /// Print a shell's completions
    #[command(after_help = examples::COMPLETIONS)]
    Completions(Completions),
    /// Write the man pages into a directory
    #[command(hide = true)]
    Man(Man),
    /// Write everything but the unlock key into one file, also while it serves
    #[command(after_help = examples::BACKUP)]
    Backup(Backup),
    /// Make a state from a backup, which knows that it is one
    #[command(after_help = examples::RESTORE)]
    Restore(Restore),
    /// Make or replace the key that the state's secrets are sealed under
    #[command(subcommand, after_help = examples::UNLOCK_KEY)]
    UnlockKey(UnlockKey),
}

#[derive(Debug, Args)]
pub(super) struct State {
    /// The state directory
    #[arg(long, value_name = "DIR", env = "KILN_STATE", default_value = DEFAULT_STATE)]
    pub(super) state: PathBuf,
}

/// What the secrets in the state are sealed under.
#[derive(Debug, Args)]
pub(super) struct Unlock {
    /// The file with the unlock key, outside the state and its backups
    /// [default: systemd's credential unlock-key, else DIR.unlock-key]
    #[arg(long, value_name = "FILE", env = "KILN_UNLOCK_KEY_FILE")]
    pub(super) unlock_key: Option<PathBuf>,
}

impl Unlock {
    /// The file, for a state.
    pub(super) fn file(&self, state: &Path) -> UnlockFile {
        let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        UnlockFile::find(self.unlock_key.as_deref(), credentials.as_deref(), state)
    }
}

/// Which coordinator is asked: the one that serves `--state` on this host, at
/// its socket, or one elsewhere with an admin's key.
#[derive(Debug, Args)]
pub(super) struct Remote {
    #[command(flatten)]
    pub(super) state: State,
    /// Ask the coordinator at this address instead of the one of --state
    #[arg(long, value_name = "HOST:PORT", requires = "pin", requires = "admin_key")]
    pub(super) address: Option<Address>,
    /// That coordinator's pin, as init printed it
    #[arg(long, value_name = "HEX", requires = "address")]
    pub(super) pin: Option<Fingerprint>,
    /// The file with an admin's key that it knows
    #[arg(long, value_name = "FILE", requires = "address")]
    pub(super) admin_key: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell they are for
    pub(super) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(super) struct Man {
    /// The directory they go to; it is made
    #[arg(value_name = "DIR")]
    pub(super) dir: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent_and_every_option_has_help() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_subcommand_has_examples_and_they_are_valid() {
        for subcommand in Arguments::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = subcommand.get_name();
            let help = subcommand.get_after_help().map(ToString::to_string).unwrap_or_default();
            let examples: Vec<&str> =
                help.lines().filter_map(|line| line.strip_prefix("  coordinator ")).collect();
            assert!(!examples.is_empty(), "{name} has no examples");
            for example in examples {
                let words = std::iter::once("coordinator").chain(example.split(' '));
                let parsed = Arguments::try_parse_from(words);
                assert!(parsed.is_ok() && example.starts_with(name), "{example}: {:?}", parsed.err());
            }
        }
    }

    #[test]
    fn a_remote_needs_address_pin_and_key_together() {
        let pin = "0".repeat(64);
        let parse =
            |extra: &[&str]| Arguments::try_parse_from(["coordinator", "status"].iter().chain(extra)).is_ok();
        assert!(parse(&[]));
        assert!(parse(&["--address", "a:1", "--pin", &pin, "--admin-key", "f"]));
        assert!(!parse(&["--address", "a:1"]));
        assert!(!parse(&["--address", "a:1", "--pin", &pin]));
        assert!(!parse(&["--pin", &pin]));
    }
}
