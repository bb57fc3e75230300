//! The Kubernetes API, as far as nodes go: by client certificate only
//! (`anonymous-auth=false`), refusals as `Status` objects.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch, put};
use axum::{Extension, Json, Router};
use serde_json::{Value, json};
use tracing::{error, info};

use crate::auth::{MASTERS, NODES, Peer, User};
use crate::cluster::Cluster;
use crate::registry::{Refused, Registry};
use crate::{VERSION, files};

type Shared = State<Arc<Cluster>>;

/// Routes of the API; everything unknown is answered here as well.
pub(crate) fn router() -> Router<Arc<Cluster>> {
    Router::new()
        .route("/readyz", get(health))
        .route("/livez", get(health))
        .route("/healthz", get(health))
        .route("/version", get(version))
        .route("/api", get(api_versions))
        .route("/apis", get(api_groups))
        .route("/api/v1", get(resources))
        .route("/api/v1/nodes", get(list).post(create))
        .route("/api/v1/nodes/{name}", get(read).put(update).delete(remove))
        .route("/api/v1/namespaces/kube-system/secrets", get(secrets))
        .route("/api/v1/namespaces/kube-system/secrets/{name}", patch(apply_secret).delete(remove_secret))
        .route("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}", put(beat))
        .fallback(unknown)
}

/// A Kubernetes `Status` that says no.
pub(crate) fn status(code: StatusCode, reason: &str, message: &str) -> Response {
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code.as_u16()});
    (code, Json(body)).into_response()
}

/// Who asks; nobody gets further without a certificate of the client CA.
fn user(cluster: &Cluster, peer: &Peer) -> Result<User, Box<Response>> {
    cluster
        .auth
        .api(peer)
        .map_err(|_| Box::new(status(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")))
}

/// Who asks, if they may do `verb` to nodes, or to this one.
fn permitted(cluster: &Cluster, peer: &Peer, verb: &str, name: Option<&str>) -> Result<User, Box<Response>> {
    let user = user(cluster, peer)?;
    let kubelet = user.is_in(NODES)
        && match verb {
            "get" | "list" => true,
            "create" | "update" => name.is_some() && user.node() == name,
            _ => false,
        };
    if user.is_in(MASTERS) || kubelet {
        return Ok(user);
    }
    let what = name.map_or_else(|| "nodes".to_owned(), |name| format!("nodes \"{name}\""));
    let message = format!(
        "{what} is forbidden: User \"{}\" cannot {verb} resource \"nodes\" in API group \"\" at the cluster scope",
        user.name
    );
    Err(Box::new(status(StatusCode::FORBIDDEN, "Forbidden", &message)))
}

async fn health(State(cluster): Shared, Extension(peer): Extension<Peer>) -> Response {
    match user(&cluster, &peer) {
        Ok(_) if cluster.is_ready() => "ok".into_response(),
        Ok(_) => (StatusCode::INTERNAL_SERVER_ERROR, "[-]poststarthook failed: not finished").into_response(),
        Err(refusal) => *refusal,
    }
}

async fn version(State(cluster): Shared, Extension(peer): Extension<Peer>) -> Response {
    answer(user(&cluster, &peer), || json!({"major": "1", "minor": "28", "gitVersion": VERSION}))
}

async fn api_versions(State(cluster): Shared, Extension(peer): Extension<Peer>) -> Response {
    answer(user(&cluster, &peer), || json!({"kind": "APIVersions", "versions": ["v1"]}))
}

async fn api_groups(State(cluster): Shared, Extension(peer): Extension<Peer>) -> Response {
    answer(user(&cluster, &peer), || json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": []}))
}

async fn resources(State(cluster): Shared, Extension(peer): Extension<Peer>) -> Response {
    let secrets = json!({"name": "secrets", "singularName": "secret", "namespaced": true, "kind": "Secret",
        "verbs": ["delete", "list", "patch"]});
    let nodes = json!({"name": "nodes", "singularName": "node", "namespaced": false, "kind": "Node",
        "shortNames": ["no"], "verbs": ["create", "delete", "get", "list", "update"]});
    answer(
        user(&cluster, &peer),
        || json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": [nodes, secrets]}),
    )
}

async fn list(State(cluster): Shared, Extension(peer): Extension<Peer>) -> Response {
    answer(permitted(&cluster, &peer, "list", None), || {
        let (version, items) = cluster.store.read(|registry, now| (registry.version(), registry.nodes(now)));
        json!({"kind": "NodeList", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items})
    })
}

async fn read(
    State(cluster): Shared,
    Extension(peer): Extension<Peer>,
    Path(name): Path<String>,
) -> Response {
    match permitted(&cluster, &peer, "get", Some(&name)) {
        Ok(_) => one(&cluster, &name, StatusCode::OK),
        Err(refusal) => *refusal,
    }
}

async fn create(
    State(cluster): Shared,
    Extension(peer): Extension<Peer>,
    Json(object): Json<Value>,
) -> Response {
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if let Err(refusal) = permitted(&cluster, &peer, "create", Some(&name)) {
        return *refusal;
    }
    let uid = match uid() {
        Ok(uid) => uid,
        Err(why) => return internal(&why),
    };
    info!("Node {name} registered");
    change(&cluster, &name, StatusCode::CREATED, |registry, now| registry.create(&name, object, &uid, now))
}

async fn update(
    State(cluster): Shared,
    Extension(peer): Extension<Peer>,
    Path(name): Path<String>,
    Json(object): Json<Value>,
) -> Response {
    if let Err(refusal) = permitted(&cluster, &peer, "update", Some(&name)) {
        return *refusal;
    }
    change(&cluster, &name, StatusCode::OK, |registry, now| registry.update(&name, object, now))
}

async fn remove(
    State(cluster): Shared,
    Extension(peer): Extension<Peer>,
    Path(name): Path<String>,
) -> Response {
    if let Err(refusal) = permitted(&cluster, &peer, "delete", Some(&name)) {
        return *refusal;
    }
    match cluster.store.change(|registry, now| registry.remove(&name, now)) {
        Ok(Ok(())) => {
            info!("Node {name} deleted, and its node password with it");
            let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                "details": {"name": name, "kind": "nodes"}});
            Json(body).into_response()
        }
        Ok(Err(why)) => refused(&why),
        Err(why) => internal(&why),
    }
}

/// Who asks, if they may do anything to Secrets.
fn master(cluster: &Cluster, peer: &Peer, verb: &str) -> Result<(), Box<Response>> {
    let user = user(cluster, peer)?;
    if user.is_in(MASTERS) {
        return Ok(());
    }
    let message = format!(
        "secrets is forbidden: User \"{}\" cannot {verb} resource \"secrets\" in API group \"\" in the namespace \
         \"kube-system\"",
        user.name
    );
    Err(Box::new(status(StatusCode::FORBIDDEN, "Forbidden", &message)))
}

async fn secrets(State(cluster): Shared, Extension(peer): Extension<Peer>) -> Response {
    if let Err(refusal) = master(&cluster, &peer, "list") {
        return *refusal;
    }
    let items: Vec<Value> = cluster.store.read(|registry, _| {
        let shown = |name: &str| json!({"metadata": {"name": name, "namespace": "kube-system"}});
        registry.secrets().map(shown).collect()
    });
    Json(json!({"kind": "SecretList", "apiVersion": "v1", "metadata": {}, "items": items})).into_response()
}

/// Server-side apply, as far as `stringData` goes.
async fn apply_secret(
    State(cluster): Shared,
    Extension(peer): Extension<Peer>,
    Path(name): Path<String>,
    body: Bytes,
) -> Response {
    if let Err(refusal) = master(&cluster, &peer, "patch") {
        return *refusal;
    }
    let wrong = |why: &str| status(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", why);
    let Ok(object) = serde_json::from_slice::<Value>(&body) else { return wrong("the body is no object") };
    if object["kind"] != "Secret" || object["metadata"]["name"] != name.as_str() {
        return wrong("the body is another object");
    }
    let Ok(data) = serde_json::from_value(object["stringData"].clone()) else {
        return wrong("stringData: must hold texts");
    };
    match cluster.store.change(|registry, now| {
        registry.set_secret(&name, data, now);
        Ok::<_, Refused>(())
    }) {
        Ok(Ok(())) => {
            info!("Secret kube-system/{name} applied");
            Json(json!({"kind": "Secret", "apiVersion": "v1", "metadata": object["metadata"]}))
                .into_response()
        }
        Ok(Err(why)) => refused(&why),
        Err(why) => internal(&why),
    }
}

async fn remove_secret(
    State(cluster): Shared,
    Extension(peer): Extension<Peer>,
    Path(name): Path<String>,
) -> Response {
    if let Err(refusal) = master(&cluster, &peer, "delete") {
        return *refusal;
    }
    match cluster.store.change(|registry, now| registry.remove_secret(&name, now)) {
        Ok(Ok(())) => {
            info!("Secret kube-system/{name} deleted");
            let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                "details": {"name": name, "kind": "secrets"}});
            Json(body).into_response()
        }
        Ok(Err(why)) => refused(&why),
        Err(why) => internal(&why),
    }
}

async fn beat(
    State(cluster): Shared,
    Extension(peer): Extension<Peer>,
    Path(name): Path<String>,
    Json(lease): Json<Value>,
) -> Response {
    if let Err(refusal) = permitted(&cluster, &peer, "update", Some(&name)) {
        return *refusal;
    }
    let problem = lease["standinProblem"].as_str().map(str::to_owned);
    match cluster.store.touch(|registry, now| registry.beat(&name, problem, now)) {
        Ok(Ok(())) => Json(lease).into_response(),
        Ok(Err(why)) => refused(&why),
        Err(why) => internal(&why),
    }
}

async fn unknown(State(cluster): Shared, Extension(peer): Extension<Peer>, method: Method) -> Response {
    match user(&cluster, &peer) {
        Ok(_) if method == Method::GET => {
            status(StatusCode::NOT_FOUND, "NotFound", "the server could not find the requested resource")
        }
        Ok(_) => status(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            "the stand-in k3s has only nodes and a few secrets",
        ),
        Err(refusal) => *refusal,
    }
}

fn answer(user: Result<User, Box<Response>>, body: impl FnOnce() -> Value) -> Response {
    match user {
        Ok(_) => Json(body()).into_response(),
        Err(refusal) => *refusal,
    }
}

fn change(
    cluster: &Cluster,
    name: &str,
    code: StatusCode,
    change: impl FnOnce(&mut Registry, u64) -> Result<(), Refused>,
) -> Response {
    match cluster.store.change(change) {
        Ok(Ok(())) => one(cluster, name, code),
        Ok(Err(why)) => refused(&why),
        Err(why) => internal(&why),
    }
}

fn one(cluster: &Cluster, name: &str, code: StatusCode) -> Response {
    match cluster.store.read(|registry, now| registry.node(name, now)) {
        Some(node) => (code, Json(node)).into_response(),
        None => refused(&Refused::Missing(name.to_owned())),
    }
}

fn refused(why: &Refused) -> Response {
    match why {
        Refused::Exists(_) => status(StatusCode::CONFLICT, "AlreadyExists", &why.to_string()),
        Refused::Missing(_) | Refused::MissingSecret(_) => {
            status(StatusCode::NOT_FOUND, "NotFound", &why.to_string())
        }
        Refused::Password(_) | Refused::DuplicateMember => {
            status(StatusCode::FORBIDDEN, "Forbidden", &why.to_string())
        }
    }
}

fn internal(why: &anyhow::Error) -> Response {
    error!("{why:#}");
    status(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", &format!("{why:#}"))
}

fn uid() -> anyhow::Result<String> {
    let hex = files::random_hex(16)?;
    Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}
