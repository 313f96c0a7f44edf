//! `walden verify` on real archives: a good one has no finding at any level, and every kind of damage is found at its
//! level, by its name, with what it costs.

mod archive;
mod damage;
mod forge;
mod good;
mod interrupted;
mod stores;
