//! What is being done, for people and as JSON lines.
