//! What becomes of a datastore whose only holder is gone: never decided by
//! anyone but the operator.

use kiln_protocol::{ApiError, ErrorClass, NodeName};

use super::{Cluster, Member, Trust};

impl Cluster {
    /// The lease's holder after the operator gave up the datastore of `node`:
    /// none means its next generation.
    ///
    /// # Errors
    /// When `node` holds no data that others lack, or is still there.
    pub(crate) fn replace(&self, node: &NodeName) -> Result<Option<u32>, ApiError> {
        let refuse = |message: String, hint: &str| Err(ApiError::new(ErrorClass::Policy, message).hint(hint));
        if *node != self.lease.node {
            return refuse(
                format!("{node} did not start the cluster's datastore, {} did", self.lease.node),
                "mint a new ticket for it and make the machine anew: it joins the others by itself",
            );
        }
        if let Some(other) = self.members.iter().find(|member| member.node != *node && member.is_up()) {
            return refuse(
                format!("server {} is ready and has the data too", other.node),
                "mint a new ticket and make the machine anew: it joins the others by itself. Revoke those \
                 that are lost",
            );
        }
        let generations = || self.members.iter().filter(|member| member.node == *node);
        let mut started = generations().filter(|old| old.passed.is_some());
        if let Some((old, seconds)) = started.find_map(|old| Some((old, old.heard?))) {
            let word = match old.trust {
                Trust::Gone => format!("coordinator member-gone {node}"),
                _ => format!("coordinator revoke {node}, then coordinator member-gone {node}"),
            };
            return refuse(
                format!("the machine of {node} spoke {seconds} s ago"),
                &format!(
                    "delete the machine first: two of them would each have a datastore; if it was deleted, and \
                     somebody else has its key: {word}"
                ),
            );
        }
        let waiting = |member: &&Member| member.trust != Trust::Gone && member.passed.is_none();
        Ok(generations().filter(waiting).map(|member| member.generation).max())
    }
}
