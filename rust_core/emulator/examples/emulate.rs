//! Runs an emulator from a JSON configuration given as the first argument, until killed.

use std::thread::park;

use weighbridge_emulator::{Emulator, EmulatorConfig};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let text = std::env::args().nth(1).unwrap_or_else(|| "{}".to_owned());
    let config: EmulatorConfig = serde_json::from_str(&text)?;
    let emulator = Emulator::start(config)?;
    for address in emulator.addresses() {
        println!("http://{address}");
    }
    if let Some(address) = emulator.control_address() {
        println!("control http://{address}");
    }
    loop {
        park();
    }
}
