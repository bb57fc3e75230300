//! The flags of `k3s server` and `k3s agent` in v1.28.5+k3s1, which are also
//! the only keys its configuration files may have.
//!
//! Source: k3s-io/k3s `pkg/cli/cmds/{server,agent,log,config}.go` of the winter
//! of 2023. `embedded-registry` and `disable-default-registry-endpoint` came
//! one release later (v1.28.6) and are unknown here on purpose.

/// Which of the two commands runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Server,
    Agent,
}

impl Command {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Agent => "agent",
        }
    }
}

/// What values a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One text, the last one given.
    Text,
    /// One whole number, the last one given.
    Number,
    /// True or false; alone on the command line it means true.
    Switch,
    /// Every value given.
    List,
}

/// One flag.
#[derive(Debug)]
pub(crate) struct Flag {
    pub(crate) name: &'static str,
    pub(crate) short: &'static str,
    pub(crate) kind: Kind,
    /// The environment variable that sets it when nothing else does.
    pub(crate) env: &'static str,
}

const fn flag(name: &'static str, kind: Kind) -> Flag {
    Flag { name, short: "", kind, env: "" }
}

const fn with(name: &'static str, short: &'static str, kind: Kind, env: &'static str) -> Flag {
    Flag { name, short, kind, env }
}

use Kind::{List, Number, Switch, Text};

/// Known to both commands.
const COMMON: &[Flag] = &[
    with("config", "c", Text, "K3S_CONFIG_FILE"),
    with("debug", "", Switch, "K3S_DEBUG"),
    flag("v", Number),
    flag("vmodule", Text),
    with("log", "l", Text, ""),
    flag("alsologtostderr", Switch),
    with("token", "t", Text, "K3S_TOKEN"),
    with("token-file", "", Text, "K3S_TOKEN_FILE"),
    with("server", "s", Text, "K3S_URL"),
    with("data-dir", "d", Text, ""),
    with("node-name", "", Text, "K3S_NODE_NAME"),
    flag("with-node-id", Switch),
    flag("node-label", List),
    flag("node-taint", List),
    flag("image-credential-provider-bin-dir", Text),
    flag("image-credential-provider-config", Text),
    flag("docker", Switch),
    flag("container-runtime-endpoint", Text),
    flag("default-runtime", Text),
    flag("image-service-endpoint", Text),
    flag("pause-image", Text),
    flag("snapshotter", Text),
    flag("private-registry", Text),
    flag("airgap-extra-registry", List),
    with("node-ip", "i", List, ""),
    flag("node-external-ip", List),
    with("resolv-conf", "", Text, "K3S_RESOLV_CONF"),
    flag("flannel-iface", Text),
    flag("flannel-conf", Text),
    flag("flannel-cni-conf", Text),
    with("vpn-auth", "", Text, "K3S_VPN_AUTH"),
    with("vpn-auth-file", "", Text, "K3S_VPN_AUTH_FILE"),
    flag("kubelet-arg", List),
    flag("kube-proxy-arg", List),
    flag("protect-kernel-defaults", Switch),
    flag("rootless", Switch),
    flag("prefer-bundled-bin", Switch),
    with("selinux", "", Switch, "K3S_SELINUX"),
    with("lb-server-port", "", Number, "K3S_LB_SERVER_PORT"),
];

const AGENT: &[Flag] = &[
    flag("disable-selinux", Switch),
    flag("no-flannel", Switch),
    with("cluster-secret", "", Text, "K3S_CLUSTER_SECRET"),
    flag("disable-apiserver-lb", Switch),
];

const SERVER: &[Flag] = &[
    flag("bind-address", Text),
    flag("https-listen-port", Number),
    flag("advertise-address", Text),
    flag("advertise-port", Number),
    flag("tls-san", List),
    flag("tls-san-security", Switch),
    flag("cluster-cidr", List),
    flag("service-cidr", List),
    flag("service-node-port-range", Text),
    flag("cluster-dns", List),
    flag("cluster-domain", Text),
    flag("flannel-backend", Text),
    flag("flannel-ipv6-masq", Switch),
    flag("flannel-external-ip", Switch),
    flag("egress-selector-mode", Text),
    flag("servicelb-namespace", Text),
    with("write-kubeconfig", "o", Text, "K3S_KUBECONFIG_OUTPUT"),
    with("write-kubeconfig-mode", "", Text, "K3S_KUBECONFIG_MODE"),
    with("write-kubeconfig-group", "", Text, "K3S_KUBECONFIG_GROUP"),
    flag("helm-job-image", Text),
    with("agent-token", "", Text, "K3S_AGENT_TOKEN"),
    with("agent-token-file", "", Text, "K3S_AGENT_TOKEN_FILE"),
    with("cluster-init", "", Switch, "K3S_CLUSTER_INIT"),
    with("cluster-reset", "", Switch, "K3S_CLUSTER_RESET"),
    flag("cluster-reset-restore-path", Text),
    flag("kube-apiserver-arg", List),
    flag("etcd-arg", List),
    flag("kube-controller-manager-arg", List),
    flag("kube-scheduler-arg", List),
    flag("kube-cloud-controller-manager-arg", List),
    with("datastore-endpoint", "", Text, "K3S_DATASTORE_ENDPOINT"),
    with("datastore-cafile", "", Text, "K3S_DATASTORE_CAFILE"),
    with("datastore-certfile", "", Text, "K3S_DATASTORE_CERTFILE"),
    with("datastore-keyfile", "", Text, "K3S_DATASTORE_KEYFILE"),
    flag("etcd-expose-metrics", Switch),
    flag("etcd-disable-snapshots", Switch),
    flag("etcd-snapshot-name", Text),
    flag("etcd-snapshot-schedule-cron", Text),
    flag("etcd-snapshot-retention", Number),
    flag("etcd-snapshot-dir", Text),
    flag("etcd-snapshot-compress", Switch),
    flag("etcd-s3", Switch),
    flag("etcd-s3-endpoint", Text),
    flag("etcd-s3-endpoint-ca", Text),
    flag("etcd-s3-skip-ssl-verify", Switch),
    flag("etcd-s3-access-key", Text),
    flag("etcd-s3-secret-key", Text),
    flag("etcd-s3-bucket", Text),
    flag("etcd-s3-region", Text),
    flag("etcd-s3-folder", Text),
    flag("etcd-s3-insecure", Switch),
    flag("etcd-s3-timeout", Text),
    flag("default-local-storage-path", Text),
    flag("disable", List),
    flag("disable-scheduler", Switch),
    flag("disable-cloud-controller", Switch),
    flag("disable-kube-proxy", Switch),
    flag("disable-network-policy", Switch),
    flag("disable-helm-controller", Switch),
    flag("disable-apiserver", Switch),
    flag("disable-controller-manager", Switch),
    flag("disable-etcd", Switch),
    flag("system-default-registry", Text),
    flag("secrets-encryption", Switch),
    flag("enable-pprof", Switch),
    flag("disable-agent", Switch),
    flag("kube-controller-arg", List),
    flag("kube-cloud-controller-arg", List),
];

/// Real flags whose effect the stand-in does not have; asking for them must
/// not look as if it had worked.
pub(crate) const BEYOND: &[&str] = &[
    "cluster-reset",
    "cluster-reset-restore-path",
    "cluster-secret",
    "datastore-endpoint",
    "disable-agent",
    "disable-apiserver",
    "disable-etcd",
    "rootless",
    "vpn-auth",
    "vpn-auth-file",
];

/// Every flag of a command.
pub(crate) fn of(command: Command) -> impl Iterator<Item = &'static Flag> {
    let own = match command {
        Command::Server => SERVER,
        Command::Agent => AGENT,
    };
    COMMON.iter().chain(own)
}

/// The flag of this long or short name.
pub(crate) fn find(command: Command, name: &str) -> Option<&'static Flag> {
    of(command).find(|flag| flag.name == name || (!flag.short.is_empty() && flag.short == name))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_name_stands_twice_in_a_command() {
        for command in [Command::Server, Command::Agent] {
            let mut seen = BTreeSet::new();
            for flag in of(command) {
                assert!(seen.insert(flag.name), "{} stands twice", flag.name);
                assert!(flag.short.is_empty() || seen.insert(flag.short), "-{} stands twice", flag.short);
            }
        }
    }

    #[test]
    fn a_server_knows_what_an_agent_does_not() {
        assert!(find(Command::Agent, "cluster-init").is_none());
        assert!(find(Command::Server, "cluster-init").is_some());
        assert_eq!(find(Command::Server, "d").map(|flag| flag.name), Some("data-dir"));
        assert!(find(Command::Server, "embedded-registry").is_none());
    }

    #[test]
    fn what_is_beyond_the_stand_in_is_a_flag_of_k3s() {
        for name in BEYOND {
            assert!(find(Command::Server, name).or(find(Command::Agent, name)).is_some(), "{name}");
        }
    }
}
