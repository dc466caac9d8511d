//! Any bytes as a body with a content-encoding: expanded within bounds, or refused.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use weighbridge_decide::Incoming;
use weighbridge_fuzz::{core, endpoint};
use weighbridge_weigh::Body;

const ENCODINGS: [&str; 7] =
    ["gzip", "deflate", "zstd", "br", "identity", "gzip, br", "x-unknown"];

fuzz_target!(|data: &[u8]| -> Corpus {
    let Some((selector, bytes)) = data.split_first() else {
        return Corpus::Reject;
    };
    let body = if selector & 128 == 0 {
        Body::whole(bytes)
    } else {
        Body::beginning(bytes, Some(bytes.len() as u64 * 2))
    };
    let incoming = Incoming {
        request_id: "r",
        endpoint: endpoint(selector >> 3),
        session: None,
        tenant: None,
        priority: None,
        wanted: weighbridge_decide::Wanted::default(),
        subset: None,
        content_encoding: ENCODINGS.get(usize::from(selector % 7)).copied(),
        parent: None,
        body,
    };
    if let Ok(weighed) = core().weigh(&incoming) {
        assert!(weighed.weighing.reading().text.total().bytes <= 8 * (1 << 20) + 64);
    }
    Corpus::Keep
});
