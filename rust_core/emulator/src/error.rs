//! Why an emulator cannot start or obey.

use std::net::SocketAddr;

use thiserror::Error;
use weighbridge_engine::ProfileError;

/// Why an emulator cannot start or obey.
#[derive(Debug, Error)]
pub enum Error {
    /// A configured value is out of its range.
    #[error("emulator: {0}")]
    Config(String),
    /// A profile cannot be run.
    #[error("emulator: replica {replica}: {source}")]
    Profile {
        /// The replica's number, from 0.
        replica: usize,
        /// What is wrong with it.
        source: ProfileError,
    },
    /// A port is not to be had.
    #[error("emulator: cannot listen on {address} (port {}): {source}", address.port())]
    Port {
        /// The address asked for.
        address: SocketAddr,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The system refuses a thread or a runtime.
    #[error("emulator: cannot start: {0}")]
    System(#[from] std::io::Error),
    /// There is no such replica.
    #[error("emulator: there is no replica {0}")]
    NoReplica(String),
    /// The emulator has been stopped.
    #[error("emulator: stopped")]
    Stopped,
}
