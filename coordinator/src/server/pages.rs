//! The second listener: metrics, health and a status page, for whoever may
//! reach it (loopback unless said otherwise). It can change nothing and shows
//! no secret. Plain HTTP, as Prometheus and a browser on the same host expect.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request as AxumRequest, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::get;
use hyper::Request;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use kiln_protocol::admin::{ClusterStatus, Stranger};
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, context};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::connection::{Shared, answered, converse};
use super::crowd::Crowds;
use super::metrics::Metrics;
use super::park::Parking;
use crate::Coordinator;
use crate::cli::table;

/// Nothing but its own text: no script, no form, no frame.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; form-action 'none'";
/// <https://prometheus.io/docs/instrumenting/exposition_formats/#openmetrics-text-format>
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone)]
struct Pages {
    coordinator: Coordinator,
    metrics: Metrics,
    crowds: Arc<Crowds>,
}

pub(super) fn routes(
    coordinator: Coordinator,
    metrics: Metrics,
    crowds: Crowds,
    address: Option<SocketAddr>,
) -> Router {
    let loopback = address.is_some_and(|address| address.ip().is_loopback());
    Router::new()
        .route("/", get(page))
        .route("/metrics", get(metrics_text))
        .route("/healthz", get(health))
        .layer(from_fn(move |request, next| guard(loopback, request, next)))
        .with_state(Pages { coordinator, metrics, crowds: Arc::new(crowds) })
}

/// A page of somewhere else that a browser on this host shows must not read
/// this one by giving its own name our address.
async fn guard(loopback: bool, request: AxumRequest, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    if loopback && !host.is_some_and(is_literal) {
        return (StatusCode::MISDIRECTED_REQUEST, "this page is for this host's own addresses\n")
            .into_response();
    }
    let mut response = next.run(request).await;
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Whether a `Host` is an address or `localhost`, with or without a port.
fn is_literal(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    };
    let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name == "localhost" || name.parse::<IpAddr>().is_ok()
}

async fn page(State(pages): State<Pages>) -> Response {
    let shown = async { render(&pages.coordinator.status().await?) };
    shown.await.map_or_else(|error| failed(&error), |html| Html(html).into_response())
}

async fn metrics_text(State(pages): State<Pages>) -> Response {
    let text = async { pages.metrics.text(&pages.coordinator.look().await?, &pages.crowds) };
    let headers = [(header::CONTENT_TYPE, OPENMETRICS)];
    text.await.map_or_else(|error| failed(&error), |text| (headers, text).into_response())
}

/// Whether the state answers.
async fn health(State(pages): State<Pages>) -> Response {
    let asked = pages.coordinator.look().await;
    asked.map_or_else(|error| failed(&error), |_| "ok\n".into_response())
}

fn failed(error: &anyhow::Error) -> Response {
    tracing::error!("answering at the status listener: {error:#}");
    (StatusCode::SERVICE_UNAVAILABLE, "the state does not answer: see the coordinator's log\n")
        .into_response()
}

fn render(status: &ClusterStatus) -> Result<String> {
    let mut templates = Environment::new();
    templates.set_auto_escape_callback(|_| AutoEscape::Html);
    let template = templates.template_from_str(include_str!("status.html")).context("reading the page")?;
    let rows: Vec<_> = status.nodes.iter().map(|node| table::row(node, status.at)).collect();
    let total = status.planned().count();
    let ready = status.planned().filter(|node| node.is_ready()).count();
    let stale = status.stale.as_ref().map(table::stale);
    let tokens = status.live.as_ref().and_then(|live| table::tokens(&live.tokens));
    let strangers: Vec<_> = status.strangers.iter().map(stranger).collect();
    template
        .render(context! {
            status => Serde(status), rows, ready, total, stale, tokens, strangers,
            head => table::HEAD, version => env!("CARGO_PKG_VERSION"),
        })
        .context("writing the page")
}

/// The cells of a machine that is not known.
fn stranger(stranger: &Stranger) -> [String; 4] {
    let step = stranger.report.as_ref().map_or_else(String::new, |report| report.step.to_string());
    let (from, seen) = (stranger.from.to_string(), stranger.last_seen.to_string());
    [table::beginning(&stranger.key), from, seen, step]
}

pub(super) fn spawn(connections: &mut JoinSet<()>, shared: &Arc<Shared>, stream: TcpStream) {
    let (send, place) = oneshot::channel();
    let shared = Arc::clone(shared);
    let crowd = shared.crowds.local.clone();
    let task = connections.spawn(async move {
        let _place = place.await;
        let answer = |request: Request<Body>| {
            let routes = TowerToHyperService::new(shared.pages.clone());
            async move { Ok(answered(routes.call(request).await)) }
        };
        converse(&shared, stream, "at the status listener", &Parking::default(), || None, answer).await;
    });
    let _ = send.send(crowd.enter((), task));
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_protocol::Fingerprint;
    use kiln_protocol::admin::Alarm;

    fn empty() -> ClusterStatus {
        ClusterStatus {
            pin: Fingerprint::of_spki(b""),
            at: jiff::Timestamp::UNIX_EPOCH,
            live: None,
            nodes: Vec::new(),
            stale: None,
            alarms: Vec::new(),
            strangers: Vec::new(),
        }
    }

    #[test]
    fn the_page_shows_too_little_of_an_unknown_key_to_approve_it() {
        let key = Fingerprint::of_spki(b"n");
        let from = [10, 0, 0, 7].into();
        let report = serde_json::from_str(
            r#"{"boot_id": "b", "sequence": 1, "uptime_ms": 1, "step": "enrol", "state": "done"}"#,
        );
        let waits = Stranger {
            key,
            from,
            last_seen: jiff::Timestamp::UNIX_EPOCH,
            pending: true,
            facts: None,
            report: None,
        };
        let reports = Stranger { pending: false, report: Some(report.unwrap()), ..waits.clone() };
        for stranger in [waits, reports] {
            let html = render(&ClusterStatus { strangers: vec![stranger], ..empty() }).unwrap();
            assert!(
                html.contains("10.0.0.7") && html.contains(&format!("{}…", &key.to_string()[..8])),
                "{html}"
            );
            assert!(!html.contains(&key.to_string()[..9]), "{html}");
        }
    }

    #[test]
    fn what_machines_say_is_escaped() {
        let alarm = Alarm {
            at: jiff::Timestamp::UNIX_EPOCH,
            node: "a1".parse().unwrap(),
            message: "<script>alert(1)</script>".to_owned(),
        };
        let status = ClusterStatus { alarms: vec![alarm], ..empty() };
        let html = render(&status).unwrap();
        assert!(html.contains("&lt;script&gt;") && !html.contains("<script>"), "{html}");
        assert!(html.contains("No cluster is live"), "{html}");
    }

    #[test]
    fn addresses_are_told_from_names() {
        for host in ["127.0.0.1", "127.0.0.1:7444", "[::1]:7444", "[::1]", "localhost:1", "::1"] {
            assert!(is_literal(host), "{host}");
        }
        for host in
            ["evil.example", "evil.example:7444", "localhost.evil.example", "", ":7444", "127.0.0.1.evil"]
        {
            assert!(!is_literal(host), "{host}");
        }
    }
}
