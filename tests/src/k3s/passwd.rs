//! `server/cred/passwd`: the two users who may join, and what each may do.
//!
//! Source: k3s-io/k3s `pkg/passwd/passwd.go`, `pkg/daemons/control/deps`
//! (`genUsers`). Agents join as `node` and servers as `server`, whatever user
//! name stands in their token; without an agent token both have one password.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};

use crate::{files, token};

/// The role of a joining agent.
pub(crate) const AGENT_ROLE: &str = "k3s:agent";
/// The role of a joining server.
pub(crate) const SERVER_ROLE: &str = "k3s:server";

/// The passwords of both users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Passwd {
    pub(crate) server: String,
    pub(crate) node: String,
}

impl Passwd {
    /// Out of what a server is configured with.
    pub(crate) fn new(token: &str, agent_token: Option<&str>) -> Self {
        let server = token::password_of("server", token);
        let node = agent_token.map_or_else(
            || token::parse(token).map_or_else(|_| token.to_owned(), |token| token.password),
            |token| token::password_of("node", token),
        );
        Self { server, node }
    }

    /// The server password of an earlier start, if there was one.
    pub(crate) fn earlier(path: &Path) -> Result<Option<String>> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        let server = text.lines().find_map(|line| match line.split(',').collect::<Vec<_>>()[..] {
            [password, "server", ..] => Some(password.to_owned()),
            _ => None,
        });
        Ok(server)
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text =
            format!("{},server,server,{SERVER_ROLE}\n{},node,node,{AGENT_ROLE}\n", self.server, self.node);
        files::write(path, text.as_bytes(), 0o600)
    }

    /// The role these credentials have, if they are right.
    pub(crate) fn role(&self, user: &str, password: &str) -> Option<&'static str> {
        let (want, role) = match user {
            "server" => (&self.server, SERVER_ROLE),
            "node" => (&self.node, AGENT_ROLE),
            _ => return None,
        };
        (want == password).then_some(role)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    #[test]
    fn without_an_agent_token_both_have_the_servers_password() {
        let full = format!("K10{HASH}::server:pw");
        for token in ["pw", &full] {
            assert_eq!(Passwd::new(token, None), Passwd { server: "pw".into(), node: "pw".into() });
        }
    }

    #[test]
    fn an_agent_token_is_for_agents_only() {
        let passwd = Passwd::new("s", Some("a"));
        assert_eq!(passwd.role("node", "a"), Some(AGENT_ROLE));
        assert_eq!(passwd.role("server", "s"), Some(SERVER_ROLE));
        assert_eq!(passwd.role("server", "a"), None);
        assert_eq!(passwd.role("node", "s"), None);
        assert_eq!(passwd.role("root", "s"), None);
    }

    #[test]
    fn the_server_password_survives_a_restart() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("cred/passwd");
        assert_eq!(Passwd::earlier(&path).expect("none"), None);
        Passwd::new("s", Some("a")).write(&path).expect("written");
        assert_eq!(Passwd::earlier(&path).expect("some"), Some("s".into()));
    }
}
