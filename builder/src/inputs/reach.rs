//! Whether the places that inputs are downloaded from answer: asked as a
//! download would ask, through the host's proxy and with its certificates.

use std::time::Duration;

use anyhow::Result;
use reqwest::{Client, StatusCode, Url};

use super::almalinux;
use super::fetch;
use super::fetch::fault::plainly;
use super::network::Network;
use crate::image::VersionName;

/// A place that has said nothing by then does not answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a place is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Install media of the newest minor version.
    Media,
    /// Install media of older minor versions.
    Vault,
    /// k3s's releases.
    K3s,
    /// Releases of k3s's SELinux policy.
    Policy,
}

impl Kind {
    /// Its name, for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Media => "almalinux",
            Self::Vault => "vault",
            Self::K3s => "k3s",
            Self::Policy => "k3s-selinux",
        }
    }
}

/// A place, and what is asked for there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// What it is for.
    pub kind: Kind,
    /// What is asked for.
    pub url: Url,
}

/// How a place answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// With this status.
    Status(StatusCode),
    /// Not at all, for this reason.
    None(String),
}

/// Every place that a bake of `version` would download from.
pub fn places(network: &Network, version: &VersionName) -> Vec<Place> {
    let media = almalinux::directories(&network.almalinux, version);
    let lists = media.iter().filter_map(|directory| directory.join(almalinux::CHECKSUM).ok());
    let vaults = network.almalinux.iter().filter_map(almalinux::vault);
    let kinds = [
        (Kind::Media, lists.collect::<Vec<_>>()),
        (Kind::Vault, vaults.collect()),
        (Kind::K3s, network.k3s.clone()),
        (Kind::Policy, network.k3s_selinux.clone()),
    ];
    kinds.into_iter().flat_map(|(kind, urls)| urls.into_iter().map(move |url| Place { kind, url })).collect()
}

/// Asks all of them, at once; nothing is downloaded.
pub async fn ask(places: Vec<Place>) -> Result<Vec<(Place, Answer)>> {
    let client = fetch::client()?;
    let asked: Vec<_> = places
        .into_iter()
        .map(|place| {
            let client = client.clone();
            tokio::spawn(async move { (answer(&client, &place.url).await, place) })
        })
        .collect();
    let mut answers = Vec::new();
    for task in asked {
        let (answer, place) = task.await?;
        answers.push((place, answer));
    }
    Ok(answers)
}

async fn answer(client: &Client, url: &Url) -> Answer {
    match client.head(url.clone()).timeout(TIMEOUT).send().await {
        Ok(response) => Answer::Status(response.status()),
        Err(error) if error.is_timeout() => Answer::None(format!("no answer within {} s", TIMEOUT.as_secs())),
        Err(error) => Answer::None(plainly(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_places_are_those_that_downloads_are_from() {
        let version = "alma9-k3-node-amd64-v1.28.5-v1".parse().unwrap();
        let mirrors = ["http://m/almalinux/", "http://n/alma/"].map(|url| url.parse().unwrap());
        let network = Network { almalinux: mirrors.to_vec(), ..Network::default() };
        let shown: Vec<String> = places(&network, &version)
            .iter()
            .map(|place| format!("{} {}", place.kind.name(), place.url))
            .collect();
        assert_eq!(
            shown,
            [
                "almalinux http://m/almalinux/9/isos/x86_64/CHECKSUM",
                "almalinux http://n/alma/9/isos/x86_64/CHECKSUM",
                "vault http://m/vault/",
                "vault http://n/vault/",
                "k3s https://github.com/k3s-io/k3s/releases/download/",
                "k3s-selinux https://github.com/k3s-io/k3s-selinux/releases/download/",
            ]
        );
    }
}
