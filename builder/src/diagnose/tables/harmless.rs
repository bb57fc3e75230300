//! Lines that look like failures and are none.

use super::super::patterns::Pattern;
use super::{BOTH, CONSOLE};

pub(in crate::diagnose) const TABLE: &[Pattern] = known! {
    BOTH Harmless Installer: "CRIT systemd-coredump:" <- "kickstart-tests log_handler.py: not what ends an installation";
    BOTH Harmless Installer: "CRIT mdadm:DegradedArray event detected" <- "kickstart-tests log_handler.py, rhbz#1886809";
    BOTH Harmless Installer: "Deprecated Driver is detected" <- "kickstart-tests log_handler.py: team";
    BOTH Harmless Installer: "Call Trace:" <- "kickstart-tests log_handler.py, kickstart-tests#768: a warning has one too";
    BOTH Harmless Installer: "IGNORED" <- "lorax monitor.py";
    CONSOLE Harmless Installer: "SQUASHFS error:" <- "stage 2 losing its medium at power-off; a bad medium says more";
    BOTH Harmless Installer: "Exception ignored in" <- "kickstart-tests#1296: Python's exit, after the installation";
    BOTH Harmless Installer: "DeprecationWarning" <- "kickstart-tests#1612";
};
