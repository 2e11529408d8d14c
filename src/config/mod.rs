//! Text to checked settings.
