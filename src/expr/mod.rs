//! Configured expressions, compiled once, evaluated a column at a time.
