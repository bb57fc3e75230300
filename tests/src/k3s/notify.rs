//! What systemd is told. Without systemd nobody is told, and nothing fails.

use sd_notify::NotifyState;
use tracing::warn;

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!("Unable to notify systemd: {error}");
    }
}

/// The service is up.
pub(crate) fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// What the service is doing.
pub(crate) fn status(status: &str) {
    send(&[NotifyState::Status(status)]);
}

/// The service ends.
pub(crate) fn stopping() {
    send(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}
