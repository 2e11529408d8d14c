//! The embedded store.
pub mod columns;
pub mod encoding;
pub mod wire;
