//! Names and small values that end up in files, unit names and URLs, so that
//! a hostile one is refused by its type and not by whoever happens to use it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a piece of text is not the value it claims to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?}: {why}")]
pub struct InvalidName {
    what: &'static str,
    text: String,
    why: &'static str,
}

impl InvalidName {
    fn new(what: &'static str, text: &str, why: &'static str) -> Self {
        // Whatever was refused may be long or hostile: quote its beginning only.
        let text = text.chars().take(80).collect();
        Self { what, text, why }
    }
}

/// Makes a newtype over `String` whose only way in is `check`.
macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                match $check(text) {
                    Ok(()) => Ok(Self(text.to_owned())),
                    Err(why) => Err(InvalidName::new($what, text, why)),
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

checked_text! {
    /// A node's name: one DNS label (RFC 1123), at most 63 characters, lower
    /// case. It becomes the host name and the Kubernetes node name.
    NodeName, "node name", check_label
}

checked_text! {
    /// A cluster's name: one DNS label, at most 40 characters, so that
    /// `<cluster>-<node>` still fits where a provider allows 63.
    ClusterName, "cluster name", check_cluster
}

checked_text! {
    /// A login name as `useradd` takes it: lower case, at most 32 characters.
    UserName, "user name", check_user
}

checked_text! {
    /// One line of an `authorized_keys` file without options: type, base64
    /// and an optional comment.
    SshPublicKey, "ssh public key", check_ssh_key
}

checked_text! {
    /// A k3s release with its k3s revision, such as `v1.28.5+k3s1`.
    K3sVersion, "k3s version", check_k3s_version
}

checked_text! {
    /// A packaged component of k3s that `disable` may name, such as `traefik`.
    K3sComponent, "k3s component", check_label
}

checked_text! {
    /// A host name or address in a certificate's subject alternative names.
    SubjectAltName, "tls-san", check_host
}

checked_text! {
    /// What an admin's key is called in the audit trail: a person or a job.
    AdminName, "admin name", check_admin
}

fn check_admin(text: &str) -> Result<(), &'static str> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._@-".contains(&b);
    match text.bytes().next() {
        Some(first) if first.is_ascii_alphanumeric() && text.len() <= 64 && text.bytes().all(allowed) => {
            Ok(())
        }
        _ => Err("must be 1 to 64 letters, digits, '.', '_', '@' or '-', and begin with a letter or digit"),
    }
}

checked_text! {
    /// A profile of the SCAP Security Guide, such as `cis_server_l1`.
    OscapProfile, "oscap profile", check_oscap_profile
}

/// A password hash as `crypt(3)` of EL 9 makes it: sha512crypt or yescrypt.
/// It is not shown: who has it can guess at the password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PasswordHash(String);

impl PasswordHash {
    /// The text itself, as it stands in `/etc/shadow`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(..)")
    }
}

impl FromStr for PasswordHash {
    type Err = &'static str;
    /// The error does not quote the text: it may be a password.
    fn from_str(text: &str) -> Result<Self, &'static str> {
        check_password_hash(text).map(|()| Self(text.to_owned()))
    }
}

impl TryFrom<String> for PasswordHash {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, &'static str> {
        text.parse()
    }
}

impl From<PasswordHash> for String {
    fn from(hash: PasswordHash) -> Self {
        hash.0
    }
}

fn check_oscap_profile(text: &str) -> Result<(), &'static str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
    if text.is_empty() || text.len() > 100 || !text.bytes().all(plain) {
        Err("is no profile's id, such as cis_server_l1")
    } else {
        Ok(())
    }
}

/// The forms are those of crypt(5).
fn check_password_hash(text: &str) -> Result<(), &'static str> {
    const WHY: &str = "is no sha512crypt ($6$...) or yescrypt ($y$...) hash: make one with `mkpasswd` or \
                       `openssl passwd -6`";
    let crypt64 = |part: &str, lengths: std::ops::RangeInclusive<usize>| {
        lengths.contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"./".contains(&b))
    };
    let rounds = |part: &str| {
        let number = part.strip_prefix("rounds=").unwrap_or_default();
        (4..=9).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit())
    };
    let right = match text.split('$').collect::<Vec<_>>().as_slice() {
        ["", "6", salt, hash] => crypt64(salt, 1..=16) && crypt64(hash, 86..=86),
        ["", "6", count, salt, hash] => rounds(count) && crypt64(salt, 1..=16) && crypt64(hash, 86..=86),
        ["", "y", parameters, salt, hash] => {
            crypt64(parameters, 1..=12) && crypt64(salt, 1..=86) && crypt64(hash, 43..=43)
        }
        _ => false,
    };
    if right { Ok(()) } else { Err(WHY) }
}

fn check_label(text: &str) -> Result<(), &'static str> {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    if bytes.is_empty() {
        Err("is empty")
    } else if bytes.len() > 63 {
        Err("is longer than 63 characters")
    } else if !bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-') {
        Err("may hold only a-z, 0-9 and '-'")
    } else if !edge(bytes.first()) || !edge(bytes.last()) {
        Err("must begin and end with a letter or a digit")
    } else {
        Ok(())
    }
}

fn check_cluster(text: &str) -> Result<(), &'static str> {
    if text.len() > 40 {
        return Err("is longer than 40 characters");
    }
    check_label(text)
}

fn check_user(text: &str) -> Result<(), &'static str> {
    let bytes = text.as_bytes();
    if !bytes.first().is_some_and(|b| b.is_ascii_lowercase() || *b == b'_') {
        Err("must begin with a-z or '_'")
    } else if bytes.len() > 32 {
        Err("is longer than 32 characters")
    } else if !bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(b)) {
        Err("may hold only a-z, 0-9, '_' and '-'")
    } else {
        Ok(())
    }
}

fn check_ssh_key(text: &str) -> Result<(), &'static str> {
    const TYPES: [&str; 6] = [
        "ssh-ed25519",
        "ssh-rsa",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ssh-ed25519@openssh.com",
    ];
    if text.len() > 8192 {
        return Err("is longer than 8192 characters");
    }
    if text.chars().any(char::is_control) {
        return Err("must be one line without control characters");
    }
    let mut words = text.split(' ');
    if !words.next().is_some_and(|kind| TYPES.contains(&kind)) {
        return Err("must begin with a key type such as ssh-ed25519 (options are not taken)");
    }
    let base64 = |word: &str| {
        word.len() >= 16 && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b))
    };
    if words.next().is_some_and(base64) { Ok(()) } else { Err("has no base64 key after its type") }
}

fn check_k3s_version(text: &str) -> Result<(), &'static str> {
    const WHY: &str = "is not of the form v1.28.5+k3s1";
    let number = |part: &str| !part.is_empty() && part.len() <= 4 && part.bytes().all(|b| b.is_ascii_digit());
    let (release, revision) = text.split_once("+k3s").ok_or(WHY)?;
    let release = release.strip_prefix('v').ok_or(WHY)?;
    let parts: Vec<&str> = release.split('.').collect();
    if parts.len() == 3 && parts.into_iter().all(number) && number(revision) { Ok(()) } else { Err(WHY) }
}

fn check_host(text: &str) -> Result<(), &'static str> {
    if text.parse::<std::net::IpAddr>().is_ok() {
        return Ok(());
    }
    if text.len() > 253 {
        return Err("is longer than 253 characters");
    }
    text.split('.').try_for_each(check_label)
}

/// What a node is in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Runs the control plane: k3s `server`.
    Server,
    /// Runs workloads only: k3s `agent`.
    Agent,
}

impl Role {
    /// `server` or `agent`, as on the wire and on the screen.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Agent => "agent",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Role {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        match text {
            "server" => Ok(Self::Server),
            "agent" => Ok(Self::Agent),
            _ => Err(InvalidName::new("role", text, "must be server or agent")),
        }
    }
}

/// A unicast Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr([u8; 6]);

impl MacAddr {
    /// From its six bytes; the multicast bit must be clear.
    pub fn new(bytes: [u8; 6]) -> Option<Self> {
        (bytes[0] & 1 == 0).then_some(Self(bytes))
    }

    /// Its six bytes.
    pub fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for byte in self.0 {
            write!(f, "{separator}{byte:02x}")?;
            separator = ":";
        }
        Ok(())
    }
}

impl FromStr for MacAddr {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let wrong = |why| InvalidName::new("MAC address", text, why);
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
            *byte = part
                .and_then(|p| u8::from_str_radix(p, 16).ok())
                .ok_or_else(|| wrong("must be six pairs of hex digits joined by ':'"))?;
        }
        if parts.next().is_some() {
            return Err(wrong("has more than six pairs"));
        }
        Self::new(bytes).ok_or_else(|| wrong("is a multicast address"))
    }
}

impl TryFrom<String> for MacAddr {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> Self {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_node_names_are_refused() {
        let long = "a".repeat(64);
        let hostile =
            ["", "..", "a/b", "../../etc", "A", "node 1", "nöde", "a\nb", "-a", "a-", "a.b", "a$(id)", &long];
        for name in hostile {
            assert!(name.parse::<NodeName>().is_err(), "{name:?} was taken");
        }
        for name in ["a", "k3s-s1", &"a".repeat(63)] {
            assert!(name.parse::<NodeName>().is_ok(), "{name:?} was refused");
        }
    }

    #[test]
    fn a_refusal_says_what_and_why_and_quotes_little() {
        let error = "X".repeat(500).parse::<NodeName>().unwrap_err().to_string();
        assert!(error.starts_with("node name \"XXX"), "{error}");
        assert!(error.len() < 200, "{error}");
    }

    #[test]
    fn ssh_keys_are_one_line_without_options() {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHlq me@home";
        assert!(key.parse::<SshPublicKey>().is_ok());
        for wrong in [
            "",
            "ssh-ed25519",
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHlq me\nssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHlq",
            "command=\"id\" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHlq",
        ] {
            assert!(wrong.parse::<SshPublicKey>().is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn k3s_versions_carry_their_revision() {
        assert!("v1.28.5+k3s1".parse::<K3sVersion>().is_ok());
        for wrong in ["v1.28.5", "1.28.5+k3s1", "v1.28+k3s1", "v1.28.5+k3s", "v1.28.5+k3s1;id", "v1..5+k3s1"]
        {
            assert!(wrong.parse::<K3sVersion>().is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn password_hashes_are_strong_ones_and_are_never_shown() {
        let hash = |salt: &str, length| format!("$6${salt}${}", "a".repeat(length));
        let yescrypt = format!("$y$j9T$F5Jx5fExrKuPp53xLKQ..1${}", "b".repeat(43));
        for right in [hash("salt", 86), hash("rounds=65536$salt", 86), yescrypt] {
            let parsed: PasswordHash = right.parse().unwrap();
            assert!(!format!("{parsed:?}").contains("salt"));
        }
        for wrong in [
            "hunter2".to_owned(),
            String::new(),
            "!".to_owned(),
            "*".to_owned(),
            hash("salt", 85),
            hash("", 86),
            hash("sa:lt", 86),
            hash("rounds=9$salt", 86),
            format!("$1$salt${}", "a".repeat(22)),
            hash("salt", 86) + "\n",
        ] {
            let error = wrong.parse::<PasswordHash>().unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn mac_addresses_are_unicast() {
        let mac: MacAddr = "52:54:00:AB:cd:01".parse().unwrap();
        assert_eq!(mac.to_string(), "52:54:00:ab:cd:01");
        for wrong in ["", "52:54:00:ab:cd", "52:54:00:ab:cd:01:02", "01:00:5e:00:00:01", "+2:54:00:ab:cd:01"]
        {
            assert!(wrong.parse::<MacAddr>().is_err(), "{wrong:?} was taken");
        }
    }
}
