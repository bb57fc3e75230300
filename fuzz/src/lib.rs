//! Every decoder of Kiln, as a function of bytes that anybody may send, write
//! or leave behind. None of them may panic, and what one takes must be what it
//! writes: taken, written and taken again it is the same.
//!
//! The corpus of each is in `corpus/`; a finding stays there as a case. How the
//! targets are run: `fuzz/run`, and `tests/fuzz-smoke` as a check. How they
//! fared is in `docs/fuzz.md`.

mod local;
mod wire;

pub use local::{agent_state, backup, builder_state, cluster_file, console, nocloud};
pub use wire::{admin_api, answers, certificate, k3s_tokens, node_api, seed, ticket};

/// A target.
pub type Target = fn(&[u8]);

/// Every target by the name of its corpus.
pub const TARGETS: [(&str, Target); 13] = [
    ("admin_api", admin_api),
    ("agent_state", agent_state),
    ("answers", answers),
    ("backup", backup),
    ("builder_state", builder_state),
    ("certificate", certificate),
    ("cluster_file", cluster_file),
    ("console", console),
    ("k3s_tokens", k3s_tokens),
    ("nocloud", nocloud),
    ("node_api", node_api),
    ("seed", seed),
    ("ticket", ticket),
];
