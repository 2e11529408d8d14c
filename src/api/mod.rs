//! HTTP, server-sent events and metrics.
