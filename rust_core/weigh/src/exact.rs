//! Counting a prompt's tokens with its model's own tokenizer, for those who want it exact.
//!
//! Estimating takes about 0.2 µs for a kilobyte, a tokenizer some hundred: it is the operator's
//! choice, model by model. Any tokenizer will do that counts; with the feature `exact`,
//! [`HuggingFace`] reads a local `tokenizer.json`.

use crate::reading::Part;

/// A tokenizer, as far as weighing needs it.
pub trait TokenCounter: std::fmt::Debug + Send + Sync {
    /// Number of tokens of `text`, without special tokens around it.
    fn count(&self, text: &str) -> u64;
}

/// Tokens of a request's text, by part, as a tokenizer counted them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExactTokens {
    /// See [`Part::System`].
    pub system: u64,
    /// See [`Part::User`].
    pub user: u64,
    /// See [`Part::Assistant`].
    pub assistant: u64,
    /// See [`Part::Tool`].
    pub tool: u64,
    /// See [`Part::Tools`].
    pub tools: u64,
    /// See [`Part::Prompt`].
    pub prompt: u64,
}

impl ExactTokens {
    /// The tokens of one part.
    #[must_use]
    pub fn get(&self, part: Part) -> u64 {
        match part {
            Part::System => self.system,
            Part::User => self.user,
            Part::Assistant => self.assistant,
            Part::Tool => self.tool,
            Part::Tools => self.tools,
            Part::Prompt => self.prompt,
        }
    }

    pub(crate) fn add(&mut self, part: Part, tokens: u64) {
        let of = match part {
            Part::System => &mut self.system,
            Part::User => &mut self.user,
            Part::Assistant => &mut self.assistant,
            Part::Tool => &mut self.tool,
            Part::Tools => &mut self.tools,
            Part::Prompt => &mut self.prompt,
        };
        *of = of.saturating_add(tokens);
    }
}

/// Counts bytes that should be UTF-8; what is not counts as replacement characters.
pub(crate) fn count(counter: Option<&dyn TokenCounter>, text: &[u8]) -> u64 {
    counter.map_or(0, |counter| counter.count(&String::from_utf8_lossy(text)))
}

#[cfg(feature = "exact")]
pub use hugging_face::{HuggingFace, TokenizerError};

#[cfg(feature = "exact")]
mod hugging_face {
    use std::path::Path;

    use thiserror::Error;
    use tokenizers::Tokenizer;

    use super::TokenCounter;

    /// Why a tokenizer could not be loaded.
    #[derive(Debug, Error)]
    #[error("tokenizer {path}: {reason}")]
    pub struct TokenizerError {
        /// The file.
        pub path: String,
        /// What is wrong with it.
        pub reason: String,
    }

    /// A Hugging Face tokenizer, from a local `tokenizer.json`.
    #[derive(Debug)]
    pub struct HuggingFace(Box<Tokenizer>);

    impl HuggingFace {
        /// Loads a `tokenizer.json`; this takes up to some seconds.
        ///
        /// # Errors
        /// When the file cannot be read or is no tokenizer.
        pub fn from_file(path: &Path) -> Result<Self, TokenizerError> {
            match Tokenizer::from_file(path) {
                Ok(tokenizer) => Ok(Self(Box::new(tokenizer))),
                Err(error) => Err(TokenizerError {
                    path: path.display().to_string(),
                    reason: error.to_string(),
                }),
            }
        }
    }

    impl TokenCounter for HuggingFace {
        fn count(&self, text: &str) -> u64 {
            // A text that the tokenizer refuses weighs as much as one token for each byte.
            self.0
                .encode_fast(text, false)
                .map_or(text.len() as u64, |encoding| encoding.len() as u64)
        }
    }
}
