//! The command line.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use kiln_protocol::identity::TypedFingerprint;
use kiln_protocol::names::AdminName;
use kiln_protocol::ticket::Address;
use kiln_protocol::{Fingerprint, NodeName};

use super::EXIT_CODES;
use super::duration::Lifetime;
use super::examples;
use crate::UnlockFile;

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
    /// Say that etcd has no member of a server any more: you looked
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
pub(super) struct Init {
    #[command(flatten)]
    pub(super) state: State,
    #[command(flatten)]
    pub(super) unlock: Unlock,
    /// Succeed without doing anything if there is a state already
    #[arg(long)]
    pub(super) if_missing: bool,
    /// Write the recovery key to this file (mode 0600) instead of showing it
    /// once; without a terminal it goes to recovery.key in the state directory.
    /// Keep it offline: it alone lets nodes accept another coordinator's key
    #[arg(long, value_name = "FILE")]
    pub(super) recovery_out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct RotateTokens {
    #[command(flatten)]
    pub(super) remote: Remote,
}

#[derive(Debug, Args)]
pub(super) struct RotateCa {}

#[derive(Debug, Args)]
pub(super) struct RaiseEpoch {
    #[command(flatten)]
    pub(super) remote: Remote,
}

#[derive(Debug, Args)]
pub(super) struct PinChange {
    #[command(flatten)]
    pub(super) state: State,
    #[command(flatten)]
    pub(super) unlock: Unlock,
    /// The file with the recovery key that init made; - is standard input
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub(super) recovery_key: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    pub(super) state: State,
    #[command(flatten)]
    pub(super) unlock: Unlock,
    /// Where to listen
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:7443")]
    pub(super) listen: SocketAddr,
    /// Put this cluster file in force; SIGHUP reads it again
    #[arg(long, value_name = "FILE")]
    pub(super) cluster: Option<PathBuf>,
    /// Where the status page, /metrics and /healthz are, in plain HTTP; they
    /// change nothing and show no secret [default: 127.0.0.1:7444, if it is free]
    #[arg(long, value_name = "IP:PORT")]
    pub(super) status_listen: Option<SocketAddr>,
    /// No status page
    #[arg(long, conflicts_with = "status_listen")]
    pub(super) no_status: bool,
    /// How the log on standard error is written
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = LogFormat::Text)]
    pub(super) log_format: LogFormat,
    /// Stop once every node of the cluster file is ready; for CI
    #[arg(long)]
    pub(super) until_ready: bool,
    /// How long --until-ready waits
    #[arg(long, value_name = "TIME", default_value = "15m", requires = "until_ready")]
    pub(super) timeout: Lifetime,
}

/// How a log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// A line for people
    Text,
    /// A JSON object a line
    Json,
}

#[derive(Debug, Args)]
pub(super) struct Ticket {
    #[command(flatten)]
    pub(super) remote: Remote,
    /// For which node of the cluster file
    #[arg(long, value_name = "NAME")]
    pub(super) node: NodeName,
    /// An address at which the node reaches the coordinator; may be given several times
    #[arg(long, value_name = "HOST:PORT", required = true)]
    pub(super) advertise: Vec<Address>,
    /// How long the ticket may wait to be used, such as 30m, 1h, 7d
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub(super) lifetime: Lifetime,
    /// Give a server no secret before `coordinator confirm` has named the key on its console
    #[arg(long)]
    pub(super) confirm_console: bool,
    /// Make a new ticket even if the last one was not used yet
    #[arg(long)]
    pub(super) new: bool,
    /// Write the ticket to this file (mode 0600) instead of printing it
    #[arg(long, value_name = "FILE")]
    pub(super) out: Option<PathBuf>,
    /// Where seeds are kept until they are used [default: ~/.local/state/kiln/tickets]
    #[arg(long, value_name = "DIR", env = "KILN_TICKETS")]
    pub(super) journal: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    pub(super) remote: Remote,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Show it again whenever it changes, until interrupted
    #[arg(long)]
    pub(super) watch: bool,
}

#[derive(Debug, Args)]
pub(super) struct Kubeconfig {
    #[command(flatten)]
    pub(super) remote: Remote,
    /// Where the API server is reached [default: the first server's cluster address]
    #[arg(long, value_name = "URL")]
    pub(super) server: Option<String>,
    /// How long the kubeconfig is valid, such as 8h, 30d
    #[arg(long, value_name = "TIME", default_value = "24h")]
    pub(super) lifetime: Lifetime,
    /// A user that the cluster's role bindings know, instead of an administrator
    #[arg(long, value_name = "NAME", requires = "group")]
    pub(super) user: Option<String>,
    /// The group of --user
    #[arg(long, value_name = "NAME", requires = "user")]
    pub(super) group: Option<String>,
    /// Write it to this file (mode 0600) instead of printing it
    #[arg(long, value_name = "FILE")]
    pub(super) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Apply {
    #[command(flatten)]
    pub(super) remote: Remote,
    /// The cluster file
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
    /// Only show what would change
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct Confirm {
    #[command(flatten)]
    pub(super) remote: Remote,
    /// Which node
    #[arg(value_name = "NODE")]
    pub(super) node: NodeName,
    /// The 64 hex digits after the word "fingerprint" on its console
    #[arg(value_name = "FINGERPRINT")]
    pub(super) fingerprint: Fingerprint,
    /// Of which generation [default: the newest that is not over]
    #[arg(long, value_name = "N")]
    pub(super) generation: Option<u32>,
}

#[derive(Debug, Args)]
pub(super) struct Approve {
    #[command(flatten)]
    pub(super) remote: Remote,
    /// Which node of the cluster file it becomes
    #[arg(value_name = "NODE")]
    pub(super) node: NodeName,
    /// What its console shows after the word "fingerprint": all of it, or at least 20 digits
    #[arg(long, value_name = "HEX")]
    pub(super) fingerprint: TypedFingerprint,
}

#[derive(Debug, Args)]
pub(super) struct Pending {
    #[command(flatten)]
    pub(super) remote: Remote,
}

#[derive(Debug, Args)]
pub(super) struct Extend {
    #[command(flatten)]
    pub(super) remote: Remote,
    /// Whose ticket
    #[arg(value_name = "NODE")]
    pub(super) node: NodeName,
    /// How long from now, such as 30m, 1h, 7d
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub(super) lifetime: Lifetime,
}

#[derive(Debug, Args)]
pub(super) struct Node {
    #[command(flatten)]
    pub(super) remote: Remote,
    /// Which node
    #[arg(value_name = "NODE")]
    pub(super) node: NodeName,
}

#[derive(Debug, Args)]
pub(super) struct Replace {
    #[command(flatten)]
    pub(super) remote: Remote,
    /// Which server; its machine must be gone
    #[arg(value_name = "NODE")]
    pub(super) node: NodeName,
    #[command(flatten)]
    pub(super) data: Data,
}

/// What becomes of a datastore.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Data {
    /// Begin with this copy of /var/lib/rancher/k3s/server/db/state.db, a file on the coordinator's host
    #[arg(long, value_name = "FILE")]
    pub(super) restore: Option<PathBuf>,
    /// Begin with nothing: what the cluster held is lost
    #[arg(long)]
    pub(super) discard_data: bool,
}

#[derive(Debug, Args)]
pub(super) struct End {
    #[command(flatten)]
    pub(super) remote: Remote,
}

#[derive(Debug, Args)]
pub(super) struct Events {
    #[command(flatten)]
    pub(super) remote: Remote,
    /// Go on with new lines as they come, until interrupted
    #[arg(long)]
    pub(super) follow: bool,
    /// Print a JSON object a line
    #[arg(long)]
    pub(super) json: bool,
    /// Begin after the line of this number
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub(super) since: u64,
}

#[derive(Debug, Args)]
pub(super) struct Admin {
    #[command(subcommand)]
    pub(super) command: AdminCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum AdminCommand {
    /// Make a key for an admin on this machine, and print its fingerprint
    Key(AdminKey),
    /// Let a key do what admins may
    Add(AdminAdd),
    /// Show every admin's key there ever was
    List(AdminList),
    /// Take an admin's key every right, at once and for good
    Remove(AdminRemove),
}

#[derive(Debug, Args)]
pub(super) struct AdminKey {
    /// The file to write the private key to (mode 0600); it must not exist
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct AdminAdd {
    #[command(flatten)]
    pub(super) remote: Remote,
    #[command(flatten)]
    pub(super) key: AdminKeySource,
    /// What the audit trail is to call it
    #[arg(value_name = "NAME")]
    pub(super) name: AdminName,
}

/// Where the key of a new admin is from.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct AdminKeySource {
    /// The key's fingerprint, as `admin key` printed it
    #[arg(long, value_name = "HEX")]
    pub(super) fingerprint: Option<Fingerprint>,
    /// A PEM file with the public key, or with a certificate around it
    #[arg(long, value_name = "FILE")]
    pub(super) public_key: Option<PathBuf>,
    /// Make a key and write it to this file (mode 0600), which must not exist
    #[arg(long, value_name = "FILE")]
    pub(super) make: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct AdminList {
    #[command(flatten)]
    pub(super) remote: Remote,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct AdminRemove {
    #[command(flatten)]
    pub(super) remote: Remote,
    /// Whose key
    #[arg(value_name = "NAME")]
    pub(super) name: AdminName,
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

#[derive(Debug, Args)]
pub(super) struct Backup {
    #[command(flatten)]
    pub(super) state: State,
    #[command(flatten)]
    pub(super) unlock: Unlock,
    /// The file to make (mode 0600); it must not be there yet
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct Restore {
    #[command(flatten)]
    pub(super) state: State,
    #[command(flatten)]
    pub(super) unlock: Unlock,
    /// Take an older Kiln's backup, of which nothing tells whether somebody altered it
    #[arg(long)]
    pub(super) unauthenticated: bool,
    /// The backup
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(super) enum UnlockKey {
    /// Make a new key in a file (mode 0600) that must not be there yet
    Make {
        /// The file to make
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Seal a state that is not being served under a new key
    Rotate(Rotate),
}

#[derive(Debug, Args)]
pub(super) struct Rotate {
    #[command(flatten)]
    pub(super) state: State,
    #[command(flatten)]
    pub(super) unlock: Unlock,
    /// Make the new key in this file [default: in the place of the old one]
    #[arg(long, value_name = "FILE")]
    pub(super) to: Option<PathBuf>,
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
