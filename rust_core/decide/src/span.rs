//! Decisions as spans of traces that began elsewhere, for whoever exports them.

use crate::log::Record;
use serde::{Serialize, Serializer};
use std::sync::Arc;

/// Whose child a span is: a W3C `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TraceParent {
    /// The trace.
    #[serde(serialize_with = "hex32")]
    pub trace_id: u128,
    /// The span above.
    #[serde(serialize_with = "hex16")]
    pub span_id: u64,
    /// Whoever began the trace wants to see it.
    pub is_sampled: bool,
}

impl TraceParent {
    /// Reads the header's text; `None` where it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split('-');
        let version = hex(fields.next()?, 2)?;
        let trace_id = hex(fields.next()?, 32)?;
        let span_id = u64::try_from(hex(fields.next()?, 16)?).ok()?;
        let flags = hex(fields.next()?, 2)?;
        // Later versions may say more behind what this one knows; 255 is none.
        let is_known = version != 0xff && (version != 0 || fields.next().is_none());
        (is_known && trace_id != 0 && span_id != 0).then_some(Self {
            trace_id,
            span_id,
            is_sampled: flags & 1 == 1,
        })
    }
}

/// Lower-case hexadecimal of exactly so many digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_hex = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (text.len() == digits && text.bytes().all(is_hex))
        .then(|| u128::from_str_radix(text, 16).ok())
        .flatten()
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde wants a reference
fn hex32<S: Serializer>(id: &u128, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&format!("{id:032x}"))
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde wants a reference
fn hex16<S: Serializer>(id: &u64, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&format!("{id:016x}"))
}

/// One decision as a span. It holds no prompt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Span {
    /// The span above.
    pub parent: TraceParent,
    /// `x-request-id`.
    pub request_id: String,
    /// The path under which it came, without a prefix.
    pub endpoint: &'static str,
    /// When the request was there to be weighed, µs on the core's clock.
    pub started_us: u64,
    /// When its answer was known, µs on the core's clock.
    pub ended_us: u64,
    /// Of that, waited for admission, µs.
    pub waited_us: u64,
    /// What was decided.
    pub outcome: SpanOutcome,
}

fn inner<S: Serializer>(record: &Arc<Record>, to: S) -> Result<S::Ok, S::Error> {
    record.as_ref().serialize(to)
}

/// How a decision ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SpanOutcome {
    /// A replica was chosen.
    Placed(#[serde(serialize_with = "inner")] Arc<Record>),
    /// The request was refused.
    Refused {
        /// HTTP status.
        status: u16,
        /// The error's code.
        code: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::TraceParent;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_is_read() {
        let parent = TraceParent::parse(GOOD).unwrap();
        assert_eq!(parent.trace_id, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!(parent.span_id, 0x00f0_67aa_0ba9_02b7);
        assert!(parent.is_sampled);
        let json = serde_json::to_value(parent).unwrap();
        assert_eq!(json["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(json["span_id"], "00f067aa0ba902b7");
    }

    #[test]
    fn the_flag_of_sampling_is_one_bit() {
        let with = |flags: &str| TraceParent::parse(&GOOD.replace("-01", flags)).unwrap();
        assert!(!with("-00").is_sampled);
        assert!(!with("-02").is_sampled);
        assert!(with("-03").is_sampled);
    }

    #[test]
    fn a_later_version_may_say_more() {
        let later = GOOD.replacen("00", "cc", 1) + "-what-will-come";
        assert!(TraceParent::parse(&later).unwrap().is_sampled);
        assert_eq!(TraceParent::parse(&format!("{GOOD}-more")), None);
    }

    #[test]
    fn what_is_none_is_not_taken_for_one() {
        let zeros = "0".repeat(32);
        for bad in [
            String::new(),
            "00".to_owned(),
            GOOD.replacen("00", "ff", 1),
            GOOD.to_uppercase(),
            GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &zeros),
            GOOD.replace("00f067aa0ba902b7", "0000000000000000"),
            GOOD.replace("4bf9", "+bf9"),
            GOOD.replace("4bf9", "éb"),
            GOOD.replace('-', "_"),
            GOOD[..54].to_owned(),
            format!(" {GOOD}"),
        ] {
            assert_eq!(TraceParent::parse(&bad), None, "{bad}");
        }
    }
}
