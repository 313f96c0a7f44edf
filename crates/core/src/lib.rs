//! The domain of Walden: pure data and pure decisions. No I/O; the clock is an argument.
