//! What an image *is*: its version name, its manifest, the keys its stages are
//! cached under.

pub mod key;
pub mod manifest;
pub mod size;
pub mod version;

pub use key::Digest;
pub use manifest::Manifest;
pub use size::Size;
pub use version::VersionName;
