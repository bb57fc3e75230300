//! The whole engine against servers that misbehave.

mod server;

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::inputs::digest::Hasher;
use crate::inputs::fetch::text::Text;
use server::{Reply, Server};

/// Long enough for a busy machine, short enough to wait for.
const STALL: Duration = Duration::from_millis(1500);

struct Lab {
    dir: tempfile::TempDir,
    hasher: Hasher,
    network: Network,
    progress: Progress,
}

impl Lab {
    fn new() -> Self {
        let policy = policy::Policy {
            tries: 3,
            first_pause: Duration::from_millis(1),
            longest_pause: Duration::from_millis(5),
            stall: STALL,
        };
        let dir = tempfile::tempdir().unwrap();
        let network = Network { policy, ..Network::default() };
        Self { hasher: Hasher::new(dir.path()), dir, network, progress: Progress::silent() }
    }

    fn fetcher(&self) -> Fetcher<'_> {
        let cache = InputCache::new(self.dir.path(), &self.hasher);
        Fetcher::new(&self.network, cache, &self.progress, RunId::generate())
    }

    async fn fetch(&self, wish: &Wish) -> Result<Fetched> {
        self.fetcher().fetch(wish).await
    }

    /// Nothing is left of a download, and no lock.
    fn is_tidy(&self) -> bool {
        partial::find(self.dir.path()).unwrap().is_empty()
            && std::fs::read_dir(self.dir.path().join("locks")).unwrap().next().is_none()
    }

    /// Everything that was told, as text.
    fn told(&self) -> String {
        format!("{:?}", self.progress.events())
    }
}

fn wish(urls: &[&Url], sha256: Option<&[u8]>) -> Wish {
    Wish {
        name: "file.bin".into(),
        urls: urls.iter().map(|&url| url.clone()).collect(),
        sha256: sha256.map(Digest::of),
        advice: "pass it with --file".into(),
    }
}

/// Some bytes that are not all the same, and too many for one packet.
fn content(seed: u8) -> Vec<u8> {
    (0..300_000_u32).map(|n| u8::try_from((n / 7 + n / 1000) % 256).unwrap() ^ seed).collect()
}

const HALF: usize = 150_000;

fn rest(content: &[u8], tag: &str) -> Reply {
    let range = format!("bytes {HALF}-{}/{}", content.len() - 1, content.len());
    Reply::new("206 Partial Content")
        .header("etag", tag)
        .header("content-range", range)
        .body(&content[HALF..])
}

fn whole(content: &[u8], tag: &str) -> Reply {
    Reply::new("200 OK").header("etag", tag).body(content)
}

#[tokio::test]
async fn a_file_is_fetched_once_and_then_found_in_the_cache() {
    let lab = Lab::new();
    let server = Server::start(|_, _| whole(&content(1), "\"a\"")).await;
    for wish in
        [wish(&[&server.url], None), wish(&[&server.url], Some(&content(1))), wish(&[], Some(&content(1)))]
    {
        let fetched = lab.fetch(&wish).await.unwrap();
        assert_eq!(std::fs::read(&fetched.kept.file.path).unwrap(), content(1));
        assert_eq!(fetched.kept.file.sha256, Digest::of(&content(1)));
    }
    assert_eq!(server.asked().len(), 1);
    assert!(lab.is_tidy());
    assert!(lab.told().contains("total: Some(300000)"), "{}", lab.told());
}

#[tokio::test]
async fn a_connection_that_is_cut_is_continued_where_it_was() {
    let lab = Lab::new();
    let server = Server::start(|asked, _| match asked.range {
        None => whole(&content(1), "\"a\"").cut(HALF),
        Some(_) => rest(&content(1), "\"a\""),
    })
    .await;
    let fetched = lab.fetch(&wish(&[&server.url], None)).await.unwrap();
    assert_eq!(fetched.kept.file.sha256, Digest::of(&content(1)));
    let asked = server.asked();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[1].range.as_deref(), Some("bytes=150000-"));
    assert_eq!(asked[1].if_range.as_deref(), Some("\"a\""));
    drop(fetched);
    assert!(lab.is_tidy());
}

#[tokio::test]
async fn a_connection_that_hangs_is_given_up_and_continued() {
    let lab = Lab::new();
    let server = Server::start(|asked, _| match asked.range {
        None => whole(&content(1), "\"a\"").hang(HALF),
        Some(_) => rest(&content(1), "\"a\""),
    })
    .await;
    let fetched = lab.fetch(&wish(&[&server.url], None)).await.unwrap();
    assert_eq!(fetched.kept.file.sha256, Digest::of(&content(1)));
    assert_eq!(server.asked().len(), 2);
    assert!(lab.told().contains("nothing came for 1.5 s"), "{}", lab.told());
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let lab = Lab::new();
    let server = Server::start(|_, _| Reply::default().hang(0)).await;
    let error = lab.fetch(&wish(&[&server.url], None)).await.unwrap_err();
    assert!(error.to_string().contains("nothing came for 1.5 s; pass it with --file"), "{error}");
    assert_eq!(server.asked().len(), 3);
    assert!(lab.is_tidy());
}

#[tokio::test]
async fn a_file_that_changed_in_between_is_fetched_anew() {
    let lab = Lab::new();
    // As RFC 9110 has it: If-Range does not match, so the whole comes.
    let server = Server::start(|_, number| match number {
        0 => whole(&content(1), "\"a\"").cut(HALF),
        _ => whole(&content(2), "\"b\""),
    })
    .await;
    let fetched = lab.fetch(&wish(&[&server.url], None)).await.unwrap();
    assert_eq!(fetched.kept.file.sha256, Digest::of(&content(2)));
}

#[tokio::test]
async fn without_a_validator_only_a_digest_lets_a_download_be_continued() {
    for pinned in [false, true] {
        let lab = Lab::new();
        let server = Server::start(|asked, number| match (number, &asked.range) {
            (0, _) => Reply::new("200 OK").body(&content(1)).cut(HALF),
            (_, None) => Reply::new("200 OK").body(&content(1)),
            (_, Some(_)) => rest(&content(1), "\"a\""),
        })
        .await;
        let right = content(1);
        let fetched = lab.fetch(&wish(&[&server.url], pinned.then_some(&right[..]))).await.unwrap();
        assert_eq!(fetched.kept.file.sha256, Digest::of(&right));
        assert_eq!(server.asked()[1].range.is_some(), pinned);
    }
}

#[tokio::test]
async fn a_range_that_was_not_asked_for_is_never_appended() {
    let lab = Lab::new();
    let server = Server::start(|asked, number| match (number, &asked.range) {
        (0, _) => whole(&content(1), "\"a\"").cut(HALF),
        (_, None) => whole(&content(1), "\"a\""),
        (_, Some(_)) => {
            let range = format!("bytes 0-{}/300000", HALF - 1);
            Reply::new("206 Partial Content").header("content-range", range).body(&content(1)[..HALF])
        }
    })
    .await;
    let fetched = lab.fetch(&wish(&[&server.url], None)).await.unwrap();
    assert_eq!(fetched.kept.file.sha256, Digest::of(&content(1)));
}

#[tokio::test]
async fn wrong_bytes_are_kept_under_their_own_digest_and_the_next_place_is_tried() {
    let lab = Lab::new();
    let wrong = Server::start(|_, _| whole(&content(2), "\"b\"")).await;
    let right = Server::start(|_, _| whole(&content(1), "\"a\"")).await;
    let error = lab.fetch(&wish(&[&wrong.url], Some(&content(1)))).await.unwrap_err().to_string();
    let (wanted, found) = (Digest::of(&content(1)), Digest::of(&content(2)));
    assert!(error.contains(&format!("has the digest {found}, not {wanted}")), "{error}");
    // The digest that was asked for may be the one that is wrong.
    assert!(lab.fetch(&wish(&[], Some(&content(2)))).await.is_ok());

    let fetched = lab.fetch(&wish(&[&wrong.url, &right.url], Some(&content(1)))).await.unwrap();
    assert_eq!((fetched.kept.file.sha256, fetched.url.as_ref()), (wanted, Some(&right.url)));
    assert_eq!((wrong.asked().len(), right.asked().len()), (2, 1));
    drop(fetched);
    assert!(lab.is_tidy());
}

#[tokio::test]
async fn two_contents_put_together_are_fetched_anew_in_one_piece() {
    let lab = Lab::new();
    let server = Server::start(|asked, number| match (number, &asked.range) {
        // The same tag for another content: a broken mirror.
        (0, _) => whole(&content(2), "\"a\"").cut(HALF),
        (_, Some(_)) => rest(&content(1), "\"a\""),
        (_, None) => whole(&content(1), "\"a\""),
    })
    .await;
    let fetched = lab.fetch(&wish(&[&server.url], Some(&content(1)))).await.unwrap();
    assert_eq!(fetched.kept.file.sha256, Digest::of(&content(1)));
    assert_eq!(server.asked().len(), 3);
}

#[tokio::test]
async fn what_is_not_there_is_said_at_once_and_looked_for_elsewhere() {
    let lab = Lab::new();
    let without = Server::start(|_, _| Reply::new("404 Not Found").body(b"<html>")).await;
    let error = lab.fetch(&wish(&[&without.url], None)).await.unwrap_err();
    assert!(error.to_string().contains("the server says 404 Not Found; pass it with --file"), "{error}");
    assert!(error.downcast_ref::<NotFetched>().unwrap().is_not_there());
    assert_eq!(without.asked().len(), 1);
    let with = Server::start(|_, _| whole(&content(1), "\"a\"")).await;
    let fetched = lab.fetch(&wish(&[&without.url, &with.url], None)).await.unwrap();
    assert_eq!(fetched.url, Some(with.url.clone()));
    drop(fetched);
    assert!(lab.is_tidy());
}

#[tokio::test]
async fn a_server_that_cannot_now_is_asked_again() {
    let lab = Lab::new();
    let server = Server::start(|_, number| match number {
        0 => Reply::new("503 Service Unavailable").header("retry-after", 0).body(b"later"),
        1 => Reply::new("429 Too Many Requests").body(b"later"),
        _ => whole(&content(1), "\"a\""),
    })
    .await;
    lab.fetch(&wish(&[&server.url], None)).await.unwrap();
    assert_eq!(server.asked().len(), 3);
}

#[tokio::test]
async fn a_redirect_is_followed_and_not_for_ever() {
    let lab = Lab::new();
    let server = Server::start(|asked, _| match asked.path.as_str() {
        "/file.bin" => Reply::new("302 Found").header("location", "/there").body(b""),
        "/there" => whole(&content(1), "\"a\""),
        _ => Reply::new("302 Found").header("location", "/circle").body(b""),
    })
    .await;
    lab.fetch(&wish(&[&server.url], None)).await.unwrap();
    let circle = server.url.join("/circle").unwrap();
    let error = lab.fetch(&wish(&[&circle], None)).await.unwrap_err().to_string();
    assert!(error.contains("too many redirects"), "{error}");
}

#[tokio::test]
async fn what_came_before_a_server_was_given_up_is_not_fetched_again() {
    let lab = Lab::new();
    let server = Server::start(|_, number| match number {
        0 => whole(&content(1), "\"a\"").cut(HALF),
        1..=3 => Reply::new("500 Internal Server Error").body(b""),
        _ => rest(&content(1), "\"a\""),
    })
    .await;
    let error = lab.fetch(&wish(&[&server.url], None)).await.unwrap_err().to_string();
    assert!(error.contains("500 Internal Server Error"), "{error}");
    let partials = partial::find(lab.dir.path()).unwrap();
    assert_eq!(partials.iter().map(|p| (p.size, p.held)).collect::<Vec<_>>(), [(HALF as u64, false)]);
    assert_eq!(partials[0].url.as_deref(), Some(server.url.as_str()));
    lab.fetch(&wish(&[&server.url], None)).await.unwrap();
    assert_eq!(server.asked().last().unwrap().range.as_deref(), Some("bytes=150000-"));
    assert!(lab.is_tidy());
}

#[tokio::test]
async fn a_download_that_was_complete_before_its_builder_was_killed_is_taken() {
    let lab = Lab::new();
    let server = Server::start(|asked, _| match asked.range {
        None => whole(&content(1), "\"a\""),
        Some(_) => {
            Reply::new("416 Range Not Satisfiable").header("content-range", "bytes */300000").body(b"")
        }
    })
    .await;
    let right = content(1);
    let wish = wish(&[&server.url], Some(&right));
    let dir = partial::dir(lab.dir.path(), &Digest::of(&right).to_string());
    crate::run::dirs::create_private(&dir).unwrap();
    std::fs::write(partial::data(&dir), &right).unwrap();
    assert_eq!(lab.fetch(&wish).await.unwrap().kept.file.sha256, Digest::of(&right));
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn data_of_another_boot_is_trusted_only_if_there_is_a_digest() {
    let lab = Lab::new();
    let server = Server::start(|asked, _| match asked.range {
        None => whole(&content(1), "\"a\""),
        Some(_) => rest(&content(1), "\"a\""),
    })
    .await;
    let key = format!("url-{}", Digest::of(server.url.as_str().as_bytes()));
    let dir = partial::dir(lab.dir.path(), &key);
    let state = State {
        url: server.url.to_string(),
        validator: serde_json::from_str("\"\\\"a\\\"\"").unwrap(),
        run: RunId::generate(),
        began: Timestamp::now(),
        boot: "another".into(),
    };
    state.write(&dir).unwrap();
    // A power cut left zeros where data should be.
    std::fs::write(partial::data(&dir), vec![0; HALF]).unwrap();
    let fetched = lab.fetch(&wish(&[&server.url], None)).await.unwrap();
    assert_eq!(fetched.kept.file.sha256, Digest::of(&content(1)));
    assert_eq!(server.asked()[0].range, None);
}

#[tokio::test]
async fn two_builders_share_one_download() {
    let lab = Arc::new(Lab::new());
    let server = Server::start(|_, _| whole(&content(1), "\"a\"")).await;
    let wish = wish(&[&server.url], None);
    let fetchers = [lab.fetcher(), lab.fetcher(), lab.fetcher()];
    let (a, b, c) =
        tokio::join!(fetchers[0].fetch(&wish), fetchers[1].fetch(&wish), fetchers[2].fetch(&wish));
    for fetched in [a, b, c] {
        assert_eq!(fetched.unwrap().kept.file.sha256, Digest::of(&content(1)));
    }
    assert_eq!(server.asked().len(), 1);
    assert!(lab.told().contains("waiting for another builder that downloads file.bin"), "{}", lab.told());
    assert!(lab.is_tidy());
}

#[tokio::test]
async fn offline_nothing_is_asked_and_what_is_there_is_enough() {
    let mut lab = Lab::new();
    let server = Server::start(|_, _| whole(&content(1), "\"a\"")).await;
    lab.network.offline = true;
    let wish = wish(&[&server.url], None);
    let error = lab.fetch(&wish).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "file.bin is not in the cache and --offline forbids to download it; pass it with --file"
    );
    assert_eq!(server.asked().len(), 0);
    lab.network.offline = false;
    lab.fetch(&wish).await.unwrap();
    lab.network.offline = true;
    lab.fetch(&wish).await.unwrap();
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn a_file_that_does_not_fit_is_refused_before_it_fills_the_disk() {
    let lab = Lab::new();
    let server = Server::start(|_, _| Reply::new("200 OK").header("content-length", 1_u64 << 60)).await;
    let error = lab.fetch(&wish(&[&server.url], None)).await.unwrap_err();
    assert!(error.is::<NoRoom>(), "{error}");
    for word in ["does not fit", "1048576.0TiB are needed", "--cache", "builder cache prune"] {
        assert!(error.to_string().contains(word), "{error}");
    }
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn a_disk_that_fills_up_meanwhile_is_said_in_the_same_words() {
    let lab = Lab::new();
    let full = anyhow::Error::from(std::io::Error::from(std::io::ErrorKind::StorageFull)).context("writing");
    assert!(of_disk(&wish(&[], None), lab.dir.path(), None, full).is::<NoRoom>());
    let other = anyhow::Error::from(std::io::Error::from(std::io::ErrorKind::PermissionDenied));
    assert!(!of_disk(&wish(&[], None), lab.dir.path(), None, other).is::<NoRoom>());
}

#[tokio::test]
async fn a_damaged_file_in_the_cache_is_fetched_again() {
    let lab = Lab::new();
    let server = Server::start(|_, _| whole(&content(1), "\"a\"")).await;
    let wish = wish(&[&server.url], None);
    let path = lab.fetch(&wish).await.unwrap().kept.file.path.clone();
    std::fs::write(&path, &content(1)[..HALF]).unwrap();
    assert_eq!(std::fs::read(lab.fetch(&wish).await.unwrap().kept.file.path).unwrap(), content(1));
    assert!(lab.told().contains("was damaged"), "{}", lab.told());
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test]
async fn a_list_that_cannot_be_had_now_is_the_one_that_was_there_last() {
    let lab = Lab::new();
    let server = Server::start(|_, _| Reply::new("200 OK").body(b"a list")).await;
    let url = server.url.clone();
    let Text::Found(text) = lab.fetcher().text(&url).await.unwrap() else { panic!("not found") };
    assert_eq!(text, "a list");
    drop(server);
    let Text::Found(text) = lab.fetcher().text(&url).await.unwrap() else { panic!("not remembered") };
    assert_eq!(text, "a list");
    assert!(lab.told().contains("going by what was there"), "{}", lab.told());
    let elsewhere = url.join("/elsewhere").unwrap();
    assert!(matches!(lab.fetcher().text(&elsewhere).await.unwrap(), Text::Unreachable(_)));
}

#[tokio::test]
async fn a_list_that_is_missing_or_far_too_long_is_none() {
    let lab = Lab::new();
    let server = Server::start(|_, number| match number {
        0 => Reply::new("404 Not Found").body(b""),
        _ => Reply::new("200 OK").body(&vec![b'a'; (1 << 20) + 1]),
    })
    .await;
    assert!(matches!(lab.fetcher().text(&server.url).await.unwrap(), Text::NotThere));
    let Text::Unreachable(error) = lab.fetcher().text(&server.url).await.unwrap() else { panic!("found") };
    assert!(error.to_string().contains("larger than 1MiB"), "{error}");
}
