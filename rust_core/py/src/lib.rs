//! The Python edge: `weighbridge._core`. Structured values cross it as JSON text.

#![deny(clippy::indexing_slicing)]

mod asked;
mod bench;
mod core;
mod emulator;
mod server;
mod simulate;
mod stream;

use pyo3::prelude::*;

pyo3::create_exception!(
    _core,
    CoreError,
    pyo3::exceptions::PyException,
    "The core refused a configuration or could not start something; the message is one line."
);

/// An error of the core as Python sees it.
fn refused(error: impl std::fmt::Display) -> PyErr {
    CoreError::new_err(error.to_string())
}

/// A value as JSON text.
fn json(value: &impl serde::Serialize) -> PyResult<String> {
    serde_json::to_string(value).map_err(refused)
}

/// The Rust core of Weighbridge.
#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add(
        "EXT_PROC_DESCRIPTORS",
        weighbridge_server::EXT_PROC_DESCRIPTORS,
    )?;
    module.add("CoreError", module.py().get_type::<CoreError>())?;
    module.add_function(wrap_pyfunction!(asked::read_asked, module)?)?;
    module.add_function(wrap_pyfunction!(bench::bench_decision, module)?)?;
    module.add_function(wrap_pyfunction!(bench::bench_fill, module)?)?;
    module.add_function(wrap_pyfunction!(bench::bench_body, module)?)?;
    module.add_class::<bench::FilledCore>()?;
    module.add_class::<core::Core>()?;
    module.add_class::<server::NativeServer>()?;
    module.add_class::<stream::Stream>()?;
    module.add_class::<emulator::Emulator>()?;
    module.add_class::<simulate::Trace>()?;
    module.add_class::<simulate::Replay>()?;
    module.add_class::<simulate::Progress>()?;
    module.add_class::<simulate::Simulation>()?;
    module.add_function(wrap_pyfunction!(simulate::policies, module)?)?;
    module.add_function(wrap_pyfunction!(simulate::engines, module)?)?;
    module.add_function(wrap_pyfunction!(simulate::workloads, module)?)?;
    module.add_function(wrap_pyfunction!(simulate::generator_defaults, module)?)?;
    Ok(())
}
