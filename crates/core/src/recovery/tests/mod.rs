//! Plans over small archives made by hand, and over random ones.

mod borders;
mod cases;
mod proof;
pub(crate) mod world;
