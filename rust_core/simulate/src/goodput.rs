//! Goodput: the highest rate at which nearly all requests are well served, found by search.

use serde::{Deserialize, Serialize};

/// How a goodput is searched for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Search {
    /// Where to begin, requests a second.
    pub start_rps: f64,
    /// Upper and lower end are brought so near to each other, as a share.
    pub precision: f64,
    /// Most rates that are tried.
    pub most_runs: usize,
}

impl Default for Search {
    fn default() -> Self {
        Self {
            start_rps: 1.0,
            precision: 0.03,
            most_runs: 16,
        }
    }
}

/// What a search found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Found {
    /// The highest rate that was well served, requests a second; 0 where none was.
    pub rps: f64,
    /// The lowest rate above it that was not, if one was tried.
    pub above_rps: Option<f64>,
    /// Every rate that was tried, and whether it was well served.
    pub tried: Vec<(f64, bool)>,
}

/// The factor by which a rate grows, or shrinks, until one end of the bracket is known.
const STRIDE: f64 = 1.3;

/// Searches for the highest rate at which `serve` answers true, taking it that every lower one does
/// too.
///
/// # Errors
/// Those of `serve`.
pub fn search<E>(
    settings: &Search,
    mut serve: impl FnMut(f64) -> Result<bool, E>,
) -> Result<Found, E> {
    let mut tried = Vec::new();
    let (mut low, mut high): (Option<f64>, Option<f64>) = (None, None);
    let mut rate = settings.start_rps;
    while tried.len() < settings.most_runs {
        let served = serve(rate)?;
        tried.push((rate, served));
        if served {
            low = Some(rate);
        } else {
            high = Some(rate);
        }
        rate = match (low, high) {
            (Some(low), Some(high)) if high <= low * (1.0 + settings.precision) => break,
            // Halfway in proportion, since the ends are told apart in proportion.
            (Some(low), Some(high)) => (low * high).sqrt(),
            (Some(low), None) => low * STRIDE,
            (None, Some(high)) => high / STRIDE,
            (None, None) => rate,
        };
    }
    Ok(Found {
        rps: low.unwrap_or(0.0),
        above_rps: high,
        tried,
    })
}

#[cfg(test)]
mod tests {
    use super::{Search, search};
    use proptest::prelude::*;
    use std::convert::Infallible;

    fn find(limit: f64, start_rps: f64) -> super::Found {
        let settings = Search {
            start_rps,
            most_runs: 60,
            ..Search::default()
        };
        let served = |rate| Ok::<_, Infallible>(rate <= limit);
        search(&settings, served).unwrap_or_else(|never| match never {})
    }

    proptest! {
        #[test]
        fn the_limit_is_between_the_ends(limit in 0.1..1000.0f64, start in 0.1..1000.0f64) {
            let found = find(limit, start);
            let above = found.above_rps.unwrap();
            prop_assert!(found.rps <= limit && limit < above, "{found:?}");
            prop_assert!(above <= found.rps * 1.03001, "{found:?}");
        }
    }

    #[test]
    fn a_good_guess_takes_few_runs() {
        assert!(find(100.0, 90.0).tried.len() <= 7);
    }

    #[test]
    fn where_nothing_is_served_the_search_ends() {
        let settings = Search::default();
        let found = search(&settings, |_| Ok::<_, Infallible>(false));
        let found = found.unwrap_or_else(|never| match never {});
        assert_eq!((found.rps, found.tried.len()), (0.0, 16));
    }
}
