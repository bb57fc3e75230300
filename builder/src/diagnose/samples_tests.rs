//! Recorded logs.
