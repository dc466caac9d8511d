//! The native transport: a tonic ext_proc server that drives the state machine.
