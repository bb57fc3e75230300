//! The server: from its configuration to READY, and what it does then.
//!
//! Source for the order: k3s-io/k3s `pkg/daemons/control/server.go`
//! (`prepare`), `pkg/cluster/bootstrap.go`, `pkg/server/server.go`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rcgen::ExtendedKeyUsagePurpose;
use serde_json::Value;
use tokio::net::TcpListener;
use tracing::{debug, error, info, warn};

use crate::auth::{Authenticator, MASTERS};
use crate::client::{Access, Api};
use crate::cluster::Cluster;
use crate::faults::Faults;
use crate::passwd::Passwd;
use crate::pki::{Authorities, Issued, Leaf};
use crate::registry::{Member, Registry};
use crate::settings::Server;
use crate::store::{Datastore, Store};
use crate::supervisor::NewMember;
use crate::{VERSION, agent, bootstrap, files, kubeconfig, listener, notify, supervisor, token};

/// Between two exchanges with the other servers, and two looks at oneself.
const TICK: Duration = Duration::from_secs(2);

/// Starts the server and runs it until it fails.
pub(crate) async fn run(settings: Server, faults: Faults) -> Result<()> {
    info!("Starting k3s {VERSION}");
    notify::status("starting");
    let directory = settings.directory();
    let (cluster, admin, passwd) =
        prepare(&settings, &faults).await.context("starting kubernetes: preparing server")?;
    write_tokens(&settings, &passwd, &directory, cluster.authorities.server.pem.as_bytes())?;
    let listener = bound(settings.bind, settings.port)?;
    let sans = serving(&settings, &cluster.authorities)?;
    let tls = listener::tls(&sans)?;
    tokio::spawn(listener::serve(listener, tls, supervisor::router(cluster.clone())));
    write_kubeconfig(&settings, &cluster, &admin)?;

    let url = format!("https://127.0.0.1:{}", settings.port);
    exchange(&settings, &cluster, &mut BTreeMap::new()).await;
    become_ready(&cluster, &url, &admin, &faults).await?;

    let node_token = token::format("node", &passwd.node, &cluster.cacerts)?;
    let node = settings.node.clone();
    tokio::spawn(async move { agent::run_in_server(&node, &url, &node_token).await });
    tokio::select! {
        result = look_after(&settings, &cluster) => result,
        end = faults.end() => end,
    }
}

/// Everything before the listener: datastore, token, CAs, passwords.
async fn prepare(settings: &Server, faults: &Faults) -> Result<(Arc<Cluster>, Issued, Passwd)> {
    let directory = settings.directory();
    let tls = directory.join("tls");
    for part in ["", "tls", "tls/etcd", "cred", "db"] {
        files::make_directory(&directory.join(part), 0o700)?;
    }
    let database = directory.join("db");
    let store = Store::open(&database)?;
    let token = server_token(settings, &directory, store.is_some())?;
    let password = token::normalize(&token)?;
    let joins = settings.join.is_some();
    let store = if let Some(store) = store {
        store.check_token(&password)?;
        store.configure(settings.cluster_init, joins)?;
        store
    } else {
        let datastore = if settings.cluster_init || joins { Datastore::Etcd } else { Datastore::Sqlite };
        Store::create(&database, datastore, &password, joins)?
    };
    if let (Some(join), false) = (&settings.join, store.joined()) {
        info!("Managed etcd cluster not yet initialized");
        joined(settings, &store, join, &token).await?;
        store.set_joined()?;
    }
    let authorities = Authorities::take_or_make(&tls)?;
    let passwd = Passwd::new(&token, settings.agent_token.as_deref());
    passwd.write(&directory.join("cred/passwd"))?;
    if let Some(hash) = token::parse(&token)?.ca_hash
        && token::format("server", &passwd.server, authorities.server.pem.as_bytes())?
            != format!("K10{hash}::server:{}", passwd.server)
    {
        // k3s does not look; whoever joins with this token will be refused.
        warn!("The CA hash in the server's own token is not the one of server-ca.crt");
    }
    if store.datastore() == Datastore::Etcd {
        let member = member(settings, &store);
        store.change(|registry, now| registry.join(&settings.node.name, member, now))??;
    }
    let admin = authorities.client.issue(&Leaf::client("system:admin", Some(MASTERS)))?;
    files::write(&tls.join("client-admin.crt"), admin.certificates.as_bytes(), 0o644)?;
    files::write(&tls.join("client-admin.key"), admin.key.as_bytes(), 0o600)?;
    let cacerts = if faults.wrong_ca {
        let other = tempfile_directory()?;
        Authorities::take_or_make(other.path())?.server.pem.into_bytes()
    } else {
        authorities.server.pem.clone().into_bytes()
    };
    let cluster = Cluster {
        auth: Authenticator::new(passwd.clone(), &authorities.client.chain)?,
        kube_proxy: authorities.client.issue(&Leaf::client("system:kube-proxy", None))?,
        controller: authorities.client.issue(&Leaf::client("system:k3s-controller", None))?,
        store,
        authorities,
        directory,
        cacerts,
        port: settings.port,
        critical: settings.critical.clone(),
        ready: AtomicBool::new(false),
    };
    Ok((Arc::new(cluster), admin, passwd))
}

/// The server token: configured, or of an earlier start, or a new one.
fn server_token(settings: &Server, directory: &Path, started_before: bool) -> Result<String> {
    if let Some(token) = &settings.token {
        return Ok(token.clone());
    }
    if let Some(token) = Passwd::earlier(&directory.join("cred/passwd"))? {
        return Ok(token);
    }
    if started_before {
        bail!("failed to normalize token: there is a datastore, but no token and no cred/passwd");
    }
    files::random_hex(16)
}

fn member(settings: &Server, store: &Store) -> Member {
    let address = settings.node.ips.first().copied().unwrap_or(IpAddr::from([127, 0, 0, 1]));
    Member { id: store.member_id(), url: format!("https://{}", SocketAddr::new(address, settings.port)) }
}

/// Becomes part of the cluster of another server.
async fn joined(settings: &Server, store: &Store, join: &str, token: &str) -> Result<()> {
    let access = Access::to(join, token, "server").await.context("failed to validate token")?;
    compare(settings, join, token).await.context("failed to validate server configuration")?;
    let data = access.get("/v1-k3s/server-bootstrap").await?;
    let data = serde_json::from_slice(&data).context("reading bootstrap data")?;
    bootstrap::reconcile(&settings.directory(), &data)?;
    let new = NewMember { name: settings.node.name.clone(), member: member(settings, store) };
    if let Err(error) = access.post("/v1-k3s/standin-member", &serde_json::to_value(&new)?).await {
        // As k3s: the next try is a new member.
        store.discard()?;
        return Err(error.context("etcd cluster join failed"));
    }
    let registry: Registry = serde_json::from_slice(&access.post("/v1-k3s/standin-sync", &empty()?).await?)?;
    store.change(|own, _| Ok::<_, std::convert::Infallible>(own.merge(registry)))??;
    Ok(())
}

fn empty() -> Result<Value> {
    Ok(serde_json::to_value(Registry::default())?)
}

/// Compares what all servers must share, the agent token first: the request
/// is made with it.
async fn compare(settings: &Server, join: &str, token: &str) -> Result<()> {
    let agent_token = settings.agent_token.as_deref().unwrap_or(token);
    let access = Access::to(join, agent_token, "node").await?;
    let theirs: Value = serde_json::from_slice(&access.get("/v1-k3s/config").await?)?;
    for (name, own) in &settings.critical {
        let their = theirs["CriticalControlArgs"][name].as_str().unwrap_or_default();
        if their != own {
            bail!(
                "critical configuration value mismatch between servers: {name} is {own:?} here and {their:?} there"
            );
        }
    }
    Ok(())
}

fn tempfile_directory() -> Result<tempfile::TempDir> {
    tempfile::tempdir().context("making a temporary directory")
}

fn serving(settings: &Server, authorities: &Authorities) -> Result<Issued> {
    let (mut names, mut addresses): (Vec<String>, Vec<IpAddr>) = (Vec::new(), Vec::new());
    for san in &settings.sans {
        match san.parse() {
            Ok(address) if !addresses.contains(&address) => addresses.push(address),
            Err(_) if !names.contains(san) => names.push(san.clone()),
            _ => {}
        }
    }
    let usage = ExtendedKeyUsagePurpose::ServerAuth;
    let leaf = Leaf { common_name: "k3s", organization: Some("k3s"), names, addresses, usage };
    authorities.server.issue(&leaf).context("making the serving certificate")
}

fn bound(bind: IpAddr, port: u16) -> Result<TcpListener> {
    let address = SocketAddr::new(bind, port);
    // The port of a process that has just ended may be taken at once.
    let socket = match bind {
        IpAddr::V4(_) => tokio::net::TcpSocket::new_v4(),
        IpAddr::V6(_) => tokio::net::TcpSocket::new_v6(),
    };
    let listen = || -> std::io::Result<TcpListener> {
        let socket = socket?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(1024)
    };
    listen().with_context(|| format!("init cluster datastore and https: listen tcp {address}"))
}

fn write_tokens(settings: &Server, passwd: &Passwd, directory: &Path, ca: &[u8]) -> Result<()> {
    let (token, agent_token) = (directory.join("token"), directory.join("agent-token"));
    files::write(&token, format!("{}\n", token::format("server", &passwd.server, ca)?).as_bytes(), 0o600)?;
    files::link(&token, &directory.join("node-token"))?;
    if settings.agent_token.is_some() {
        let text = format!("{}\n", token::format("node", &passwd.node, ca)?);
        files::write(&agent_token, text.as_bytes(), 0o600)?;
    } else {
        files::link(&token, &agent_token)?;
    }
    info!("Server node token is available at {}", token.display());
    info!("Agent node token is available at {}", agent_token.display());
    Ok(())
}

fn write_kubeconfig(settings: &Server, cluster: &Cluster, admin: &Issued) -> Result<()> {
    let host = if settings.bind.is_unspecified() { IpAddr::from([127, 0, 0, 1]) } else { settings.bind };
    let url = format!("https://{}", SocketAddr::new(host, settings.port));
    let text = kubeconfig::text(&url, cluster.authorities.server.pem.as_bytes(), admin);
    files::write(&settings.kubeconfig, text.as_bytes(), settings.kubeconfig_mode)?;
    info!("Wrote kubeconfig {}", settings.kubeconfig.display());
    if settings.kubeconfig != settings.kubeconfig_link {
        if let Some(directory) = settings.kubeconfig_link.parent() {
            files::make_directory(directory, 0o755)?;
        }
        files::link(&settings.kubeconfig, &settings.kubeconfig_link)?;
    }
    Ok(())
}

/// Asks the own API until it answers, then says READY.
async fn become_ready(cluster: &Cluster, url: &str, admin: &Issued, faults: &Faults) -> Result<()> {
    let api = Api::new(url, cluster.authorities.server.pem.as_bytes(), &admin.certificates, &admin.key)?;
    if faults.never_ready {
        notify::status("never ready, on request");
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(Duration::from_secs(faults.ready_after_seconds)).await;
    cluster.ready.store(true, Ordering::Relaxed);
    while let Err(why) = api.get("/readyz").await {
        info!("Waiting for API server to become available: {why:#}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    info!("Kube API server is now running");
    info!("k3s is up and running");
    notify::ready(&format!("k3s is up at {url}"));
    Ok(())
}

/// Labels the own node, and keeps the copies of the registry together.
async fn look_after(settings: &Server, cluster: &Cluster) -> Result<()> {
    let mut labels =
        vec![("node-role.kubernetes.io/control-plane", "true"), ("node-role.kubernetes.io/master", "true")];
    let etcd = cluster.store.datastore() == Datastore::Etcd;
    if etcd {
        labels.push(("node-role.kubernetes.io/etcd", "true"));
    }
    let name = &settings.node.name;
    let mut peers = BTreeMap::new();
    loop {
        tokio::time::sleep(TICK).await;
        let labelled = cluster.store.read(|registry, now| {
            registry.node(name, now).is_none_or(|node| {
                labels.iter().all(|(key, value)| node["metadata"]["labels"][*key] == *value)
            })
        });
        if !labelled && cluster.store.change(|registry, now| registry.label(name, &labels, now))?.is_ok() {
            info!("Labels and annotations have been set successfully on node: {name}");
        }
        if etcd {
            exchange(settings, cluster, &mut peers).await;
            let id = cluster.store.member_id();
            let still = |registry: &Registry, _| {
                registry.members().any(|(own, member)| own == name && member.id == id)
            };
            if !cluster.store.read(still) {
                cluster.store.retire()?;
                bail!(
                    "this server has been removed from the cluster please restart this server to rejoin the cluster"
                );
            }
        }
    }
}

/// The way to another member, whose token may have been rotated before or after
/// this server's.
async fn reach(cluster: &Cluster, url: &str) -> Result<Access> {
    let with = async |password: &str| {
        let token = token::format("server", password, cluster.authorities.server.pem.as_bytes())?;
        Access::to(url, &token, "server").await
    };
    let present = with(&cluster.auth.passwd().server).await?;
    if present.get("/db/info").await.is_ok() {
        return Ok(present);
    }
    for former in cluster.auth.former() {
        let access = with(&former).await?;
        if access.get("/db/info").await.is_ok() {
            return Ok(access);
        }
    }
    // The other one remembers what this server's was.
    Ok(present)
}

/// Exchanges registries with every other member that can be reached.
async fn exchange(settings: &Server, cluster: &Cluster, peers: &mut BTreeMap<String, Access>) {
    let others: Vec<String> = cluster.store.read(|registry, _| {
        let others = registry.members().filter(|(name, _)| *name != settings.node.name);
        others.map(|(_, member)| member.url.clone()).collect()
    });
    peers.retain(|url, _| others.contains(url));
    for url in others {
        let result = async {
            let access = match peers.remove(&url) {
                Some(access) => access,
                None => reach(cluster, &url).await?,
            };
            let own = cluster.store.read(|registry, _| serde_json::to_value(registry))?;
            let theirs: Registry = serde_json::from_slice(&access.post("/v1-k3s/standin-sync", &own).await?)?;
            cluster
                .store
                .touch(|registry, _| Ok::<_, std::convert::Infallible>(registry.merge(theirs)))??;
            peers.insert(url.clone(), access);
            Ok::<_, anyhow::Error>(())
        };
        match result.await {
            Ok(()) => debug!("exchanged with {url}"),
            Err(why) => error!("etcd peer {url}: {why:#}"),
        }
    }
}
