//! The rows that texts are counted by: a JSON string a line in, the rows of one text a block out.
//!
//! A block is the number of rows and then the rows, in four bytes each behind four bytes for the
//! number, the lowest byte first. `fit/fit.py` runs it, so that weights are fitted to exactly what
//! the core counts.

use std::io::{self, BufRead as _, BufWriter, Write as _};

use weighbridge_weigh::Features;

fn main() -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    for line in io::stdin().lock().lines() {
        let text: String = serde_json::from_str(&line?)?;
        let rows = Features::rows(text.as_bytes());
        out.write_all(&(rows.len() as u32).to_le_bytes())?;
        for row in rows {
            out.write_all(&row.to_le_bytes())?;
        }
    }
    out.flush()
}
