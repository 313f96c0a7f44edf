//! Carrying out a recovery plan.
