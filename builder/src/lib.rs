//! Bakes golden images and brings clusters up from them.
//!
//! | module | what it holds |
//! |---|---|
//! | [`cache`] | what the cache holds, and getting rid of it |
//! | [`cli`] | the command line: one file per subcommand |
//! | [`image`] | what an image *is*: version name, manifest, content keys |
//! | [`inputs`] | what a bake is made from, checked before anything is touched |
//! | [`bake`] | the stages `inputs -> os -> node -> pack -> smoke`, in order |
//! | [`cluster`] | bringing a cluster up and down |
//! | [`provider`] | where nodes live |
//! | [`machine`] | a machine to install on or to run: QEMU |
//! | [`diagnose`] | what a bake's logs, marks and machine events say about why it failed |
//! | [`preflight`] | what this host has and lacks, with the remedy |
//! | [`progress`] | what is being done, for people and as JSON lines |
//! | [`failure`] | how a run fails: exit codes, and what a bake's logs say |
//! | [`run`] | run records, so that nothing a run made is ever lost |

pub mod bake;
pub mod cache;
pub mod cli;
pub mod cluster;
pub mod diagnose;
pub mod failure;
pub mod image;
pub mod inputs;
pub mod inspect;
pub mod machine;
pub mod preflight;
pub mod progress;
pub mod provider;
pub mod run;
