//! The known lines, as data. Within a table the first match counts.

use super::Source;
use super::patterns::Pattern;

/// A table of [`Pattern`]s, one row each:
/// `LOGS Weight Class: "piece" .. "later piece" <- "where it was seen";`
macro_rules! known {
    (@says Script) => { $crate::diagnose::patterns::Says::Script };
    (@says $class:ident) => { $crate::diagnose::patterns::Says::Is($crate::diagnose::Class::$class) };
    ($($on:ident $weight:ident $class:ident: $($piece:literal)..+ <- $seen:literal;)*) => {
        &[$($crate::diagnose::patterns::Pattern {
            on: $on,
            find: &[$($piece),+],
            weight: $crate::diagnose::patterns::Weight::$weight,
            says: known!(@says $class),
            seen: $seen,
        }),*]
    };
}

mod harmless;
mod installer;
mod machine;
mod packages;

/// Everything known of a guest's logs, in the order it is asked.
pub(super) const GUEST: &[&[Pattern]] =
    &[harmless::TABLE, machine::PANICS, machine::TABLE, packages::TABLE, installer::TABLE];
/// What still counts once the stage is done: the machine's own end.
pub(super) const AFTER_DONE: &[&[Pattern]] = &[harmless::TABLE, machine::PANICS];
/// QEMU's stderr.
pub(super) const QEMU: &[&[Pattern]] = &[machine::QEMU];

const LOG: &[Source] = &[Source::Installer];
const CONSOLE: &[Source] = &[Source::Serial];
/// Both of the installer's logs, and our own quotes of its log files.
const BOTH: &[Source] = &[Source::Installer, Source::Serial, Source::Marks];
const QEMU_ITSELF: &[Source] = &[Source::Qemu];
