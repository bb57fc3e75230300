//! A result, and the line it is printed as.

use serde::Serialize;

/// Which way a goal is met.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) enum Op {
    #[serde(rename = "<=")]
    AtMost,
    #[serde(rename = ">=")]
    AtLeast,
}

/// One measure.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) section: &'static str,
    pub(super) name: String,
    pub(super) ours: Option<f64>,
    pub(super) ours_unit: Option<&'static str>,
    pub(super) peer_name: Option<String>,
    pub(super) peer: Option<f64>,
    pub(super) ratio: Option<f64>,
    pub(super) goal: Option<f64>,
    pub(super) goal_op: Option<Op>,
    pub(super) met: Option<bool>,
    pub(super) note: Option<String>,
}

impl Row {
    /// A measure without a peer or a goal.
    pub(super) fn new(name: impl Into<String>, ours: f64, unit: &'static str) -> Self {
        Self {
            section: "coordinator",
            name: name.into(),
            ours: Some(rounded(ours)),
            ours_unit: Some(unit),
            peer_name: None,
            peer: None,
            ratio: None,
            goal: None,
            goal_op: None,
            met: None,
            note: None,
        }
    }

    /// Measured beside a peer, in the same unit. The ratio is the median of
    /// ratios of one round each, not that of two medians.
    pub(super) fn beside(mut self, peer: impl Into<String>, measured: f64, ratio: f64) -> Self {
        self.peer_name = Some(peer.into());
        (self.peer, self.ratio) = (Some(rounded(measured)), Some(rounded(ratio)));
        self
    }

    /// What is to be reached: by the ratio if there is one, else by the measure.
    pub(super) fn goal(mut self, op: Op, goal: f64) -> Self {
        let value = self.ratio.or(self.ours).unwrap_or(f64::NAN);
        let met = match op {
            Op::AtMost => value <= goal,
            Op::AtLeast => value >= goal,
        };
        (self.goal, self.goal_op, self.met) = (Some(goal), Some(op), Some(met));
        self
    }

    pub(super) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    /// Prints it on standard output.
    pub(super) fn print(&self) -> anyhow::Result<()> {
        use std::io::Write as _;
        let mut out = std::io::stdout().lock();
        serde_json::to_writer(&mut out, self)?;
        Ok(out.write_all(b"\n").and_then(|()| out.flush())?)
    }
}

/// Three digits that count, and all before the point.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    #[expect(clippy::cast_possible_truncation, reason = "a logarithm is a small number")]
    let digits = (2 - value.abs().log10().floor() as i32).max(0);
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

/// The one in the middle; the lower one of two.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len().saturating_sub(1) / 2;
    values.get(middle).copied().unwrap_or(f64::NAN)
}

/// From the least to the greatest, for a note.
pub(super) fn spread(values: &[f64]) -> String {
    let (least, most) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| {
        (least.min(*value), most.max(*value))
    });
    format!("{} to {}", rounded(least), rounded(most))
}

/// A count as a number to calculate with.
#[expect(clippy::cast_precision_loss, reason = "counts here are far below 2^52")]
pub(super) fn number(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_rounding() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]).to_bits(), 2f64.to_bits());
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]).to_bits(), 2f64.to_bits());
        assert!(median(Vec::new()).is_nan());
        for (value, shown) in [(0.123_456, 0.123), (1.2345, 1.23), (123.4, 123.0), (12_345.6, 12_346.0)] {
            assert!((rounded(value) - shown).abs() < 1e-9, "{value}");
        }
    }

    #[test]
    fn a_goal_is_about_the_ratio_if_there_is_one() {
        let met = |row: Row| row.met.unwrap();
        assert!(met(Row::new("x", 19.0, "kB").goal(Op::AtMost, 20.0)));
        assert!(!met(Row::new("x", 21.0, "kB").goal(Op::AtMost, 20.0)));
        assert!(!met(Row::new("x", 900.0, "/s").beside("y", 2000.0, 0.45).goal(Op::AtLeast, 0.5)));
        assert!(!met(Row::new("x", f64::NAN, "/s").goal(Op::AtLeast, 0.5)), "no measure meets no goal");
    }
}
