//! Gives k3s on this host another server token while it runs.
//!
//! `PUT /v1-k3s/token` of the supervisor is what `k3s token rotate` asks (k3s
//! `pkg/server/handlers/token.go`): it is asked directly, since the command takes
//! the new token on its command line. k3s answers when the datastore's bootstrap
//! data is under the new token. Asked of each server in turn it changes what that
//! one takes from others, and what is in the datastore once.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kiln_protocol::Secret;
use reqwest::StatusCode;
use serde_json::json;

use super::ping;
use crate::root::Root;

const URL: &str = "https://127.0.0.1:6443/v1-k3s/token";
/// The datastore's bootstrap data is written anew, by etcd where there are several.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Has k3s take `new` for its token; it is under one of `candidates` now.
pub(super) async fn change(root: &Root, candidates: &[Secret], new: &Secret) -> Result<()> {
    let client = ping::client(root)?;
    for old in candidates.iter().filter(|old| *old != new) {
        let status = put(&client, old, new).await?;
        if status.is_success() {
            return Ok(());
        }
        if !is_another(status) {
            // It may have begun: what it takes from now on is asked next time.
            bail!("{URL} answers {status}");
        }
    }
    // It has it already; asked for the same again, it says whether its datastore does.
    let status = put(&client, new, new).await?;
    if status.is_success() {
        return Ok(());
    }
    if is_another(status) {
        bail!("{URL} answers {status}: k3s takes none of the tokens that are known here");
    }
    // k3s notes a token before it changes the datastore. It is given back the one
    // before, so that the next try does all of it.
    if let Some(old) = candidates.iter().rev().find(|old| *old != new) {
        put(&client, new, old).await?;
    }
    bail!("{URL} answers {status}: the datastore is not under the new token yet")
}

/// Whether k3s takes another password than the one it was asked with.
fn is_another(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

async fn put(client: &reqwest::Client, present: &Secret, new: &Secret) -> Result<StatusCode> {
    let (present, new) = (password(present)?, password(new)?);
    let request = client.put(URL).timeout(TIMEOUT).basic_auth("server", Some(present));
    let answer = request.json(&json!({"newToken": new})).send().await;
    let status = answer.with_context(|| format!("asking {URL}"))?.status();
    if status == StatusCode::NOT_FOUND {
        bail!("{URL} answers {status}: this k3s cannot rotate its token, later releases of 1.28 can");
    }
    Ok(status)
}

/// Of a server token in its full form, `K10<hash>::server:<password>`.
pub(crate) fn password(token: &Secret) -> Result<&str> {
    Ok(token.expose().split_once("::server:").context("the server token has no password")?.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_what_follows_the_user() {
        let token = Secret::new("K10aa::server:a:b").unwrap();
        assert_eq!(password(&token).unwrap(), "a:b");
        let error = password(&Secret::new("K10aa::node:x").unwrap()).unwrap_err();
        assert!(!error.to_string().contains("K10aa"));
    }
}
