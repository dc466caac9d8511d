//! Places a weighed request: replicas, ledger, prefix index, keys and the choice among replicas.
//!
//! Pure: no I/O, no clock and no global randomness. Time and seeds are arguments, so a history can
//! be replayed exactly by the simulator and the property tests.
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

pub mod address;
pub mod assigner;
pub mod choice;
mod choice_settings;
pub mod choose;
pub mod forecast;
pub mod heat;
pub mod key;
pub mod ledger;
pub mod mu;
pub mod prefix;
mod prospect;
pub mod published;
pub mod registry;
pub mod replica;
mod ring;
pub mod slices;
pub mod warm_up;
pub mod warmth;

pub use address::canonical_endpoint;
pub use choice::{Ask, Candidate, Decision, NoReplica, Reason, Role, Verdict};
pub use choice_settings::ChoiceSettings;
pub use choose::choose;
pub use forecast::{Forecast, Newcomer, Objectives, StepTimes};
pub use heat::{Heat, Placed};
pub use key::Key;
pub use ledger::{Amount, Charge, Claim, Load, Recent, Totals};
pub use mu::MicroMu;
pub use prefix::{Matches, PrefixIndex, ReplicaCache};
pub use prospect::{Limits, Outlook, Prospect};
pub use published::Published;
pub use registry::{CurrentPool, IndexLimits, Registry};
pub use replica::{ModelPool, Pool, Replica, ReplicaId, ReplicaSpec, State};
pub use slices::{Assignment, Slice, SliceSpec, Slices};
pub use warm_up::WarmUp;
