//! Asks k3s on this host who is in its etcd.
//!
//! `GET /db/info` of the supervisor is the list that joining servers are given
//! (k3s `pkg/etcd/etcd.go`, `infoHandler`); it takes the server token.

use anyhow::{Context as _, Result, bail};
use kiln_protocol::chores::EtcdMember;
use serde::Deserialize;

use super::ping;
use super::token::password;
use crate::apply::k3s::TOKEN;
use crate::apply::token;
use crate::root::Root;

const URL: &str = "https://127.0.0.1:6443/db/info";

#[derive(Deserialize)]
struct Info {
    #[serde(alias = "Members")]
    members: Vec<Member>,
}

/// etcd's own JSON: what is empty is left out.
#[derive(Deserialize)]
struct Member {
    #[serde(rename = "ID")]
    id: Option<u64>,
    #[serde(default)]
    name: String,
    #[serde(default, rename = "peerURLs")]
    peer_urls: Vec<String>,
}

/// The members of etcd.
pub(super) async fn members(root: &Root) -> Result<Vec<EtcdMember>> {
    let token = token::present(root)?.with_context(|| format!("{} is not there", root.shown(TOKEN)))?;
    let client = ping::client(root)?;
    let answer = client.get(URL).basic_auth("server", Some(password(&token)?)).send().await;
    let answer = answer.with_context(|| format!("asking {URL}"))?;
    if !answer.status().is_success() {
        bail!("{URL} answers {}", answer.status());
    }
    parse(&answer.bytes().await.with_context(|| format!("reading the answer of {URL}"))?)
}

pub(crate) fn parse(text: &[u8]) -> Result<Vec<EtcdMember>> {
    let Info { members } = serde_json::from_slice(text).context("reading etcd's members")?;
    // Older releases answer with this server alone, and without its id, when
    // etcd does not answer them.
    if members.is_empty() || members.iter().any(|member| member.id.is_none()) {
        bail!("etcd does not tell its members: has it a quorum?");
    }
    let host = |url: &String| {
        let url = reqwest::Url::parse(url).ok()?;
        Some(url.host_str()?.trim_matches(['[', ']']).to_owned())
    };
    let member = |member: Member| EtcdMember {
        name: member.name,
        hosts: member.peer_urls.iter().filter_map(host).collect(),
    };
    Ok(members.into_iter().map(member).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_read_as_etcd_tells_them() {
        let text = br#"{"members":[
            {"ID":1,"name":"s1-0badcafe","peerURLs":["https://10.0.0.1:2380"],"clientURLs":["x"]},
            {"ID":2,"peerURLs":["https://[fd00::2]:2380"],"isLearner":true}]}"#;
        let members = parse(text).unwrap();
        assert_eq!(
            (members[0].name.as_str(), &members[0].hosts[..]),
            ("s1-0badcafe", &["10.0.0.1".into()][..])
        );
        assert_eq!((members[1].name.as_str(), &members[1].hosts[..]), ("", &["fd00::2".into()][..]));
    }

    #[test]
    fn a_list_of_this_server_alone_is_no_list() {
        for text in [r#"{"members":[{"name":"s1-0badcafe","peerURLs":[]}]}"#, r#"{"members":[]}"#, "{}", ""] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
