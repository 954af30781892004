//! The end-to-end comparison: client, gateway and server in namespaces, and four ways between them.

pub mod gateway;
pub mod load;
pub mod pin;
pub mod quiet;
pub mod report;
pub mod run;
pub mod sample;
pub mod topology;
