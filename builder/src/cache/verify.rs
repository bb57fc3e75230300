//! Whether what is in the cache is still what it was: all of it is read.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use super::survey::record;
use super::{Entry, Kind};
use crate::bake::store::DISK;
use crate::image::key::Digest;
use crate::inputs::cache::quarantine;
use crate::inputs::digest::Hasher;
use crate::inputs::media;
use crate::run::lock::{Lock, Mode};

/// What reading something through has shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Verdict {
    /// It is what it was.
    Fine,
    /// It is not, and was moved out of the way.
    Quarantined {
        /// What is wrong.
        why: String,
        /// Where it is now.
        place: PathBuf,
    },
    /// It is not, and somebody uses it now: it was left where it is.
    DamagedInUse {
        /// What is wrong.
        why: String,
    },
}

/// Reads an entry through; none for what has no digest to be compared with.
/// Nobody removes it meanwhile. `hasher` must be one that reads
/// ([`Hasher::reading`]).
pub async fn verify(cache: &Path, entry: &Entry, hasher: &Hasher) -> Result<Option<Verdict>> {
    if entry.kind.is_rubbish() {
        return Ok(None);
    }
    let damage = {
        let _lock = match &entry.lock {
            Some(path) => Some(Lock::acquire(path, Mode::Shared, || {}).await?),
            None => None,
        };
        damage(entry, hasher).await
    };
    let Some(why) = damage else { return Ok(Some(Verdict::Fine)) };
    let lock = match &entry.lock {
        Some(path) => Lock::try_acquire(path, Mode::Exclusive)?,
        None => None,
    };
    if lock.is_none() {
        return Ok(Some(Verdict::DamagedInUse { why }));
    }
    let place = quarantine(cache, &entry.path, entry.kind.as_str())?;
    Ok(Some(Verdict::Quarantined { why, place }))
}

/// What is wrong with it; nothing, normally.
async fn damage(entry: &Entry, hasher: &Hasher) -> Option<String> {
    match entry.kind {
        Kind::Input => {
            let wanted = Digest::try_from(entry.path.file_name()?.to_string_lossy().into_owned());
            let Ok(wanted) = wanted else { return Some("its directory's name is no digest".to_owned()) };
            let files = std::fs::read_dir(&entry.path).into_iter().flatten().flatten();
            let mut seen = false;
            for file in files {
                seen = true;
                if let Some(why) = differs(&file.path(), wanted, hasher).await {
                    return Some(why);
                }
            }
            (!seen).then(|| "it is empty".to_owned())
        }
        Kind::Os | Kind::Node => match record(&entry.path) {
            None => Some("its record cannot be read".to_owned()),
            Some(made) => differs(&entry.path.join(DISK), made.sha256, hasher).await,
        },
        Kind::Media => {
            let whole = media::is_whole(&entry.path, hasher).await;
            (!whole).then(|| "it is not what was taken out of the medium".to_owned())
        }
        Kind::Partial | Kind::Quarantine => None,
    }
}

async fn differs(file: &Path, wanted: Digest, hasher: &Hasher) -> Option<String> {
    match hasher.hash(file).await {
        Ok(read) if read.sha256 == wanted => None,
        Ok(read) => Some(format!("{} has the digest {}, not {wanted}", file.display(), read.sha256)),
        Err(error) => Some(format!("{error:#}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::survey::survey;
    use super::*;

    fn input(cache: &Path, content: &[u8]) -> PathBuf {
        let dir = crate::inputs::cache::dir_of(cache, Digest::of(content));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("file"), content).unwrap();
        dir
    }

    async fn verdicts(cache: &Path) -> Vec<Verdict> {
        let hasher = Hasher::reading(cache);
        let mut verdicts = Vec::new();
        for entry in survey(cache).unwrap() {
            verdicts.extend(verify(cache, &entry, &hasher).await.unwrap());
        }
        verdicts
    }

    #[tokio::test]
    async fn a_flipped_bit_is_found_though_the_file_s_times_are_remembered() {
        let cache = tempfile::tempdir().unwrap();
        let dir = input(cache.path(), b"content");
        let remembering = Hasher::new(cache.path());
        remembering.hash(&dir.join("file")).await.unwrap();
        remembering.remember().unwrap();
        assert_eq!(verdicts(cache.path()).await, [Verdict::Fine]);
        std::fs::write(dir.join("file"), b"contend").unwrap();
        let found = verdicts(cache.path()).await;
        let [Verdict::Quarantined { why, place }] = &found[..] else { panic!("{found:?}") };
        assert!(why.contains("has the digest") && place.join("file").exists() && !dir.exists(), "{why}");
        // What lies in quarantine is not judged again.
        assert_eq!(verdicts(cache.path()).await, []);
    }

    #[tokio::test]
    async fn what_somebody_uses_stays_where_it_is() {
        let cache = tempfile::tempdir().unwrap();
        let dir = input(cache.path(), b"content");
        std::fs::write(dir.join("file"), b"contend").unwrap();
        let lock = crate::inputs::cache::lock_of(cache.path(), Digest::of(b"content"));
        let user = Lock::acquire(&lock, Mode::Shared, || {}).await.unwrap();
        let found = verdicts(cache.path()).await;
        assert!(matches!(&found[..], [Verdict::DamagedInUse { .. }]) && dir.exists(), "{found:?}");
        drop(user);
        assert!(matches!(&verdicts(cache.path()).await[..], [Verdict::Quarantined { .. }]));
    }
}
