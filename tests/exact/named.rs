//! Seeds whose histories have shown a difference once.
