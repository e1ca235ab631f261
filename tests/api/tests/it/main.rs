//! Behaviour of the API server, each test with an in-memory server of its own.

mod access;
mod bad_input;
mod deletion;
mod floors;
mod objects;
mod protobuf;
mod transports;
mod watch;
