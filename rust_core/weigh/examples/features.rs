//! Counts the byte classes of texts: a JSON string a line in, a JSON list of counts a line out.
//!
//! The first line out names the classes. `fit/fit.py` runs it, so that coefficients are fitted to
//! exactly what the core counts.

use std::io::{self, BufRead as _, Write as _};

use weighbridge_weigh::Features;

fn main() -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(Features::NAMES)?)?;
    for line in io::stdin().lock().lines() {
        let text: String = serde_json::from_str(&line?)?;
        let counts = Features::of(text.as_bytes()).counts();
        writeln!(out, "{}", serde_json::to_string(&counts[..])?)?;
    }
    Ok(())
}
