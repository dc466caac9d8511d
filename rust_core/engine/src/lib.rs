//! A model of one TensorRT-LLM engine under a clock that its caller owns.
