//! Dates as traces write them: `2023-11-16 18:15:46.6805900`, `2026-11-25T07:33:55.123Z`.

/// µs since 1970 of a date in UTC; `None` if it is none.
pub(crate) fn micros(text: &str) -> Option<i64> {
    let text = text.trim().trim_end_matches('Z');
    let (date, time) = text.split_once(['T', ' '])?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let time = time.split_once('+').map_or(time, |(time, _)| time);
    let mut time = time.splitn(3, ':');
    let hour: i64 = time.next()?.parse().ok()?;
    let minute: i64 = time.next()?.parse().ok()?;
    let (second, fraction) = time.next().map_or(Some((0, 0)), seconds)?;
    let in_range = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second);
    let seconds = ((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second;
    in_range.then_some(seconds * 1_000_000 + fraction)
}

/// Whole seconds and the µs beyond.
fn seconds(text: &str) -> Option<(i64, i64)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits = fraction.bytes().chain(std::iter::repeat(b'0')).take(6);
    let micros = digits.fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
    Some((whole.parse().ok()?, micros))
}

/// Days from 1970-01-01, in the Gregorian calendar; the year is counted from March.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::micros;

    #[test]
    fn dates_become_microseconds() {
        assert_eq!(micros("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(
            micros("2023-11-16 18:15:46.6805900"),
            Some(1_700_158_546_680_590)
        );
        assert_eq!(
            micros("2024-02-29T12:00:00.5+00:00"),
            Some(1_709_208_000_500_000)
        );
    }

    #[test]
    fn what_is_no_date_is_none() {
        for text in [
            "",
            "12",
            "2023-13-01 00:00:00",
            "2023-01-01 25:00:00",
            "2023-01-01 00:00:0x",
        ] {
            assert_eq!(micros(text), None, "{text}");
        }
    }
}
