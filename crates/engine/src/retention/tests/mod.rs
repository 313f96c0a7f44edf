//! Runs over stores in memory.
