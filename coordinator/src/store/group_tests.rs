//! Group commit, over the engine whose disk counts and fails on demand.

use std::sync::{Arc, Mutex, mpsc};

use anyhow::{Result, bail};
use tokio::task::JoinSet;

use super::engine::{Transaction, Undo};
use super::group::{self, Change, Job};
use super::memory::{Disk, Memory};
use super::post::Post;
use super::{Store, keys};
use crate::registry::fixtures::{NOW, key};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

fn store() -> (Disk, Arc<Store>) {
    let disk = Disk::default();
    let store = Store::start(Box::new(Memory::open(&disk).unwrap()), ()).unwrap();
    (disk, Arc::new(store))
}

async fn note(store: &Store, name: &'static str) -> Result<()> {
    store.write(move |tx| keys::note(tx, &key(name), keys::Kind::Admin, name, NOW)).await
}

async fn is_noted(store: &Store, name: &'static str) -> bool {
    store.read(move |tx| keys::owner(tx, &key(name))).await.unwrap().is_some()
}

/// Holds the store's thread until what is returned is dropped, so that what is
/// asked meanwhile waits together.
async fn hold(store: &Store) -> mpsc::Sender<()> {
    let (held, release) = mpsc::channel();
    let wait = move |_: &mut dyn super::engine::Engine| {
        let _ = release.recv();
    };
    store.jobs.as_ref().unwrap().send(Job::Engine(Box::new(wait))).await.ok().unwrap();
    held
}

/// Asks for several keys to be noted at once; refuses every second one.
async fn together(store: &Arc<Store>, names: &[&'static str]) -> Vec<Result<()>> {
    let held = hold(store).await;
    let mut calls = JoinSet::new();
    for (n, &name) in names.iter().enumerate() {
        let store = store.clone();
        calls.spawn(async move {
            let result = store
                .write(move |tx| {
                    keys::note(tx, &key(name), keys::Kind::Admin, name, NOW)?;
                    if n % 2 == 1 {
                        bail!("refused");
                    }
                    Ok(())
                })
                .await;
            (n, result)
        });
    }
    // Let every call reach the queue before the thread goes on.
    while store.jobs.as_ref().unwrap().max_capacity() - store.jobs.as_ref().unwrap().capacity() < names.len()
    {
        tokio::task::yield_now().await;
    }
    drop(held);
    let mut results = calls.join_all().await;
    results.sort_by_key(|(n, _)| *n);
    results.into_iter().map(|(_, result)| result).collect()
}

#[test]
fn callers_that_wait_together_share_one_sync_and_a_refusal_is_its_callers_alone() {
    let (disk, store) = store();
    runtime().block_on(async {
        let results = together(&store, &["a", "b", "c", "d", "e"]).await;
        assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true, false, true]);
        assert_eq!(disk.syncs(), 1);
        assert!(is_noted(&store, "e").await);
        assert!(!is_noted(&store, "d").await);
    });
}

#[test]
fn when_the_disk_is_full_nobody_is_told_yes_or_no_and_later_all_goes_on() {
    let (disk, store) = store();
    runtime().block_on(async {
        note(&store, "before").await.unwrap();
        disk.set_full(true);
        for result in together(&store, &["a", "b", "c"]).await {
            let error = result.unwrap_err();
            let code = error.chain().find_map(|cause| cause.downcast_ref::<rusqlite::Error>());
            let code = code.and_then(rusqlite::Error::sqlite_error_code);
            // Known as what it is, so that callers are told to come again.
            assert_eq!(code, Some(rusqlite::ErrorCode::DiskFull), "{error:#}");
        }
        assert!(is_noted(&store, "before").await);
        assert!(!is_noted(&store, "a").await);
        disk.set_full(false);
        note(&store, "a").await.unwrap();
        assert!(is_noted(&store, "a").await);
    });
}

#[test]
fn who_looks_while_others_wait_to_change_sees_only_what_is_durable() {
    let (_disk, store) = store();
    runtime().block_on(async {
        let held = hold(&store).await;
        let (change, look) = tokio::join!(note(&store, "new"), async {
            let look = is_noted(&store, "new");
            tokio::pin!(look);
            // Both wait in the queue now, the change before the look.
            let _ = poll_once(&mut look).await;
            drop(held);
            look.await
        });
        change.unwrap();
        assert!(!look);
        assert!(is_noted(&store, "new").await);
    });
}

/// Polls a future once, so that what it asks is asked.
async fn poll_once<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(context) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

#[test]
fn a_panic_in_one_transition_leaves_its_neighbours_and_the_store_as_they_were() {
    let (disk, store) = store();
    runtime().block_on(async {
        let held = hold(&store).await;
        let panics = store.write(|tx| -> Result<()> {
            keys::note(tx, &key("defect"), keys::Kind::Admin, "defect", NOW)?;
            panic!("a defect")
        });
        let release = async { drop(held) };
        let (panicked, noted, ()) = tokio::join!(panics, note(&store, "good"), release);
        assert!(panicked.unwrap_err().to_string().contains("panicked"));
        noted.unwrap();
        assert_eq!(disk.syncs(), 1);
        assert!(is_noted(&store, "good").await);
        assert!(!is_noted(&store, "defect").await);
    });
}

/// Changes that keep what they did, which is nothing, and then say so.
struct Queue {
    jobs: tokio::sync::mpsc::Sender<Job>,
}

impl Queue {
    fn push(&self, answered: impl FnOnce() + Send + 'static) {
        let run = |_: Result<&Transaction<'_>, group::Lost>| {
            let answer: group::Answer = Box::new(move |durable| {
                durable.unwrap();
                answered();
                Box::new(|| true)
            });
            (true, Some(answer))
        };
        let change = Change { undo: Undo::Own, run: Box::new(run) };
        self.jobs.try_send(Job::Change(change)).ok().unwrap();
    }
}

/// Serves `at_once` changes; when the first of them is answered, one more comes,
/// and in the pause after that another. Returns how many commits there were, and
/// how many pauses.
fn commits_and_pauses(at_once: usize) -> (usize, usize) {
    let disk = Disk::default();
    let mut engine = Memory::open(&disk).unwrap();
    let (jobs, mut queue) = tokio::sync::mpsc::channel(8);
    let late = Arc::new(Mutex::new(Some(Queue { jobs })));
    let push = |late: &Mutex<Option<Queue>>, answered: Box<dyn FnOnce() + Send>| {
        late.lock().unwrap().as_ref().unwrap().push(answered);
    };
    // The last one to be answered closes the queue.
    let close = |late: &Arc<Mutex<Option<Queue>>>| {
        let late = Arc::clone(late);
        Box::new(move || drop(late.lock().unwrap().take()))
    };
    let one_more = Arc::clone(&late);
    push(
        &late,
        Box::new(move || push(&one_more, if at_once == 1 { close(&one_more) } else { Box::new(|| ()) })),
    );
    for _ in 1..at_once {
        push(&late, Box::new(|| ()));
    }
    let mut pauses = 0;
    group::serve(&mut engine, &mut queue, &Post::default(), || {
        pauses += 1;
        if pauses == 1 {
            push(&late, close(&late));
        }
    });
    (disk.syncs(), pauses)
}

#[test]
fn whoever_is_alone_waits_for_nobody() {
    assert_eq!(commits_and_pauses(1), (2, 0));
}

#[test]
fn while_many_ask_a_group_waits_for_others_as_long_as_they_come() {
    // The first two, and then the two that came apart, after a pause without another.
    assert_eq!(commits_and_pauses(2), (2, 2));
}
