//! Rows and results to the outside.
