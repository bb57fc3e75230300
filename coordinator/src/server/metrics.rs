//! What Prometheus is told. Counters live where they are counted; what the
//! state says is asked when somebody looks.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::crowd::Crowds;
use crate::store::seats::SeatCount;
use crate::transition::status::Look;

/// What is counted while the server answers.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    requests: Family<Answered, Counter>,
    seconds: Histogram,
    pub(super) failed_handshakes: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    route: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCrowd {
    crowd: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSeats {
    role: String,
    state: String,
    ready: String,
}

impl Metrics {
    pub(super) fn new() -> Self {
        Self {
            requests: Family::default(),
            // 1 ms to 16 s.
            seconds: Histogram::new(exponential_buckets(0.001, 4.0, 8)),
            failed_handshakes: Counter::default(),
        }
    }

    /// A request was answered. Its path is known, so that a stranger cannot
    /// make ever new labels.
    pub(super) fn answered(&self, route: Option<String>, status: StatusCode, time: Option<Duration>) {
        let labels = Answered { route: route.unwrap_or_else(|| "other".to_owned()), status: status.as_u16() };
        self.requests.get_or_create(&labels).inc();
        if let Some(time) = time {
            self.seconds.observe(time.as_secs_f64());
        }
    }

    /// The exposition, in the text form of `OpenMetrics`.
    pub(super) fn text(&self, look: &Look, crowds: &Crowds) -> Result<String> {
        let mut registry = Registry::with_prefix("kiln");
        registry.register("build", "This program", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        registry.register("requests", "Requests that were answered", self.requests.clone());
        registry.register_with_unit(
            "request_duration",
            "Time to an answer, without those that wait for news",
            Unit::Seconds,
            self.seconds.clone(),
        );
        registry.register(
            "failed_handshakes",
            "TLS handshakes that came to nothing",
            self.failed_handshakes.clone(),
        );
        register_crowds(&mut registry, crowds);
        let gauge = |registry: &mut Registry, name: &str, help: &str, value: u64| {
            let gauge = Gauge::<u64, AtomicU64>::default();
            gauge.set(value);
            registry.register(name, help, gauge);
        };
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        gauge(&mut registry, "incarnation", "The live incarnation, 0 for none", look.incarnation);
        gauge(&mut registry, "nodes_connected", "Nodes whose agent is connected", count(look.connected));
        let held_open = count(look.held_open);
        gauge(&mut registry, "requests_held_open", "Requests that wait for news", held_open);
        gauge(&mut registry, "alarms", "Alarms that wait for an operator", count(look.alarms));
        gauge(
            &mut registry,
            "stale",
            "1 if this state is an old copy, or another copy of it was served: nobody joins",
            look.stale.into(),
        );
        gauge(
            &mut registry,
            "tokens_rotating",
            "1 while no server has taken the tokens that were asked for: nobody joins",
            look.rotating.into(),
        );
        gauge(&mut registry, "strangers", "Machines that report without being known", count(look.strangers));
        let seats = Family::<OfSeats, Gauge<u64, AtomicU64>>::default();
        for SeatCount { role, state, ready, count } in &look.seats {
            let labels = OfSeats { role: role.clone(), state: state.clone(), ready: ready.to_string() };
            seats.get_or_create(&labels).set(*count);
        }
        registry.register("nodes", "Generations of nodes of the live incarnation, by state", seats);
        let mut text = String::new();
        encode(&mut text, &registry).context("writing metrics")?;
        Ok(text)
    }
}

fn register_crowds(registry: &mut Registry, crowds: &Crowds) {
    let connections = Family::<OfCrowd, Gauge<u64, AtomicU64>>::default();
    let displaced = Family::<OfCrowd, Counter>::default();
    let all = [
        ("handshake", crowds.handshakes.count()),
        ("unknown", crowds.unknown.count()),
        ("known", crowds.known.count()),
        ("local", crowds.local.count()),
    ];
    for (crowd, (there, gone)) in all {
        connections.get_or_create(&OfCrowd { crowd }).set(u64::try_from(there).unwrap_or(u64::MAX));
        displaced.get_or_create(&OfCrowd { crowd }).inc_by(gone);
    }
    registry.register("connections", "Connections, by what is known of their key", connections);
    registry.register("displaced_connections", "Connections that had to go for others", displaced);
}
