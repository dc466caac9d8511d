//! trtllm-serve's HTTP interface: its routes, and what each answers.

pub(crate) mod embeddings;
pub(crate) mod generate;
pub(crate) mod hints;
pub(crate) mod respond;
pub(crate) mod responses;
pub(crate) mod responses_stream;
pub(crate) mod routes;
pub(crate) mod stream;
