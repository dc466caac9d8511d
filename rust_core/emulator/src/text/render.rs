//! Requests to token sequences: a simple chat template, tools first, then the messages.

use crate::text::openai::{ChatRequest, Part, Prompt};
use crate::text::picture;
use crate::text::reply::END_OF_TURN;
use crate::text::sequence::Sequence;
use crate::text::tokenizer::{token_id, tokenize};

const BEGIN: u32 = 0xFFFF_FF00;
const ROLE: u32 = 0xFFFF_FF01;
const IMAGE: u32 = 0xFFFF_FF03;

/// What an image stands for in a prompt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ImageTokens {
    /// Tokens of one tile.
    pub(crate) per_tile: u32,
}

/// A rendered prompt.
#[derive(Debug)]
pub(crate) struct Rendered {
    pub(crate) sequence: Sequence,
    pub(crate) image_tiles: u32,
}

/// Renders a chat up to the point where the assistant answers.
pub(crate) fn chat(
    request: &ChatRequest<'_>,
    images: ImageTokens,
    tokens_per_block: u32,
) -> Result<Rendered, serde_json::Error> {
    let mut sequence = Sequence::new(tokens_per_block);
    let mut image_tiles = 0;
    sequence.push(BEGIN);
    if let Some(tools) = request.tools.filter(|tools| tools.get() != "null") {
        head(&mut sequence, "tools");
        tokenize(tools.get(), |id| sequence.push(id));
        sequence.push(END_OF_TURN);
    }
    for message in &request.messages {
        head(&mut sequence, &message.role);
        for part in message.parts()? {
            match part {
                Part::Text(text) => tokenize(&text, |id| sequence.push(id)),
                Part::Image(url) => image_tiles += image(&mut sequence, &url, images),
            }
        }
        if let Some(calls) = message.tool_calls.filter(|calls| calls.get() != "null") {
            tokenize(calls.get(), |id| sequence.push(id));
        }
        sequence.push(END_OF_TURN);
    }
    head(&mut sequence, "assistant");
    Ok(Rendered {
        sequence,
        image_tiles,
    })
}

/// A completion's prompt, as it is.
pub(crate) fn prompt(prompt: &Prompt<'_>, tokens_per_block: u32) -> Rendered {
    let mut sequence = Sequence::new(tokens_per_block);
    match prompt {
        Prompt::Text(text) => {
            sequence.push(BEGIN);
            tokenize(text, |id| sequence.push(id));
        }
        Prompt::Tokens(tokens) => tokens.iter().for_each(|id| sequence.push(*id)),
    }
    Rendered {
        sequence,
        image_tiles: 0,
    }
}

fn head(sequence: &mut Sequence, role: &str) {
    sequence.push(ROLE);
    sequence.push(token_id(role));
}

/// An image's tokens follow from its URL, so that the same image is the same prefix.
fn image(sequence: &mut Sequence, url: &str, images: ImageTokens) -> u32 {
    let tiles = picture::tiles(url);
    let content = token_id(url);
    for at in 0..tiles * images.per_tile {
        sequence.push(IMAGE ^ content.rotate_left(at % 31));
    }
    tiles
}

#[cfg(test)]
mod tests {
    use super::{ImageTokens, chat};
    use crate::text::openai::ChatRequest;

    fn tokens(body: &str) -> Vec<u32> {
        let request: ChatRequest<'_> = serde_json::from_str(body).unwrap();
        let images = ImageTokens { per_tile: 16 };
        chat(&request, images, 32)
            .unwrap()
            .sequence
            .tokens()
            .to_vec()
    }

    #[test]
    fn a_longer_conversation_begins_with_the_shorter_one() {
        let first = tokens(r#"{"messages":[{"role":"user","content":"How heavy?"}]}"#);
        let second = tokens(
            r#"{"messages":[{"role":"user","content":"How heavy?"},
                {"role":"assistant","content":"Very."},{"role":"user","content":"And now?"}]}"#,
        );
        assert!(second.starts_with(&first));
    }

    #[test]
    fn tools_and_images_are_part_of_the_prefix() {
        let plain = tokens(r#"{"messages":[{"role":"user","content":"x"}]}"#);
        let tools = tokens(r#"{"tools":[{"a":1}],"messages":[{"role":"user","content":"x"}]}"#);
        assert_ne!(plain[..4], tools[..4]);
        let image = |url: &str| {
            tokens(&format!(
                r#"{{"messages":[{{"role":"user","content":[
                    {{"type":"image_url","image_url":{{"url":"{url}"}}}}]}}]}}"#
            ))
        };
        assert_eq!(image("a").len(), image("b").len());
        assert_ne!(image("a"), image("b"));
    }
}
