//! The body of a reply, decoded: server-sent events or one JSON text.

use super::scan::Scan;
use super::{Reply, Usage};

/// What a stream's last event says.
const DONE: &[u8] = b"[DONE]";
const FIELD: &[u8] = b"data:";

/// Where the bytes stand in a stream of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// At the start of a line, of which so many bytes are as in `data:`.
    Start(usize),
    /// In the value of a `data` field.
    Data,
    /// In another field or a comment.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Not known yet: an object is one JSON text, all else is events.
    Unknown,
    Json,
    Events,
}

/// Takes a decoded body in any pieces. Its memory does not grow.
#[derive(Clone, Debug)]
pub(crate) struct Parser {
    form: Form,
    line: Line,
    /// The last byte was a carriage return, so that a line feed now ends no further line.
    after_return: bool,
    scan: Scan,
    /// How much of `[DONE]` the event's data have been so far; `None` once they are something else.
    done: Option<usize>,
    reply: Reply,
    numbers: super::Numbers,
    pub(crate) now_us: u64,
}

impl Parser {
    /// A parser for a body of this content type.
    pub(crate) fn new(content_type: Option<&str>) -> Self {
        let kind = content_type
            .and_then(|value| value.split(';').next())
            .unwrap_or_default()
            .trim();
        let form = if kind.eq_ignore_ascii_case("text/event-stream") {
            Form::Events
        } else if kind.eq_ignore_ascii_case("application/json") {
            Form::Json
        } else {
            Form::Unknown
        };
        Self {
            form,
            line: Line::Start(0),
            after_return: false,
            scan: Scan::default(),
            done: Some(0),
            reply: Reply::default(),
            numbers: super::Numbers::default(),
            now_us: 0,
        }
    }

    /// Takes the next bytes.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.reply.body_bytes = self.reply.body_bytes.saturating_add(bytes.len() as u64);
        let mut bytes = bytes;
        if self.form == Form::Unknown {
            bytes = bytes.trim_ascii_start();
            self.form = match bytes.first() {
                None => return,
                Some(b'{') => Form::Json,
                Some(_) => Form::Events,
            };
        }
        match self.form {
            Form::Events => self.events(bytes),
            Form::Json | Form::Unknown => {
                let before = self.scan.text_bytes;
                self.scan.feed(bytes);
                if self.scan.text_bytes > before {
                    self.output_seen();
                }
            }
        }
    }

    /// What was seen so far; at the end of the body, all of it.
    pub(crate) fn reply(&self) -> Reply {
        let mut last = self.clone();
        match last.form {
            Form::Events => last.end_event(),
            Form::Json | Form::Unknown => {
                last.numbers.merge(&last.scan.numbers);
                last.reply.response = last.scan.response;
                last.reply.text_bytes = last.scan.text_bytes;
                last.reply.is_error = last.scan.is_error;
                last.reply.is_whole = last.scan.complete;
            }
        }
        Reply {
            usage: Usage::of(&last.numbers),
            ..last.reply
        }
    }

    /// Output tokens of a stream so far, as its events and text suggest; 0 of what is no stream.
    pub(crate) fn streamed_tokens(&self) -> u64 {
        match self.form {
            Form::Events => self.reply.seen_tokens(),
            Form::Json | Form::Unknown => 0,
        }
    }

    /// Whether output has been seen. What is no stream comes when all of it is there.
    pub(crate) fn has_output(&self) -> bool {
        self.reply.output_from_us.is_some() || self.form == Form::Json && self.reply.body_bytes > 0
    }

    fn output_seen(&mut self) {
        let now = Some(self.now_us);
        self.reply.output_from_us = self.reply.output_from_us.or(now);
        self.reply.output_until_us = now;
    }

    fn events(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.after_return {
                self.after_return = false;
                if *first == b'\n' {
                    bytes = rest;
                    continue;
                }
            }
            match self.line {
                Line::Start(matched) => {
                    bytes = rest;
                    if is_end(*first) {
                        if matched == 0 {
                            self.end_event();
                        }
                        self.end_line(*first);
                    } else if FIELD.get(matched) == Some(first) {
                        let all = matched + 1 == FIELD.len();
                        self.line = if all {
                            Line::Data
                        } else {
                            Line::Start(matched + 1)
                        };
                    } else {
                        self.line = Line::Other;
                    }
                }
                Line::Data | Line::Other => {
                    let end = memchr::memchr2(b'\n', b'\r', bytes);
                    let (value, rest) = bytes
                        .split_at_checked(end.unwrap_or(bytes.len()))
                        .unwrap_or((bytes, &[]));
                    if self.line == Line::Data {
                        self.data(value);
                    }
                    bytes = rest;
                    if let Some((end, rest)) = rest.split_first() {
                        bytes = rest;
                        if self.line == Line::Data && self.scan.complete {
                            // Some servers leave out the empty line.
                            self.end_event();
                        }
                        self.end_line(*end);
                    }
                }
            }
        }
    }

    fn end_line(&mut self, end: u8) {
        self.line = Line::Start(0);
        self.after_return = end == b'\r';
    }

    fn data(&mut self, value: &[u8]) {
        if let Some(matched) = self.done {
            let value = if matched == 0 {
                value.trim_ascii_start()
            } else {
                value
            };
            let wanted = DONE.get(matched..).unwrap_or_default();
            let seen = value.len().min(wanted.len());
            self.done = (wanted.get(..seen) == value.get(..seen)).then_some(matched + seen);
        }
        self.scan.feed(value);
    }

    fn end_event(&mut self) {
        let scan = std::mem::take(&mut self.scan);
        let done = self.done.replace(0);
        if done == Some(DONE.len()) {
            self.reply.is_whole = true;
            return;
        }
        if !scan.begun {
            return;
        }
        self.numbers.merge(&scan.numbers);
        self.reply.response = self.reply.response.or(scan.response);
        self.reply.is_error |= scan.is_error;
        self.reply.is_whole |= scan.is_last;
        // Typed events repeat at the end what came in pieces before.
        if scan.text_bytes > 0 && (scan.is_delta || !scan.is_typed) {
            self.reply.output_events += 1;
            self.reply.text_bytes = self.reply.text_bytes.saturating_add(scan.text_bytes);
            self.output_seen();
        }
    }
}

fn is_end(byte: u8) -> bool {
    byte == b'\n' || byte == b'\r'
}
