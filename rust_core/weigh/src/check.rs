//! Checks of a profile's values, each naming the key it is about.

use crate::profile::ProfileError;

/// A fault of a key.
pub(crate) fn fault(key: &str, reason: impl Into<String>) -> Result<(), ProfileError> {
    Err(ProfileError {
        key: key.to_owned(),
        reason: reason.into(),
    })
}

/// A name that is not blank.
pub(crate) fn named(key: &str, value: &str) -> Result<(), ProfileError> {
    if value.trim().is_empty() {
        return fault(key, "must not be empty");
    }
    Ok(())
}

/// A finite number above 0.
pub(crate) fn positive(key: &str, value: f64) -> Result<(), ProfileError> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    fault(key, format!("must be a number above 0, is {value}"))
}

/// A finite number that is not below 0.
pub(crate) fn not_negative(key: &str, value: f64) -> Result<(), ProfileError> {
    if value.is_finite() && value >= 0.0 {
        return Ok(());
    }
    fault(key, format!("must be a number of at least 0, is {value}"))
}

/// A count of at least 1.
pub(crate) fn counts(key: &str, value: u64) -> Result<(), ProfileError> {
    if value == 0 {
        return fault(key, "must be at least 1");
    }
    Ok(())
}
