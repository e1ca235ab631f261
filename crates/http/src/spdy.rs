//! SPDY/3.1 as Kubernetes' streaming sub-protocols use it.
