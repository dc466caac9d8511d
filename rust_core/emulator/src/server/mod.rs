//! Ports and connections, which faults take down and bring up.

pub(crate) mod connection;
pub(crate) mod control;
