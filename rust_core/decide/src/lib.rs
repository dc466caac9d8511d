//! One decision from weighing to placing, and its settlement when the request ends.
