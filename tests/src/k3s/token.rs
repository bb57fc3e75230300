//! Join tokens: `K10<CA hash>::<user>:<password>`, or a bare password.
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
    pub(crate) password: String,
}

/// Takes a token apart. A bare password has neither hash nor user.
pub(crate) fn parse(text: &str) -> Result<Token> {
    if text.is_empty() {
        bail!("token must not be empty");
    }
    let Some(rest) = text.strip_prefix(PREFIX) else {
        refuse_bootstrap(text)?;
        return Ok(Token { ca_hash: None, user: String::new(), password: text.to_owned() });
    };
    let (hash, credentials) = rest.split_once("::").map_or((None, rest), |(hash, rest)| (Some(hash), rest));
    let ca_hash = hash.filter(|hash| !hash.is_empty()).map(str::to_owned);
    if ca_hash.as_ref().is_some_and(|hash| hash.len() != HASH_LENGTH) {
        bail!("invalid token CA hash length");
    }
    refuse_bootstrap(credentials)?;
    match credentials.split_once(':') {
        Some((user, password)) if !password.is_empty() => {
            Ok(Token { ca_hash, user: user.to_owned(), password: password.to_owned() })
        }
        _ => bail!("invalid token format"),
    }
}

/// Kubernetes bootstrap tokens (`[a-z0-9]{6}.[a-z0-9]{16}`) live in the API,
/// which the stand-in does not have.
fn refuse_bootstrap(text: &str) -> Result<()> {
    let lower = |part: &str| part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if let Some((id, secret)) = text.split_once('.')
        && id.len() == 6
        && secret.len() == 16
        && lower(id)
        && lower(secret)
    {
        bail!("bootstrap tokens are not part of the stand-in k3s");
    }
    Ok(())
}

/// The password a server keeps for itself out of what it was configured with.
pub(crate) fn normalize(text: &str) -> Result<String> {
    match parse(text) {
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
            ("abcdef.0123456789abcdef", "bootstrap"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.to_string().contains(why), "{text}: {error}");
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
