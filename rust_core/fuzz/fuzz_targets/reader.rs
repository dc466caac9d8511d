//! Any bytes as a request body, whole or cut off, of any endpoint.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use weighbridge_fuzz::{check_reading, endpoint};
use weighbridge_weigh::{Body, Limits, read};

fuzz_target!(|data: &[u8]| -> Corpus {
    let Some((selector, bytes)) = data.split_first() else {
        return Corpus::Reject;
    };
    let body = match selector >> 6 {
        0 | 1 => Body::whole(bytes),
        2 => Body::beginning(bytes, None),
        _ => Body::beginning(bytes, Some(bytes.len() as u64 * 3 + 17)),
    };
    if let Ok(reading) = read(endpoint(*selector), body, &Limits::default()) {
        check_reading(&reading, bytes.len());
    }
    Corpus::Keep
});
