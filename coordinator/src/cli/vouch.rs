//! What an operator says who has read a machine's console.

use anyhow::{Context as _, Result};
use kiln_protocol::admin::{ApproveRequest, ConfirmAnswer, ConfirmOutcome, ConfirmRequest};
use kiln_protocol::{Fingerprint, NodeName};

use super::arguments::{Approve, Confirm, Pending};
use super::connect::connect;
use super::{print, table};

/// Another key than the one on the console has enrolled.
#[derive(Debug, thiserror::Error)]
#[error(
    "ALARM: {node} is held: key {enrolled} has enrolled as it, but its console shows key {shown}\n  \
     whoever enrolled is not that machine. Compare once more: coordinator status; then shut the other one out: \
     coordinator revoke {node}"
)]
pub(super) struct Mismatch {
    node: NodeName,
    enrolled: Fingerprint,
    shown: Fingerprint,
}

pub(super) async fn confirm(arguments: &Confirm) -> Result<()> {
    let client = connect(&arguments.remote)?;
    let Confirm { node, fingerprint, generation, .. } = arguments;
    let request = ConfirmRequest { node: node.clone(), generation: *generation, fingerprint: *fingerprint };
    print(&confirmed(node, *fingerprint, &client.confirm(&request).await?)?)
}

/// What came of it, in words.
///
/// # Errors
/// [`Mismatch`] where another key has enrolled.
fn confirmed(node: &NodeName, shown: Fingerprint, answer: &ConfirmAnswer) -> Result<String> {
    let enrolled = || answer.key.context("the coordinator does not say which key has enrolled");
    match answer.outcome {
        ConfirmOutcome::Kept => Ok(format!("only key {shown} is {node}\n")),
        ConfirmOutcome::Former => Ok(format!(
            "key {shown} was the key of {node} before it was rotated; now only key {} is {node}\n",
            enrolled()?
        )),
        ConfirmOutcome::Mismatch => Err(Mismatch { node: node.clone(), enrolled: enrolled()?, shown }.into()),
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
    fn a_key_that_was_replaced_is_not_called_the_nodes() {
        let (node, [old, new]) =
            ("s1".parse().unwrap(), [b"old", b"new"].map(|key| Fingerprint::of_spki(key)));
        let answer = |outcome| ConfirmAnswer { outcome, generation: 1, key: Some(new) };
        let said = confirmed(&node, old, &answer(ConfirmOutcome::Former)).unwrap();
        assert_eq!(
            said,
            format!("key {old} was the key of s1 before it was rotated; now only key {new} is s1\n")
        );
        assert_eq!(
            confirmed(&node, new, &answer(ConfirmOutcome::Kept)).unwrap(),
            format!("only key {new} is s1\n")
        );
        let alarm = confirmed(&node, old, &answer(ConfirmOutcome::Mismatch)).unwrap_err();
        assert!(alarm.is::<Mismatch>() && alarm.to_string().contains("coordinator revoke s1"), "{alarm}");
    }
}
