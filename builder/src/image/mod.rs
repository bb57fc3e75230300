//! What an image *is*: its version name, its manifest, the keys its stages are
//! cached under.
