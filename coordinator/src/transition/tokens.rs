//! A live cluster gets other tokens.
//!
//! ```text
//! 1. the new server token is among the sealed secrets, beside the present one
//! 2. a ready server's agent gives it to its k3s (`PUT /v1-k3s/token`)
//! 3. it is the server token; every server's configuration has it
//! ```
//!
//! Whatever is cut short between these is done again: the same token is given to
//! k3s until a server says that it was taken, and only that word counts, named by
//! the change's number. Until then the present token stays what nodes are told.
//!
//! Join tokens are Secrets in the cluster, each under its own id: the same chore
//! that makes them gives them another content.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use kiln_protocol::admin::TokensStatus;
use kiln_protocol::chores::{ChoresDone, TokenChange};
use kiln_protocol::{ApiError, ErrorClass, Role};

use super::live;
use crate::registry::{JoinState, Seat, State, console};
use crate::store::events::{self, Actor, Event, What};
use crate::store::incarnations::{Live, Tokens};
use crate::store::{Transaction, incarnations, seats};

/// Characters of what a server says that are kept.
const TROUBLE: usize = 300;

/// Begins a rotation. Idempotent while one is under way.
///
/// # Errors
/// While a node is on its way into the cluster with the tokens of now, or no
/// server is there to give k3s the new one.
pub(crate) fn ask(tx: &Transaction<'_>, actor: &Actor, now: Timestamp) -> Result<()> {
    let live = live(tx)?;
    let tokens = incarnations::tokens(tx)?;
    if tokens.asked.is_some() {
        return Ok(());
    }
    let refuse = |message: String, hint: String| -> Result<()> {
        Err(ApiError::new(ErrorClass::Policy, message).hint(hint).into())
    };
    let all = seats::of_incarnation(tx, live.id)?;
    let trusted = || all.iter().filter(|seat| matches!(seat.state, State::Bound(_)));
    let able = |seat: &Seat| seat.role == Role::Server && seat.ready.is_some() && console::is_confirmed(seat);
    if !trusted().any(able) {
        return refuse(
            "no server of the cluster is ready: a ready server's agent gives k3s the new token".to_owned(),
            "wait until one is: coordinator status".to_owned(),
        );
    }
    if let Some(seat) = trusted().find(|seat| seat.passed.is_some() && seat.ready.is_none()) {
        return refuse(
            format!("node {} is just joining with a token of now", seat.label()),
            format!("wait until it is ready, or take its rights away: coordinator revoke {}", seat.node),
        );
    }
    let mut secrets =
        Arc::unwrap_or_clone(incarnations::secrets(tx)?.context("a live incarnation has no secrets")?);
    secrets.begin_rotation()?;
    incarnations::set_secrets(tx, live.id, &secrets)?;
    let serial = tokens.serial + 1;
    incarnations::set_tokens(tx, &Tokens { serial, asked: Some(now), trouble: None, ..tokens })?;
    for seat in all.iter().filter(|seat| seat.state.is_live() && seat.token == Some(JoinState::Made)) {
        seats::set_token(tx, seat.id, Some(JoinState::Wanted))?;
    }
    let detail = format!("rotation {serial} of the tokens of incarnation {} begins", live.id);
    events::note(tx, actor, &Event::about_all(What::AskTokens, &detail), now)?;
    Ok(())
}

/// The chore there is, if a rotation is under way.
pub(super) fn chore(tx: &Transaction<'_>) -> Result<Option<TokenChange>> {
    let tokens = incarnations::tokens(tx)?;
    if tokens.asked.is_none() {
        return Ok(None);
    }
    let secrets = incarnations::secrets(tx)?.context("a live incarnation has no secrets")?;
    let token = secrets.next_server_token()?.context("a rotation is under way without a new token")?;
    Ok(Some(TokenChange { serial: tokens.serial, token }))
}

/// Takes what a server says of it.
pub(super) fn take(
    tx: &Transaction<'_>,
    live: &Live,
    done: &ChoresDone,
    actor: &Actor,
    now: Timestamp,
) -> Result<()> {
    let tokens = incarnations::tokens(tx)?;
    if tokens.asked.is_none() {
        return Ok(());
    }
    if done.token_changed != Some(tokens.serial) {
        // Said again and again, and kept once.
        let trouble = done.failure.as_ref().map(|text| text.chars().take(TROUBLE).collect::<String>());
        if trouble.is_some() && trouble != tokens.trouble {
            incarnations::set_tokens(tx, &Tokens { trouble, ..tokens })?;
        }
        return Ok(());
    }
    let mut secrets =
        Arc::unwrap_or_clone(incarnations::secrets(tx)?.context("a live incarnation has no secrets")?);
    secrets.finish_rotation();
    incarnations::set_secrets(tx, live.id, &secrets)?;
    let serial = tokens.serial;
    incarnations::set_tokens(tx, &Tokens { asked: None, trouble: None, rotated: Some(now), ..tokens })?;
    let detail = format!("rotation {serial} of the tokens of incarnation {}: k3s has the new one", live.id);
    events::note(tx, actor, &Event::about_all(What::RotateTokens, &detail), now)?;
    Ok(())
}

/// What an operator sees of it.
pub(super) fn status(tx: &Transaction<'_>) -> Result<TokensStatus> {
    let Tokens { asked, trouble, rotated, .. } = incarnations::tokens(tx)?;
    Ok(TokensStatus { asked, trouble, rotated })
}
