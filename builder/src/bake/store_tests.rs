use super::*;
use crate::image::key::KeyBuilder;
use crate::machine::qemu::img;

fn key() -> Key {
    KeyBuilder::new("os", 1).with("disk size", "10").key()
}

/// A cache in a directory of its own.
struct Lab {
    home: tempfile::TempDir,
    cache: PathBuf,
    hasher: Hasher,
    progress: Progress,
}

impl Lab {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let cache = home.path().join("cache");
        std::fs::create_dir(&cache).unwrap();
        Self { hasher: Hasher::new(&cache), progress: Progress::silent(), cache, home }
    }

    fn store(&self) -> Store<'_> {
        Store::new(&self.cache, &self.hasher, &self.progress)
    }

    /// The cache is elsewhere from now on; says where it was.
    fn is_now_at(&mut self, name: &str) -> PathBuf {
        self.hasher = Hasher::new(&self.home.path().join(name));
        std::mem::replace(&mut self.cache, self.home.path().join(name))
    }

    async fn find(&self) -> Found {
        self.store().find("os", &key(), None).await.unwrap()
    }

    async fn make(&self, content: &[u8]) -> Stored {
        let Found::Missing(permit) = self.find().await else { panic!("there already") };
        let new = self.new_dir();
        std::fs::write(new.join(DISK), content).unwrap();
        self.keep(permit, new, None).await
    }

    /// An empty disk, and one over it.
    async fn make_both(&self) -> (Stored, Stored) {
        let Found::Missing(permit) = self.find().await else { panic!("there already") };
        let new = self.new_dir();
        img::create(&new.join(DISK), 1 << 20).await.unwrap();
        let os = self.keep(permit, new, None).await;
        let node = self.make_over(&os).await;
        (os, node)
    }

    async fn make_over(&self, os: &Stored) -> Stored {
        let found = self.find_over(os).await;
        let Found::Missing(permit) = found else { panic!("there already") };
        let new = self.new_dir();
        img::create_overlay(&os.disk, &new.join(DISK), None).await.unwrap();
        self.keep(permit, new, Some(os.below())).await
    }

    async fn find_over(&self, os: &Stored) -> Found {
        self.store().find("node", &key(), Some(&os.below())).await.unwrap()
    }

    async fn look_over(&self, os: &Stored) -> Look {
        self.store().look("node", &key(), Some(&os.below())).await
    }

    /// The os disk, which is there.
    async fn os(&self) -> Stored {
        let Found::Ready(os) = self.find().await else { panic!("not there") };
        os
    }

    fn new_dir(&self) -> PathBuf {
        let dir = self.cache.join("new");
        std::fs::create_dir(&dir).unwrap();
        dir
    }

    async fn keep(&self, permit: Permit, dir: PathBuf, below: Option<Below>) -> Stored {
        let version = "v1".to_owned();
        let new = New { dir, version, below, seconds: 1.0, report: serde_json::Value::Null };
        self.store().store(permit, new).await.unwrap()
    }

    async fn is_ready(&self) -> bool {
        matches!(self.find().await, Found::Ready(_))
    }
}

/// Makes of an overlay what an earlier version kept.
async fn name_in_full(node: &Stored, os: &Stored) {
    img::name_backing(&node.disk, &os.disk.canonicalize().unwrap()).await.unwrap();
    let bytes = std::fs::read(&node.disk).unwrap();
    let made = Made { sha256: Digest::of(&bytes), size: bytes.len() as u64, ..node.made.clone() };
    let record = serde_json::to_vec(&made).unwrap();
    std::fs::write(node.disk.with_file_name(RESULT), record).unwrap();
}

#[tokio::test]
async fn what_was_stored_is_found_and_no_lock_is_left() {
    let lab = Lab::new();
    let made = lab.make(b"disk").await.made.clone();
    let Found::Ready(stored) = lab.find().await else { panic!("gone") };
    assert_eq!(stored.made, made);
    assert_eq!(std::fs::read(&stored.disk).unwrap(), b"disk");
    drop(stored);
    assert_eq!(std::fs::read_dir(lab.cache.join("locks")).unwrap().count(), 0);
}

#[tokio::test]
async fn looking_touches_nothing() {
    let lab = Lab::new();
    let look = async |below| lab.store().look("os", &key(), below).await;
    assert_eq!(look(None).await, Look::Missing);
    let made = lab.make(b"disk").await.made.clone();
    assert_eq!(made.parts, key().parts);
    assert_eq!(look(None).await, Look::Ready(Box::new(made.clone())));
    let another = Below { disk: lab.cache.join("another"), sha256: Digest::of(b"another") };
    assert_eq!(look(Some(&another)).await, Look::Stale(Misfit::Remade));
    assert_eq!(lab.store().records("os"), [made]);
    assert!(lab.is_ready().await, "looking removed it");
}

#[tokio::test]
async fn whoever_waited_for_a_result_does_not_hold_it_alone() {
    let lab = Lab::new();
    let Found::Missing(permit) = lab.find().await else { panic!("there already") };
    let (second, third) = (lab.find(), lab.find());
    tokio::pin!(second, third);
    let early = tokio::time::timeout(std::time::Duration::from_millis(150), async {
        tokio::join!(&mut second, &mut third)
    });
    assert!(early.await.is_err(), "did not wait");
    let new = lab.new_dir();
    std::fs::write(new.join(DISK), b"disk").unwrap();
    // All three use it at once.
    let (_first, second, third) = tokio::join!(lab.keep(permit, new, None), second, third);
    assert!(matches!((second, third), (Found::Ready(_), Found::Ready(_))));
}

#[tokio::test]
async fn a_changed_disk_is_not_used_again() {
    let lab = Lab::new();
    let disk = lab.make(b"disk").await.disk.clone();
    std::fs::write(&disk, b"disc").unwrap();
    assert!(!lab.is_ready().await);
    assert!(!disk.exists(), "kept a damaged result");
    lab.make(b"disk").await;
    assert!(lab.is_ready().await);
}

#[tokio::test]
async fn a_torn_record_is_not_used() {
    let lab = Lab::new();
    let disk = lab.make(b"disk").await.disk.clone();
    std::fs::write(disk.with_file_name(RESULT), b"{\"format\":1").unwrap();
    assert!(!lab.is_ready().await);
}

#[tokio::test]
async fn an_overlay_goes_with_the_disk_it_was_made_over() {
    let lab = Lab::new();
    let (os, node) = lab.make_both().await;
    assert_eq!(lab.look_over(&os).await, Look::Ready(Box::new(node.made.clone())));
    let made = Made { sha256: Digest::of(b"another"), ..os.made.clone() };
    let os = Stored { made, ..os };
    assert_eq!(lab.look_over(&os).await, Look::Stale(Misfit::Remade));
}

#[tokio::test]
async fn a_cache_may_be_moved_and_copied() {
    let mut lab = Lab::new();
    let node = lab.make_both().await.1.made;
    let old = lab.is_now_at("moved");
    std::fs::rename(&old, &lab.cache).unwrap();
    let ready = Look::Ready(Box::new(node));
    assert_eq!(lab.look_over(&lab.os().await).await, ready);
    let old = lab.is_now_at("copied");
    copy(&old, &lab.cache);
    assert_eq!(lab.look_over(&lab.os().await).await, ready);
    std::fs::remove_dir_all(&old).unwrap();
    assert!(matches!(lab.find_over(&lab.os().await).await, Found::Ready(_)));
}

#[tokio::test]
async fn an_earlier_version_s_overlay_is_used_in_its_place_and_made_again_elsewhere() {
    let mut lab = Lab::new();
    let (os, node) = lab.make_both().await;
    name_in_full(&node, &os).await;
    assert!(matches!(lab.look_over(&os).await, Look::Ready(_)));
    drop((os, node));

    // The disk it names is still there, and the very same. It is not used.
    let old = lab.is_now_at("copied");
    copy(&old, &lab.cache);
    let os = lab.os().await;
    assert_eq!(lab.look_over(&os).await, Look::Stale(Misfit::Elsewhere));
    lab.make_over(&os).await;
    let said = format!("{:?}", lab.progress.events());
    assert!(said.contains("a disk that is not this cache's") && said.contains("made again"), "{said}");
    std::fs::remove_dir_all(&old).unwrap();
    assert!(matches!(lab.look_over(&os).await, Look::Ready(_)));
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(&from, &to).unwrap();
        }
    }
}

#[tokio::test]
async fn a_second_builder_waits_for_the_first() {
    let lab = Lab::new();
    let Found::Missing(permit) = lab.find().await else { panic!("there already") };
    let second = lab.find();
    tokio::pin!(second);
    let early = tokio::time::timeout(std::time::Duration::from_millis(300), &mut second).await;
    assert!(early.is_err(), "did not wait");
    drop(permit);
    assert!(matches!(second.await, Found::Missing(_)));
}
