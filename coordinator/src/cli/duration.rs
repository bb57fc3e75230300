//! Times on the command line: `90s`, `30m`, `1h`, `7d`.

use std::str::FromStr;
use std::time::Duration;

/// A length of time of at least a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lifetime(Duration);

impl Lifetime {
    pub(super) fn time(self) -> Duration {
        self.0
    }

    pub(super) fn seconds(self) -> u64 {
        self.0.as_secs()
    }
}

impl FromStr for Lifetime {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "must be a number and s, m, h or d, such as 30m, 1h, 7d".to_owned();
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 60 * 60,
            "d" => 24 * 60 * 60,
            _ => return Err(wrong()),
        };
        // A century is enough for anybody and keeps all sums within bounds.
        let seconds = number.parse::<u32>().ok().and_then(|n| u64::from(n).checked_mul(unit));
        let seconds = seconds.filter(|s| (1..=100 * 365 * 86400).contains(s)).ok_or_else(wrong)?;
        Ok(Self(Duration::from_secs(seconds)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_one_unit() {
        for (text, seconds) in [("90s", 90), ("30m", 1800), ("1h", 3600), ("7d", 604_800)] {
            assert_eq!(text.parse::<Lifetime>().unwrap().seconds(), seconds);
        }
        for wrong in ["", "1", "h", "0s", "-1h", "1.5h", "1 h", "1w", "99999999999d", "4000000000d"] {
            assert!(wrong.parse::<Lifetime>().is_err(), "{wrong:?} was taken");
        }
    }
}
