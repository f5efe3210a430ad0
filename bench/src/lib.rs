//! Load tools and what they share.
//!
//! **Runs on: any.**
