//! The live core before modelled engines, under a virtual clock.
