pub mod rbac_bootstrap;
