//! An image's name, as people write it and as engines store it.

use std::fmt;
use std::str::FromStr;

/// `[REGISTRY/]NAME[:TAG]`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Reference {
    name: String,
    tag: String,
}

impl Reference {
    /// The tag.
    pub(super) fn tag(&self) -> &str {
        &self.tag
    }

    /// With everything that engines add to a short name: without it the kubelet would not find what it asks for.
    pub(super) fn full(&self) -> String {
        let Self { name, tag } = self;
        let registry = name.split_once('/').map(|(first, _)| first);
        match registry {
            Some(first) if first.contains(['.', ':']) || first == "localhost" => {
                format!("{name}:{tag}")
            }
            Some(_) => format!("docker.io/{name}:{tag}"),
            None => format!("docker.io/library/{name}:{tag}"),
        }
    }
}

impl FromStr for Reference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A colon before the last slash belongs to the registry's port.
        let start_of_last = text.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match text[start_of_last..].split_once(':') {
            Some((last, tag)) => (&text[..start_of_last + last.len()], tag),
            None => (text, "latest"),
        };
        let fits = |part: &str, more: &str| {
            !part.is_empty()
                && part
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || more.contains(c))
        };
        if !fits(name, "._-/:") || name.starts_with('/') || name.ends_with('/') {
            return Err(format!(
                "{text:?} is no image name; write it as in registry.example/warren:1.2"
            ));
        }
        if !fits(&tag.to_ascii_lowercase(), "._-") {
            return Err(format!("{tag:?} is no tag of an image"));
        }
        Ok(Self {
            name: name.to_owned(),
            tag: tag.to_owned(),
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_what_engines_store() {
        for (written, stored) in [
            ("warren:0.1.0", "docker.io/library/warren:0.1.0"),
            ("warren", "docker.io/library/warren:latest"),
            ("someone/warren:1", "docker.io/someone/warren:1"),
            ("registry.example/warren:1", "registry.example/warren:1"),
            ("localhost/warren:1", "localhost/warren:1"),
            (
                "registry:5000/mesh/warren",
                "registry:5000/mesh/warren:latest",
            ),
        ] {
            let reference: Reference = written.parse().expect(written);
            assert_eq!(reference.full(), stored);
        }
        for wrong in [
            "",
            "Warren:1",
            "warren:",
            "/warren",
            "warren:a b",
            "war ren",
        ] {
            assert!(wrong.parse::<Reference>().is_err(), "{wrong:?}");
        }
    }
}
