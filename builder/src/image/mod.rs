//! What an image *is*: its version name, its manifest, the keys its stages are
//! cached under, its bill of materials and its signature.

pub mod key;
pub mod manifest;
pub mod sbom;
pub mod sign;
pub mod signature;
pub mod size;
pub mod verify;
pub mod version;

pub use key::Digest;
pub use manifest::Manifest;
pub use size::Size;
pub use version::VersionName;
