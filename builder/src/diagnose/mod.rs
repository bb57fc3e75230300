//! What a bake's logs, marks and machine events say about why it failed.
//!
//! Everything here is pure: bytes, events and times go in, a [`Diagnosis`]
//! comes out. Who reads sockets and stops machines is elsewhere.
//!
//! ```text
//! bytes --[lines]--> lines --[marks, patterns]--> Classifier --> Diagnosis
//!                      |                            ^    ^
//!                      +--[progress]--> Progress    |    +-- Event, Ending (machine)
//!                                                   +------- ProgressClock (clock)
//! ```
//!
//! What people read first is the *first* cause. A line that only says that the
//! installer gave up therefore opens a short wait ([`SETTLE`]), and what any
//! log said earlier, or says in the meantime, names the class.

mod class;
mod classifier;
mod clock;
mod diagnosis;
mod lines;
mod machine;
mod marks;
mod patterns;
mod prefix;
mod progress;
mod reader;
mod story;
mod tables;

#[cfg(test)]
mod properties_tests;
#[cfg(test)]
mod rules_tests;
#[cfg(test)]
mod samples_tests;
#[cfg(test)]
mod verdict_tests;

pub use class::Class;
pub use classifier::{Classifier, SETTLE};
pub use clock::{Limit, Limits, ProgressClock};
pub use diagnosis::{Certainty, Diagnosis, Source};
pub use lines::{LineSplitter, clean};
pub use machine::{Ending, Event};
pub use marks::{Mark, Outcome, Stage, parse_mark};
pub use progress::{Phase, Progress};
