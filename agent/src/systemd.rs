//! systemd, over D-Bus: starting a unit without waiting for it, watching it,
//! and enabling it.
//!
//! k3s is `Type=notify` without a timeout, so waiting for its start job may
//! take for ever: the job is queued, and what becomes of the unit is watched.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::timeout;
use zbus::OwnedObjectPath;
use zbus::export::futures_core::Stream as _;
use zbus::proxy::CacheProperties;

use crate::process;

/// Lines of a failed unit's log that a report repeats, and characters of each.
const LOG_LINES: &str = "5";
const LOG_WIDTH: usize = 200;
const LOG_DEADLINE: Duration = Duration::from_secs(5);

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    fn subscribe(&self) -> zbus::Result<()>;
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn enable_unit_files(
        &self,
        files: &[&str],
        runtime: bool,
        force: bool,
    ) -> zbus::Result<(bool, Vec<(String, String, String)>)>;
    #[zbus(signal)]
    fn job_removed(&self, id: u32, job: OwnedObjectPath, unit: String, result: String) -> zbus::Result<()>;
}

// Properties are asked for when they are wanted: keeping them up to date would
// cost a signal for each change of a unit.
#[zbus::proxy(interface = "org.freedesktop.systemd1.Unit", default_service = "org.freedesktop.systemd1")]
trait Unit {
    #[zbus(property(emits_changed_signal = "false"))]
    fn active_state(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn sub_state(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn assert_result(&self) -> zbus::Result<bool>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn assert_timestamp_monotonic(&self) -> zbus::Result<u64>;
}

#[zbus::proxy(interface = "org.freedesktop.systemd1.Service", default_service = "org.freedesktop.systemd1")]
trait Service {
    #[zbus(property(emits_changed_signal = "false"))]
    fn result(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "false"), name = "NRestarts")]
    fn n_restarts(&self) -> zbus::Result<u32>;
}

/// What systemd says of a unit; of one that is up only that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct UnitState {
    /// `active`, `activating`, `inactive`, `failed`, …
    pub(crate) active: String,
    /// Such as `running`, `auto-restart`, `dead`.
    pub(crate) sub: String,
    /// How its last process ended; `success` while all is well.
    pub(crate) result: String,
    /// Whether the assertions in its file held.
    pub(crate) asserted: bool,
    /// How often systemd has started it again.
    pub(crate) restarts: u32,
}

/// What a unit's state means to somebody who waits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Up,
    Starting,
    /// It is down or keeps falling down; with the reason.
    Down(String),
}

impl UnitState {
    pub(crate) fn verdict(&self) -> Verdict {
        let Self { active, sub, result, restarts, .. } = self;
        match active.as_str() {
            "active" | "reloading" => Verdict::Up,
            "activating" if sub != "auto-restart" && *restarts == 0 => Verdict::Starting,
            _ if !self.asserted => Verdict::Down("its assertion failed: it has no configuration".to_owned()),
            // Before the job runs, a unit that never failed is just inactive.
            "inactive" if result == "success" && *restarts == 0 => Verdict::Starting,
            _ if *restarts > 0 => {
                Verdict::Down(format!("{active} ({sub}), result {result}; systemd keeps starting it again"))
            }
            _ => Verdict::Down(format!("{active} ({sub}), result {result}")),
        }
    }
}

/// A connection to systemd that notices when jobs end.
pub(crate) struct Systemd {
    bus: zbus::Connection,
    manager: ManagerProxy<'static>,
    jobs: RefCell<JobRemovedStream>,
}

impl std::fmt::Debug for Systemd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Systemd").finish_non_exhaustive()
    }
}

impl Systemd {
    /// Subscribes to job ends, so that none is missed once a unit is started.
    pub(crate) async fn connect(bus: &zbus::Connection) -> Result<Self> {
        let connecting = "connecting to systemd";
        let manager = ManagerProxy::new(bus).await.context(connecting)?;
        let jobs = manager.receive_job_removed().await.context(connecting)?;
        manager.subscribe().await.context(connecting)?;
        Ok(Self { bus: bus.clone(), manager, jobs: RefCell::new(jobs) })
    }

    /// Queues the unit's start and returns.
    pub(crate) async fn start(&self, unit: &str) -> Result<()> {
        let job = self.manager.start_unit(unit, "replace").await;
        job.map(|_| ()).with_context(|| format!("asking systemd to start {unit}"))
    }

    /// How the unit is now.
    pub(crate) async fn state(&self, name: &str) -> Result<UnitState> {
        self.ask(name).await.with_context(|| format!("asking systemd about {name}"))
    }

    async fn ask(&self, name: &str) -> zbus::Result<UnitState> {
        let path = self.manager.load_unit(name).await?;
        let unit =
            UnitProxy::builder(&self.bus).path(&path).cache_properties(CacheProperties::No).build().await?;
        let active = unit.active_state().await?;
        if active == "active" {
            return Ok(UnitState { active, ..UnitState::default() });
        }
        let service = ServiceProxy::builder(&self.bus)
            .path(&path)
            .cache_properties(CacheProperties::No)
            .build()
            .await?;
        // Until systemd has looked at them, assertions count as failed.
        let asserted = unit.assert_result().await? || unit.assert_timestamp_monotonic().await? == 0;
        Ok(UnitState {
            active,
            sub: unit.sub_state().await?,
            result: service.result().await?,
            asserted,
            restarts: service.n_restarts().await?,
        })
    }

    /// Returns when a job of the unit has ended, or after `at_most`.
    pub(crate) async fn changed(&self, unit: &str, at_most: Duration) {
        let ended = async {
            loop {
                let next = poll_fn(|context| Pin::new(&mut *self.jobs.borrow_mut()).poll_next(context)).await;
                match next {
                    Some(signal) if signal.args().is_ok_and(|args| args.unit == unit) => return,
                    Some(_) => {}
                    // The connection is gone; the next question says so.
                    None => std::future::pending().await,
                }
            }
        };
        let _ = timeout(at_most, ended).await;
    }

    /// Makes the unit start with the system, from the next boot on. systemd is
    /// not told to read its files again: that takes seconds, and until the next
    /// boot it would change nothing.
    pub(crate) async fn enable(&self, unit: &str) -> Result<()> {
        let enabled = self.manager.enable_unit_files(&[unit], false, false).await;
        enabled.map(|_| ()).with_context(|| format!("enabling {unit}"))
    }
}

/// The last lines a unit has logged, for a report.
pub(crate) async fn last_words(unit: &str) -> String {
    let mut command = process::command("journalctl");
    command.args(["--no-pager", "--quiet", "--output=cat", "--lines", LOG_LINES, "--unit", unit]);
    let lines = process::run_within(command, LOG_DEADLINE).await.unwrap_or_default();
    let short = lines.lines().map(|line| line.chars().take(LOG_WIDTH).collect::<String>());
    short.collect::<Vec<_>>().join(" / ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As much of systemd as is asked for, at the other end of a socket.
    struct FakeManager;

    #[expect(clippy::unused_self, reason = "D-Bus methods are methods")]
    #[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
    impl FakeManager {
        fn subscribe(&self) {}

        async fn start_unit(
            &self,
            name: String,
            mode: String,
            #[zbus(signal_emitter)] emitter: zbus::object_server::SignalEmitter<'_>,
        ) -> OwnedObjectPath {
            assert_eq!(mode, "replace");
            let job = OwnedObjectPath::try_from("/org/freedesktop/systemd1/job/7").unwrap();
            for unit in ["network-online.target".to_owned(), name] {
                Self::job_removed(&emitter, 7, job.clone(), unit, "done".to_owned()).await.unwrap();
            }
            job
        }

        #[zbus(signal)]
        async fn job_removed(
            emitter: &zbus::object_server::SignalEmitter<'_>,
            id: u32,
            job: OwnedObjectPath,
            unit: String,
            result: String,
        ) -> zbus::Result<()>;
    }

    async fn connected() -> (zbus::Connection, zbus::Connection) {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let server = zbus::connection::Builder::unix_stream(theirs)
            .server(zbus::Guid::generate())
            .p2p()
            .serve_at("/org/freedesktop/systemd1", FakeManager)
            .build();
        let client = zbus::connection::Builder::unix_stream(ours).p2p().build();
        let (server, client) = tokio::join!(server, client);
        (server.unwrap(), client.unwrap())
    }

    #[tokio::test]
    async fn the_end_of_a_units_job_wakes_who_waits_for_it() {
        let (_server, client) = connected().await;
        let systemd = Systemd::connect(&client).await.unwrap();
        let forever = Duration::from_secs(3600);
        // Nobody was waiting yet when it ended: it is not missed.
        systemd.start("k3s.service").await.unwrap();
        timeout(Duration::from_secs(10), systemd.changed("k3s.service", forever)).await.unwrap();
        // Another unit's job is none of ours.
        systemd.start("k3s.service").await.unwrap();
        let other = timeout(Duration::from_millis(50), systemd.changed("sshd.service", forever)).await;
        assert!(other.is_err());
    }

    #[test]
    fn a_unit_is_up_on_its_way_or_down_with_a_reason() {
        let state = |active: &str, sub: &str, result: &str, restarts| UnitState {
            active: active.into(),
            sub: sub.into(),
            result: result.into(),
            asserted: true,
            restarts,
        };
        assert_eq!(state("active", "running", "success", 0).verdict(), Verdict::Up);
        assert_eq!(state("activating", "start", "success", 0).verdict(), Verdict::Starting);
        assert_eq!(state("activating", "start-pre", "success", 0).verdict(), Verdict::Starting);
        assert_eq!(state("inactive", "dead", "success", 0).verdict(), Verdict::Starting);
        for (down, word) in [
            (state("activating", "auto-restart", "exit-code", 0), "auto-restart"),
            (state("activating", "start", "success", 3), "keeps starting"),
            (state("failed", "failed", "exit-code", 0), "exit-code"),
            (UnitState { asserted: false, ..state("inactive", "dead", "success", 0) }, "assertion"),
        ] {
            let Verdict::Down(reason) = down.verdict() else { panic!("{down:?}") };
            assert!(reason.contains(word), "{reason}");
        }
    }
}
