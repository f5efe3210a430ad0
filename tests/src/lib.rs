//! What whole-program tests share.
//!
//! **Runs on: any.**
