//! Whether the places that inputs are downloaded from can be reached: the very
//! ones a bake with the same options would ask, the way it would.

use anyhow::Result;
use reqwest::StatusCode;

use super::Finding;
use crate::image::VersionName;
use crate::inputs::network::Network;
use crate::inputs::reach::{self, Answer, Kind, Place};

const REMEDY: &str = "give the inputs by path, name a mirror (--almalinux-mirror, --k3s-mirror, \
                      --k3s-selinux-mirror), check HTTPS_PROXY and NO_PROXY, or bake with --offline";
/// Variables an HTTP client takes its proxy from.
const PROXIES: [&str; 3] = ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"];

/// All of them, at once.
pub(super) async fn check(network: &Network, version: &VersionName) -> Result<Vec<Finding>> {
    let answers = reach::ask(reach::places(network, version)).await?;
    // A proxy's URL may hold a password: its variable is named, and no more.
    let set = |name: &&&str| [(**name).to_owned(), name.to_lowercase()].iter().any(|name| is_set(name));
    let proxies: Vec<&str> = PROXIES.iter().filter(set).copied().collect();
    Ok(answers.iter().map(|(place, answer)| finding(place, answer, &proxies)).collect())
}

fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| !value.is_empty())
}

fn finding(place: &Place, answer: &Answer, proxies: &[&str]) -> Finding {
    let name = format!("network {}", place.kind.name());
    let way = if proxies.is_empty() { String::new() } else { format!(" ({} is set)", proxies.join(" and ")) };
    let url = &place.url;
    let why = match answer {
        Answer::Status(StatusCode::PROXY_AUTHENTICATION_REQUIRED) => {
            "the proxy wants a user name and password".to_owned()
        }
        Answer::Status(status) if status.is_server_error() => format!("the server says {status}"),
        Answer::Status(status) if place.kind == Kind::Media && !status.is_success() => {
            format!("the server says {status}: that is no mirror of AlmaLinux")
        }
        // GitHub has no page there, and mirrors need no vault.
        Answer::Status(_) => return Finding::ok(&name, format!("{url} answers{way}")),
        Answer::None(why) => why.clone(),
    };
    Finding::warning(&name, format!("{url}: {why}{way}"), REMEDY)
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    fn of(kind: Kind, answer: &Answer) -> Finding {
        finding(&Place { kind, url: "http://m/x".parse().unwrap() }, answer, &["HTTPS_PROXY"])
    }

    #[test]
    fn what_answers_is_reached_and_what_is_in_the_way_is_named() {
        let status = |code| Answer::Status(StatusCode::from_u16(code).unwrap());
        for (kind, code, expected) in [
            (Kind::Media, 200, Status::Ok),
            (Kind::Media, 404, Status::Warning),
            (Kind::Vault, 404, Status::Ok),
            (Kind::K3s, 404, Status::Ok),
            (Kind::K3s, 503, Status::Warning),
            (Kind::Policy, 407, Status::Warning),
        ] {
            assert_eq!(of(kind, &status(code)).status, expected, "{kind:?} {code}");
        }
        let found = of(Kind::Media, &Answer::None("connection refused".into()));
        assert_eq!(found.name, "network almalinux");
        assert_eq!(found.found, "http://m/x: connection refused (HTTPS_PROXY is set)");
        assert!(found.remedy.unwrap().contains("--almalinux-mirror"));
    }
}
