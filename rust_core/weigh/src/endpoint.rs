//! The inference endpoints whose bodies can be weighed.

/// An inference endpoint, known by the last part of its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `/v1/chat/completions`
    ChatCompletions,
    /// `/v1/completions`
    Completions,
    /// `/v1/responses`
    Responses,
    /// `/v1/embeddings`
    Embeddings,
    /// `/v1/messages` (Anthropic's form)
    Messages,
}

impl Endpoint {
    /// The endpoint that a request path names, or `None` for any other path.
    ///
    /// The query string and one trailing slash are ignored. Whatever stands before `/v1/` is
    /// tolerated (`/tenants/a/v1/messages`), since gateways often mount the API below a prefix;
    /// what stands after must match whole, so `/v1/responses/resp_1` and
    /// `/v1/messages/count_tokens` are none of ours.
    #[must_use]
    pub fn from_path(path: &str) -> Option<Self> {
        let path = path.split(['?', '#']).next().unwrap_or_default();
        let path = path.strip_suffix('/').unwrap_or(path);
        let (_, tail) = path.rsplit_once("/v1/")?;
        match tail {
            "chat/completions" => Some(Self::ChatCompletions),
            "completions" => Some(Self::Completions),
            "responses" => Some(Self::Responses),
            "embeddings" => Some(Self::Embeddings),
            "messages" => Some(Self::Messages),
            _ => None,
        }
    }

    /// The path under which the endpoint is served, without a prefix.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::ChatCompletions => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Responses => "/v1/responses",
            Self::Embeddings => "/v1/embeddings",
            Self::Messages => "/v1/messages",
        }
    }

    /// The body key that carries the prompt, without which a body cannot be weighed.
    #[must_use]
    pub fn prompt_key(self) -> &'static str {
        match self {
            Self::ChatCompletions | Self::Messages => "messages",
            Self::Completions => "prompt",
            Self::Responses | Self::Embeddings => "input",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_known_with_prefix_query_and_slash() {
        for endpoint in [
            Endpoint::ChatCompletions,
            Endpoint::Completions,
            Endpoint::Responses,
            Endpoint::Embeddings,
            Endpoint::Messages,
        ] {
            let path = endpoint.path();
            assert_eq!(Endpoint::from_path(path), Some(endpoint));
            assert_eq!(Endpoint::from_path(&format!("{path}/")), Some(endpoint));
            assert_eq!(
                Endpoint::from_path(&format!("{path}?a=/v1/x")),
                Some(endpoint)
            );
            assert_eq!(
                Endpoint::from_path(&format!("/team/a{path}?x")),
                Some(endpoint)
            );
        }
    }

    #[test]
    fn other_paths_are_none_of_ours() {
        for path in [
            "",
            "/",
            "/v1/",
            "/v1/models",
            "/v1/responses/resp_1",
            "/v1/messages/count_tokens",
            "/v1/chat/completions/x",
            "/chat/completions",
            "v1/completions",
            "/x?/v1/completions",
        ] {
            assert_eq!(Endpoint::from_path(path), None, "{path}");
        }
    }
}
