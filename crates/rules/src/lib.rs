//! What several parts must agree on about Pods and owners: the scheduler, the kubelet, controllers, quota, printing.
//!
//! Everything works on the JSON of an object or a part of it; absent fields mean what upstream's defaults mean.

pub mod affinity;
pub mod owners;
pub mod quota;
pub mod resources;
pub mod tolerations;

pub use affinity::{node_affinity_matches, node_matches_pod, node_selector_matches};
pub use owners::{controller_of, is_controlled_by, owner_reference};
pub use resources::{Resources, limits, qos_class, requests};
pub use tolerations::{Effect, tolerates, tolerates_all, untolerated};
