//! Whatever a machine writes, and however it is cut.
