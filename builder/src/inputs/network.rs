//! What downloads may use: the network or not, places instead of the vendors'.

use std::time::Duration;

use reqwest::Url;

use super::fetch::policy::Policy;
use crate::image::version::Arch;
use kiln_protocol::names::K3sVersion;

/// AlmaLinux's own.
const ALMALINUX: &str = "https://repo.almalinux.org/almalinux/";
/// k3s's own.
const K3S: &str = "https://github.com/k3s-io/k3s/releases/download/";
/// k3s-selinux's own.
const K3S_SELINUX: &str = "https://github.com/k3s-io/k3s-selinux/releases/download/";

/// What downloads may use.
#[derive(Debug, Clone)]
pub struct Network {
    /// Nothing may be asked for: what is not here is an error.
    pub offline: bool,
    /// Ask for what is newest, even where `kiln.lock` or the cache knows an answer.
    pub update: bool,
    /// Places laid out as <https://repo.almalinux.org/almalinux/>, best first;
    /// each with its `vault/` beside it.
    pub almalinux: Vec<Url>,
    /// Places laid out as k3s's releases on GitHub, best first.
    pub k3s: Vec<Url>,
    /// Places laid out as k3s-selinux's releases on GitHub, best first.
    pub k3s_selinux: Vec<Url>,
    /// How long and how often.
    pub policy: Policy,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            offline: false,
            update: false,
            almalinux: places(&[], ALMALINUX),
            k3s: places(&[], K3S),
            k3s_selinux: places(&[], K3S_SELINUX),
            policy: Policy::default(),
        }
    }
}

/// Options about downloads, for every subcommand that has some.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Downloads (proxies are taken from HTTPS_PROXY, HTTP_PROXY, NO_PROXY)")]
pub struct Downloads {
    /// Download nothing: everything is given by path or in the cache.
    #[arg(long)]
    pub offline: bool,
    /// A place like <https://repo.almalinux.org/almalinux/>, instead of that; several are tried in order.
    #[arg(long, value_name = "URL", env = "KILN_ALMALINUX_MIRROR", value_delimiter = ',', value_parser = base)]
    pub almalinux_mirror: Vec<Url>,
    /// A place like <https://github.com/k3s-io/k3s/releases/download/>, instead of that; several are tried in order.
    #[arg(long, value_name = "URL", env = "KILN_K3S_MIRROR", value_delimiter = ',', value_parser = base)]
    pub k3s_mirror: Vec<Url>,
    /// A place like <https://github.com/k3s-io/k3s-selinux/releases/download/>, instead of that; several are tried in order.
    #[arg(long, value_name = "URL", env = "KILN_K3S_SELINUX_MIRROR", value_delimiter = ',', value_parser = base)]
    pub k3s_selinux_mirror: Vec<Url>,
    /// Give up on a connection that brings nothing for so long, such as 30s.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = crate::cli::duration)]
    pub download_stall: Duration,
    /// Try a place so often without anything new having come.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub download_tries: u32,
}

impl Downloads {
    /// What they mean.
    pub fn network(&self) -> Network {
        Network {
            offline: self.offline,
            update: false,
            almalinux: places(&self.almalinux_mirror, ALMALINUX),
            k3s: places(&self.k3s_mirror, K3S),
            k3s_selinux: places(&self.k3s_selinux_mirror, K3S_SELINUX),
            policy: Policy { tries: self.download_tries, stall: self.download_stall, ..Policy::default() },
        }
    }
}

fn places(given: &[Url], own: &str) -> Vec<Url> {
    if given.is_empty() { vec![own.parse().expect("it is a URL")] } else { given.to_vec() }
}

/// The URL of a directory.
fn base(text: &str) -> Result<Url, String> {
    let mut url: Url = text.parse().map_err(|error| format!("{error}"))?;
    if !["http", "https"].contains(&url.scheme()) {
        return Err("only http and https are spoken here".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a URL must hold no user name or password".to_owned());
    }
    url.set_fragment(None);
    url.set_query(None);
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    Ok(url)
}

/// Where the files of a k3s release are, below one of the places: a '+' must
/// be escaped in GitHub's URLs (k3s's `install.sh` does so too).
pub fn k3s_release(place: &Url, version: &K3sVersion) -> Url {
    let tag = version.as_str().replace('+', "%2B");
    place.join(&format!("{tag}/")).unwrap_or_else(|_| place.clone())
}

/// Names of the files of a k3s release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct K3sFiles {
    /// The binary.
    pub binary: &'static str,
    /// Container images for a node without a network.
    pub images: &'static str,
    /// The digests of both.
    pub sums: &'static str,
}

impl K3sFiles {
    /// For an architecture.
    pub fn of(arch: Arch) -> Self {
        match arch {
            Arch::Amd64 => {
                Self { binary: "k3s", images: "k3s-airgap-images-amd64.tar.zst", sums: "sha256sum-amd64.txt" }
            }
            Arch::Arm64 => Self {
                binary: "k3s-arm64",
                images: "k3s-airgap-images-arm64.tar.zst",
                sums: "sha256sum-arm64.txt",
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plus_is_escaped() {
        let own = &Network::default().k3s[0];
        let url = k3s_release(own, &"v1.28.5+k3s1".parse().unwrap());
        assert_eq!(url.as_str(), "https://github.com/k3s-io/k3s/releases/download/v1.28.5%2Bk3s1/");
        assert_eq!(url.join("k3s").unwrap().as_str().rsplit_once('/').unwrap().1, "k3s");
    }

    #[test]
    fn a_place_is_a_directory() {
        assert_eq!(base("http://mirror/alma").unwrap().as_str(), "http://mirror/alma/");
        assert_eq!(base("http://mirror/alma/?x#y").unwrap().as_str(), "http://mirror/alma/");
        assert!(base("file:///x").is_err() && base("http://u:p@e/").is_err() && base("mirror").is_err());
    }
}
