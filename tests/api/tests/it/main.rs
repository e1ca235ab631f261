//! Behaviour of the API server, each test with an in-memory server of its own.

mod access;
mod bad_input;
mod budgets;
mod deletion;
mod election;
mod floors;
mod objects;
mod transports;
mod watch;
