//! What a bake is made from, checked before anything is touched.
