//! What a bake would do, and why: which stage runs, and which input made it
//! stale. Nothing is made, no input is downloaded, and nobody is waited for.
//! Where an input is not known, what depends on it is not told either, unless
//! one that is known differs already.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use anyhow::Result;
use serde::Serialize;

use super::pack::{self, Existing};
use super::store::{Look, Made, Store};
use super::{Offers, Options, begin, check, inspect, node, os, smoke};
use crate::failure::BadInput;
use crate::image::Manifest;
use crate::image::key::{Digest, Key, Sketch};
use crate::image::manifest::MANIFEST;
use crate::inputs::Place;
use crate::inputs::digest::Hasher;
use crate::inputs::outlook::{Known, Outlook, Seen, State};
use crate::progress::Progress;
use crate::run::dirs::create_private;
use crate::run::{Run, orphans};

/// Digits of a digest that tell two apart for a person.
const SHORT: usize = 12;

/// What a bake would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The image's name.
    pub version: String,
    /// The inputs, as far as they are known.
    pub inputs: Vec<Seen>,
    /// The stages in order.
    pub stages: Vec<StagePlan>,
}

/// What a bake would do about one stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StagePlan {
    /// Its name.
    pub stage: &'static str,
    /// Whether it runs, is used again, or stands in the way.
    pub action: Action,
    /// Why, in one sentence without a full stop.
    pub reason: String,
    /// The key of its result: equal keys, equal results. None of what has no key.
    pub key: Option<Digest>,
    /// What is not as it was in the newest result there is.
    pub changes: Vec<Change>,
}

/// What becomes of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It runs.
    Run,
    /// An earlier result is used again.
    Reuse,
    /// The bake is refused here.
    Refuse,
    /// It was asked to be left out.
    Skip,
    /// It cannot be told before an input is here.
    Unknown,
}

/// One part of a key that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Its name, such as `k3s` or `kickstart`.
    pub input: String,
    /// What it was; none when it is new.
    pub was: Option<String>,
    /// What it is; none when it is gone.
    pub is: Option<String>,
}

/// The parts that differ, by name.
pub fn changes(was: &BTreeMap<String, String>, is: &BTreeMap<String, String>) -> Vec<Change> {
    let names: std::collections::BTreeSet<&String> = was.keys().chain(is.keys()).collect();
    names
        .into_iter()
        .filter(|name| was.get(*name) != is.get(*name))
        .map(|name| Change { input: name.clone(), was: was.get(name).cloned(), is: is.get(name).cloned() })
        .collect()
}

/// What becomes of a stage whose results are kept by key. `records`: those of
/// its results, newest first. `below`: the stage it is made over, if that runs.
pub fn decide(
    stage: &'static str,
    key: &Key,
    look: &Look,
    below: Option<&'static str>,
    version: &str,
    records: &[Made],
) -> StagePlan {
    let key_digest = Some(key.digest);
    let plan =
        |action, reason: String, changes| StagePlan { stage, action, reason, key: key_digest, changes };
    if let (Look::Ready(made), None) = (look, below) {
        let reason = format!("made before, on {:.0}, in {:.1} s", made.created, made.seconds);
        return plan(Action::Reuse, reason, Vec::new());
    }
    if let Look::Stale(misfit) = look {
        return plan(Action::Run, format!("its result {misfit}"), Vec::new());
    }
    // The newest for the same image says most; else the newest at all.
    let newest = records.iter().find(|made| made.version == version).or_else(|| records.first());
    let changed = newest.map(|made| changes(&made.parts, &key.parts)).unwrap_or_default();
    match (newest, below) {
        (Some(made), _) if !changed.is_empty() => {
            let reason = format!("changed since its result of {:.0}", made.created);
            plan(Action::Run, reason, changed)
        }
        (_, Some(below)) => plan(Action::Run, format!("{below} runs, over whose result it is made"), changed),
        _ => plan(Action::Run, "the cache has no result of it".to_owned(), changed),
    }
}

/// What becomes of a stage whose key is not known, because an input is not.
/// `records`: those of its results, newest first. `below`: what becomes of the
/// stage it is made over.
pub fn guess(
    stage: &'static str,
    sketch: &Sketch,
    below: Option<(&'static str, Action)>,
    version: &str,
    records: &[Made],
) -> StagePlan {
    let plan = |action, reason: String, changes| StagePlan { stage, action, reason, key: None, changes };
    if let Some((below, Action::Run)) = below {
        return plan(Action::Run, format!("{below} runs, over whose result it is made"), Vec::new());
    }
    let differences = |made: &Made| {
        let mut was = made.parts.clone();
        was.retain(|name, _| !sketch.unknown.contains(name));
        changes(&was, &sketch.parts)
    };
    // Any of them may turn out to be the one.
    if let Some(made) = records.iter().find(|made| differences(made).is_empty()) {
        let unknown: Vec<&str> = sketch.unknown.iter().map(String::as_str).collect();
        let (unknown, created) = (unknown.join(", "), made.created);
        let reason = format!("not known yet: {unknown}; all else is as in its result of {created:.0}");
        return plan(Action::Unknown, reason, Vec::new());
    }
    match records.iter().find(|made| made.version == version).or_else(|| records.first()) {
        Some(newest) => {
            let reason = format!("changed since its result of {:.0}", newest.created);
            plan(Action::Run, reason, differences(newest))
        }
        None => plan(Action::Run, "the cache has no result of it".to_owned(), Vec::new()),
    }
}

/// What a bake with these options would do.
pub async fn explain(options: &Options, progress: &Progress) -> Result<Explanation> {
    check(options)?;
    let mut run = Run::start(&options.state, "bake --explain")?;
    let work = options.cache.join("tmp").join(run.id().as_str());
    run.own(&work)?;
    create_private(&work)?;
    orphans::claim(&work)?;
    let hasher = Hasher::new(&options.cache);
    let (template, offers) = begin(options).await?;
    let place = Place { cache: &options.cache, work: &work, run: run.id() };
    let outlook = Box::pin(Outlook::of(&options.wanted, &hasher, place, progress)).await?;
    let Outlook { known, seen, .. } = &outlook;
    if let (Some(media), Offers::Unknown) = (&known.media, offers) {
        os::check(&media.iso.path, &options.order).await?;
    }
    let os_key = os::key(known, &template, options.disk_size, &options.order)?;
    let node_key = node::key(known, os_key.digest(), &options.order, options.coordinator.as_ref())?;
    let store = Store::new(&options.cache, &hasher, progress);
    let version = known.version.to_string();

    let records = store.records(os::STAGE);
    let (os, below) = match os_key.key() {
        Some(key) => {
            let look = store.look(os::STAGE, &key, None).await;
            let below = match &look {
                Look::Ready(made) => Some(store.below(os::STAGE, &key, made)),
                Look::Stale(_) | Look::Missing => None,
            };
            (decide(os::STAGE, &key, &look, None, &version, &records), below)
        }
        None => (guess(os::STAGE, &os_key, None, &version, &records), None),
    };
    let records = store.records(node::STAGE);
    let node = match (node_key.key(), &below) {
        (Some(key), Some(below)) => {
            let look = store.look(node::STAGE, &key, Some(below)).await;
            decide(node::STAGE, &key, &look, None, &version, &records)
        }
        (Some(key), None) => decide(node::STAGE, &key, &Look::Missing, Some(os::STAGE), &version, &records),
        (None, _) => guess(node::STAGE, &node_key, Some((os::STAGE, os.action)), &version, &records),
    };
    let key = node_key.digest().map(|node| pack::key(node, options.compression, &options.also));
    let (pack, disk) = packed(options, known, key, &hasher).await?;
    let mut stages = vec![os, node, pack];
    if stages[2].action == Action::Reuse {
        // A finished image needs neither of its stages.
        for stage in &mut stages[..2] {
            stage.action = Action::Reuse;
            "the image is there and was made from the same".clone_into(&mut stage.reason);
            stage.changes.clear();
        }
    }
    let unknown = stages[2].action == Action::Unknown;
    stages.push(inspected(options, known, disk, unknown)?);
    stages.push(tried(options, disk, unknown));
    hasher.remember()?;
    Ok(Explanation { version, inputs: seen.clone(), stages })
}

fn plain(stage: &'static str, action: Action, reason: impl Into<String>) -> StagePlan {
    StagePlan { stage, action, reason: reason.into(), key: None, changes: Vec::new() }
}

/// What becomes of the pack stage, and the digest of its disk if it is there.
async fn packed(
    options: &Options,
    known: &Known,
    key: Option<Digest>,
    hasher: &Hasher,
) -> Result<(StagePlan, Option<Digest>)> {
    let version = &known.version;
    let dir = options.out.join(version.to_string());
    let nothing = || format!("{} has no {version}", options.out.display());
    let Some(key) = key else {
        let made = std::fs::read(dir.join(MANIFEST)).ok();
        let made = made.and_then(|json| serde_json::from_slice::<Manifest>(&json).ok());
        let plan = match made {
            _ if !dir.exists() => plain(pack::STAGE, Action::Run, nothing()),
            Some(made) if known.contradict(&made.inputs) => {
                let why = format!("{} exists and was made from something else", dir.display());
                plain(pack::STAGE, Action::Refuse, why)
            }
            _ => {
                let dir = dir.display();
                let why = format!("whether {dir} is this very image shows when all inputs are known");
                plain(pack::STAGE, Action::Unknown, why)
            }
        };
        return Ok((plan, None));
    };
    let (plan, disk) = match pack::existing(&options.out, version, key, hasher).await {
        Ok(Existing::Same(manifest)) => {
            let reason = format!("{} is this very image", dir.display());
            let disk = manifest.outputs.get("disk").map(|disk| disk.sha256);
            (plain(pack::STAGE, Action::Reuse, reason), disk)
        }
        Ok(Existing::None) => (plain(pack::STAGE, Action::Run, nothing()), None),
        Err(error) if error.is::<BadInput>() => (plain(pack::STAGE, Action::Refuse, error.to_string()), None),
        Err(error) => return Err(error),
    };
    Ok((StagePlan { key: Some(key), ..plan }, disk))
}

fn inspected(options: &Options, known: &Known, disk: Option<Digest>, unknown: bool) -> Result<StagePlan> {
    let earlier = disk.map(|disk| inspect::known(options, known, disk)).transpose()?.flatten();
    Ok(match earlier {
        Some(summary) => plain(inspect::STAGE, Action::Reuse, summary),
        None if unknown => plain(inspect::STAGE, Action::Unknown, "it depends on pack"),
        None => plain(inspect::STAGE, Action::Run, "this disk was not inspected yet"),
    })
}

fn tried(options: &Options, disk: Option<Digest>, unknown: bool) -> StagePlan {
    match disk.and_then(|disk| smoke::tried(&options.cache, disk, &options.smoke)) {
        _ if options.smoke.is_empty() => plain(smoke::STAGE, Action::Skip, "--no-smoke"),
        Some(seconds) => {
            plain(smoke::STAGE, Action::Reuse, format!("clones of this disk were tried, in {seconds:.1} s"))
        }
        None if unknown => plain(smoke::STAGE, Action::Unknown, "it depends on pack"),
        None => plain(smoke::STAGE, Action::Run, "clones of this disk were not tried yet"),
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}:", self.version)?;
        // What is here is no news.
        for seen in self.inputs.iter().filter(|seen| seen.state != State::Here) {
            writeln!(f, "  input   {}: {seen}", seen.input)?;
        }
        for plan in &self.stages {
            let action = match plan.action {
                Action::Run => "runs",
                Action::Reuse => "cached",
                Action::Refuse => "refused",
                Action::Skip => "left out",
                Action::Unknown => "unknown",
            };
            writeln!(f, "  {:<7} {action:<8}  {}", plan.stage, plan.reason)?;
            for change in &plan.changes {
                writeln!(f, "                     {change}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.was, &self.is) {
            (None, Some(is)) => write!(f, "{} is new: {}", self.input, brief(is)),
            (Some(was), None) => write!(f, "{} is gone, it was {}", self.input, brief(was)),
            (Some(was), Some(is)) => match first_difference(was, is) {
                Some((line, was, is)) => {
                    write!(f, "{}, line {line}: was `{was}`, is `{is}`", self.input)
                }
                None => write!(f, "{}: was {}, is {}", self.input, brief(was), brief(is)),
            },
            (None, None) => f.write_str(&self.input),
        }
    }
}

/// The first line that differs, with its number, of texts of several lines.
fn first_difference<'a>(was: &'a str, is: &'a str) -> Option<(usize, &'a str, &'a str)> {
    if !was.contains('\n') && !is.contains('\n') {
        return None;
    }
    let lines = was.lines().count().max(is.lines().count());
    (0..lines)
        .map(|i| (i + 1, was.lines().nth(i).unwrap_or_default(), is.lines().nth(i).unwrap_or_default()))
        .find(|(_, was, is)| was != is)
}

/// A value as a person compares it: a digest's first digits, a text's first line.
fn brief(value: &str) -> String {
    if value.len() == 64 && value.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return format!("sha256 {}…", &value[..SHORT]);
    }
    let mut lines = value.lines();
    let mut text = lines.next().unwrap_or_default().to_owned();
    let more = lines.count();
    if more > 0 {
        let _ = write!(text, " (and {more} lines)");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::store::Misfit;
    use super::*;
    use crate::image::key::KeyBuilder;
    use jiff::Timestamp;

    fn key(size: &str, iso: &[u8], kickstart: &str) -> Key {
        let key = KeyBuilder::new("os", 1).with("disk size", size).with("kickstart", kickstart);
        key.with_digest("iso", Digest::of(iso)).key()
    }

    fn made(key: &Key, version: &str, second: i64) -> Made {
        let record = serde_json::json!({
            "format": 1, "size": 1, "sha256": Digest::of(b""), "backing": null, "seconds": 61.5,
            "created": Timestamp::from_second(second).unwrap(), "version": version, "parts": key.parts,
            "report": null,
        });
        serde_json::from_value(record).unwrap()
    }

    #[test]
    fn what_is_there_is_used_again() {
        let key = key("10", b"a", "text\n");
        let look = Look::Ready(Box::new(made(&key, "v1", 0)));
        let plan = decide("os", &key, &look, None, "v1", &[]);
        assert_eq!(plan.action, Action::Reuse);
        assert!(plan.reason.contains("in 61.5 s"), "{}", plan.reason);
        // Unless what is below it is made anew.
        let plan = decide("node", &key, &look, Some("os"), "v1", &[made(&key, "v1", 0)]);
        assert_eq!(plan.action, Action::Run);
        assert_eq!(plan.reason, "os runs, over whose result it is made");
    }

    #[test]
    fn the_newest_result_for_the_same_image_is_compared_with() {
        let old = key("10", b"a", "text\n");
        let records = [made(&key("99", b"z", "other\n"), "v9", 20), made(&old, "v1", 10)];
        let new = key("20", b"b", "text\n");
        let plan = decide("os", &new, &Look::Missing, None, "v1", &records);
        assert_eq!(plan.action, Action::Run);
        let inputs: Vec<&str> = plan.changes.iter().map(|change| change.input.as_str()).collect();
        assert_eq!(inputs, ["disk size", "iso"]);
        // No result for this image: the newest of any.
        let plan = decide("os", &new, &Look::Missing, None, "v2", &records);
        assert_eq!(plan.changes.len(), 3);
        let plan = decide("os", &new, &Look::Missing, None, "v1", &[]);
        assert_eq!(plan.reason, "the cache has no result of it");
    }

    #[test]
    fn what_is_known_may_tell_that_a_stage_runs_and_never_that_it_does_not() {
        let records = [made(&key("10", b"a", "text\n"), "v1", 0)];
        let sketch = |size: &str| {
            let begin = KeyBuilder::new("os", 1).sketch().with("disk size", Some(size));
            begin.with("kickstart", Some("text\n")).with_digest("iso", None).finish()
        };
        let plan = guess("os", &sketch("20"), None, "v1", &records);
        assert_eq!((plan.action, plan.changes[0].input.as_str()), (Action::Run, "disk size"));
        let plan = guess("os", &sketch("10"), None, "v1", &records);
        assert_eq!(plan.action, Action::Unknown);
        assert!(plan.reason.starts_with("not known yet: iso;"), "{}", plan.reason);
        assert_eq!(guess("os", &sketch("10"), None, "v1", &[]).action, Action::Run);
        // An older result may be the one, whatever the newest is.
        let older = [made(&key("20", b"a", "text\n"), "v1", 9), records[0].clone()];
        assert_eq!(guess("os", &sketch("10"), None, "v1", &older).action, Action::Unknown);
        let over = |action| guess("node", &sketch("10"), Some(("os", action)), "v1", &records).action;
        assert_eq!((over(Action::Run), over(Action::Unknown)), (Action::Run, Action::Unknown));
    }

    #[test]
    fn a_damaged_result_is_said_to_be_one() {
        let key = key("10", b"a", "");
        let look = Look::Stale(Misfit::Record);
        let plan = decide("os", &key, &look, None, "v1", &[made(&key, "v1", 0)]);
        assert_eq!(plan.action, Action::Run);
        assert_eq!(plan.reason, "its result does not fit its record");
    }

    #[test]
    fn changes_are_shown_as_a_person_compares_them() {
        let (was, is) = (key("10", b"a", "one\ntwo\nthree\n"), key("20", b"b", "one\nzwei\nthree\n"));
        let shown: Vec<String> = changes(&was.parts, &is.parts).iter().map(Change::to_string).collect();
        assert_eq!(shown[0], "disk size: was 10, is 20");
        assert!(shown[1].starts_with("iso: was sha256 ca978112ca1b…, is sha256 "), "{}", shown[1]);
        assert_eq!(shown[2], "kickstart, line 2: was `two`, is `zwei`");
        let extra = changes(&BTreeMap::new(), &BTreeMap::from([("k3s-selinux".into(), "a\nb\nc".into())]));
        assert_eq!(extra[0].to_string(), "k3s-selinux is new: a (and 2 lines)");
    }
}
