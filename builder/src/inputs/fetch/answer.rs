//! What a server's answer means for a download that has some of the file
//! already (RFC 9110, sections 13 to 15).

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{
    CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, LAST_MODIFIED, RETRY_AFTER,
};
use serde::{Deserialize, Serialize};

/// What tells one content of a file from the next: a strong entity tag, or the
/// time of its last change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Validator(String);

impl Validator {
    /// From an answer. A weak tag promises nothing about bytes.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let tag = text(&ETAG).filter(|tag| tag.starts_with('"'));
        tag.or_else(|| text(&LAST_MODIFIED)).map(|value| Self(value.to_owned()))
    }

    /// As `If-Range` takes it.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// What an answer means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// The rest follows.
    Rest {
        /// The whole file's size in bytes.
        total: Option<u64>,
    },
    /// The whole file follows: it has changed, or the server knows no ranges.
    Whole {
        /// Its size in bytes.
        total: Option<u64>,
    },
    /// There is no more than what is there already.
    NoMore,
    /// What is there already is of no use: ask for the whole.
    Stale,
    /// It is not there, and asking again will not change that.
    NotThere(StatusCode),
    /// Not now.
    Later {
        /// What the server says.
        status: StatusCode,
        /// When it wants to be asked again.
        after: Option<Duration>,
    },
}

/// The meaning of an answer when `have` bytes are there.
pub(super) fn meaning(status: StatusCode, headers: &HeaderMap, have: u64) -> Answer {
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    match status {
        StatusCode::OK => Answer::Whole { total: length },
        StatusCode::PARTIAL_CONTENT => match content_range(headers) {
            Some(Range { first: Some(first), total }) if first == have => Answer::Rest { total },
            _ => Answer::Stale,
        },
        StatusCode::RANGE_NOT_SATISFIABLE => match content_range(headers) {
            Some(Range { total: Some(total), .. }) if total == have => Answer::NoMore,
            _ => Answer::Stale,
        },
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
            Answer::Later { status, after: after(headers) }
        }
        status if status.is_server_error() => Answer::Later { status, after: after(headers) },
        status => Answer::NotThere(status),
    }
}

/// Seconds; the other form, a date, is rare and not worth a clock's mistakes.
fn after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

#[derive(Debug, PartialEq, Eq)]
struct Range {
    /// The first byte that follows; none in an answer of 416.
    first: Option<u64>,
    total: Option<u64>,
}

/// `bytes 100-199/200`, `bytes 100-199/*` or `bytes */200`.
fn content_range(headers: &HeaderMap) -> Option<Range> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    let first = if range == "*" { None } else { Some(range.split_once('-')?.0.parse().ok()?) };
    Some(Range { first, total })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    fn code(code: u16) -> StatusCode {
        StatusCode::from_u16(code).unwrap()
    }

    #[test]
    fn each_answer_has_its_meaning() {
        let length = headers(&[(CONTENT_LENGTH, "200")]);
        let rest = headers(&[(CONTENT_RANGE, "bytes 100-199/200")]);
        let none = headers(&[(CONTENT_RANGE, "bytes */100")]);
        let soon = headers(&[(RETRY_AFTER, "7")]);
        for (status, headers, wanted) in [
            (200, &length, Answer::Whole { total: Some(200) }),
            (206, &rest, Answer::Rest { total: Some(200) }),
            (206, &length, Answer::Stale),
            (416, &none, Answer::NoMore),
            (416, &length, Answer::Stale),
            (503, &soon, Answer::Later { status: code(503), after: Some(Duration::from_secs(7)) }),
            (429, &length, Answer::Later { status: code(429), after: None }),
            (404, &length, Answer::NotThere(code(404))),
            (403, &length, Answer::NotThere(code(403))),
            (304, &length, Answer::NotThere(code(304))),
        ] {
            assert_eq!(meaning(code(status), headers, 100), wanted, "{status}");
        }
        // Not the place it was asked for.
        assert_eq!(meaning(code(206), &rest, 99), Answer::Stale);
        assert_eq!(meaning(code(416), &none, 99), Answer::Stale);
    }

    #[test]
    fn a_weak_tag_validates_nothing() {
        let date = "Tue, 24 Nov 2026 00:00:00 GMT";
        let of = |pairs: &[(HeaderName, &str)]| Validator::of(&headers(pairs)).map(|v| v.as_str().to_owned());
        assert_eq!(of(&[(ETAG, "\"a\""), (LAST_MODIFIED, date)]).as_deref(), Some("\"a\""));
        assert_eq!(of(&[(ETAG, "W/\"a\""), (LAST_MODIFIED, date)]).as_deref(), Some(date));
        assert_eq!(of(&[(ETAG, "W/\"a\"")]), None);
    }

    proptest! {
        #[test]
        fn only_the_rest_that_was_asked_for_is_appended(first in any::<u64>(), last in any::<u64>(), have in any::<u64>()) {
            let headers = headers(&[(CONTENT_RANGE, &format!("bytes {first}-{last}/*"))]);
            let appended = matches!(meaning(StatusCode::PARTIAL_CONTENT, &headers, have), Answer::Rest { .. });
            prop_assert_eq!(appended, first == have);
        }

        #[test]
        fn any_header_is_read_without_panic(value in "(bytes |[ -~]){0,8}") {
            let _ = meaning(StatusCode::PARTIAL_CONTENT, &headers(&[(CONTENT_RANGE, &value)]), 1);
        }
    }
}
