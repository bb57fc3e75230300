//! What may go: a plan, made before anything is touched.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

use super::Entry;

/// What is to go. Without a wish, only what is of no use to anybody.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wish {
    /// What was not used for so long.
    pub older_than: Option<Duration>,
    /// As much of what was not used for longest that so many bytes are left.
    pub max_size: Option<u64>,
    /// Everything that nothing uses now.
    pub unused: bool,
}

/// The entries that go, in an order in which no disk goes before those over it.
/// None that is in use, or that one which stays lies over, is among them.
///
/// `entries` are in the order of their last use.
pub fn plan(entries: &[Entry], wish: &Wish, now: Timestamp) -> Vec<usize> {
    let mut going = Vec::new();
    let mut left: u64 = entries.iter().map(|entry| entry.size).sum();
    // Each pass finds what only now has nothing over it.
    loop {
        let next = (0..entries.len()).find(|&index| {
            let entry = &entries[index];
            !going.contains(&index) && wanted(entry, wish, now, left) && is_free(entry, entries, &going)
        });
        let Some(next) = next else { return going };
        left = left.saturating_sub(entries[next].size);
        going.push(next);
    }
}

fn wanted(entry: &Entry, wish: &Wish, now: Timestamp, left: u64) -> bool {
    let old = |limit: Duration| {
        Duration::try_from(now.duration_since(entry.last_used)).is_ok_and(|age| age >= limit)
    };
    entry.kind.is_rubbish()
        || wish.unused
        || wish.older_than.is_some_and(old)
        || wish.max_size.is_some_and(|most| left > most)
}

/// Whether nothing that stays needs it.
fn is_free(entry: &Entry, entries: &[Entry], going: &[usize]) -> bool {
    let goes = |disk: &Path| going.iter().any(|&index| disk.starts_with(&entries[index].path));
    !entry.in_use && entry.below.iter().all(|disk| goes(disk))
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;
    use proptest::prelude::*;
    use std::path::PathBuf;

    fn entry(kind: Kind, name: &str, day: i64) -> Entry {
        Entry {
            kind,
            name: name.to_owned(),
            path: PathBuf::from("/c").join(name),
            size: 100,
            last_used: Timestamp::from_second(day * 86_400).unwrap(),
            in_use: false,
            below: Vec::new(),
            lock: None,
        }
    }

    fn over(name: &str) -> Vec<PathBuf> {
        vec![PathBuf::from("/c").join(name).join("disk.qcow2")]
    }

    fn names(entries: &[Entry], wish: &Wish) -> Vec<String> {
        let now = Timestamp::from_second(100 * 86_400).unwrap();
        plan(entries, wish, now).into_iter().map(|index| entries[index].name.clone()).collect()
    }

    fn days(days: u64) -> Wish {
        Wish { older_than: Some(Duration::from_secs(days * 86_400)), ..Wish::default() }
    }

    /// An old disk below a newer one, as the stages make them.
    fn cache() -> Vec<Entry> {
        let os = Entry { below: over("node"), ..entry(Kind::Os, "os", 10) };
        vec![
            os,
            entry(Kind::Partial, "part", 20),
            entry(Kind::Input, "iso", 30),
            entry(Kind::Node, "node", 40),
        ]
    }

    #[test]
    fn without_a_wish_only_rubbish_goes() {
        assert_eq!(names(&cache(), &Wish::default()), ["part"]);
    }

    #[test]
    fn a_disk_goes_after_the_one_over_it_and_never_before() {
        assert_eq!(names(&cache(), &days(65)), ["part", "iso"]);
        assert_eq!(names(&cache(), &days(60)), ["part", "iso", "node", "os"]);
    }

    #[test]
    fn what_is_in_use_stays_and_what_it_lies_over_too() {
        let mut entries = cache();
        entries[3].in_use = true;
        let unused = Wish { unused: true, ..Wish::default() };
        assert_eq!(names(&entries, &unused), ["part", "iso"]);
        // A disk that is no entry of the cache: that of a run that was kept.
        let mut entries = cache();
        entries[0].below.push("/c/tmp/0123456789abcdef/disk.qcow2".into());
        assert_eq!(names(&entries, &unused), ["part", "iso", "node"]);
    }

    #[test]
    fn a_size_is_reached_by_what_was_not_used_for_longest() {
        let size = |bytes| Wish { max_size: Some(bytes), ..Wish::default() };
        assert_eq!(names(&cache(), &size(400)), ["part"]);
        assert_eq!(names(&cache(), &size(299)), ["part", "iso"]);
        assert_eq!(names(&cache(), &size(0)), ["part", "iso", "node", "os"]);
    }

    proptest! {
        #[test]
        fn nothing_that_stays_loses_what_it_lies_over(
            shape in proptest::collection::vec((0_usize..8, any::<bool>(), 0_i64..100, 0_u64..1000), 1..8),
            older in proptest::option::of(0_u64..100),
            most in proptest::option::of(0_u64..4000),
            unused in any::<bool>(),
        ) {
            let mut entries: Vec<Entry> = shape
                .iter()
                .enumerate()
                .map(|(number, (_, in_use, day, size))| {
                    let kind = if number % 3 == 0 { Kind::Input } else { Kind::Node };
                    Entry { in_use: *in_use, size: *size, ..entry(kind, &format!("e{number}"), *day) }
                })
                .collect();
            // Each lies over an earlier one: no circles.
            for (number, (below, ..)) in shape.iter().enumerate().filter(|(number, (below, ..))| below < number) {
                entries[*below].below.extend(over(&format!("e{number}")));
            }
            let wish = Wish { older_than: older.map(|d| Duration::from_secs(d * 86_400)), max_size: most, unused };
            let going = plan(&entries, &wish, Timestamp::from_second(100 * 86_400).unwrap());
            for (order, &index) in going.iter().enumerate() {
                prop_assert!(!entries[index].in_use);
                for disk in &entries[index].below {
                    let gone = going[..order].iter().any(|&earlier| disk.starts_with(&entries[earlier].path));
                    prop_assert!(gone, "{} would go before {}", entries[index].name, disk.display());
                }
            }
        }
    }
}
