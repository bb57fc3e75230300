//! What an operator says who has read a machine's console.

use anyhow::Result;
use kiln_protocol::admin::{ApproveRequest, ConfirmRequest};

use super::arguments::{Approve, Confirm, Pending};
use super::connect::connect;
use super::{print, table};

pub(super) async fn confirm(arguments: &Confirm) -> Result<()> {
    let client = connect(&arguments.remote)?;
    let Confirm { node, fingerprint, generation, .. } = arguments;
    let request = ConfirmRequest { node: node.clone(), generation: *generation, fingerprint: *fingerprint };
    client.confirm(&request).await?;
    let status = client.status().await?;
    let reason = status.node(node).filter(|node| node.key.is_some_and(|key| key != *fingerprint));
    print(&match reason.and_then(|node| node.reason.as_deref()) {
        None => format!("only key {fingerprint} is {node}\n"),
        Some(reason) => format!("ALARM: {node} is held: {reason}. See: coordinator status\n"),
    })
}

pub(super) async fn approve(arguments: &Approve) -> Result<()> {
    let client = connect(&arguments.remote)?;
    let request = ApproveRequest { node: arguments.node.clone(), fingerprint: arguments.fingerprint.clone() };
    let approved = client.approve(&request).await?;
    print(&format!(
        "key {} is {} (generation {}); the machine learns of it within five minutes\n",
        approved.key, arguments.node, approved.generation
    ))
}

pub(super) async fn pending(arguments: &Pending) -> Result<()> {
    let client = connect(&arguments.remote)?;
    print(&table::pending_table(&client.status().await?))
}
