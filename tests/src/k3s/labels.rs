//! Labels and taints a kubelet registers itself with, and the rules that make
//! a real kubelet end at once.

use anyhow::{Result, bail, ensure};
use serde::Serialize;

/// A taint as it stands in a Node's `spec`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Taint {
    pub(crate) key: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) value: String,
    pub(crate) effect: String,
}

/// Labels below kubernetes.io a kubelet may set on itself (kubernetes
/// `staging/src/k8s.io/kubelet/pkg/apis/well_known_labels.go`).
const ALLOWED: [&str; 12] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "kubernetes.io/instance-type",
];

/// Reads `key=value`.
pub(crate) fn label(text: &str) -> Result<(String, String)> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    ensure!(is_key(key) && is_value(value), "invalid node-label {text:?}: not key=value");
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let below = |of: &str| domain == of || domain.ends_with(&format!(".{of}"));
    let reserved = below("kubernetes.io") || below("k8s.io");
    let own = ["kubelet.kubernetes.io", "node.kubernetes.io"].into_iter().any(below);
    if reserved && !own && !ALLOWED.contains(&key) {
        bail!(
            "kubelet exited: failed to validate kubelet flags: unknown 'kubernetes.io' or 'k8s.io' labels \
             specified with --node-labels: [{key}]"
        );
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// Reads `key[=value]:effect`.
pub(crate) fn taint(text: &str) -> Result<Taint> {
    let wrong = || anyhow::anyhow!("invalid node-taint {text:?}: not key=value:effect");
    let (rest, effect) = text.rsplit_once(':').ok_or_else(wrong)?;
    let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
    let known = ["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect);
    if !known || !is_key(key) || !is_value(value) {
        return Err(wrong());
    }
    Ok(Taint { key: key.to_owned(), value: value.to_owned(), effect: effect.to_owned() })
}

fn is_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((domain, name)) => is_dns_name(domain) && !name.is_empty() && is_value(name),
        None => !text.is_empty() && is_value(text),
    }
}

fn is_value(text: &str) -> bool {
    let edge = |byte: Option<u8>| byte.is_none_or(|byte| byte.is_ascii_alphanumeric());
    text.len() <= 63
        && edge(text.bytes().next())
        && edge(text.bytes().last())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// An RFC 1123 subdomain, as a node's name has to be.
pub(crate) fn is_dns_name(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubelet_may_not_give_itself_a_role() {
        for text in ["node-role.kubernetes.io/worker=true", "foo.k8s.io/x=y", "kubernetes.io/role=x"] {
            assert!(label(text).expect_err(text).to_string().contains("node-labels"));
        }
        for text in [
            "kiln.dev/cluster=home",
            "node.kubernetes.io/pool=a",
            "topology.kubernetes.io/zone=z",
            "a=b",
            "a=",
        ] {
            label(text).expect(text);
        }
        assert!(label("=b").is_err() && label("a=b c").is_err() && label("-a=b").is_err());
    }

    #[test]
    fn a_taint_has_a_known_effect() {
        let taint_read = taint("kafka=true:NoSchedule").expect("a taint");
        assert_eq!((taint_read.key.as_str(), taint_read.effect.as_str()), ("kafka", "NoSchedule"));
        assert_eq!(taint("CriticalAddonsOnly:NoExecute").expect("a taint").value, "");
        assert!(taint("a=b").is_err() && taint("a=b:Sometimes").is_err());
    }

    #[test]
    fn names_are_dns_names() {
        for good in ["a", "k3s-s1", "node.example.com"] {
            assert!(is_dns_name(good), "{good}");
        }
        for bad in ["", "A", "-a", "a-", "a..b", "a_b", &"a".repeat(64)] {
            assert!(!is_dns_name(bad), "{bad}");
        }
    }
}
