//! Events of the ring buffer.

/// An event of this layout, or nothing; in the terms of a flow record.
pub fn run(bytes: &[u8]) {
    let read = mesh_kernel::fuzzing::event(bytes);
    if let Some(drop) = &read {
        assert!(bytes.len() >= 72, "shorter than an event");
        assert!(drop.workload.is_none_or(|workload| workload.0 != 0));
        assert!(!format!("{drop:?}").is_empty());
        assert!(!drop.reason.label().is_empty());
    }
    // A longer one is of a later build, which only appends.
    if let Some(whole) = bytes.get(..72) {
        assert_eq!(mesh_kernel::fuzzing::event(whole).is_some(), read.is_some());
    }
}
