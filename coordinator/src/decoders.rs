//! What the coordinator decodes inside, for the fuzz targets of the workspace.

use anyhow::Result;

use crate::{backup, k3s};

/// The hash of a CA bundle, as it stands in a join token.
///
/// # Errors
/// It is no bundle of certificates.
pub fn ca_hash(bundle: &str) -> Result<String> {
    k3s::ca_hash(bundle)
}

/// A backup around any database, so that what is in it is looked at.
pub fn backup_of(database: &[u8]) -> Vec<u8> {
    backup::frame(database)
}
