//! A provider in memory, whose every effect is a point at which a run may be
//! killed. What was made outlives the run: clones share the world.

#![expect(clippy::unused_async, reason = "the shape of all providers")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::{Result, bail};
use kiln_protocol::{Fingerprint, NodeName};

use super::record::{Record, Selector, Subject};
use super::types::Drift;
use super::types::{
    Caps, Deleted, Ensured, Finding, ImageRef, Listing, LocalImage, NetRef, NodeRef, NodeSpec, Object,
    Observed, Power, PowerState, SeedWish,
};
use crate::cluster::faults::Faults;

/// What exists.
#[derive(Debug, Default)]
pub(crate) struct World {
    /// By the provider's name for it.
    pub(crate) objects: BTreeMap<String, Thing>,
    /// How many nodes were ever made.
    pub(crate) nodes_made: u32,
    /// The keys that consoles show.
    pub(crate) consoles: BTreeMap<NodeName, Fingerprint>,
    /// What cannot be removed.
    pub(crate) stuck: Option<String>,
}

/// Something that exists.
#[derive(Debug, Clone)]
pub(crate) struct Thing {
    pub(crate) record: Record,
    pub(crate) spec: Option<NodeSpec>,
    pub(crate) seed: Option<String>,
    pub(crate) power: PowerState,
}

/// The provider.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fake {
    pub(crate) world: Arc<Mutex<World>>,
    pub(crate) faults: Faults,
    /// Whether its nodes' consoles can be read.
    pub(crate) console: bool,
}

impl Fake {
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    fn id(subject: &Subject) -> String {
        match subject {
            Subject::Node(name) => format!("node/{name}"),
            Subject::Image(digest) => format!("image/{digest}"),
            Subject::Net => "net".into(),
        }
    }

    fn node_id(name: &NodeName) -> String {
        Self::id(&Subject::Node(name.clone()))
    }

    /// Makes a thing unless it is there; refuses what is somebody else's.
    fn ensure(&self, record: &Record, spec: Option<&NodeSpec>) -> Result<(String, bool)> {
        let id = Self::id(&record.subject);
        let selector = Selector { owner: record.owner.clone(), cluster: record.cluster.clone() };
        if let Some(there) = self.world().objects.get(&id) {
            if let Some(why) = there.record.foreign_to(&selector) {
                bail!("{id} {why}");
            }
            return Ok((id, false));
        }
        self.faults.point()?;
        let thing = Thing { record: record.clone(), spec: spec.cloned(), seed: None, power: PowerState::Off };
        let mut world = self.world();
        world.nodes_made += u32::from(spec.is_some());
        world.objects.insert(id.clone(), thing);
        drop(world);
        self.faults.point()?;
        Ok((id, true))
    }

    pub(super) fn caps(&self) -> Caps {
        Caps { name: "fake", max_seed: 4096, console: self.console, bios: true }
    }

    pub(super) async fn preflight(&self, _nodes: &[NodeSpec]) -> Vec<Finding> {
        Vec::new()
    }

    pub(super) async fn list(&self, selector: &Selector) -> Result<Listing> {
        let mut listing = Listing::default();
        for (id, Thing { record, .. }) in &self.world().objects {
            match record.foreign_to(selector) {
                Some(why) => listing.foreign.push((id.clone(), why)),
                None => listing.ours.push(Object { id: id.clone(), record: record.clone() }),
            }
        }
        listing.ours.sort_by_key(|object| object.node().is_some());
        Ok(listing)
    }

    pub(super) async fn ensure_image(&self, record: &Record, image: &LocalImage) -> Result<ImageRef> {
        let (id, _) = self.ensure(record, None)?;
        Ok(ImageRef { digest: image.digest, id })
    }

    pub(super) async fn ensure_net(&self, record: &Record) -> Result<NetRef> {
        self.ensure(record, None)?;
        let (listen, reached_at) = ("127.0.0.1:0".parse()?, "10.0.2.2:7443".parse()?);
        Ok(NetRef { listen, reached_at })
    }

    pub(super) async fn ensure_node(
        &self,
        record: &Record,
        spec: &NodeSpec,
        seed: SeedWish,
    ) -> Result<Ensured> {
        let (id, made) = self.ensure(record, Some(spec))?;
        let node = NodeRef { cluster: spec.cluster.clone(), node: spec.node.clone() };
        let mut world = self.world();
        let thing = world.objects.get_mut(&id).unwrap();
        match seed {
            SeedWish::Give(seed) => thing.seed = Some(seed.to_string()),
            SeedWish::Keep => {}
            SeedWish::Scrub => thing.seed = None,
        }
        let was = thing.spec.clone().unwrap();
        drop(world);
        self.faults.point()?;
        Ok(match spec.drift_from(&was) {
            _ if made => Ensured::Created(node),
            drift if drift.is_empty() => Ensured::Adopted(node),
            drift => Ensured::Drifted(node, Drift(drift)),
        })
    }

    pub(super) async fn power(&self, node: &NodeRef, want: Power) -> Result<PowerState> {
        self.faults.point()?;
        let state = if want == Power::Off { PowerState::Off } else { PowerState::Running };
        match self.world().objects.get_mut(&Self::node_id(&node.node)) {
            Some(thing) => thing.power = state,
            None => bail!("no node {}", node.node),
        }
        self.faults.point()?;
        Ok(state)
    }

    pub(super) async fn observe(&self, node: &NodeRef) -> Result<Observed> {
        let world = self.world();
        let power =
            world.objects.get(&Self::node_id(&node.node)).map_or(PowerState::Off, |thing| thing.power);
        Ok(Observed { power, reason: None, powered_on: None, api: None, console_tail: Vec::new() })
    }

    pub(super) async fn console_key(&self, node: &NodeRef) -> Result<Option<Fingerprint>> {
        Ok(self.world().consoles.get(&node.node).copied())
    }

    pub(super) async fn delete(&self, selector: &Selector, object: &Object) -> Result<Deleted> {
        self.faults.point()?;
        let mut world = self.world();
        match world.objects.get(&object.id) {
            None => return Ok(Deleted::Absent),
            Some(Thing { record, .. }) => {
                if let Some(why) = record.foreign_to(selector) {
                    bail!("{} {why}", object.id);
                }
            }
        }
        if world.stuck.as_ref() == Some(&object.id) {
            bail!("{} does not go away", object.id);
        }
        world.objects.remove(&object.id);
        drop(world);
        self.faults.point()?;
        Ok(Deleted::Removed)
    }
}
