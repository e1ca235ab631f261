//! (to come)
/// Runs an internal role (a Pod's shim) if this process was started as one, and returns its exit code.
///
/// Must be the first thing in `main`, before any thread is made.
#[must_use]
pub fn entry() -> Option<i32> {
    None
}
