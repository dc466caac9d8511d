//! Reads an inference request and weighs it: model, tokens, images, prefix chain, cost vector in MU.
