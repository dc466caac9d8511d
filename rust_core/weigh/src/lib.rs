//! Reads an inference request and weighs it: model, tokens, images, prefix chain, cost vector in MU.
//!
//! [`read`] makes one pass over a request's JSON and returns a [`Reading`]; a [`Profile`] turns the
//! reading into [`PromptTokens`] and, given how many of them a replica has cached and how many the
//! answer will have, into a [`CostVector`]. Everything here is a pure function of its arguments.

#![deny(clippy::indexing_slicing)]

mod audio;
mod base64;
mod chain;
mod check;
mod correction;
mod cost;
pub mod decode;
mod endpoint;
mod error;
pub mod exact;
mod families;
mod features;
mod image;
mod limits;
mod media;
mod profile;
mod read;
mod reading;
mod tokens;

pub use chain::{BLOCK_BYTES, Block, Held, PrefixChain, SectionBlocks};
pub use correction::Correction;
pub use cost::{CostCoefficients, CostVector, Work};
pub use endpoint::Endpoint;
pub use error::ReadError;
pub use features::Features;
pub use image::{Detail, Image, Media};
pub use limits::Limits;
pub use media::{AudioRules, ImageRule, ImageRules};
pub use profile::{
    Defaults, EngineSettings, Hardware, Latency, Profile, ProfileError, Source, TokenRules,
};
pub use read::{read, read_exact};
pub use reading::{Body, Lora, Part, Reading, SessionHints, Texts};
pub use tokens::{Family, PromptTokens};
