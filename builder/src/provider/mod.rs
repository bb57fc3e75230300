//! Where nodes live: one shape for every provider.
//!
//! | method | what it does |
//! |---|---|
//! | [`Provider::caps`] | what the provider can do |
//! | [`Provider::preflight`] | everything that would fail later, before anything is touched |
//! | [`Provider::list`] | what exists and is ours, read from the objects themselves |
//! | [`Provider::ensure_image`] | the image is where nodes can be made of it |
//! | [`Provider::ensure_net`] | the cluster's network exists |
//! | [`Provider::ensure_node`] | the node exists: made or adopted, by (cluster, node) |
//! | [`Provider::power`] | it is on, off, or starts again |
//! | [`Provider::observe`] | whether it runs, and what its console says |
//! | [`Provider::console_key`] | which key its console shows |
//! | [`Provider::delete`] | it is gone; gone already is success |
//!
//! The rules that hold for all of them:
//!
//! * Every object carries an ownership [`Record`] from before it is whole.
//!   Only what carries our record is adopted or deleted, and the record is
//!   read again from the object itself at that moment.
//! * `ensure_*` are idempotent. An object of another specification is
//!   reported as drift and left as it is.
//! * A crash at any point leaves what the same call finishes, or
//!   [`Provider::delete`] removes.
//!
//! QEMU on this machine is the one provider yet. Proxmox and Hetzner will be
//! two more variants of [`Provider`].

pub mod qemu;
mod record;
mod types;

#[cfg(test)]
pub(crate) mod fake;

use anyhow::Result;
use kiln_protocol::Fingerprint;

pub use record::{Owner, Record, Selector, Subject};
pub use types::{
    Caps, Deleted, Drift, Ensured, Finding, ImageRef, Listing, LocalImage, NetRef, NodeFirmware, NodeRef,
    NodeSpec, Object, Observed, Power, PowerState, SeedWish, Severity, SpecHash,
};

/// A place where nodes live. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub enum Provider {
    /// Virtual machines of QEMU on this machine.
    Qemu(qemu::Qemu),
    /// In memory, with switchable faults.
    #[cfg(test)]
    #[allow(private_interfaces, reason = "the variant exists in tests only")]
    Fake(fake::Fake),
}

/// Calls a method of whichever provider it is.
macro_rules! each {
    ($self:ident, $provider:ident => $call:expr) => {
        match $self {
            Self::Qemu($provider) => $call,
            #[cfg(test)]
            Self::Fake($provider) => $call,
        }
    };
}

impl Provider {
    /// What the provider can do.
    pub fn caps(&self) -> Caps {
        match self {
            Self::Qemu(_) => qemu::Qemu::caps(),
            #[cfg(test)]
            Self::Fake(fake) => fake.caps(),
        }
    }

    /// Everything that would make nodes of these specifications fail later.
    /// Touches nothing.
    pub async fn preflight(&self, nodes: &[NodeSpec]) -> Vec<Finding> {
        each!(self, p => p.preflight(nodes).await)
    }

    /// What exists under the selector, and what stands in its place but is not ours.
    pub async fn list(&self, selector: &Selector) -> Result<Listing> {
        each!(self, p => p.list(selector).await)
    }

    /// Brings an image to where nodes can be made of it; its key is the
    /// digest of its content.
    pub async fn ensure_image(&self, record: &Record, image: &LocalImage) -> Result<ImageRef> {
        each!(self, p => p.ensure_image(record, image).await)
    }

    /// Makes the cluster's network.
    pub async fn ensure_net(&self, record: &Record) -> Result<NetRef> {
        each!(self, p => p.ensure_net(record).await)
    }

    /// Makes the node, or adopts the one that is there. Does not start it.
    pub async fn ensure_node(&self, record: &Record, spec: &NodeSpec, seed: SeedWish) -> Result<Ensured> {
        each!(self, p => p.ensure_node(record, spec, seed).await)
    }

    /// Switches a node on or off, or restarts it; being so already is success.
    pub async fn power(&self, node: &NodeRef, want: Power) -> Result<PowerState> {
        each!(self, p => p.power(node, want).await)
    }

    /// What a node does, seen from outside.
    pub async fn observe(&self, node: &NodeRef) -> Result<Observed> {
        each!(self, p => p.observe(node).await)
    }

    /// The key that a node's serial console has shown since it was last switched
    /// on, where that console can be read.
    pub async fn console_key(&self, node: &NodeRef) -> Result<Option<Fingerprint>> {
        each!(self, p => p.console_key(node).await)
    }

    /// Removes an object, if the record it carries now is the selector's.
    pub async fn delete(&self, selector: &Selector, object: &Object) -> Result<Deleted> {
        each!(self, p => p.delete(selector, object).await)
    }
}
