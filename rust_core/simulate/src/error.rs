//! Why something cannot be simulated.

use weighbridge_engine::ProfileError;
use weighbridge_traces::TraceError;

/// Why something cannot be simulated.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// The trace cannot be used.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// An engine's profile is out of its ranges.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The core refuses its settings.
    #[error("core: {0}")]
    Core(String),
    /// There is no policy of that name.
    #[error("there is no policy '{0}' (there are: {known})", known = crate::policy_names().join(", "))]
    Policy(String),
    /// An event cannot be read.
    #[error("event '{text}': {reason}")]
    Event {
        /// The event as written.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A setting is out of its range.
    #[error("{0}")]
    Setting(String),
}
