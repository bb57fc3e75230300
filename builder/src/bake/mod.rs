//! The bake: `inputs -> os -> node -> pack -> smoke`.
