//! The verbs of Walden against Postgres, disk and store.
