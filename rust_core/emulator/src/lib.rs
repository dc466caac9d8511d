//! Emulated replicas: trtllm-serve's HTTP interface in front of the engine model.
