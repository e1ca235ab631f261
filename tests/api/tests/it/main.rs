//! Behaviour of the API server, each test with an in-memory server of its own.

mod access;
mod admission;
mod apply;
mod bad_input;
mod budgets;
mod certificates;
mod deletion;
mod documents;
mod election;
mod escalation;
mod floors;
mod hostile;
mod kinds;
mod metrics;
mod objects;
mod pod_parts;
mod protobuf;
mod proxy;
mod transports;
mod watch;
mod writers;
