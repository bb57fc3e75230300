//! What counts, what does not, and what explains what.
