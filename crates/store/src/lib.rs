//! Verified object I/O.
