//! The per-request state machine: ext_proc messages in, replies out, no I/O.
