use super::*;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};

fn root() -> (tempfile::TempDir, Root) {
    let dir = crate::testing::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    (dir, root)
}

#[test]
fn absolute_symlinks_stay_inside_the_root() {
    let (dir, root) = root();
    let outside = crate::testing::tempdir().unwrap();
    fs::create_dir(dir.path().join("etc")).unwrap();
    symlink(outside.path(), dir.path().join("etc/escape")).unwrap();
    symlink("../../../../../../../../etc", dir.path().join("etc/up")).unwrap();

    assert!(
        root.put("/etc/escape/file", Access::ours(0o600), b"x").is_err(),
        "the target is not in the root"
    );
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    root.put("/etc/up/file", Access::ours(0o600), b"x").unwrap();
    assert_eq!(fs::read(dir.path().join("etc/file")).unwrap(), b"x");
}

#[test]
fn a_symlink_in_a_files_place_is_replaced() {
    let (dir, root) = root();
    let victim = tempfile::NamedTempFile::new().unwrap();
    symlink(victim.path(), dir.path().join("file")).unwrap();
    assert!(root.put("/file", Access::ours(0o600), b"new").unwrap());
    assert_eq!(fs::read(victim.path()).unwrap(), b"");
    assert!(fs::symlink_metadata(dir.path().join("file")).unwrap().is_file());
}

#[test]
fn putting_the_same_again_changes_nothing() {
    let (dir, root) = root();
    assert!(root.put("/file", Access::ours(0o644), b"one").unwrap());
    let before = fs::metadata(dir.path().join("file")).unwrap().ino();
    assert!(!root.put("/file", Access::ours(0o644), b"one").unwrap());
    assert_eq!(fs::metadata(dir.path().join("file")).unwrap().ino(), before);
    assert!(root.put("/file", Access::ours(0o600), b"one").unwrap(), "the mode differs");
    assert_eq!(root.meta("/file").unwrap().unwrap().mode, 0o600);
    assert!(root.put("/file", Access::ours(0o600), b"two").unwrap());
}

#[test]
fn a_cut_write_leaves_the_old_file_whole_and_can_be_repeated() {
    let (dir, root) = root();
    root.put("/file", Access::ours(0o600), b"old").unwrap();
    for steps in 0.. {
        let fuse = Fuse::after(steps);
        let result = root.put("/file", Access::ours(0o600), b"new");
        let blown = fuse.has_blown();
        let content = fs::read(dir.path().join("file")).unwrap();
        if result.is_ok() {
            assert_eq!(content, b"new");
            assert!(steps > 1, "the fuse was never in the way");
            break;
        }
        assert!(blown);
        assert_eq!(content, b"old");
    }
    assert_eq!(root.names("/").unwrap(), ["file"]);
}

#[test]
fn removing_a_tree_does_not_follow_symlinks() {
    let (dir, root) = root();
    let outside = crate::testing::tempdir().unwrap();
    fs::write(outside.path().join("keep"), "").unwrap();
    fs::create_dir_all(dir.path().join("a/b")).unwrap();
    fs::write(dir.path().join("a/b/c"), "").unwrap();
    symlink(outside.path(), dir.path().join("a/link")).unwrap();
    root.remove(Path::new("/a")).unwrap();
    assert!(!dir.path().join("a").exists());
    assert!(outside.path().join("keep").exists());
    root.remove(Path::new("/not/there")).unwrap();
}

#[test]
fn directories_are_made_with_their_mode_whatever_the_umask() {
    let (_dir, root) = root();
    root.make_dirs("/a/b", 0o777).unwrap();
    assert_eq!(root.meta("/a/b").unwrap().unwrap().mode, 0o777);
    root.make_dirs("/a/b/c", 0o700).unwrap();
    assert_eq!(root.meta("/a/b").unwrap().unwrap().mode, 0o777, "what was there keeps its mode");
}

#[test]
fn symlinks_are_made_once() {
    let (_dir, root) = root();
    assert!(root.symlink("/kubectl", "k3s").unwrap());
    assert!(!root.symlink("/kubectl", "k3s").unwrap());
    assert!(root.symlink("/kubectl", "/usr/local/bin/k3s").unwrap());
    root.make_dirs("/dir", 0o755).unwrap();
    assert!(root.symlink("/dir", "k3s").is_err());
}
