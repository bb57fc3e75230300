//! What `up` knows while it waits, and keeps on the screen and on disk.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use jiff::Timestamp;
use kiln_coordinator::plan::ClusterFile;
use kiln_protocol::admin::{Alarm, ClusterStatus};
use kiln_protocol::{NodeName, Role};

use super::files;
use super::screen::Screen;
use super::view::{MachineView, View};
use crate::provider::Observed;

/// The nodes as they are known now.
#[derive(Debug)]
pub(super) struct Board<'a> {
    nodes: Vec<(NodeName, Role)>,
    machines: BTreeMap<NodeName, MachineView>,
    status: Option<ClusterStatus>,
    saved: PathBuf,
    began: Timestamp,
    pub(super) screen: &'a mut Screen,
}

impl<'a> Board<'a> {
    pub(super) fn new(file: &ClusterFile, saved: PathBuf, screen: &'a mut Screen) -> Self {
        let nodes = file.nodes().iter().map(|node| (node.name.clone(), node.role)).collect();
        let began = Timestamp::now();
        Self { nodes, machines: BTreeMap::new(), status: None, saved, began, screen }
    }

    /// Something is being done to a node, until it is observed again.
    pub(super) fn doing(&mut self, node: &NodeName, what: &'static str) {
        self.machines.entry(node.clone()).or_default().doing = Some(what);
        self.draw();
    }

    /// A node's machine was looked at.
    pub(super) fn observed(&mut self, node: &NodeName, observed: &Observed) {
        let machine = self.machines.entry(node.clone()).or_default();
        machine.doing = None;
        machine.power = Some(observed.power);
        machine.powered_on = observed.powered_on;
    }

    /// The coordinator was asked; kept for `builder status`.
    pub(super) fn status(&mut self, status: ClusterStatus) -> Result<()> {
        let timeless = |status: &ClusterStatus| ClusterStatus { at: Timestamp::UNIX_EPOCH, ..status.clone() };
        if self.status.as_ref().map(timeless).as_ref() != Some(&timeless(&status)) {
            files::write_json(&self.saved, &status)?;
        }
        let known = |alarm: &Alarm| self.status.as_ref().is_some_and(|before| before.alarms.contains(alarm));
        for alarm in status.alarms.iter().rev().filter(|alarm| alarm.at >= self.began && !known(alarm)) {
            self.screen.note(&format!("alarm, node {}: {}", alarm.node, alarm.message));
        }
        self.status = Some(status);
        Ok(())
    }

    /// Brings the screen up to date.
    pub(super) fn draw(&mut self) {
        let nodes = self
            .nodes
            .iter()
            .map(|(name, role)| (name, *role, self.machines.get(name).cloned().unwrap_or_default()));
        let view = View::of(nodes, self.status.as_ref(), Timestamp::now());
        self.screen.show(&view);
    }
}
