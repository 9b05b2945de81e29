//! The text of a configuration file.

use std::path::Path;

use mesh_control::evaluate;

/// Objects or mistakes; the same each time; and what was applied before changes nothing about what is a mistake.
pub fn run(text: &[u8]) {
    let file = Path::new("warren.yaml");
    let first = evaluate(file, text, Some("a"), None);
    let report = first.report.to_string();
    let again = evaluate(file, text, Some("a"), first.objects.as_ref());
    assert_eq!(again.report.to_string(), report);
    assert_eq!(again.objects.is_some(), first.objects.is_some());
    assert!(
        first.objects.is_some() || first.report.errors() > 0,
        "rejected, without a reason"
    );
}
