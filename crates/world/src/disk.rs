//! The disk as the store sees it: files that are appended to, synced, renamed and removed.
//!
//! The real implementation is a thin layer over `std::fs`; the faulty one, for tests, loses and reorders what was not
//! synced, as a machine that loses power does.

/// (Owned by the store's author; see `store/DESIGN.md`.)
pub trait Disk: Send + Sync + 'static {}
