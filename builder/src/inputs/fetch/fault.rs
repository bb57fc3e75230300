//! What goes wrong with a download.

use std::fmt::Write as _;
use std::time::Duration;

use reqwest::{StatusCode, Url};

use crate::image::Size;
use crate::image::key::Digest;

/// Why one place did not give the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// The server does not have it, or not for us.
    #[error("{}", status(*.0))]
    NotThere(StatusCode),
    /// The server cannot now.
    #[error("{}", status(*.0))]
    Later(StatusCode),
    /// It could not be reached, or the connection ended too early.
    #[error("{0}")]
    Broken(String),
    /// Nothing came any more.
    #[error("nothing came for {} s", .0.as_secs_f64())]
    Stalled(Duration),
    /// What came is something else.
    #[error("what is there has the digest {found}, not {wanted}")]
    Other {
        /// What was to come.
        wanted: Digest,
        /// What came.
        found: Digest,
    },
    /// It is larger than it may be.
    #[error("it is larger than {0}")]
    TooLarge(Size),
    /// It leads from https to http.
    #[error("it redirects from https to http, where anyone could change it")]
    Downgraded,
}

impl Why {
    /// Whether asking again may help.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::Later(_) | Self::Broken(_) | Self::Stalled(_))
    }
}

/// `404 Not Found`, and never anything nicer.
fn status(status: StatusCode) -> String {
    match status.canonical_reason() {
        Some(reason) => format!("the server says {} {reason}", status.as_u16()),
        None => format!("the server says {}", status.as_u16()),
    }
}

/// A file that could not be had from anywhere.
#[derive(Debug, thiserror::Error)]
#[error("{}", tell(.name, .places, .advice))]
pub struct NotFetched {
    /// Its name.
    pub name: String,
    /// Every place that was tried, and what was wrong with it.
    pub places: Vec<(Url, Why)>,
    /// What to do next.
    pub advice: String,
}

impl NotFetched {
    /// Whether no server could be reached, or none answered sensibly: the file
    /// may well be there.
    pub fn is_unreachable(&self) -> bool {
        self.places.iter().any(|(_, why)| why.may_pass())
    }

    /// Whether every server said that there is no such file.
    pub fn is_not_there(&self) -> bool {
        self.places.iter().all(|(_, why)| matches!(why, Why::NotThere(_)))
    }
}

fn tell(name: &str, places: &[(Url, Why)], advice: &str) -> String {
    let mut text = format!("{name} could not be downloaded");
    for (number, (url, why)) in places.iter().enumerate() {
        let before = if number == 0 { ": " } else { "; " };
        let _ = write!(text, "{before}{url}: {why}");
    }
    let _ = write!(text, "; {advice}");
    text
}

/// The file system has no room for it.
#[derive(Debug, thiserror::Error)]
#[error(
    "{name} does not fit on the disk: {} needed at {place}, {free} are left; make room (`builder cache prune` \
     shows what the cache can spare) and start again, which goes on with what is there, or name another place \
     with --cache", .need.map_or("more is".to_owned(), |need| format!("{need} are"))
)]
pub struct NoRoom {
    /// The file's name.
    pub name: String,
    /// What it still needs, where the server said how large it is.
    pub need: Option<Size>,
    /// What there is.
    pub free: Size,
    /// Where.
    pub place: String,
}

/// The user wants no network, and it is not in the cache.
#[derive(Debug, thiserror::Error)]
#[error("{name} is not in the cache and --offline forbids to download it; {advice}")]
pub struct Offline {
    /// The file's name.
    pub name: String,
    /// What to do next.
    pub advice: String,
}

/// An HTTP client's error in one line, innermost cause last; the URL is told
/// by whoever knows which one it is.
pub(in crate::inputs) fn plainly(error: &reqwest::Error) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(error) = cause {
        let text = error.to_string();
        if !texts.iter().any(|earlier| earlier.contains(&text)) {
            texts.push(text);
        }
        cause = error.source();
    }
    match texts.is_empty() {
        true if error.is_timeout() => "it took too long".to_owned(),
        true => error.to_string(),
        // The outer ones say "client error" and the like.
        false => texts.split_off(texts.len().saturating_sub(2)).join(": "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_and_the_next_step_are_told() {
        let places = vec![
            ("http://a/x".parse().unwrap(), Why::NotThere(StatusCode::NOT_FOUND)),
            ("http://b/x".parse().unwrap(), Why::Stalled(Duration::from_secs(30))),
        ];
        let error = NotFetched { name: "x".into(), places, advice: "pass it with --iso FILE".into() };
        assert_eq!(
            error.to_string(),
            "x could not be downloaded: http://a/x: the server says 404 Not Found; http://b/x: nothing came for \
             30 s; pass it with --iso FILE"
        );
        assert!(error.is_unreachable() && !error.is_not_there());
    }
}
