//! Writes a trace in Weighbridge's own format.

use std::collections::HashMap;
use std::io::{self, Write};

use crate::format::own::{Line, Said, content_name};
use crate::trace::{Message, MessageId, Trace};

/// Writes every request as a line; reading them gives the same trace.
///
/// # Errors
/// The writer fails.
pub fn save(trace: &Trace, mut out: impl Write) -> io::Result<()> {
    let mut last: HashMap<u32, MessageId> = HashMap::new();
    for request in trace.requests() {
        let before = last.insert(request.session, request.prompt);
        let path = trace.path(request.prompt);
        let known = path.iter().position(|id| Some(*id) == before);
        let added = path.get(known.map_or(0, |at| at + 1)..).unwrap_or_default();
        #[allow(clippy::cast_precision_loss)]
        let at_s = request.at_us as f64 / 1e6;
        let line = Line {
            at_s,
            session: trace.session(request.session).to_owned(),
            tenant: trace.tenant(request.tenant).to_owned(),
            output_tokens: request.output_tokens,
            max_tokens: Some(request.max_tokens),
            kind: request.kind,
            messages: added
                .iter()
                .filter_map(|id| trace.message(*id))
                .map(|message| said(trace, message))
                .collect(),
        };
        serde_json::to_writer(&mut out, &line)?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

fn said(trace: &Trace, message: &Message) -> Said {
    let pieces = trace.pieces(message).iter();
    Said {
        role: message.role.as_str().to_owned(),
        content: None,
        tokens: None,
        pieces: Some(
            pieces
                .map(|piece| (content_name(piece.content), piece.offset, piece.tokens))
                .collect(),
        ),
        image: message
            .image
            .map(|image| (content_name(image.content), image.width, image.height)),
    }
}
