//! Messages and input items: role, content, tool calls.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::canonical::CanonicalSeed;
use super::content::ContentSeed;
use super::conversation::{Conversation, Kind, Role, Turn};
use super::visit::{KeySeed, Str, skip, string};

/// `messages`, or a list of input items.
pub(super) struct MessagesSeed<'a> {
    pub(super) conversation: &'a mut Conversation,
    /// Whether a lone string may stand for one user message.
    pub(super) or_text: bool,
}

impl<'de> DeserializeSeed<'de> for MessagesSeed<'_> {
    type Value = bool;

    /// Whether there was anything but null.
    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<bool, D::Error> {
        self.conversation.clear();
        json.deserialize_option(self)
    }
}

impl MessagesSeed<'_> {
    fn lone<'de, E: Error>(self, text: Str<'de, '_>) -> Result<bool, E> {
        if !self.or_text {
            return Err(E::custom("a string, expected a list of messages"));
        }
        let mut turn = Turn::new(self.conversation);
        turn.set_role(Role::User);
        turn.text(self.conversation, Kind::Text, text);
        turn.end(self.conversation);
        Ok(true)
    }
}

impl<'de> Visitor<'de> for MessagesSeed<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of messages")
    }

    fn visit_none<E: Error>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_some<D: Deserializer<'de>>(self, json: D) -> Result<bool, D::Error> {
        json.deserialize_bytes(self)
    }

    fn visit_borrowed_bytes<E: Error>(self, text: &'de [u8]) -> Result<bool, E> {
        self.lone(Str::Body(text))
    }

    fn visit_bytes<E: Error>(self, text: &[u8]) -> Result<bool, E> {
        self.lone(Str::Decoded(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<bool, A::Error> {
        while seq
            .next_element_seed(MessageSeed(&mut *self.conversation))?
            .is_some()
        {
            self.conversation.step()?;
        }
        Ok(true)
    }
}

/// Keys of a message or an input item.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Key {
    Role,
    Type,
    Content,
    ToolCalls,
    FunctionCall,
    Name,
    Arguments,
    Output,
    Summary,
    Reasoning,
    Text,
    Tools,
    Other,
}

fn key(name: &[u8]) -> Key {
    match name {
        b"role" => Key::Role,
        b"type" => Key::Type,
        b"content" => Key::Content,
        b"tool_calls" => Key::ToolCalls,
        b"function_call" => Key::FunctionCall,
        b"name" => Key::Name,
        b"arguments" | b"input" => Key::Arguments,
        b"output" => Key::Output,
        b"summary" => Key::Summary,
        b"reasoning" | b"reasoning_content" => Key::Reasoning,
        b"refusal" | b"text" => Key::Text,
        b"tools" => Key::Tools,
        _ => Key::Other,
    }
}

/// The role that an input item's type implies.
fn role_of_type(name: &[u8]) -> Option<Role> {
    match name {
        b"message" => None,
        b"function_call" | b"custom_tool_call" | b"reasoning" => Some(Role::Assistant),
        _ if name.ends_with(b"_output") => Some(Role::Tool),
        _ if name.ends_with(b"_call") => Some(Role::Assistant),
        _ => None,
    }
}

struct MessageSeed<'a>(&'a mut Conversation);

impl<'de> DeserializeSeed<'de> for MessageSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MessageSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut turn = Turn::new(self.0);
        let outcome = entries(&mut map, self.0, &mut turn);
        turn.end(self.0);
        outcome
    }
}

fn entries<'de, A: MapAccess<'de>>(
    map: &mut A,
    conversation: &mut Conversation,
    turn: &mut Turn<'de>,
) -> Result<(), A::Error> {
    let mut had_content = false;
    while let Some(key) = map.next_key_seed(KeySeed(key))? {
        conversation.step()?;
        match key {
            Key::Role => {
                if let Some(role) = map.next_value_seed(string(|name| Role::named(name.bytes())))? {
                    turn.set_role(role);
                }
            }
            Key::Type => {
                let role = map.next_value_seed(string(|name| role_of_type(name.bytes())))?;
                if let Some(role) = role.flatten() {
                    turn.imply_role(role);
                }
            }
            Key::Content => {
                turn.begin_content(conversation, had_content);
                had_content = true;
                let content = ContentSeed {
                    conversation,
                    turn,
                    kind: Kind::Text,
                };
                map.next_value_seed(content)?;
                turn.end_content();
            }
            Key::Output | Key::Text => {
                map.next_value_seed(ContentSeed {
                    conversation,
                    turn,
                    kind: Kind::Text,
                })?;
            }
            Key::Summary | Key::Reasoning => {
                map.next_value_seed(ContentSeed {
                    conversation,
                    turn,
                    kind: Kind::Reasoning,
                })?;
            }
            Key::Name => {
                map.next_value_seed(string(|name| turn.text(conversation, Kind::Name, name)))?;
            }
            Key::Arguments | Key::Tools => {
                map.next_value_seed(ArgumentsSeed { conversation, turn })?
            }
            Key::ToolCalls => map.next_value_seed(CallsSeed { conversation, turn })?,
            Key::FunctionCall => map.next_value_seed(CallSeed { conversation, turn })?,
            Key::Other => skip(map)?,
        }
    }
    Ok(())
}

/// Arguments of a tool call: JSON in a string, or any JSON value.
pub(super) struct ArgumentsSeed<'a, 'de> {
    pub(super) conversation: &'a mut Conversation,
    pub(super) turn: &'a mut Turn<'de>,
}

impl<'de> DeserializeSeed<'de> for ArgumentsSeed<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> ArgumentsSeed<'_, 'de> {
    fn walk<E>(self, walk: impl FnOnce(CanonicalSeed<'_>) -> Result<(), E>) -> Result<(), E> {
        let mut text = std::mem::take(&mut self.conversation.scratch);
        text.clear();
        let outcome = walk(CanonicalSeed(&mut text));
        self.turn
            .text(self.conversation, Kind::Arguments, Str::Decoded(&text));
        self.conversation.scratch = text;
        outcome
    }
}

impl<'de> Visitor<'de> for ArgumentsSeed<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("arguments of a tool call")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<(), E> {
        self.turn.text(
            self.conversation,
            Kind::Arguments,
            Str::Body(text.as_bytes()),
        );
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.turn.text(
            self.conversation,
            Kind::Arguments,
            Str::Decoded(text.as_bytes()),
        );
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.walk(|canonical| canonical.visit_bool(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.walk(|canonical| canonical.visit_u64(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.walk(|canonical| canonical.visit_i64(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.walk(|canonical| canonical.visit_f64(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<(), A::Error> {
        self.walk(|canonical| canonical.visit_seq(seq))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        self.walk(|canonical| canonical.visit_map(map))
    }
}

/// `tool_calls`: a list of calls, or null.
struct CallsSeed<'a, 'de> {
    conversation: &'a mut Conversation,
    turn: &'a mut Turn<'de>,
}

impl<'de> DeserializeSeed<'de> for CallsSeed<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for CallsSeed<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of tool calls")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Self { conversation, turn } = self;
        loop {
            let call = CallSeed {
                conversation: &mut *conversation,
                turn: &mut *turn,
            };
            if seq.next_element_seed(call)?.is_none() {
                return Ok(());
            }
            conversation.step()?;
        }
    }
}

/// One tool call: `{"function": {"name", "arguments"}}`, or the inner object itself, or null.
struct CallSeed<'a, 'de> {
    conversation: &'a mut Conversation,
    turn: &'a mut Turn<'de>,
}

impl<'de> DeserializeSeed<'de> for CallSeed<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

#[derive(Clone, Copy)]
enum CallKey {
    Function,
    Name,
    Arguments,
    Other,
}

fn call_key(name: &[u8]) -> CallKey {
    match name {
        b"function" | b"custom" => CallKey::Function,
        b"name" => CallKey::Name,
        b"arguments" | b"input" => CallKey::Arguments,
        _ => CallKey::Other,
    }
}

impl<'de> Visitor<'de> for CallSeed<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a tool call")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { conversation, turn } = self;
        while let Some(key) = map.next_key_seed(KeySeed(call_key))? {
            conversation.step()?;
            match key {
                CallKey::Function => {
                    let call = CallSeed {
                        conversation: &mut *conversation,
                        turn: &mut *turn,
                    };
                    map.next_value_seed(call)?;
                }
                CallKey::Name => {
                    map.next_value_seed(string(|name| turn.text(conversation, Kind::Name, name)))?;
                }
                CallKey::Arguments => {
                    let seed = ArgumentsSeed {
                        conversation: &mut *conversation,
                        turn: &mut *turn,
                    };
                    map.next_value_seed(seed)?;
                }
                CallKey::Other => skip(&mut map)?,
            }
        }
        Ok(())
    }
}
