//! One object of ours, as the document that `mesh-control` reads and judges: the very same checks, the very same stand-in
//! for a bad policy as in a file on a host. Mistakes come back with the places that they have in the object.

use std::path::Path;

use mesh_control::mistake::{Mistake, Severity};
use mesh_control::objects::Objects;
use serde_json::{Value, json};

/// A document in the making.
#[derive(Debug, Default)]
pub(super) struct Document {
    /// Path in the document, and path in the object.
    places: Vec<(String, String)>,
    /// Mistakes found while it is made: path in the document, what is wrong. What stands there cannot be read either.
    own: Vec<(String, String)>,
}

/// What became of the objects of a document.
#[derive(Debug)]
pub(super) struct Judged {
    /// Those that apply: themselves, or what stands in for them.
    pub(super) objects: Objects,
    /// Mistakes, and what follows from them; `None`: there are none.
    pub(super) rejected: Option<String>,
}

/// The part of the document that stands for what cannot be said in it: nothing that could be read.
pub(super) fn unreadable() -> Value {
    json!({})
}

impl Document {
    /// What is at `path` of the document stands at `place` of the object.
    pub(super) fn place(&mut self, path: impl Into<String>, place: impl Into<String>) {
        self.places.push((path.into(), place.into()));
    }

    /// Notes a mistake at `path` of the document, where [`unreadable`] stands.
    pub(super) fn mistake(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.own.push((path.into(), message.into()));
    }

    /// Judges the document.
    pub(super) fn judge(self, mut document: Value) -> Option<Judged> {
        document["apiVersion"] = "warren.dev/v1alpha1".into();
        let text = document.to_string();
        // The name of the node makes no difference to policies.
        let evaluated =
            mesh_control::evaluate(Path::new("object"), text.as_bytes(), Some("node"), None);
        let report = evaluated.report;
        let mut messages: Vec<String> = Vec::new();
        let own = self
            .own
            .iter()
            .map(|(path, message)| self.said(path, message, None));
        let found = report
            .mistakes
            .iter()
            .filter(|mistake| self.is_of_interest(mistake));
        let found = found.map(|mistake| {
            self.said(
                &mistake.path,
                &mistake.message,
                mistake.suggestion.as_deref(),
            )
        });
        for message in own.chain(found) {
            // Objects that share their rules share the mistakes in them.
            if !messages.contains(&message) {
                messages.push(message);
            }
        }
        let consequences = report
            .rejected
            .into_iter()
            .map(|rejected| rejected.consequence);
        for consequence in consequences {
            if !messages.contains(&consequence) {
                messages.push(consequence);
            }
        }
        Some(Judged {
            objects: evaluated.objects?,
            rejected: (!messages.is_empty()).then(|| messages.join("; ")),
        })
    }

    /// Warnings speak of a file that has everything in it. What is noted already need not be said twice.
    fn is_of_interest(&self, mistake: &Mistake) -> bool {
        mistake.severity == Severity::Error
            && !self
                .own
                .iter()
                .any(|(path, _)| mistake.path.starts_with(path.as_str()))
    }

    fn said(&self, path: &str, message: &str, suggestion: Option<&str>) -> String {
        let place = self.place_of(path);
        match suggestion {
            Some(suggestion) => format!("{place}: {message}; {suggestion}"),
            None => format!("{place}: {message}"),
        }
    }

    fn place_of(&self, path: &str) -> String {
        let nearest = self
            .places
            .iter()
            .filter_map(|(known, place)| Some((place, path.strip_prefix(known.as_str())?)))
            .filter(|(_, rest)| rest.is_empty() || rest.starts_with(['.', '[']))
            .min_by_key(|(_, rest)| rest.len());
        match nearest {
            Some((place, rest)) => format!("{place}{rest}"),
            None => "spec".to_owned(),
        }
    }
}
