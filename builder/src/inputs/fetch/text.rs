//! Lists of checksums and their signatures: small, read into memory, kept with
//! their URL for when there is no network.

use anyhow::Result;
use reqwest::Url;
use tokio::time::timeout;

use super::attempt::DOWNGRADE;
use super::fault::{NotFetched, Why, plainly};
use super::policy::jitter;
use super::{Fetcher, STAGE};
use crate::image::Size;
use crate::image::key::Digest;

/// No list of checksums is larger.
const MOST: u64 = 1 << 20;
/// Such a file is tried so often: what is in the cache may do instead.
const TRIES: u32 = 3;

/// A list, or why there is none.
#[derive(Debug)]
pub enum Text {
    /// Its text.
    Found(String),
    /// There is none.
    NotThere,
    /// It cannot be told.
    Unreachable(NotFetched),
}

impl Fetcher<'_> {
    /// Gets a small text. Without a network, the one that was there last.
    pub async fn text(&self, url: &Url) -> Result<Text> {
        let known = || self.cache.origin(url).and_then(|origin| Some((origin.text?, origin.seen)));
        if self.network.offline {
            return Ok(match known() {
                Some((text, _)) => Text::Found(text),
                None => Text::NotThere,
            });
        }
        let mut failures = 0;
        let why = loop {
            match self.ask_text(url).await? {
                Ok(text) => {
                    self.cache.remember(url, Digest::of(text.as_bytes()), Some(text.clone()))?;
                    return Ok(Text::Found(text));
                }
                Err(Why::NotThere(_)) => return Ok(Text::NotThere),
                Err(why) if !why.may_pass() => break why,
                Err(why) => {
                    failures += 1;
                    if failures >= TRIES.min(self.network.policy.tries) {
                        break why;
                    }
                    tokio::time::sleep(self.network.policy.pause(failures, jitter(), None)).await;
                }
            }
        };
        if let Some((text, seen)) = known() {
            self.progress.warn(format!("{url}: {why}; going by what was there on {seen:.0}"));
            return Ok(Text::Found(text));
        }
        let name = super::super::source::file_name(url).unwrap_or_default().to_owned();
        let advice = "check the network".to_owned();
        Ok(Text::Unreachable(NotFetched { name, places: vec![(url.clone(), why)], advice }))
    }

    async fn ask_text(&self, url: &Url) -> Result<Result<String, Why>> {
        let stall = self.network.policy.stall;
        self.progress.step(STAGE, format!("asking {url}"));
        let client = self.client().await?;
        let read = async {
            let broken = |error: reqwest::Error| match plainly(&error) {
                text if error.is_redirect() && text.contains(DOWNGRADE) => Why::Downgraded,
                text => Why::Broken(text),
            };
            let mut response = client.get(url.clone()).send().await.map_err(broken)?;
            match response.status() {
                status if status.is_success() => {}
                status if status.is_server_error() || status.as_u16() == 429 => {
                    return Err(Why::Later(status));
                }
                status => return Err(Why::NotThere(status)),
            }
            let mut bytes = Vec::new();
            while let Some(piece) = response.chunk().await.map_err(broken)? {
                bytes.extend_from_slice(&piece);
                if bytes.len() as u64 > MOST {
                    return Err(Why::TooLarge(Size::bytes(MOST)));
                }
            }
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        Ok(timeout(stall, read).await.unwrap_or(Err(Why::Stalled(stall))))
    }
}
