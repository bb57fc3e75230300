//! The kubelet's health, for whoever asks on the node itself without
//! credentials: `http://127.0.0.1:10248/healthz`, from when the node is
//! registered.

use axum::Router;
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tracing::{debug, warn};

const ADDRESS: (&str, u16) = ("127.0.0.1", 10248);

/// Answers in the background. A taken port (several nodes on one host, in
/// tests) is no reason to fail.
pub(crate) async fn serve_health() {
    let listener = match TcpListener::bind(ADDRESS).await {
        Ok(listener) => listener,
        Err(error) => return warn!("Failed to start healthz server: listen tcp 127.0.0.1:10248: {error}"),
    };
    let router = Router::new().route("/healthz", get(|| async { "ok" }));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(router.clone());
            tokio::spawn(async move {
                let mut http = hyper::server::conn::http1::Builder::new();
                if let Err(error) =
                    http.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await
                {
                    debug!("healthz: {error}");
                }
            });
        }
    });
}
