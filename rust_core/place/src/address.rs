//! One spelling of `ip:port`, by which endpoints are found.

use std::borrow::Cow;
use std::net::SocketAddr;

/// The endpoint as RFC 5952 and Envoy write it, such as `[::1]:80` for `[0:0::1]:80`; what is no
/// `ip:port` stays as it is.
#[must_use]
pub fn canonical_endpoint(text: &str) -> Cow<'_, str> {
    // IPv4 has one spelling only.
    if !text.starts_with('[') {
        return Cow::Borrowed(text);
    }
    match text.parse::<SocketAddr>() {
        Ok(address) => Cow::Owned(address.to_string()),
        Err(_) => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::canonical_endpoint;

    #[test]
    fn an_ipv6_address_has_one_spelling() {
        for (text, wanted) in [
            ("[::1]:8000", "[::1]:8000"),
            ("[0:0::1]:8000", "[::1]:8000"),
            ("[0:0:0:0:0:0:0:1]:8000", "[::1]:8000"),
            ("[2001:DB8::A]:80", "[2001:db8::a]:80"),
            ("[2001:db8:0:0:1:0:0:1]:80", "[2001:db8::1:0:0:1]:80"),
            ("[::ffff:a00:1]:80", "[::ffff:10.0.0.1]:80"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("[fe80::1%eth0]:80", "[fe80::1%eth0]:80"),
            ("[::1", "[::1"),
            ("", ""),
        ] {
            assert_eq!(canonical_endpoint(text), wanted);
        }
    }
}
