//! The fold over the inbox.
