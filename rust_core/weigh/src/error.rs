//! Why a body could not be read, in terms fit for the client.

use thiserror::Error;

/// A body that cannot be weighed; always the client's doing, so it is answered with 400.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReadError {
    /// The body is not JSON.
    #[error("The request body is not valid JSON: {reason} (line {line}, column {column}).")]
    InvalidJson {
        /// What the parser found.
        reason: String,
        /// Line of the fault, from 1.
        line: usize,
        /// Column of the fault in bytes, from 1.
        column: usize,
    },
    /// The body is JSON, but no object.
    #[error("The request body must be a JSON object.")]
    NotAnObject,
    /// Values are nested deeper than any real request's.
    #[error("The request body nests values too deeply.")]
    TooDeep,
    /// A parameter is required and absent.
    #[error("Missing required parameter: '{param}'.")]
    Missing {
        /// The parameter.
        param: &'static str,
    },
    /// A parameter has a wrong type.
    #[error("Invalid type for '{param}': {reason}.")]
    WrongType {
        /// The parameter.
        param: &'static str,
        /// What was found and what was expected.
        reason: String,
    },
    /// A parameter's type is right and its value is not.
    #[error("Invalid value for '{param}': {reason}.")]
    InvalidValue {
        /// The parameter.
        param: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl ReadError {
    /// A stable word for the fault, as OpenAI's `error.code`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidJson { .. } => "invalid_json",
            Self::NotAnObject => "invalid_body",
            Self::TooDeep => "too_deep",
            Self::Missing { .. } => "missing_required_parameter",
            Self::WrongType { .. } => "invalid_type",
            Self::InvalidValue { .. } => "invalid_value",
        }
    }

    /// The parameter at fault, as OpenAI's `error.param`.
    #[must_use]
    pub fn param(&self) -> Option<&'static str> {
        match self {
            Self::Missing { param }
            | Self::WrongType { param, .. }
            | Self::InvalidValue { param, .. } => Some(param),
            Self::InvalidJson { .. } | Self::NotAnObject | Self::TooDeep => None,
        }
    }
}
