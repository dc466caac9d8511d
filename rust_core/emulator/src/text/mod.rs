//! Requests' forms, their text as tokens, and the text of replies.

pub(crate) mod openai;
pub(crate) mod picture;
pub(crate) mod render;
pub(crate) mod reply;
pub(crate) mod sequence;
pub(crate) mod tokenizer;
