//! End-to-end tests with real containers and kubectl; see `tests/`.
