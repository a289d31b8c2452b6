//! An embeddable data plane for container firewalls.

pub use portcullis_classifier as classifier;
pub use portcullis_dataplane as dataplane;
pub use portcullis_identity_table as identity_table;
pub use portcullis_policy as policy;
