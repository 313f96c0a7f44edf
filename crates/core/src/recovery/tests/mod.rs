//! Plans over small archives made by hand, and over random ones.

mod cases;
mod proof;
mod world;
