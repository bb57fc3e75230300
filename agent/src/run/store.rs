//! The state on the disk: replaced as a whole, synced before it counts.

use anyhow::{Context as _, Result, bail};
use kiln_protocol::ApiError;
use kiln_protocol::error::ErrorClass;
use serde::{Deserialize, Serialize};

use super::state::State;
use crate::identity::STATE_DIR;
use crate::root::{Access, Root};

const FILE: &str = "/var/lib/kiln/state.json";
const FORMAT: u32 = 1;

#[derive(Serialize)]
struct Written<'a> {
    format: u32,
    state: &'a State,
}

#[derive(Deserialize)]
struct Read {
    state: State,
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// The state a node was in, or the first one. An error of class `format` is
/// about what the file holds, which stays so until an operator changes it; one
/// of class `transient` is about reading it, and may be over the next time.
pub(crate) fn load(root: &Root) -> Result<State, ApiError> {
    let told = |class, error: anyhow::Error| ApiError::new(class, format!("{error:#}"));
    let read = root.read(FILE).map_err(|error| told(ErrorClass::Transient, error))?;
    let Some(bytes) = read else { return Ok(State::Seed) };
    let parsed = parse(&bytes).with_context(|| format!("reading {}", root.shown(FILE)));
    parsed.map_err(|error| told(ErrorClass::Format, error))
}

/// The state in the content of the file.
pub(crate) fn parse(bytes: &[u8]) -> Result<State> {
    let wrong = || format!("it is no agent's state (to enrol anew with a new ticket, remove {STATE_DIR})");
    let Format { format } = serde_json::from_slice(bytes).with_context(wrong)?;
    if format != FORMAT {
        bail!("it is of format {format}, this agent knows {FORMAT}: it is a newer agent's");
    }
    let Read { state } = serde_json::from_slice(bytes).with_context(wrong)?;
    Ok(state)
}

/// Makes `state` the one that [`load`] finds, whatever happens next.
pub(crate) fn save(root: &Root, state: &State) -> Result<()> {
    let text = serde_json::to_vec(&Written { format: FORMAT, state }).context("writing the state as JSON")?;
    root.make_dirs(STATE_DIR, 0o700)?;
    root.put(FILE, Access::ours(0o600), &text).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn root() -> (tempfile::TempDir, Root) {
        let dir = crate::testing::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        (dir, root)
    }

    #[test]
    fn what_is_saved_is_loaded_and_only_root_reads_it() {
        let (_dir, root) = root();
        assert_eq!(load(&root).unwrap(), State::Seed);
        save(&root, &State::Seed).unwrap();
        assert_eq!(load(&root).unwrap(), State::Seed);
        assert_eq!(root.meta(FILE).unwrap().unwrap().mode, 0o600);
        assert_eq!(root.meta(STATE_DIR).unwrap().unwrap().mode, 0o700);
    }

    #[test]
    fn a_newer_agents_state_is_refused_and_a_broken_one_says_what_to_do() {
        let (_dir, root) = root();
        root.make_dirs(STATE_DIR, 0o700).unwrap();
        for (content, why) in
            [(r#"{"format":2}"#, "newer agent"), (r#"{"format":1,"st"#, "remove /var/lib/kiln")]
        {
            root.put(FILE, Access::ours(0o600), content.as_bytes()).unwrap();
            let error = load(&root).unwrap_err();
            assert!(error.class == ErrorClass::Format && error.message.contains(why), "{error}");
        }
    }

    #[test]
    fn a_state_that_cannot_be_read_just_now_is_no_broken_one() {
        let (_dir, root) = root();
        // It can be opened, and then reading it fails (EISDIR).
        root.make_dirs(FILE, 0o700).unwrap();
        let error = load(&root).unwrap_err();
        assert!(error.class == ErrorClass::Transient && error.message.contains("state.json"), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let (_dir, root) = root();
            root.make_dirs(STATE_DIR, 0o700).unwrap();
            root.put(FILE, Access::ours(0o600), &bytes).unwrap();
            let _ = load(&root);
        }
    }
}
