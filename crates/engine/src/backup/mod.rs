//! Taking base backups.
