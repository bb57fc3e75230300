//! What a command is to do, out of its flags: typed, with k3s's defaults.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::config::Values;
use crate::flags::{BEYOND, Command};
use crate::{files, interfaces, labels};

/// Settings every node has.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) external_ips: Vec<IpAddr>,
    pub(crate) flannel_iface: Option<String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) taints: Vec<labels::Taint>,
    pub(crate) data_dir: PathBuf,
    /// The node's password: `/etc/rancher/node/password`.
    pub(crate) password_file: PathBuf,
    /// The command line k3s shows at the Node object, without secrets.
    pub(crate) args: Vec<String>,
}

/// Settings of `k3s agent`.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) node: Node,
    pub(crate) server: String,
    pub(crate) token: String,
}

/// Settings of `k3s server`.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) node: Node,
    pub(crate) token: Option<String>,
    pub(crate) agent_token: Option<String>,
    /// The server to join.
    pub(crate) join: Option<String>,
    pub(crate) cluster_init: bool,
    pub(crate) bind: IpAddr,
    pub(crate) port: u16,
    pub(crate) sans: Vec<String>,
    pub(crate) kubeconfig: PathBuf,
    /// Where k3s and its kubectl look for the kubeconfig.
    pub(crate) kubeconfig_link: PathBuf,
    pub(crate) kubeconfig_mode: u32,
    /// What has to be the same on every server of a cluster.
    pub(crate) critical: BTreeMap<String, String>,
}

/// Flags whose values all servers must share (docs.k3s.io/cli/server,
/// "Critical Configuration Values"), with k3s's defaults.
const CRITICAL: [(&str, &str); 12] = [
    ("cluster-cidr", "10.42.0.0/16"),
    ("service-cidr", "10.43.0.0/16"),
    ("cluster-dns", "10.43.0.10"),
    ("cluster-domain", "cluster.local"),
    ("disable-cloud-controller", "false"),
    ("disable-helm-controller", "false"),
    ("disable-network-policy", "false"),
    ("egress-selector-mode", "agent"),
    ("flannel-backend", "vxlan"),
    ("flannel-external-ip", "false"),
    ("flannel-ipv6-masq", "false"),
    ("secrets-encryption", "false"),
];

/// Flags whose values nobody may read in an annotation.
const SECRET: [&str; 5] = ["token", "agent-token", "cluster-secret", "vpn-auth", "etcd-s3-secret-key"];

impl Node {
    fn new(command: Command, values: &Values, etc: &Path) -> Result<Self> {
        for name in BEYOND {
            let set = values.text(name).is_some_and(|value| value != "false");
            ensure!(!set, "--{name} is a flag of k3s that its stand-in does not have");
        }
        let flannel_iface = values.text("flannel-iface").map(str::to_owned);
        let mut name = match values.text("node-name") {
            Some(name) => name.to_lowercase(),
            None => host_name()?,
        };
        if values.on("with-node-id") {
            name = format!("{name}-{}", node_id(&etc.join("rancher/node/id"))?);
        }
        ensure!(labels::is_dns_name(&name), "invalid node name {name:?}: not a lower-case DNS name");
        let mut ips = addresses("node-ip", values)?;
        if ips.is_empty() {
            ips.push(match &flannel_iface {
                Some(name) => interfaces::first_address(name)?,
                None => default_address()?,
            });
        }
        Ok(Self {
            name,
            ips,
            external_ips: addresses("node-external-ip", values)?,
            flannel_iface,
            labels: values.list("node-label").into_iter().map(labels::label).collect::<Result<_>>()?,
            taints: values.list("node-taint").into_iter().map(labels::taint).collect::<Result<_>>()?,
            data_dir: values.text("data-dir").unwrap_or("/var/lib/rancher/k3s").into(),
            password_file: etc.join("rancher/node/password"),
            args: shown(command, values),
        })
    }
}

impl Agent {
    pub(crate) fn new(values: &Values, etc: &Path) -> Result<Self> {
        let token = secret(values, "token")?.context("--token is required")?;
        let server = values.text("server").context("--server is required")?.to_owned();
        Ok(Self { node: Node::new(Command::Agent, values, etc)?, server, token })
    }
}

impl Server {
    pub(crate) fn new(values: &Values, etc: &Path) -> Result<Self> {
        let token = secret(values, "token")?;
        let agent_token = secret(values, "agent-token")?;
        let join = values.text("server").map(str::to_owned);
        ensure!(join.is_none() || token.is_some(), "K3S_TOKEN is required to join a cluster");
        let node = Node::new(Command::Server, values, etc)?;
        let port = match values.text("https-listen-port") {
            Some(port) => port.parse().with_context(|| format!("invalid https-listen-port {port}"))?,
            None => 6443,
        };
        let bind = match values.text("bind-address") {
            Some(bind) => bind.parse().with_context(|| format!("invalid bind-address {bind}"))?,
            None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        };
        let kubeconfig_link = etc.join("rancher/k3s/k3s.yaml");
        let kubeconfig =
            values.text("write-kubeconfig").map_or_else(|| kubeconfig_link.clone(), PathBuf::from);
        let mode = values.text("write-kubeconfig-mode").unwrap_or("600");
        let kubeconfig_mode =
            u32::from_str_radix(mode, 8).with_context(|| format!("invalid write-kubeconfig-mode {mode}"))?;
        let mut critical: BTreeMap<String, String> = CRITICAL
            .iter()
            .map(|(name, default)| ((*name).to_owned(), values.text(name).unwrap_or(default).to_owned()))
            .collect();
        critical
            .insert("disable=servicelb".into(), values.list("disable").contains(&"servicelb").to_string());
        let sans = sans(&node, values);
        let cluster_init = values.on("cluster-init");
        Ok(Self {
            node,
            token,
            agent_token,
            join,
            cluster_init,
            bind,
            port,
            sans,
            kubeconfig,
            kubeconfig_link,
            kubeconfig_mode,
            critical,
        })
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.node.data_dir.join("server")
    }
}

/// The names the serving certificate is good for, in k3s's order. Nothing else
/// gets in: `tls-san-security` is on from v1.28.
fn sans(node: &Node, values: &Values) -> Vec<String> {
    let mut sans: Vec<String> = values.list("tls-san").into_iter().map(str::to_owned).collect();
    sans.extend(["127.0.0.1", "::1", "localhost"].map(str::to_owned));
    sans.push(node.name.clone());
    sans.extend(node.ips.iter().map(IpAddr::to_string));
    // The address that is advertised: the first external one, or the first.
    let advertised = values.text("advertise-address").map(str::to_owned);
    sans.extend(advertised.or_else(|| node.external_ips.first().map(IpAddr::to_string)));
    let domain = values.text("cluster-domain").unwrap_or("cluster.local");
    sans.push("10.43.0.1".into());
    sans.extend(["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned));
    sans.push(format!("kubernetes.default.svc.{domain}"));
    sans
}

/// A secret from its flag or, before that, from its file.
fn secret(values: &Values, name: &str) -> Result<Option<String>> {
    let text = match values.text(&format!("{name}-file")) {
        Some(file) => Some(files::read_when_there(Path::new(file))?),
        None => values.text(name).map(str::to_owned),
    };
    Ok(text.filter(|text| !text.is_empty()))
}

fn addresses(name: &str, values: &Values) -> Result<Vec<IpAddr>> {
    let parse = |text: &str| text.parse().with_context(|| format!("invalid {name}: {text}"));
    values.list(name).into_iter().map(parse).collect()
}

/// The address the default route leaves from. Sends nothing.
fn default_address() -> Result<IpAddr> {
    let anywhere: [(IpAddr, IpAddr); 2] = [
        (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into()),
        (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()),
    ];
    for (from, to) in anywhere {
        let address = UdpSocket::bind((from, 0)).and_then(|socket| {
            socket.connect((to, 9))?;
            socket.local_addr()
        });
        if let Ok(address) = address {
            return Ok(address.ip());
        }
    }
    bail!(r#"no default routes found in "/proc/net/route" or "/proc/net/ipv6_route""#)
}

fn host_name() -> Result<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").context("reading the host name")?;
    Ok(name.trim().to_lowercase())
}

fn node_id(file: &Path) -> Result<String> {
    if file.exists() {
        let id = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        return Ok(id.trim().to_owned());
    }
    let id = files::random_hex(4)?;
    files::write(file, format!("{id}\n").as_bytes(), 0o644)?;
    Ok(id)
}

/// The flags as k3s shows them in the annotation `k3s.io/node-args`.
fn shown(command: Command, values: &Values) -> Vec<String> {
    let mut args = vec![command.name().to_owned()];
    for (name, texts) in values.iter() {
        for text in texts {
            args.push(format!("--{name}"));
            args.push(if SECRET.contains(&name) { "********".to_owned() } else { text.clone() });
        }
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn server(args: &[&str]) -> Result<Server> {
        let etc = tempfile::tempdir().expect("a directory");
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        Server::new(&config::load(Command::Server, &args, etc.path(), |_| None)?, etc.path())
    }

    #[test]
    fn the_serving_certificate_knows_the_node_under_every_name() {
        let settings = server(&[
            "--node-name=S1",
            "--node-ip=10.0.0.1",
            "--node-external-ip=192.0.2.7",
            "--tls-san=api.example,10.9.9.9",
        ])
        .expect("settings");
        for name in
            ["s1", "10.0.0.1", "192.0.2.7", "api.example", "10.9.9.9", "127.0.0.1", "10.43.0.1", "kubernetes"]
        {
            assert!(settings.sans.iter().any(|san| san == name), "{name} is missing in {:?}", settings.sans);
        }
    }

    #[test]
    fn no_secret_is_shown() {
        let settings = server(&["--node-ip=10.0.0.1", "--token=s3cret", "--agent-token=a9ent", "--selinux"]);
        let shown = settings.expect("settings").node.args.join(" ");
        assert!(
            shown.contains("--selinux true") && !shown.contains("s3cret") && !shown.contains("a9ent"),
            "{shown}"
        );
    }

    #[test]
    fn joining_takes_a_token_and_what_is_beyond_is_refused() {
        assert!(server(&["--server=https://a:6443", "--node-ip=10.0.0.1"]).is_err());
        let error =
            server(&["--datastore-endpoint=mysql://x", "--node-ip=10.0.0.1"]).expect_err("no such datastore");
        assert!(error.to_string().contains("datastore-endpoint"));
        assert!(server(&["--disable-etcd=false", "--node-ip=10.0.0.1"]).is_ok());
        assert!(server(&["--node-ip=10.0.0.300"]).is_err());
        assert!(server(&["--node-ip=10.0.0.1", "--write-kubeconfig-mode=rw"]).is_err());
    }
}
