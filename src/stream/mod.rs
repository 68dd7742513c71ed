//! The engine: plan, run and commit one micro-batch after another.
