//! What is read from files, volumes and consoles of this machine.

use std::sync::LazyLock;
use std::time::Duration;

use kiln_builder::diagnose::{Classifier, Ending, LineSplitter, Source, Stage, clean, parse_mark};
use kiln_builder::{cluster, image, inputs, provider, run};
use kiln_coordinator::plan::ClusterFile;
use kiln_coordinator::{Coordinator, UnlockFile};
use kiln_protocol::console;

use crate::wire::json;

/// A directory of this process, on a disk of memory where there is one.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a place for files")
}

/// A cluster file.
pub fn cluster_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(plan) = ClusterFile::parse(text) else { return };
    assert!(plan.servers().count() > 0, "a cluster without a server");
    assert_eq!(plan.text(), text);
    for node in plan.nodes() {
        assert!(plan.node(&node.name).is_some());
        let _ = node.static_address().map(|address| address.check());
    }
    let _ = (plan.first_server_address(), plan.network(), plan.is_multi_server());
}

/// What an agent keeps on its disk, and what it reads of its node.
pub fn agent_state(data: &[u8]) {
    kiln_agent::decoders::state(data);
    kiln_agent::decoders::bond(data);
    kiln_agent::decoders::applied(data);
    kiln_agent::decoders::etcd_members(data);
}

/// The file of a `NoCloud` volume, through the agent's own reader.
pub fn nocloud(data: &[u8]) {
    static VOLUME: LazyLock<tempfile::TempDir> = LazyLock::new(scratch);
    std::fs::write(VOLUME.path().join("user-data"), data).expect("writing the volume's file");
    kiln_agent::decoders::volume(VOLUME.path());
}

/// A coordinator's backup: its frame as it is, and any database in a good
/// frame, which is restored, opened, and asked for all it knows.
///
/// The database is the one below with pieces of it replaced: a number of
/// `offset (3 bytes), length (1 byte), bytes`. So the corpus stays small.
pub fn backup(data: &[u8]) {
    static GOOD: LazyLock<Good> = LazyLock::new(Good::new);
    let runtime = &GOOD.runtime;
    let place = scratch();
    let (file, state) = (place.path().join("backup"), place.path().join("state"));
    let Some((kind, rest)) = data.split_first() else { return };
    let bytes = if kind % 4 == 0 { rest.to_vec() } else { GOOD.patched(rest) };
    std::fs::write(&file, bytes).expect("writing the backup");
    if Coordinator::restore_unauthenticated(&file, &state, &GOOD.unlock).is_err() {
        assert!(!state.exists(), "a refused backup left a state");
        return;
    }
    runtime.block_on(async {
        let Ok(coordinator) = Coordinator::open_with(&state, &GOOD.unlock).await else { return };
        let _ = (coordinator.status().await, coordinator.events(0, 1000).await, coordinator.admins().await);
        let _ = coordinator.kubeconfig("https://10.0.0.1:6443", Duration::from_secs(60)).await;
    });
}

/// A backup that is good.
struct Good {
    runtime: tokio::runtime::Runtime,
    _dir: tempfile::TempDir,
    unlock: UnlockFile,
    database: Vec<u8>,
}

impl Good {
    fn new() -> Self {
        let dir = scratch();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("starting a runtime");
        let (state, file) = (dir.path().join("state"), dir.path().join("backup"));
        Coordinator::init(&state).expect("making a state");
        let plan = include_str!("../corpus/cluster_file/example.toml");
        let plan = ClusterFile::parse(plan).expect("the example is good");
        runtime.block_on(async {
            let coordinator = Coordinator::open(&state).await.expect("opening the state");
            coordinator.apply(&plan).await.expect("applying a cluster file");
            coordinator.backup(&file).await.expect("backing up");
        });
        let bytes = std::fs::read(&file).expect("reading the backup");
        let header = bytes.iter().position(|byte| *byte == b'\n').expect("a backup has a first line");
        let database = bytes[header + 1..].to_vec();
        Self { runtime, unlock: UnlockFile::beside(&state), _dir: dir, database }
    }

    /// With pieces of its database replaced, in a frame that fits.
    fn patched(&self, mut patches: &[u8]) -> Vec<u8> {
        let mut database = self.database.clone();
        while let [a, b, c, length, rest @ ..] = patches {
            let offset = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            let piece = &rest[..usize::from(*length).min(rest.len())];
            let at = offset % database.len();
            let piece_end = (at + piece.len()).min(database.len());
            database[at..piece_end].copy_from_slice(&piece[..piece_end - at]);
            patches = &rest[piece.len()..];
        }
        kiln_coordinator::decoders::backup_of(&database)
    }
}

/// What builder keeps of a cluster, its runs and its images.
pub fn builder_state(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    match kind % 8 {
        0 => {
            if let Ok((_, whole)) = cluster::journal::replay(text) {
                assert!(whole <= text.len());
                // The whole lines alone come to the same.
                assert!(cluster::journal::replay(&text[..whole]).is_ok());
            }
        }
        1 => drop(json::<cluster::journal::Event>(rest)),
        2 => drop(provider::Record::parse(text)),
        3 => drop(json::<run::record::Record>(rest)),
        4 => drop(json::<image::Manifest>(rest)),
        5 => drop(inputs::checksums::Checksums::parse(text)),
        6 => drop(inputs::treeinfo::TreeInfo::parse(text)),
        _ => drop(inputs::iso9660::volume_id(std::io::Cursor::new(rest))),
    }
}

/// A console or a log, in pieces: what a bake makes of it, and the key that a
/// machine shows.
pub fn console(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = console::key_in(&text);
    assert!(!clean(data).contains('\n'));
    let (mut whole, mut pieces) = (Vec::new(), Vec::new());
    let mut splitter = LineSplitter::default();
    splitter.feed(data, |line| whole.push(line.to_owned()));
    splitter.flush(|line| whole.push(line.to_owned()));
    for piece in data.chunks(7) {
        splitter.feed(piece, |line| pieces.push(line.to_owned()));
    }
    splitter.flush(|line| pieces.push(line.to_owned()));
    assert_eq!(whole, pieces, "how a stream is cut makes a difference");
    const RUN: &str = "0123456789abcdef";
    for line in &whole {
        let _ = parse_mark(line, RUN);
    }
    for (stage, source) in [(Stage::Os, Source::Serial), (Stage::Node, Source::Installer)] {
        let mut classifier = Classifier::new(RUN, stage);
        for (second, piece) in (0..).zip(data.chunks(64)) {
            let _ = classifier.feed(source, piece, Duration::from_secs(second));
        }
        let _ = classifier.tick(Duration::from_secs(3600));
        let _ = classifier.finish(&Ending::PoweredOff);
    }
}
