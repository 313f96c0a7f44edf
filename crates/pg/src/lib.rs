//! PostgreSQL names and on-disk formats, over byte slices: no I/O, never panics on any bytes.
