//! Any bytes as inline image, audio or document of a chat: its header is read.
#![no_main]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use libfuzzer_sys::{Corpus, fuzz_target};
use weighbridge_fuzz::{check_reading, endpoint};
use weighbridge_weigh::{Body, Limits, read};

const KINDS: [&str; 6] = ["png", "jpeg", "webp", "gif", "bmp", "x-unknown"];

fuzz_target!(|data: &[u8]| -> Corpus {
    let Some((selector, bytes)) = data.split_first() else {
        return Corpus::Reject;
    };
    let kind = KINDS[usize::from(selector >> 5) % KINDS.len()];
    let mut inline = STANDARD.encode(bytes);
    if selector & 4 != 0 {
        inline.pop(); // base64 cut off
    }
    let part = match selector % 4 {
        0 => format!(
            r#"{{"type":"image_url","image_url":{{"url":"data:image/{kind};base64,{inline}"}}}}"#
        ),
        1 => format!(
            r#"{{"type":"image","source":{{"type":"base64","media_type":"image/{kind}","data":"{inline}"}}}}"#
        ),
        2 => format!(
            r#"{{"type":"input_audio","input_audio":{{"data":"{inline}","format":"wav"}}}}"#
        ),
        _ => format!(r#"{{"type":"input_image","image_url":"data:image/{kind};base64,{inline}"}}"#),
    };
    let field = if selector % 4 == 3 { "input" } else { "messages" };
    let whole = format!(r#"{{"model":"m","{field}":[{{"role":"user","content":[{part}]}}]}}"#);
    let chosen = match selector % 4 {
        1 => endpoint(4),
        3 => endpoint(2),
        _ => endpoint(0),
    };
    let reading = read(chosen, Body::whole(whole.as_bytes()), &Limits::default());
    check_reading(&reading.expect("the JSON is sound"), whole.len());
    let cut = whole.as_bytes().get(..whole.len() - 20).unwrap_or_default();
    let body = Body::beginning(cut, Some(10 * whole.len() as u64));
    if let Ok(reading) = read(chosen, body, &Limits::default()) {
        check_reading(&reading, whole.len());
    }
    Corpus::Keep
});
