//! Retention against real servers: what was promised is restored, what was said to be lost is refused.

mod postgres;
mod scale;
