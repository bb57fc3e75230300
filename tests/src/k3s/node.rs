//! Kubernetes Node objects: as a kubelet registers them, and their conditions.

use std::fs;
use std::thread;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::VERSION;
use crate::settings::Node;

/// How a node is.
#[derive(Debug)]
pub(crate) enum Ready<'a> {
    Yes,
    No(&'a str),
    /// Not heard of for too long.
    Silent,
}

/// The object a kubelet registers its node with.
pub(crate) fn object(settings: &Node) -> Value {
    let mut labels = json!({
        "beta.kubernetes.io/arch": "amd64",
        "beta.kubernetes.io/instance-type": "k3s",
        "beta.kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "kubernetes.io/hostname": settings.name,
        "kubernetes.io/os": "linux",
        "node.kubernetes.io/instance-type": "k3s",
    });
    for (key, value) in &settings.labels {
        labels[key] = json!(value);
    }
    let internal = settings.ips.iter().map(|ip| json!({"type": "InternalIP", "address": ip}));
    let external = settings.external_ips.iter().map(|ip| json!({"type": "ExternalIP", "address": ip}));
    let host = std::iter::once(json!({"type": "Hostname", "address": settings.name}));
    let addresses: Vec<Value> = internal.chain(external).chain(host).collect();
    let mut annotations = json!({
        "k3s.io/hostname": settings.name,
        "k3s.io/internal-ip": join(&settings.ips),
        "k3s.io/node-args": json!(settings.args).to_string(),
    });
    if !settings.external_ips.is_empty() {
        annotations["k3s.io/external-ip"] = json!(join(&settings.external_ips));
    }
    let mut spec = json!({"podCIDR": "10.42.0.0/24", "podCIDRs": ["10.42.0.0/24"],
        "providerID": format!("k3s://{}", settings.name)});
    if !settings.taints.is_empty() {
        spec["taints"] = json!(settings.taints);
    }
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": settings.name, "labels": labels, "annotations": annotations},
        "spec": spec,
        "status": {
            "addresses": addresses,
            "capacity": capacity(),
            "allocatable": capacity(),
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
            "nodeInfo": info(),
        },
    })
}

/// The conditions of a node last heard of at `heard` (milliseconds).
pub(crate) fn conditions(ready: &Ready<'_>, heard: u64) -> Value {
    let heard = timestamp(heard);
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({"type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": heard, "lastTransitionTime": heard})
    };
    let silent = ("Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status.");
    let mut all: Vec<Value> = [
        ("MemoryPressure", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    ]
    .into_iter()
    .map(|(kind, reason, message)| match ready {
        Ready::Silent => condition(kind, silent.0, silent.1, silent.2),
        _ => condition(kind, "False", reason, message),
    })
    .collect();
    all.push(match ready {
        Ready::Yes => condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
        Ready::No(problem) => condition("Ready", "False", "KubeletNotReady", problem),
        Ready::Silent => condition("Ready", silent.0, silent.1, silent.2),
    });
    Value::Array(all)
}

/// Milliseconds since 1970 as Kubernetes writes a time.
pub(crate) fn timestamp(milliseconds: u64) -> String {
    let time = i64::try_from(milliseconds).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    time.unwrap_or(Timestamp::UNIX_EPOCH).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn join(addresses: &[std::net::IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn capacity() -> Value {
    let cpus = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory = line_of("/proc/meminfo", "MemTotal:")
        .and_then(|line| Some(line.split_whitespace().next()?.to_owned()));
    json!({"cpu": cpus.to_string(), "memory": format!("{}Ki", memory.unwrap_or_else(|| "0".into())), "pods": "110"})
}

fn info() -> Value {
    let image = line_of("/etc/os-release", "PRETTY_NAME=").map(|name| name.trim_matches('"').to_owned());
    json!({
        "architecture": "amd64",
        "bootID": text_of("/proc/sys/kernel/random/boot_id"),
        "containerRuntimeVersion": "containerd://1.7.11-k3s2",
        "kernelVersion": text_of("/proc/sys/kernel/osrelease"),
        "kubeProxyVersion": VERSION,
        "kubeletVersion": VERSION,
        "machineID": text_of("/etc/machine-id"),
        "operatingSystem": "linux",
        "osImage": image.unwrap_or_default(),
        "systemUUID": text_of("/sys/class/dmi/id/product_uuid").to_lowercase(),
    })
}

fn text_of(path: &str) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

fn line_of(path: &str, start: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(start)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_kubernetes_does() {
        assert_eq!(timestamp(1_795_300_000_999), "2026-11-21T22:26:40Z");
    }

    #[test]
    fn every_condition_of_a_silent_node_is_unknown() {
        let all = conditions(&Ready::Silent, 0);
        assert!(all.as_array().expect("conditions").iter().all(|condition| condition["status"] == "Unknown"));
        assert_eq!(conditions(&Ready::No("why"), 0)[3]["message"], "why");
    }
}
