//! What the control plane hands over, as JSON: settings, replicas, placing, admission, health.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weighbridge_fuzz::settings;

fuzz_target!(|data: &[u8]| {
    if let Some((selector, json)) = data.split_first() {
        settings::run(*selector, json);
    }
});
