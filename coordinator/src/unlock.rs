//! The unlock key: what the secrets in the state are sealed under.
//!
//! It is a file of one line, kept outside the state directory and its backups,
//! so that a copy of either opens nothing. A sealed secret is one line too:
//!
//! ```text
//! kiln-sealed-1.KEYID.BASE64URL(salt[16] || AES-256-GCM ciphertext and tag)
//! key   = HKDF-SHA256(salt, unlock key, "kiln/1 seal\0" || place)
//! nonce = 0          every salt makes a key that is used once
//! aad   = "kiln/1 sealed\0" || KEYID || "\0" || place
//! ```
//!
//! `place` says what it is and where it stands (table, row, column), so that a
//! secret that was moved to another place does not open there. KEYID names the
//! unlock key without telling anything of it, so that a wrong one is called so.
//! What must not be altered, and is no secret, carries an HMAC-SHA256 under
//! HKDF-SHA256("", unlock key, "kiln/1 mac\0" || kind).
//! AES-256-GCM and HKDF are ring's, as TLS's are.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use data_encoding::HEXLOWER;
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::{aead, hkdf, hmac};
use zeroize::Zeroizing;

use crate::store::dir;

const FILE_PREFIX: &str = "kiln-unlock-1-";
const SEALED_PREFIX: &str = "kiln-sealed-1.";
const KEY_BYTES: usize = 32;
const SALT_BYTES: usize = 16;
/// A file that is longer is something else.
const MAX_FILE: u64 = 1024;
/// What systemd calls the credential, in `$CREDENTIALS_DIRECTORY`.
const CREDENTIAL: &str = "unlock-key";

/// The key itself.
#[derive(Clone)]
pub struct UnlockKey(Zeroizing<[u8; KEY_BYTES]>);

/// Names an unlock key: 16 hex digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyId(String);

impl FromStr for KeyId {
    type Err = anyhow::Error;
    fn from_str(text: &str) -> Result<Self> {
        let fits = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        ensure!(fits, "an unlock key's name is 16 hex digits");
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for UnlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UnlockKey({})", self.id())
    }
}

impl UnlockKey {
    /// A new one.
    pub fn generate() -> Result<Self> {
        Ok(Self(random()?))
    }

    /// Names it.
    pub fn id(&self) -> KeyId {
        let mut id = [0; 8];
        let key = self.extract(&[]);
        let okm = key.expand(&[b"kiln/1 unlock key id"], Eight).expect("eight bytes are few");
        okm.fill(&mut id).expect("it is as long as was asked for");
        KeyId(HEXLOWER.encode(&id))
    }

    /// Seals a secret for one place in the state.
    pub(crate) fn seal(&self, place: &str, plain: &[u8]) -> Result<String> {
        let salt: Zeroizing<[u8; SALT_BYTES]> = random()?;
        let mut sealed = Zeroizing::new(Vec::with_capacity(plain.len() + 16));
        sealed.extend_from_slice(plain);
        let id = self.id();
        let aad = aead::Aad::from(bound_to(&id, place));
        let tag = self.aead(&salt[..], place).seal_in_place_separate_tag(nonce(), aad, &mut sealed);
        let tag = tag.ok().context("sealing a secret")?;
        let envelope = [&salt[..], &sealed, tag.as_ref()].concat();
        Ok(format!("{SEALED_PREFIX}{id}.{}", URL_SAFE_NO_PAD.encode(envelope)))
    }

    /// Opens what was sealed for a place.
    pub(crate) fn open(&self, place: &str, sealed: &str) -> Result<Zeroizing<Vec<u8>>> {
        let opening = || format!("opening a sealed secret ({place})");
        let (id, envelope) = parts(sealed).with_context(opening)?;
        let own = self.id();
        if id != own {
            return Err(WrongKey { sealed: id, given: own }.into());
        }
        let envelope =
            URL_SAFE_NO_PAD.decode(envelope).context("it is not base64url").with_context(opening)?;
        ensure!(envelope.len() > SALT_BYTES, "{}: it is cut off", opening());
        let (salt, sealed) = envelope.split_at(SALT_BYTES);
        let mut text = Zeroizing::new(sealed.to_vec());
        let aad = aead::Aad::from(bound_to(&id, place));
        let opened = self.aead(salt, place).open_in_place(nonce(), aad, &mut text);
        let length = opened.ok().context("it was changed, or belongs elsewhere").with_context(opening)?.len();
        text.truncate(length);
        Ok(text)
    }

    /// The key that says of one kind of thing that it was made by who has this key.
    pub(crate) fn mac_key(&self, kind: &str) -> hmac::Key {
        let info = [b"kiln/1 mac\0", kind.as_bytes()];
        let key = self.extract(&[]);
        hmac::Key::from(key.expand(&info, hmac::HMAC_SHA256).expect("a key is short"))
    }

    /// Always the same one.
    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        Self(Zeroizing::new([7; KEY_BYTES]))
    }

    fn aead(&self, salt: &[u8], place: &str) -> aead::LessSafeKey {
        let info = [b"kiln/1 seal\0", place.as_bytes()];
        let key = self.extract(salt);
        let okm = key.expand(&info, &aead::AES_256_GCM).expect("a key is short");
        aead::LessSafeKey::new(aead::UnboundKey::from(okm))
    }

    fn extract(&self, salt: &[u8]) -> hkdf::Prk {
        hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(&*self.0)
    }

    /// The content of its file.
    fn to_text(&self) -> Zeroizing<String> {
        let encoded = Zeroizing::new(URL_SAFE_NO_PAD.encode(*self.0));
        Zeroizing::new([FILE_PREFIX, &encoded, "\n"].concat())
    }

    fn parse(text: &str) -> Result<Self> {
        let encoded = text.trim_end().strip_prefix(FILE_PREFIX).context("it holds no unlock key")?;
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map(Zeroizing::new);
        let bytes = bytes.ok().and_then(|bytes| <[u8; KEY_BYTES]>::try_from(bytes.as_slice()).ok());
        Ok(Self(Zeroizing::new(bytes.context("its unlock key is cut off or mistyped")?)))
    }
}

/// The state is sealed under another key than the one that was given.
#[derive(Debug, thiserror::Error)]
#[error("the secrets are sealed under the unlock key {sealed}, and this is the unlock key {given}")]
pub(crate) struct WrongKey {
    sealed: KeyId,
    given: KeyId,
}

/// Of what is derived to name a key.
#[derive(Debug, Clone, Copy)]
struct Eight;

impl hkdf::KeyType for Eight {
    fn len(&self) -> usize {
        8
    }
}

/// The unlock key that a secret is sealed under.
pub(crate) fn sealed_under(sealed: &str) -> Result<KeyId> {
    Ok(parts(sealed)?.0)
}

fn parts(sealed: &str) -> Result<(KeyId, &str)> {
    let rest = sealed.strip_prefix(SEALED_PREFIX).context("it is not sealed, or by a newer Kiln")?;
    let (id, envelope) = rest.split_once('.').context("it is cut off")?;
    Ok((KeyId(id.to_owned()), envelope))
}

fn bound_to(id: &KeyId, place: &str) -> Vec<u8> {
    [b"kiln/1 sealed\0", id.0.as_bytes(), b"\0", place.as_bytes()].concat()
}

fn nonce() -> aead::Nonce {
    aead::Nonce::assume_unique_for_key([0; aead::NONCE_LEN])
}

fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>> {
    let mut bytes = Zeroizing::new([0; N]);
    SystemRandom::new().fill(&mut *bytes).ok().context("reading the system's randomness")?;
    Ok(bytes)
}

/// The file that an unlock key is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnlockFile {
    path: PathBuf,
    /// Given by systemd, which keeps it and decides who may read it.
    credential: bool,
}

impl UnlockFile {
    /// A file of ours, mode 0600.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), credential: false }
    }

    /// Where the key of a state is unless said otherwise: beside the directory,
    /// not in it.
    pub fn beside(state: &Path) -> Self {
        let mut path = state.components().as_path().as_os_str().to_owned();
        path.push(".unlock-key");
        Self::at(path)
    }

    /// The file that was named, else the one that systemd gave, else the one
    /// beside the state.
    pub(crate) fn find(named: Option<&Path>, credentials: Option<&Path>, state: &Path) -> Self {
        if let Some(path) = named {
            return Self::at(path);
        }
        let given = credentials.map(|dir| dir.join(CREDENTIAL)).filter(|path| path.exists());
        given.map_or_else(|| Self::beside(state), |path| Self { path, credential: true })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the key.
    pub(crate) fn read(&self) -> Result<UnlockKey> {
        let shown = self.path.display();
        let mut file = match File::open(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!(
                "there is no unlock key in {shown}, and the state's secrets open with nothing else: \
                 bring the file back, or name it with --unlock-key"
            ),
            other => other.with_context(|| format!("reading the unlock key {shown}"))?,
        };
        let found = file.metadata().with_context(|| format!("reading the unlock key {shown}"))?;
        let mode = found.mode() & 0o777;
        ensure!(
            self.credential || dir::is_private(mode),
            "the unlock key {shown} can be read by others (mode {mode:o}): if nobody did, run: chmod 600 {shown}"
        );
        let mut text = Zeroizing::new(String::with_capacity(1024));
        let read = file.by_ref().take(MAX_FILE).read_to_string(&mut text);
        read.with_context(|| format!("reading the unlock key {shown}"))?;
        UnlockKey::parse(&text).with_context(|| format!("reading the unlock key {shown}"))
    }

    /// Reads the key; makes one if there is none.
    pub(crate) fn read_or_make(&self) -> Result<UnlockKey> {
        if !self.credential && !self.path.exists() {
            self.make()?;
        }
        self.read()
    }

    /// Makes a new key in a file that must not be there yet.
    pub(crate) fn make(&self) -> Result<UnlockKey> {
        let key = UnlockKey::generate()?;
        self.write_new(&key)?;
        Ok(key)
    }

    pub(crate) fn write_new(&self, key: &UnlockKey) -> Result<()> {
        dir::create_private(&self.path, key.to_text().as_bytes()).context("making the unlock key")
    }

    /// Where the next key waits while the state is sealed anew.
    pub(crate) fn next(&self) -> Self {
        let mut path = self.path.as_os_str().to_owned();
        path.push(".next");
        Self { path: path.into(), credential: self.credential }
    }

    /// Refuses a file that systemd keeps.
    pub(crate) fn check_ours(&self) -> Result<()> {
        ensure!(
            !self.credential,
            "the unlock key {} is systemd's to change: name the file that it comes from with --unlock-key",
            self.path.display()
        );
        Ok(())
    }

    /// Puts the next key in the place of this one, which is kept under another
    /// name; returns that.
    pub(crate) fn advance(&self) -> Result<PathBuf> {
        let moving = || format!("putting the next unlock key in the place of {}", self.path.display());
        let mut kept = self.path.as_os_str().to_owned();
        if self.path.exists() {
            kept.push(format!(".{}", self.read()?.id()));
            dir::rename(&self.path, Path::new(&kept)).with_context(moving)?;
        }
        dir::rename(self.next().path(), &self.path).with_context(moving)?;
        Ok(kept.into())
    }

    /// Refuses a place that a copy of the state would include.
    pub(crate) fn check_outside(&self, state: &Path) -> Result<()> {
        ensure!(
            !dir::is_inside(&self.path, state),
            "the unlock key {} is in the state directory, where whoever copies the one has the other: \
             keep it elsewhere",
            self.path.display()
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn what_is_sealed_opens_at_its_place_with_its_key_only() {
        let (key, other) = (UnlockKey::generate().unwrap(), UnlockKey::generate().unwrap());
        let sealed = key.seal("incarnations/1", b"secret").unwrap();
        assert_eq!(*key.open("incarnations/1", &sealed).unwrap(), b"secret");
        assert!(key.open("incarnations/2", &sealed).is_err());
        let error = other.open("incarnations/1", &sealed).unwrap_err();
        assert!(error.is::<WrongKey>(), "{error:#}");
        assert!(error.to_string().contains(&key.id().to_string()), "{error:#}");
        // Under the other's name it is not opened either.
        let renamed = sealed.replace(&key.id().to_string(), &other.id().to_string());
        assert!(other.open("incarnations/1", &renamed).is_err());
        assert_ne!(sealed, key.seal("incarnations/1", b"secret").unwrap());
    }

    #[test]
    fn every_changed_or_missing_character_is_noticed() {
        let key = UnlockKey::generate().unwrap();
        let sealed = key.seal("p", b"secret").unwrap();
        for at in 0..sealed.len() {
            assert!(key.open("p", &sealed[..at]).is_err(), "cut at {at}");
            let mut changed = sealed.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert!(key.open("p", std::str::from_utf8(&changed).unwrap()).is_err(), "changed at {at}");
        }
    }

    #[test]
    fn the_file_is_private_and_a_wrong_one_says_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let file = UnlockFile::at(dir.path().join("key"));
        assert!(file.read().unwrap_err().to_string().contains("no unlock key in"));
        let key = file.read_or_make().unwrap();
        assert_eq!(file.read_or_make().unwrap().id(), key.id());
        assert!(file.make().is_err(), "a key was overwritten");
        assert_eq!(fs::metadata(file.path()).unwrap().mode() & 0o777, 0o600);
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(file.read().unwrap_err().to_string().contains("read by others"));
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o600)).unwrap();
        for wrong in ["", "kiln-unlock-1-", "kiln-unlock-1-AAAA", "kiln-unlock-2-AAAA"] {
            fs::write(file.path(), wrong).unwrap();
            assert!(format!("{:#}", file.read().unwrap_err()).contains("unlock key"), "{wrong:?}");
        }
    }

    #[test]
    fn the_named_file_comes_first_then_systemds_then_the_one_beside() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let find = |named, credentials| UnlockFile::find(named, credentials, &state);
        let beside = UnlockFile::at(dir.path().join("state.unlock-key"));
        assert_eq!(find(None, None), beside);
        assert_eq!(find(None, Some(dir.path())), beside, "a credential that is not there");
        fs::write(dir.path().join("unlock-key"), "x").unwrap();
        assert!(find(None, Some(dir.path())).credential);
        assert_eq!(find(Some(Path::new("/x")), Some(dir.path())), UnlockFile::at("/x"));
    }

    #[test]
    fn a_key_inside_the_state_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        fs::create_dir(&state).unwrap();
        UnlockFile::beside(&state).check_outside(&state).unwrap();
        assert!(UnlockFile::at(state.join("key")).check_outside(&state).is_err());
        let indirect = state.join("..").join("state").join("key");
        assert!(UnlockFile::at(indirect).check_outside(&state).is_err());
    }

    #[test]
    fn debug_shows_the_name_and_never_the_key() {
        let key = UnlockKey::generate().unwrap();
        let shown = format!("{key:?}");
        assert!(shown.contains(&key.id().to_string()));
        assert!(!shown.contains(&key.to_text()[FILE_PREFIX.len()..].trim_end().to_owned()));
    }
}
