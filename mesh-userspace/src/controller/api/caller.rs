//! Who asks. The API server has found that out and tells it in headers; that they are to be believed is what its client
//! certificate is for ("requestheader" authentication). Which certificate authority, which names and which headers: the
//! ConfigMap kube-system/extension-apiserver-authentication says so.

use std::collections::BTreeMap;

use axum::http::{HeaderMap, HeaderName};

/// How the API server tells who asks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct RequestHeaders {
    /// PEM of the authority whose certificates may tell.
    pub(crate) client_ca: String,
    /// Common names that may tell; empty: every certificate of that authority.
    pub(crate) allowed_names: Vec<String>,
    user: Vec<HeaderName>,
    groups: Vec<HeaderName>,
    uid: Vec<HeaderName>,
    /// Beginnings of header names, in lower case.
    extra: Vec<String>,
}

/// Why the ConfigMap cannot be used.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error(
    "the ConfigMap kube-system/extension-apiserver-authentication {why}; has the API server an aggregation layer \
     (--requestheader-client-ca-file, --requestheader-username-headers)?"
)]
pub(crate) struct Unusable {
    why: String,
}

/// Whoever asks.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Caller {
    pub(crate) user: String,
    pub(crate) uid: Option<String>,
    pub(crate) groups: Vec<String>,
    pub(crate) extra: BTreeMap<String, Vec<String>>,
}

impl RequestHeaders {
    /// Reads the ConfigMap's data.
    pub(crate) fn read(data: &BTreeMap<String, String>) -> Result<Self, Unusable> {
        let client_ca = data
            .get("requestheader-client-ca-file")
            .filter(|pem| !pem.trim().is_empty())
            .ok_or_else(|| Unusable {
                why: "has no requestheader-client-ca-file".to_owned(),
            })?;
        let user = names(data, "requestheader-username-headers")?;
        if user.is_empty() {
            return Err(Unusable {
                why: "names no requestheader-username-headers".to_owned(),
            });
        }
        Ok(Self {
            client_ca: client_ca.clone(),
            allowed_names: list(data, "requestheader-allowed-names")?,
            user,
            groups: names(data, "requestheader-group-headers")?,
            uid: names(data, "requestheader-uid-headers")?,
            extra: list(data, "requestheader-extra-headers-prefix")?
                .into_iter()
                .map(|prefix| prefix.to_ascii_lowercase())
                .collect(),
        })
    }

    /// Who asks, as the headers say; `None` when they do not.
    pub(crate) fn caller(&self, headers: &HeaderMap) -> Option<Caller> {
        let first = |names: &[HeaderName]| {
            names
                .iter()
                .filter_map(|name| headers.get(name)?.to_str().ok())
                .find(|value| !value.is_empty())
                .map(str::to_owned)
        };
        let groups = self
            .groups
            .iter()
            .flat_map(|name| headers.get_all(name))
            .filter_map(|value| Some(value.to_str().ok()?.to_owned()));
        Some(Caller {
            user: first(&self.user)?,
            uid: first(&self.uid),
            groups: groups.collect(),
            extra: self.extra(headers),
        })
    }

    fn extra(&self, headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in headers {
            let key = self
                .extra
                .iter()
                .find_map(|prefix| name.as_str().strip_prefix(prefix.as_str()));
            if let (Some(key), Ok(value)) = (key, value.to_str()) {
                extra
                    .entry(unescaped(key))
                    .or_default()
                    .push(value.to_owned());
            }
        }
        extra
    }
}

/// A list, which the ConfigMap has as JSON.
fn list(data: &BTreeMap<String, String>, key: &str) -> Result<Vec<String>, Unusable> {
    let Some(text) = data.get(key).filter(|text| !text.trim().is_empty()) else {
        return Ok(Vec::new());
    };
    serde_json::from_str(text).map_err(|error| Unusable {
        why: format!("has a {key} that is no list of texts ({error})"),
    })
}

fn names(data: &BTreeMap<String, String>, key: &str) -> Result<Vec<HeaderName>, Unusable> {
    list(data, key)?
        .into_iter()
        .map(|name| {
            name.parse().map_err(|_wrong| Unusable {
                why: format!("has {name:?} in {key}, which is no name of a header"),
            })
        })
        .collect()
}

/// Keys of extra values have `%`-escapes where header names could not have their characters.
fn unescaped(key: &str) -> String {
    let mut bytes = Vec::with_capacity(key.len());
    let mut rest = key.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escape = (*first == b'%')
            .then(|| after.get(..2))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escape {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn config_map() -> BTreeMap<String, String> {
        [
            ("requestheader-client-ca-file", "PEM"),
            ("requestheader-allowed-names", r#"["front-proxy"]"#),
            ("requestheader-username-headers", r#"["X-Remote-User"]"#),
            ("requestheader-group-headers", r#"["X-Remote-Group"]"#),
            (
                "requestheader-extra-headers-prefix",
                r#"["X-Remote-Extra-"]"#,
            ),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            headers.append(name, value.parse().expect("a value"));
        }
        headers
    }

    #[test]
    fn headers_tell_who_asks() {
        let rules = RequestHeaders::read(&config_map()).expect("usable");
        assert_eq!(rules.allowed_names, ["front-proxy"]);
        let caller = rules
            .caller(&headers(&[
                ("x-remote-user", "jane"),
                ("X-Remote-Group", "dev"),
                ("x-remote-group", "system:authenticated"),
                ("X-Remote-Extra-Acme.com%2fproject", "shop"),
                ("X-Remote-Extra-scopes", "a"),
                ("x-remote-extra-scopes", "b"),
                ("authorization", "Bearer nothing"),
            ]))
            .expect("a caller");
        assert_eq!(caller.user, "jane");
        assert_eq!(caller.groups, ["dev", "system:authenticated"]);
        assert_eq!(caller.extra["acme.com/project"], ["shop"]);
        assert_eq!(caller.extra["scopes"], ["a", "b"]);
        assert_eq!(caller.uid, None);
    }

    #[test]
    fn nobody_is_told_apart_from_somebody() {
        let rules = RequestHeaders::read(&config_map()).expect("usable");
        assert_eq!(rules.caller(&headers(&[])), None);
        assert_eq!(rules.caller(&headers(&[("x-remote-user", "")])), None);
        assert_eq!(
            rules.caller(&headers(&[("x-remote-group", "system:masters")])),
            None
        );
    }

    #[test]
    fn an_unusable_config_map_says_what_it_lacks() {
        let check = |key: &str, value: Option<&str>, expected: &str| {
            let mut data = config_map();
            match value {
                Some(value) => data.insert(key.to_owned(), value.to_owned()),
                None => data.remove(key),
            };
            let error = RequestHeaders::read(&data)
                .expect_err("unusable")
                .to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(
            "requestheader-client-ca-file",
            None,
            "no requestheader-client-ca-file",
        );
        check("requestheader-username-headers", Some("[]"), "names no");
        check(
            "requestheader-allowed-names",
            Some("front-proxy"),
            "no list of texts",
        );
        check(
            "requestheader-group-headers",
            Some(r#"["a b"]"#),
            "no name of a header",
        );
    }
}
