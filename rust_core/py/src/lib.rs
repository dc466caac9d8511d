//! The Python edge: weighbridge._core.
