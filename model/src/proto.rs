//! The generated messages of `proto/heddle/v1`; `tests/` has the generator, and a check that they are fresh.
#![allow(missing_docs, clippy::all, clippy::pedantic)]

include!("gen/heddle.v1.rs");
