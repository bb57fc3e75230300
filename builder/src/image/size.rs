//! Sizes of memory and disks, with their unit.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A number of bytes, written like `10GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Size(u64);

const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];

impl Size {
    /// From a number of MiB.
    pub const fn mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    /// From a number of GiB.
    pub const fn gib(gib: u64) -> Self {
        Self(gib << 30)
    }

    /// From a number of bytes.
    pub const fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// In bytes.
    pub const fn as_bytes(self) -> u64 {
        self.0
    }

    /// In MiB, rounded down.
    pub fn as_mib(self) -> u32 {
        u32::try_from(self.0 >> 20).unwrap_or(u32::MAX)
    }
}

/// Text that is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a size is a whole number with its unit, such as 4096MiB or 10GiB")]
pub struct InvalidSize;

impl FromStr for Size {
    type Err = InvalidSize;
    fn from_str(text: &str) -> Result<Self, InvalidSize> {
        let (number, shift) = UNITS
            .iter()
            .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))
            .ok_or(InvalidSize)?;
        if !number.bytes().all(|b| b.is_ascii_digit()) {
            return Err(InvalidSize);
        }
        let number: u64 = number.parse().map_err(|_| InvalidSize)?;
        number.checked_mul(1 << shift).map(Self).ok_or(InvalidSize)
    }
}

/// In the largest unit that leaves a whole number, or about.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A number that was chosen has few digits; one that was measured is
        // shown in a unit that leaves few.
        let chosen =
            |shift: u32| self.0.trailing_zeros() >= shift && (1..10_000).contains(&(self.0 >> shift));
        let exact = UNITS.iter().find(|(_, shift)| chosen(*shift));
        if let Some((unit, shift)) = exact {
            return write!(f, "{}{unit}", self.0 >> shift);
        }
        match UNITS.iter().find(|(_, shift)| self.0 >> shift > 0) {
            #[expect(clippy::cast_precision_loss, reason = "one digit is shown")]
            Some((unit, shift)) => write!(f, "{:.1}{unit}", self.0 as f64 / (1_u64 << shift) as f64),
            None => write!(f, "{}B", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_size_has_a_unit() {
        assert_eq!("10GiB".parse(), Ok(Size::gib(10)));
        for wrong in ["", "10", "GiB", "10GB", "-1GiB", "+1GiB", "1.5GiB", "10 GiB", "99999999999999TiB"] {
            assert_eq!(wrong.parse::<Size>(), Err(InvalidSize), "{wrong:?}");
        }
    }

    #[test]
    fn sizes_are_shown_short() {
        assert_eq!(Size::mib(1536).to_string(), "1536MiB");
        assert_eq!(Size::bytes(1_500_000_000).to_string(), "1.4GiB");
        assert_eq!(Size::bytes(19_752_524 << 10).to_string(), "18.8GiB");
        assert_eq!(Size::bytes(17).to_string(), "17B");
        assert_eq!(Size::bytes(0).to_string(), "0B");
    }

    proptest! {
        #[test]
        fn whole_units_are_read_back(mib in 1_u64..10_000) {
            let size = Size::mib(mib);
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }
    }
}
