//! What an operator says who has read a machine's console.

use anyhow::{Context as _, Result};
use kiln_protocol::admin::{ApproveRequest, ConfirmAnswer, ConfirmOutcome, ConfirmRequest};
use kiln_protocol::{Fingerprint, NodeName};

use super::arguments::{Approve, Confirm, Pending};
use super::connect::connect;
use super::{print, table};

/// The node is held: whatever its console shows, it may do nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Held {
    /// Another key than the one on the console has enrolled.
    #[error(
        "ALARM: {node} is held: key {enrolled} has enrolled as it, but its console shows key {shown}\n  \
         whoever enrolled is not that machine. Compare once more: coordinator status; then shut the other one out: \
         coordinator revoke {node}; if it was mistyped here: confirm the right key, then: coordinator release {node}"
    )]
    Mismatch { node: NodeName, enrolled: Fingerprint, shown: Fingerprint },
    /// The console shows a key that was replaced.
    #[error(
        "ALARM: {node} is held: {reason}\n  \
         its console shows key {shown}, which was replaced by key {enrolled}: one of the two is a copy's, and it need \
         not be the first. If you did not ask for another key, shut both out: coordinator revoke {node}, and make \
         the machine anew"
    )]
    Former { node: NodeName, reason: String, enrolled: Fingerprint, shown: Fingerprint },
    /// The key is the node's.
    #[error(
        "{node} is still held: {reason}\n  \
         only key {shown} is {node}. If that is all that was wrong: coordinator release {node}; if not: coordinator \
         revoke {node}"
    )]
    Still { node: NodeName, reason: String, shown: Fingerprint },
}

pub(super) async fn confirm(arguments: &Confirm) -> Result<()> {
    let client = connect(&arguments.remote)?;
    let Confirm { node, fingerprint, generation, .. } = arguments;
    let request = ConfirmRequest { node: node.clone(), generation: *generation, fingerprint: *fingerprint };
    print(&confirmed(node, *fingerprint, client.confirm(&request).await?)?)
}

/// What came of it, in words.
///
/// # Errors
/// [`Held`] where the node is.
fn confirmed(node: &NodeName, shown: Fingerprint, answer: ConfirmAnswer) -> Result<String> {
    let ConfirmAnswer { outcome, key, held, .. } = answer;
    let enrolled = || key.context("the coordinator does not say which key has enrolled");
    let named = node.clone();
    match (outcome, held) {
        (ConfirmOutcome::Kept, None) => Ok(format!("only key {shown} is {node}\n")),
        (ConfirmOutcome::Kept, Some(reason)) => Err(Held::Still { node: named, reason, shown }.into()),
        (ConfirmOutcome::Former, None) => Ok(format!(
            "key {shown} was the key of {node} before it was rotated; now only key {} is {node}\n",
            enrolled()?
        )),
        (ConfirmOutcome::Former, Some(reason)) => {
            Err(Held::Former { node: named, reason, enrolled: enrolled()?, shown }.into())
        }
        (ConfirmOutcome::Mismatch, _) => {
            Err(Held::Mismatch { node: named, enrolled: enrolled()?, shown }.into())
        }
    }
}

pub(super) async fn approve(arguments: &Approve) -> Result<()> {
    let client = connect(&arguments.remote)?;
    let request = ApproveRequest { node: arguments.node.clone(), fingerprint: arguments.fingerprint.clone() };
    let approved = client.approve(&request).await?;
    print(&format!(
        "key {} is {} (generation {}); the machine is told at once if it is connected, \
         else when it asks next\n",
        approved.key, arguments.node, approved.generation
    ))
}

pub(super) async fn pending(arguments: &Pending) -> Result<()> {
    let client = connect(&arguments.remote)?;
    print(&table::pending_table(&client.status().await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_was_replaced_is_not_called_the_nodes_and_a_held_node_is_no_success() {
        let (node, [old, new]) =
            ("s1".parse().unwrap(), [b"old", b"new"].map(|key| Fingerprint::of_spki(key)));
        let answer = |outcome, held: Option<&str>| {
            let held = held.map(str::to_owned);
            confirmed(&node, old, ConfirmAnswer { outcome, generation: 1, key: Some(new), held })
        };
        assert_eq!(
            answer(ConfirmOutcome::Former, None).unwrap(),
            format!("key {old} was the key of s1 before it was rotated; now only key {new} is s1\n")
        );
        assert_eq!(answer(ConfirmOutcome::Kept, None).unwrap(), format!("only key {old} is s1\n"));
        for (outcome, words) in [
            (ConfirmOutcome::Mismatch, ["ALARM", "coordinator revoke s1"]),
            (ConfirmOutcome::Former, ["ALARM: s1 is held: it was copied", "one of the two is a copy's"]),
            (ConfirmOutcome::Kept, ["s1 is still held: it was copied", "coordinator release s1"]),
        ] {
            let error = answer(outcome, Some("it was copied")).unwrap_err();
            assert!(
                error.is::<Held>() && words.iter().all(|word| error.to_string().contains(word)),
                "{error}"
            );
        }
    }
}
