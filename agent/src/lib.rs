//! The only Kiln program that runs on a node.
//!
//! | module | what it holds |
//! |---|---|
//! | [`cli`] | the command line |
//! | [`install`] | putting agent, units and k3s onto a root filesystem, and sealing it |
//! | [`root`] | a directory taken for `/`, and durable writes in it |

pub mod cli;
pub mod install;
mod os_release;
mod process;
pub mod root;

#[cfg(test)]
mod testing {
    //! What tests share.

    /// A temporary directory in memory where there is one: tests fsync much.
    pub(crate) fn tempdir() -> std::io::Result<tempfile::TempDir> {
        tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())
    }
}
