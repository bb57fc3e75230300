//! The bake: `inputs -> os -> node -> pack -> smoke`.

pub mod kickstart;
pub mod lock;
