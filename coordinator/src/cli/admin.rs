//! The commands that ask a running coordinator.

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kiln_protocol::admin::{
    ApplyRequest, ClusterStatus, EndRequest, ExtendRequest, KubeUserName, KubeconfigRequest, NodeRequest,
    ReplaceRequest,
};

use super::arguments::{Apply, End, Extend, Kubeconfig, Node, RaiseEpoch, Replace, RotateTokens, Status};
use super::connect::{connect, own_cluster_file};
use super::serve::read_cluster_file;
use super::{deliver, print, status_table};

/// Between two looks of `status --watch`.
const WATCH: Duration = Duration::from_secs(1);
/// Clears a terminal and goes to its beginning.
const CLEAR: &str = "\x1b[H\x1b[2J";

pub(super) async fn status(arguments: &Status) -> Result<()> {
    let client = connect(&arguments.remote)?;
    let mut status = client.status().await?;
    if !arguments.watch {
        return print(&shown(&status, arguments.json)?);
    }
    let clear = if std::io::stdout().is_terminal() && !arguments.json { CLEAR } else { "" };
    let mut seen = None;
    loop {
        let now = shown(&status, arguments.json)?;
        // The clock is no news.
        let news = ClusterStatus { at: jiff::Timestamp::UNIX_EPOCH, ..status };
        if !clear.is_empty() || seen.as_ref() != Some(&news) {
            print(&format!("{clear}{now}"))?;
        }
        seen = Some(news);
        tokio::time::sleep(WATCH).await;
        status = client.status().await?;
    }
}

fn shown(status: &ClusterStatus, json: bool) -> Result<String> {
    Ok(if json { serde_json::to_string(status)? + "\n" } else { status_table(status) })
}

pub(super) async fn kubeconfig(arguments: &Kubeconfig) -> Result<()> {
    let client = connect(&arguments.remote)?;
    let user = match (&arguments.user, &arguments.group) {
        (Some(name), Some(group)) => Some(KubeUserName { name: name.clone(), group: group.clone() }),
        _ => None,
    };
    let server = arguments.server.clone();
    let request = KubeconfigRequest { server, user, lifetime: arguments.lifetime.seconds() };
    let answer = client.kubeconfig(&request).await?;
    deliver(answer.kubeconfig.expose(), arguments.out.as_deref())
}

pub(super) async fn apply(arguments: &Apply) -> Result<()> {
    // Read here first: its errors name the file.
    let cluster_file = read_cluster_file(&arguments.file)?.text().to_owned();
    let client = connect(&arguments.remote)?;
    // Shown before it is done, and refused before anything of it is.
    let look = ApplyRequest { cluster_file: cluster_file.clone(), dry_run: true };
    let preview = client.apply(&look).await?;
    print(&changes_in_words(&preview.changes))?;
    if arguments.dry_run {
        return print("nothing was done: this was a dry run\n");
    }
    let answer = client.apply(&ApplyRequest { cluster_file, dry_run: false }).await?;
    if answer.changes != preview.changes {
        print(&format!("meanwhile it had changed; in force now:\n{}", changes_in_words(&answer.changes)))?;
    }
    print(&format!("the file is in force: incarnation {} of the cluster\n", answer.incarnation))?;
    let own = own_cluster_file(&arguments.remote);
    if let Some(own) = own.filter(|own| std::fs::canonicalize(&arguments.file).ok().as_ref() != Some(own)) {
        eprintln!(
            "until the coordinator starts again or gets SIGHUP: it then puts {} in force, the file of its --cluster",
            own.display()
        );
    }
    Ok(())
}

fn changes_in_words(changes: &[String]) -> String {
    if changes.is_empty() {
        return "nothing changes\n".to_owned();
    }
    changes.iter().fold(String::new(), |text, change| text + "  " + change + "\n")
}

pub(super) async fn extend(arguments: &Extend) -> Result<()> {
    let client = connect(&arguments.remote)?;
    let seconds = u32::try_from(arguments.lifetime.seconds()).context("--lifetime is too long")?;
    let answer = client.extend(&ExtendRequest { node: arguments.node.clone(), seconds }).await?;
    print(&format!("the ticket of {} may be used before {}\n", arguments.node, answer.expires))
}

pub(super) async fn release(arguments: &Node) -> Result<()> {
    let client = connect(&arguments.remote)?;
    client.release(&NodeRequest { node: arguments.node.clone() }).await?;
    print(&format!(
        "the key of {} is trusted: the next machine that comes with it is taken for the node, and if another \
         one comes too, it is held again\n",
        arguments.node
    ))
}

pub(super) async fn revoke(arguments: &Node) -> Result<()> {
    let client = connect(&arguments.remote)?;
    client.revoke(&NodeRequest { node: arguments.node.clone() }).await?;
    print(
        &format!("{0} may do nothing here any more.\n{REVOKED}", arguments.node)
            .replace("NODE", arguments.node.as_str()),
    )
}

/// What follows from a revocation, and what does not.
const REVOKED: &str = "\
A ready server's agent now deletes its Node object and its join token. Where none can, do it yourself:
  k3s kubectl delete node NODE
What this cannot undo: certificates that k3s gave the machine stay valid for up to a year, for what a node
of its name may do. A stolen server also knows the CA keys and the server token: begin anew with new ones
(builder down, then builder up). Delete the machine.
";

pub(super) async fn replace(arguments: &Replace) -> Result<()> {
    if let (Some(address), Some(file)) = (&arguments.remote.address, &arguments.data.restore) {
        ensure!(
            file.is_absolute(),
            "--restore {}: that is a file on the coordinator's host, {address}, and not on this one: name it by its \
             absolute path there",
            file.display()
        );
    }
    let client = connect(&arguments.remote)?;
    let restore = arguments.data.restore.as_deref().map(std::path::absolute).transpose();
    let restore = restore.context("the working directory")?;
    let text = restore
        .as_deref()
        .map(|path| path.to_str().context("--restore: the path is not UTF-8"))
        .transpose()?;
    let request = ReplaceRequest { node: arguments.node.clone(), restore: text.map(str::to_owned) };
    client.replace(&request).await?;
    print(&match text {
        Some(path) => {
            format!("{} begins with the data in {path}: keep that file until it is ready\n", arguments.node)
        }
        None => format!("{} begins without data\n", arguments.node),
    })
}

pub(super) async fn member_gone(arguments: &Node) -> Result<()> {
    let client = connect(&arguments.remote)?;
    client.member_gone(&NodeRequest { node: arguments.node.clone() }).await?;
    print(&format!("the place of {} may be another's\n", arguments.node))
}

pub(super) async fn rotate(arguments: &Node) -> Result<()> {
    let client = connect(&arguments.remote)?;
    client.rotate(&NodeRequest { node: arguments.node.clone() }).await?;
    print(&format!(
        "{} replaces its key: at once if it is connected, else at its next contact\n",
        arguments.node
    ))
}

pub(super) async fn rotate_tokens(arguments: &RotateTokens) -> Result<()> {
    connect(&arguments.remote)?.rotate_tokens().await?;
    print(ROTATING)
}

/// What follows from a rotation of the tokens.
const ROTATING: &str = "\
The cluster gets another server token, and every agent another join token:
coordinator status says when a server's k3s has taken it. No node restarts.
The present server token counts until then, and is forgotten afterwards: a copy
of the datastore that was made before is under it. Make a new copy.
";

/// Certificate authorities stay as long as the incarnation.
pub(super) fn rotate_ca() -> anyhow::Error {
    anyhow::anyhow!(
        "certificate authorities are an incarnation's, and are not rotated while it lives: every k3s and every \
         kubeconfig would have to change at the same moment, and whoever stole the old ones could still speak to \
         those that had not. Begin anew, with other authorities and tokens: builder down FILE, then builder up \
         FILE.\n\
         The certificates below them are renewed by k3s itself: it does so when it starts with less than 90 days \
         left. On the node: systemctl restart k3s (on an agent: k3s-agent)"
    )
}

pub(super) async fn raise_epoch(arguments: &RaiseEpoch) -> Result<()> {
    let client = connect(&arguments.remote)?;
    let reach = client.raise_epoch().await?;
    print(&format!("epoch {} begins; tickets that were not used are void\n", reach.epoch))
}

pub(super) async fn end(arguments: &End) -> Result<()> {
    let client = connect(&arguments.remote)?;
    let cluster = arguments.cluster.clone();
    let answer = client.end(&EndRequest { cluster }).await?;
    print(&match answer.incarnation {
        None => "nothing is live, and nothing was done\n".to_owned(),
        Some(incarnation) => format!(
            "incarnation {incarnation} of {} has ended: no key and no token of it is worth anything any more\n",
            arguments.cluster
        ),
    })
}
