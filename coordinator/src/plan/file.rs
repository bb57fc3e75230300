//! The cluster file as it is written: TOML, every field known, each value of
//! the right kind. What must hold between values is checked in `check`.

use std::net::IpAddr;

use ipnet::IpNet;
use kiln_protocol::names::{K3sComponent, K3sVersion, MacAddr, SubjectAltName};
use kiln_protocol::seed::SshUser;
use kiln_protocol::{ClusterName, NodeName, Role};
use serde::Deserialize;
use toml::Spanned;

use super::{ByteSize, ImageVersion, ProviderKind};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFile {
    pub(super) cluster: RawCluster,
    #[serde(default)]
    pub(super) node: Vec<RawNode>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCluster {
    pub(super) name: Spanned<ClusterName>,
    pub(super) k3s: K3sVersion,
    pub(super) image: Spanned<ImageVersion>,
    pub(super) provider: ProviderKind,
    pub(super) network: Option<Spanned<Cidr>>,
    #[serde(default)]
    pub(super) traefik: bool,
    #[serde(default)]
    pub(super) disable: Vec<K3sComponent>,
    #[serde(default)]
    pub(super) tls_san: Vec<SubjectAltName>,
    #[serde(default)]
    pub(super) users: Vec<SshUser>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNode {
    pub(super) name: Spanned<NodeName>,
    pub(super) role: Spanned<Role>,
    pub(super) cores: Spanned<u16>,
    pub(super) memory: Spanned<ByteSize>,
    pub(super) disk: Spanned<ByteSize>,
    pub(super) address: Option<Spanned<Cidr>>,
    pub(super) mac: Option<Spanned<MacAddr>>,
    pub(super) gateway: Option<Spanned<IpAddr>>,
    #[serde(default)]
    pub(super) nameservers: Vec<IpAddr>,
    pub(super) external_address: Option<IpAddr>,
    pub(super) users: Option<Spanned<Vec<SshUser>>>,
}

/// An address with its prefix length.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Cidr(pub(super) IpNet);

impl TryFrom<String> for Cidr {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| {
            format!("address {text:.60?}: write it with its prefix length, such as 10.23.45.31/24")
        })
    }
}
