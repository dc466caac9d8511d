//! Prints one row: `decision BODY_BYTES REPLICAS INDEX_BLOCKS [SECONDS]`; for profilers.
#![allow(clippy::print_stdout)]

use std::time::Duration;
use weighbridge_bench::{Case, Scene, measure};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<usize>());
    let mut number = |or: usize| numbers.next().unwrap_or(Ok(or));
    let case = Case {
        body_bytes: number(4096)?,
        replicas: number(1000)?,
        index_blocks: number(1_000_000)?,
    };
    let budget = Duration::from_secs(number(3)? as u64);
    let mut scene = Scene::set(&weighbridge_bench::profile(), case)?;
    println!(
        "{}",
        serde_json::to_string(&measure(&mut scene, case, budget)?)?
    );
    Ok(())
}
