//! Integration tests, one binary.

mod store_conformance;
