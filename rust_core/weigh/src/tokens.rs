//! Prompt tokens of a request, estimated from the bytes around each byte.

use serde::{Deserialize, Serialize};

use crate::families;
use crate::features::Features;

/// A family of tokenizers, whose weights are fitted (see `docs/weighing.md`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// The mean of the others, where the tokenizer is none of them.
    #[default]
    Default,
    /// Llama 3 and its kin.
    Llama3,
    /// Qwen 2 to 3.
    Qwen,
    /// `o200k`: gpt-oss and later OpenAI models.
    O200k,
    /// Mistral's Tekken.
    Tekken,
}

impl Family {
    /// All families.
    pub const ALL: [Self; 5] = [
        Self::Default,
        Self::Llama3,
        Self::Qwen,
        Self::O200k,
        Self::Tekken,
    ];

    /// Tokens that a tokenizer of this family makes of text with these features.
    #[must_use]
    pub fn tokens(self, features: &Features) -> f64 {
        match self {
            Self::Llama3 => features.tokens(0),
            Self::Qwen => features.tokens(1),
            Self::O200k => features.tokens(2),
            Self::Tekken => features.tokens(3),
            Self::Default => {
                let sum: f64 = (0..families::COUNT).map(|at| features.tokens(at)).sum();
                sum / families::COUNT as f64
            }
        }
    }
}

/// What a model's chat template adds to the text, and how it writes the definitions of tools.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Template {
    /// Tokens added to each request.
    pub(crate) per_request: f64,
    /// Tokens added to each message.
    pub(crate) per_message: f64,
    /// Tokens added to a request with tools.
    pub(crate) with_tools: f64,
    /// Factor on definitions of tools, which are read as compact JSON with spaces.
    pub(crate) tools_scale: f64,
}

impl Family {
    /// The template of the family's best known models, counted by hand on its text.
    pub(crate) fn template(self) -> Template {
        let (per_request, per_message, with_tools, tools_scale) = match self {
            Self::Default => (8.0, 5.0, 50.0, 1.0),
            // Llama 3.1: a system header with dates always; tools as JSON indented by four.
            Self::Llama3 => (26.0, 5.0, 56.0, 1.16),
            // Qwen 3: `<|im_start|>role`; tools as JSON in `<tools>`.
            Self::Qwen => (3.0, 5.0, 90.0, 1.0),
            // gpt-oss: a system message always; tools as TypeScript.
            Self::O200k => (63.0, 4.0, 34.0, 0.75),
            // Mistral: `[INST]`, `[AVAILABLE_TOOLS]`.
            Self::Tekken => (1.0, 3.0, 2.0, 1.0),
        };
        Template {
            per_request,
            per_message,
            with_tools,
            tools_scale,
        }
    }
}

/// Tokens of a prompt, by part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct PromptTokens {
    /// System prompt.
    pub system: f64,
    /// User messages.
    pub user: f64,
    /// Assistant messages.
    pub assistant: f64,
    /// Results of tools.
    pub tool: f64,
    /// Definitions of tools.
    pub tools: f64,
    /// Prompt of a completion or an embedding.
    pub prompt: f64,
    /// Token ids given as such.
    pub explicit: f64,
    /// Images, videos and documents.
    pub images: f64,
    /// Audio.
    pub audio: f64,
    /// What the chat template adds.
    pub template: f64,
    /// What was not seen of a truncated body.
    pub missing: f64,
    /// Image tiles to be encoded.
    pub image_tiles: u64,
}

impl PromptTokens {
    /// All parts together, rounded.
    #[must_use]
    pub fn total(&self) -> u64 {
        let total =
            self.text() + self.explicit + self.images + self.audio + self.template + self.missing;
        total.round() as u64
    }

    /// The parts that are estimated from text.
    #[must_use]
    pub fn text(&self) -> f64 {
        self.system + self.user + self.assistant + self.tool + self.tools + self.prompt
    }
}
