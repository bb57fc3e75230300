//! Where an input is to come from: a file, or a URL.

use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use reqwest::Url;

use crate::image::key::Digest;

/// How a digest is written behind a URL, as pip and others do.
const PIN: &str = "sha256=";

/// Where an input is to come from, as the user says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file on this host.
    File(PathBuf),
    /// A file elsewhere.
    Url(Link),
}

/// A URL, and the digest its file must have, if that was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Without its fragment.
    pub url: Url,
    /// From `#sha256=…`.
    pub sha256: Option<Digest>,
}

/// Text that is no source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidSource(String);

impl FromStr for Source {
    type Err = InvalidSource;

    /// What has a scheme is a URL, everything else a file.
    fn from_str(text: &str) -> Result<Self, InvalidSource> {
        let scheme = text.split_once("://").map(|(scheme, _)| scheme);
        let is_scheme = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric());
        match scheme.filter(|scheme| is_scheme(scheme)) {
            None if text.is_empty() => Err(InvalidSource("a file or a URL is needed".to_owned())),
            None => Ok(Self::File(PathBuf::from(text))),
            Some(_) => text.parse().map(Self::Url),
        }
    }
}

impl FromStr for Link {
    type Err = InvalidSource;

    fn from_str(text: &str) -> Result<Self, InvalidSource> {
        let wrong = |why: &str| InvalidSource(format!("{text}: {why}"));
        let mut url: Url = text.parse().map_err(|error| wrong(&format!("{error}")))?;
        if !["http", "https"].contains(&url.scheme()) {
            return Err(wrong("only http and https are spoken here"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidSource(
                "a URL must hold no user name or password: it would be seen by everyone on this host"
                    .to_owned(),
            ));
        }
        let sha256 = match url.fragment() {
            None => None,
            Some(fragment) => {
                let digest =
                    fragment.strip_prefix(PIN).ok_or("").and_then(|hex| Digest::try_from(hex.to_owned()));
                Some(digest.map_err(|_| wrong("behind '#' stands sha256= and 64 hex digits"))?)
            }
        };
        url.set_fragment(None);
        if file_name(&url).is_none() {
            return Err(wrong("it does not end in the name of a file"));
        }
        Ok(Self { url, sha256 })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url(link) => link.url.fmt(f),
        }
    }
}

/// Parses an option's value. Cannot fail on what is not UTF-8: that is a file.
pub fn from_option(value: &std::ffi::OsStr) -> Result<Source, InvalidSource> {
    match value.to_str() {
        Some(text) => text.parse(),
        None => Ok::<_, Infallible>(Source::File(value.into())).map_err(|never| match never {}),
    }
}

/// The name of the file a URL points to, if it is one that is safe to use here.
pub fn file_name(url: &Url) -> Option<&str> {
    let name = url.path_segments()?.next_back()?;
    is_safe_name(name).then_some(name)
}

/// Whether a name from outside can be a file's here: one plain path component.
pub fn is_safe_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._+~-%".contains(&b);
    (1..=200).contains(&name.len()) && !name.starts_with(['.', '-']) && name.bytes().all(plain)
}

/// The URL of the directory a file is in, with its slash.
pub fn directory(url: &Url) -> Url {
    url.join(".").unwrap_or_else(|_| url.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn source(text: &str) -> Result<Source, String> {
        text.parse().map_err(|error: InvalidSource| error.0)
    }

    #[test]
    fn a_source_is_a_file_or_a_url() {
        for file in ["a.iso", "/a/b.iso", "./http:/x", "C:\\x", "://x"] {
            assert_eq!(source(file), Ok(Source::File(file.into())));
        }
        let Ok(Source::Url(link)) = source("https://example.org/a/b.iso") else { panic!("no URL") };
        assert_eq!((file_name(&link.url), link.sha256), (Some("b.iso"), None));
        assert_eq!(directory(&link.url).as_str(), "https://example.org/a/");
    }

    #[test]
    fn a_url_may_say_its_digest() {
        let digest = Digest::of(b"x");
        let Ok(Source::Url(link)) = source(&format!("http://e/b.iso?x=1#sha256={digest}")) else {
            panic!("no URL")
        };
        assert_eq!((link.url.as_str(), link.sha256), ("http://e/b.iso?x=1", Some(digest)));
    }

    #[test]
    fn what_is_wrong_with_a_url_is_said() {
        for (text, why) in [
            ("", "a file or a URL"),
            ("ftp://e/a.iso", "only http and https"),
            ("https://user:secret@e/a.iso", "no user name or password"),
            ("https://e/a.iso#sha256=12", "64 hex digits"),
            ("https://e/a.iso#md5=12", "64 hex digits"),
            ("https://e/", "name of a file"),
            ("https://e/a/..", "name of a file"),
            ("https://", "empty host"),
        ] {
            let error = source(text).unwrap_err();
            assert!(error.contains(why) && !error.contains("secret"), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_name_leaves_its_directory(path in "[ -~]{0,40}") {
            if let Ok(Source::Url(link)) = source(&format!("https://e/{path}")) {
                let name = file_name(&link.url).unwrap();
                prop_assert_eq!(std::path::Path::new("d").join(name).components().count(), 2);
            }
        }
    }
}
