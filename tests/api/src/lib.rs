//! Behaviour of the API server through its handler; see `tests/`.
