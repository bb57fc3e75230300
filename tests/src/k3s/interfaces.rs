//! The host's network interfaces and their addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result};
use nix::ifaddrs::getifaddrs;

/// Every interface with its addresses.
fn all() -> Result<BTreeMap<String, Vec<IpAddr>>> {
    let mut all: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for interface in getifaddrs().context("listing network interfaces")? {
        let addresses = all.entry(interface.interface_name).or_default();
        if let Some(address) = interface.address {
            addresses.extend(address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip())));
            addresses.extend(address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())));
        }
    }
    Ok(all)
}

/// Refuses the name of an interface that is not there.
pub(crate) fn must_exist(name: &str) -> Result<()> {
    let there = all()?.contains_key(name);
    anyhow::ensure!(there, "unable to find interface {name}: route ip+net: no such network interface");
    Ok(())
}

/// The first address of an interface, IPv4 before IPv6.
pub(crate) fn first_address(name: &str) -> Result<IpAddr> {
    must_exist(name)?;
    let mut addresses = all()?.remove(name).unwrap_or_default();
    addresses.sort_by_key(IpAddr::is_ipv6);
    addresses.first().copied().with_context(|| format!("interface {name} has no address"))
}

/// Whether one of the host's interfaces has this address.
pub(crate) fn has(address: IpAddr) -> Result<bool> {
    Ok(all()?.into_values().flatten().any(|own| own == address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_there_and_a_stranger_is_not() {
        must_exist("lo").expect("lo");
        assert_eq!(first_address("lo").expect("an address"), IpAddr::from([127, 0, 0, 1]));
        assert!(must_exist("nosuch0").is_err());
        assert!(has(IpAddr::from([127, 0, 0, 1])).expect("a list"));
        assert!(!has(IpAddr::from([192, 0, 2, 1])).expect("a list"));
    }
}
