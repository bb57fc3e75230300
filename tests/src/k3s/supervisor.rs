//! The supervisor's part of the listener: what nodes need to join.
//!
//! Source: k3s-io/k3s `pkg/server/router.go`, `pkg/server/auth.go`: wrong
//! credentials are answered with 401, none or those of another role with 403.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Result;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Extension, Json, Router};
use rcgen::ExtendedKeyUsagePurpose;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tracing::{error, info, warn};

use crate::auth::{BOOTSTRAPPERS, NODES, Nobody, Peer, User};
use crate::cluster::Cluster;
use crate::passwd::{AGENT_ROLE, SERVER_ROLE};
use crate::pki::{Issued, Leaf};
use crate::registry::{Member, Refused, Registry};
use crate::store::Datastore;
use crate::{api, bootstrap, files, token};

type Shared = State<Arc<Cluster>>;

/// A server's request to become a member.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct NewMember {
    pub(crate) name: String,
    pub(crate) member: Member,
}

/// Everything the listener answers.
pub(crate) fn router(cluster: Arc<Cluster>) -> Router {
    Router::new()
        .route("/ping", get(|| async { "pong" }))
        .route("/cacerts", get(cacerts))
        .route("/v1-k3s/readyz", get(readyz))
        .route("/v1-k3s/config", get(config))
        .route("/v1-k3s/apiservers", get(api_servers))
        .route("/v1-k3s/client-ca.crt", get(client_ca))
        .route("/v1-k3s/server-ca.crt", get(server_ca))
        .route("/v1-k3s/serving-kubelet.crt", get(serving_kubelet))
        .route("/v1-k3s/client-kubelet.crt", get(client_kubelet))
        .route("/v1-k3s/client-kube-proxy.crt", get(kube_proxy))
        .route("/v1-k3s/client-k3s-controller.crt", get(controller))
        .route("/v1-k3s/server-bootstrap", get(server_bootstrap))
        .route("/v1-k3s/token", put(rotate_token))
        .route("/db/info", get(members))
        // In place of etcd's own protocol.
        .route("/v1-k3s/standin-member", post(new_member))
        .route("/v1-k3s/standin-sync", post(sync))
        .merge(api::router())
        .with_state(cluster)
}

/// Refuses whoever has not got `role`. Nodes and whoever has a bootstrap token may do what an agent may.
fn require(cluster: &Cluster, headers: &HeaderMap, peer: &Peer, role: &str) -> Result<User, Box<Response>> {
    let holds = |id: &str, secret: &str| cluster.store.read(|registry, _| registry.holds_token(id, secret));
    match cluster.auth.supervisor(headers, peer, holds) {
        Ok(user) if user.is_in(role) => Ok(user),
        Ok(user) if role == AGENT_ROLE && (user.is_in(NODES) || user.is_in(BOOTSTRAPPERS)) => Ok(user),
        Ok(_) | Err(Nobody::Silent) => Err(Box::new(StatusCode::FORBIDDEN.into_response())),
        Err(Nobody::Wrong) => {
            error!("Failed to authenticate request: invalid username/password combination");
            Err(Box::new(StatusCode::UNAUTHORIZED.into_response()))
        }
    }
}

/// The guard of a handler that takes one role.
macro_rules! require {
    ($cluster:expr, $headers:expr, $peer:expr, $role:expr) => {
        match require(&$cluster, &$headers, &$peer, $role) {
            Ok(user) => user,
            Err(refusal) => return *refusal,
        }
    };
}

async fn cacerts(State(cluster): Shared) -> Response {
    text(cluster.cacerts.clone())
}

async fn readyz(State(cluster): Shared, Extension(peer): Extension<Peer>, headers: HeaderMap) -> Response {
    let _ = require!(cluster, headers, peer, AGENT_ROLE);
    if cluster.is_ready() {
        text("ok")
    } else {
        (StatusCode::INTERNAL_SERVER_ERROR, "runtime core not ready").into_response()
    }
}

async fn config(State(cluster): Shared, Extension(peer): Extension<Peer>, headers: HeaderMap) -> Response {
    let _ = require!(cluster, headers, peer, AGENT_ROLE);
    let config = json!({
        "CriticalControlArgs": cluster.critical,
        "HTTPSPort": cluster.port,
        "SupervisorPort": cluster.port,
    });
    Json(config).into_response()
}

async fn api_servers(
    State(cluster): Shared,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Response {
    let _ = require!(cluster, headers, peer, AGENT_ROLE);
    let addresses: Vec<String> = cluster.store.read(|registry, _| {
        registry
            .members()
            .filter_map(|(_, member)| member.url.strip_prefix("https://"))
            .map(str::to_owned)
            .collect()
    });
    Json(addresses).into_response()
}

async fn client_ca(State(cluster): Shared, Extension(peer): Extension<Peer>, headers: HeaderMap) -> Response {
    let _ = require!(cluster, headers, peer, AGENT_ROLE);
    text(cluster.authorities.client.pem.clone())
}

async fn server_ca(State(cluster): Shared, Extension(peer): Extension<Peer>, headers: HeaderMap) -> Response {
    let _ = require!(cluster, headers, peer, AGENT_ROLE);
    text(cluster.authorities.server.pem.clone())
}

async fn kube_proxy(
    State(cluster): Shared,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Response {
    let _ = require!(cluster, headers, peer, AGENT_ROLE);
    pair(&cluster.kube_proxy)
}

async fn controller(
    State(cluster): Shared,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Response {
    let _ = require!(cluster, headers, peer, AGENT_ROLE);
    pair(&cluster.controller)
}

async fn serving_kubelet(
    State(cluster): Shared,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Response {
    let user = require!(cluster, headers, peer, AGENT_ROLE);
    let name = match named_node(&cluster, &headers, &user) {
        Ok(name) => name,
        Err(refusal) => return *refusal,
    };
    let mut addresses = vec![IpAddr::from([127, 0, 0, 1])];
    for text in header_text(&headers, "k3s-Node-IP").split(',').filter(|text| !text.is_empty()) {
        match text.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => return failed(&format!("invalid IP address {text}")),
        }
    }
    let names = vec![name.clone(), "localhost".to_owned()];
    let usage = ExtendedKeyUsagePurpose::ServerAuth;
    issued(cluster.authorities.server.issue(&Leaf {
        common_name: &name,
        organization: None,
        names,
        addresses,
        usage,
    }))
}

async fn client_kubelet(
    State(cluster): Shared,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Response {
    let user = require!(cluster, headers, peer, AGENT_ROLE);
    match named_node(&cluster, &headers, &user) {
        Ok(name) => {
            let user = format!("system:node:{name}");
            issued(cluster.authorities.client.issue(&Leaf::client(&user, Some(NODES))))
        }
        Err(refusal) => *refusal,
    }
}

/// The node that asks, after a look at its password. One that comes with its
/// own certificate must still have its Node object (k3s `pkg/nodepassword`,
/// `verifyNode`).
fn named_node(cluster: &Cluster, headers: &HeaderMap, user: &User) -> Result<String, Box<Response>> {
    let name = header_text(headers, "k3s-Node-Name").to_lowercase();
    let password = header_text(headers, "k3s-Node-Password");
    let refused = |code: StatusCode, why: &str| {
        error!("{why}");
        Err(Box::new((code, why.to_owned()).into_response()))
    };
    if name.is_empty() {
        return refused(StatusCode::BAD_REQUEST, "node name not set");
    }
    if password.is_empty() {
        return refused(StatusCode::BAD_REQUEST, "node password not set");
    }
    if !cluster.is_ready() {
        return refused(StatusCode::SERVICE_UNAVAILABLE, "runtime core not ready");
    }
    if let Some(own) = user.node() {
        let there = cluster.store.read(|registry, now| registry.node(own, now).is_some());
        if own != name || !there {
            return refused(StatusCode::FORBIDDEN, &format!("nodes \"{name}\" not found"));
        }
    }
    let checked = files::random_hex(8).and_then(|salt| {
        cluster.store.touch(|registry, now| registry.ensure_password(&name, password, &salt, now))
    });
    match checked {
        Ok(Ok(())) => Ok(name),
        Ok(Err(why)) => refused(StatusCode::FORBIDDEN, &why.to_string()),
        Err(why) => refused(StatusCode::INTERNAL_SERVER_ERROR, &format!("{why:#}")),
    }
}

async fn server_bootstrap(
    State(cluster): Shared,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Response {
    let _ = require!(cluster, headers, peer, SERVER_ROLE);
    if cluster.store.datastore() == Datastore::Sqlite {
        warn!("Received HTTP bootstrap request, but embedded etcd is not enabled.");
        return api::status(StatusCode::BAD_REQUEST, "BadRequest", "etcd disabled");
    }
    match bootstrap::read(&cluster.directory) {
        Ok(data) => Json(data).into_response(),
        Err(why) => failed(&format!("{why:#}")),
    }
}

/// As etcd encodes its members.
async fn members(State(cluster): Shared, Extension(peer): Extension<Peer>, headers: HeaderMap) -> Response {
    let _ = require!(cluster, headers, peer, SERVER_ROLE);
    if cluster.store.datastore() == Datastore::Sqlite {
        return StatusCode::NOT_FOUND.into_response();
    }
    let members: Vec<_> = cluster.store.read(|registry, _| {
        let shown = |(name, member): (&str, &Member)| {
            let host = member.url.rsplit_once(':').map_or(member.url.as_str(), |(host, _)| host);
            let id = u64::from_str_radix(&member.id, 16).unwrap_or(1);
            json!({"ID": id, "name": format!("{name}-{}", member.id), "peerURLs": [format!("{host}:2380")],
                "clientURLs": [format!("{host}:2379")]})
        };
        registry.members().map(shown).collect()
    });
    Json(json!({"members": members})).into_response()
}

async fn new_member(
    State(cluster): Shared,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    Json(new): Json<NewMember>,
) -> Response {
    let _ = require!(cluster, headers, peer, SERVER_ROLE);
    info!("Adding member {}-{}={} to etcd cluster", new.name, new.member.id, new.member.url);
    match cluster.store.change(|registry, now| registry.join(&new.name, new.member, now)) {
        Ok(Ok(())) => StatusCode::OK.into_response(),
        Ok(Err(why @ Refused::DuplicateMember)) => (StatusCode::CONFLICT, why.to_string()).into_response(),
        Ok(Err(why)) => failed(&why.to_string()),
        Err(why) => failed(&format!("{why:#}")),
    }
}

async fn sync(
    State(cluster): Shared,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    Json(theirs): Json<Registry>,
) -> Response {
    // etcd's members know each other by certificate: a token that was rotated is
    // nothing to them.
    if !cluster.auth.is_or_was_server(&headers) {
        let _ = require!(cluster, headers, peer, SERVER_ROLE);
    }
    match cluster.store.touch(|registry, _| Ok::<_, Infallible>(registry.merge(theirs))) {
        Ok(_) => Json(cluster.store.read(|registry, _| registry.clone())).into_response(),
        Err(why) => failed(&format!("{why:#}")),
    }
}

#[derive(Debug, Deserialize)]
struct NewToken {
    #[serde(rename = "newToken")]
    new_token: String,
}

/// What `k3s token rotate` asks (k3s `pkg/server/handlers/token.go`, `tokenRotate`):
/// passwords first, then the datastore.
async fn rotate_token(
    State(cluster): Shared,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    Json(NewToken { new_token }): Json<NewToken>,
) -> Response {
    let _ = require!(cluster, headers, peer, SERVER_ROLE);
    let old = cluster.auth.passwd().server;
    cluster.auth.replace(&new_token);
    let rotated = || -> Result<()> {
        cluster.auth.passwd().write(&cluster.directory.join("cred/passwd"))?;
        let full = token::format("server", &new_token, cluster.authorities.server.pem.as_bytes())?;
        files::write(&cluster.directory.join("token"), format!("{full}\n").as_bytes(), 0o600)?;
        cluster.store.rotate_token(&old, &new_token)
    };
    match rotated() {
        Ok(()) => {
            info!("Rotated the server token");
            StatusCode::OK.into_response()
        }
        Err(why) => failed(&format!("{why:#}")),
    }
}

fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn issued(issued: Result<Issued>) -> Response {
    match issued {
        Ok(issued) => pair(&issued),
        Err(why) => failed(&format!("{why:#}")),
    }
}

fn pair(issued: &Issued) -> Response {
    text(format!("{}{}", issued.certificates, issued.key))
}

fn text(body: impl Into<Bytes>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain")], body.into()).into_response()
}

fn failed(why: &str) -> Response {
    error!("{why}");
    (StatusCode::INTERNAL_SERVER_ERROR, why.to_owned()).into_response()
}
