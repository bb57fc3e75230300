//! The only Kiln program that runs on a node.
//!
//! | module | what it holds |
//! |---|---|
//! | [`cli`] | the command line |
//! | [`install`] | putting agent, units and k3s onto a root filesystem, and sealing it |
//! | [`run`] | the way from a first boot to a ready node |
//! | [`seed`] | where a ticket and first settings are found |
//! | `identity`, `bond` | the node's key; its ratchet and what it knows of its coordinator |
//! | `client`, `retry` | requests to the coordinator, waits |
//! | `hardening` | no core dumps |
//! | `apply`, `applied` | making the host what the configuration says, and what was made so |
//! | [`host`], `systemd` | what is done to the machine other than writing files |
//! | [`progress`] | telling how far the node is |
//! | [`root`] | a directory taken for `/`, and durable writes in it |
//! | [`decoders`] | what the fuzz targets decode, and nobody else outside |

mod applied;
mod apply;
mod bond;
pub mod cli;
mod client;
mod clock;
pub mod decoders;
mod facts;
mod hardening;
pub mod host;
mod identity;
pub mod install;
mod os_release;
mod process;
pub mod progress;
pub mod retry;
pub mod root;
pub mod run;
pub mod seed;
mod systemd;

#[cfg(test)]
mod testing {
    //! What tests share.

    /// A temporary directory in memory where there is one: tests fsync much.
    pub(crate) fn tempdir() -> std::io::Result<tempfile::TempDir> {
        tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())
    }
}
