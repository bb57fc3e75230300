//! Join tokens: `K10<CA hash>::<user>:<password>`, or a bare password; and
//! bootstrap tokens, `<id>.<secret>` in place of user and password.
//!
//! Source: k3s-io/k3s `pkg/clientaccess/token.go` and `pkg/passwd/passwd.go`.

use anyhow::{Result, bail};

use crate::ca_hash;

const PREFIX: &str = "K10";
/// SHA-256 in hexadecimal.
const HASH_LENGTH: usize = 64;

/// A token in its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    /// The hash of the cluster's CA, if the token carries one.
    pub(crate) ca_hash: Option<String>,
    pub(crate) user: String,
    /// Of a bootstrap token the whole of it.
    pub(crate) password: String,
    /// A bearer token that is a Secret in the cluster.
    pub(crate) bootstrap: bool,
}

/// Takes a token apart. A bare password has neither hash nor user.
pub(crate) fn parse(text: &str) -> Result<Token> {
    if text.is_empty() {
        bail!("token must not be empty");
    }
    let Some(rest) = text.strip_prefix(PREFIX) else {
        let bootstrap = is_bootstrap(text);
        return Ok(Token { ca_hash: None, user: String::new(), password: text.to_owned(), bootstrap });
    };
    let (hash, credentials) = rest.split_once("::").map_or((None, rest), |(hash, rest)| (Some(hash), rest));
    let ca_hash = hash.filter(|hash| !hash.is_empty()).map(str::to_owned);
    if ca_hash.as_ref().is_some_and(|hash| hash.len() != HASH_LENGTH) {
        bail!("invalid token CA hash length");
    }
    if is_bootstrap(credentials) {
        let password = credentials.to_owned();
        return Ok(Token { ca_hash, user: String::new(), password, bootstrap: true });
    }
    match credentials.split_once(':') {
        Some((user, password)) if !password.is_empty() => {
            let (user, password) = (user.to_owned(), password.to_owned());
            Ok(Token { ca_hash, user, password, bootstrap: false })
        }
        _ => bail!("invalid token format"),
    }
}

/// Whether this is a Kubernetes bootstrap token (`[a-z0-9]{6}.[a-z0-9]{16}`).
fn is_bootstrap(text: &str) -> bool {
    let lower = |part: &str| part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    text.split_once('.')
        .is_some_and(|(id, secret)| id.len() == 6 && secret.len() == 16 && lower(id) && lower(secret))
}

/// The password a server keeps for itself out of what it was configured with.
pub(crate) fn normalize(text: &str) -> Result<String> {
    match parse(text) {
        Ok(Token { bootstrap: true, .. }) => bail!("a bootstrap token joins agents only, and no server"),
        Ok(token) => Ok(token.password),
        Err(_) if text.starts_with(PREFIX) => bail!(
            "failed to normalize token; must be in format K10<CA-HASH>::<USERNAME>:<PASSWORD> or <PASSWORD>"
        ),
        Err(error) => Err(error),
    }
}

/// What is stored as the password of `user`: a full token gives up its
/// password only if it is a token of that very user; any other text is taken
/// whole, a full token of another user too.
pub(crate) fn password_of(user: &str, text: &str) -> String {
    if !text.starts_with(PREFIX) {
        return text.to_owned();
    }
    let mark = format!("::{user}:");
    text.find(&mark).map_or(text, |at| &text[at + mark.len()..]).to_owned()
}

/// The full form of a bootstrap token.
pub(crate) fn format_bootstrap(token: &str, ca: &[u8]) -> Result<String> {
    Ok(format!("{PREFIX}{}::{token}", ca_hash::of_bundle(ca)?))
}

/// The full token that joins with these credentials.
pub(crate) fn format(user: &str, password: &str, ca: &[u8]) -> Result<String> {
    Ok(format!("{PREFIX}{}::{user}:{password}", ca_hash::of_bundle(ca)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    #[test]
    fn a_full_token_has_three_parts() {
        let token = parse(&format!("K10{HASH}::node:pass:word")).expect("a token");
        assert_eq!(token.ca_hash.as_deref(), Some(HASH));
        assert_eq!((token.user.as_str(), token.password.as_str()), ("node", "pass:word"));
    }

    #[test]
    fn a_bare_password_is_taken_whole() {
        let token = parse("correct:horse").expect("a token");
        assert_eq!(
            (token.ca_hash, token.user.as_str(), token.password.as_str()),
            (None, "", "correct:horse")
        );
    }

    #[test]
    fn broken_tokens_are_named() {
        for (text, why) in [
            ("", "must not be empty"),
            ("K10abc::server:pw", "hash length"),
            (&format!("K10{HASH}::server"), "invalid token format"),
            (&format!("K10{HASH}::server:"), "invalid token format"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.to_string().contains(why), "{text}: {error}");
        }
        for text in ["abcdef.0123456789abcdef", &format!("K10{HASH}::abcdef.0123456789abcdef")] {
            assert!(parse(text).expect("a token").bootstrap);
            assert!(normalize(text).expect_err("no server's").to_string().contains("agents only"));
        }
        assert!(normalize("K10nonsense").expect_err("no token").to_string().contains("failed to normalize"));
    }

    #[test]
    fn a_server_takes_the_password_out_of_its_own_users_token_only() {
        let full = format!("K10{HASH}::server:pw");
        assert_eq!(password_of("server", &full), "pw");
        assert_eq!(password_of("node", &full), full);
        assert_eq!(password_of("node", "plain"), "plain");
    }
}
