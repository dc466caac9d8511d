//! The engines of all replicas, and the thread that drives them.

pub(crate) mod driver;
pub(crate) mod lane;
