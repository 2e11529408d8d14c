//! Space: sparse tiles of running statistics.
