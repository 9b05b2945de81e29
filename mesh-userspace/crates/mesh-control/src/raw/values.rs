//! Texts: what one of them can say about itself. Each refuses what it is not, in words, with what may have been
//! meant where that is plain.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use mesh_core::addr::is_forbidden_destination;
use mesh_core::identity::{SpiffeId, TrustDomain};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error};

use crate::mistake::{is_harmful, quoted};
use crate::read::SUGGESTION;

/// Why a text is not a value, and what may have been meant.
pub(super) struct Refusal {
    message: String,
    suggestion: Option<String>,
}

impl Refusal {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            suggestion: None,
        }
    }

    pub(super) fn meant(mut self, meant: Option<impl fmt::Display>) -> Self {
        self.suggestion =
            meant.map(|meant| format!("did you mean {}?", quoted(&meant.to_string())));
        self
    }

    pub(super) fn into_error<E: Error>(self) -> E {
        let Self {
            message,
            suggestion,
        } = self;
        match suggestion {
            Some(suggestion) => E::custom(format!("{message}{SUGGESTION}{suggestion}")),
            None => E::custom(message),
        }
    }
}

macro_rules! text_value {
    ($(#[$doc:meta])+ $name:ident($inner:ty), $parse:path, $schema:tt) => {
        $(#[$doc])+
        #[derive(Clone, Debug, Eq, PartialEq)]
        pub struct $name(pub $inner);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                $parse(&text).map(Self).map_err(Refusal::into_error)
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

text_value! {
    /// The version of the format.
    ApiVersion(()), api_version, {"const": "warren.dev/v1alpha1"}
}
text_value! {
    /// A name of an object or a namespace: a DNS label.
    ObjectName(String), object_name,
    {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"}
}
text_value! {
    /// Labels with dots between them, for nodes and service accounts.
    Subdomain(String), subdomain,
    {"type": "string", "maxLength": 253, "pattern": "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"}
}
text_value! {
    /// The name of a rule, as records and explanations give it.
    RuleName(String), rule_name,
    {"type": "string", "pattern": "^[A-Za-z0-9]([-._A-Za-z0-9]{0,61}[A-Za-z0-9])?$"}
}
text_value! {
    /// `name`, or `name.namespace`.
    Reference((String, Option<String>)), reference,
    {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)?$"}
}
text_value! {
    /// `namespace/name` of a service account.
    Account((String, String)), account,
    {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?/[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"}
}
text_value! {
    /// An IP address that may be a destination.
    Address(IpAddr), address, {"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}
}
text_value! {
    /// A network prefix.
    Network(ipnet::IpNet), network, {"type": "string", "examples": ["10.0.0.0/8", "fd00::/8"]}
}
text_value! {
    /// An identity in full.
    Identity(SpiffeId), identity, {"type": "string", "pattern": "^spiffe://[^/]+/ns/[^/]+/sa/[^/]+$"}
}
text_value! {
    /// A trust domain.
    TrustDomainText(TrustDomain), trust_domain, {"type": "string", "pattern": "^[a-z0-9._-]{1,255}$"}
}
text_value! {
    /// The key of a label.
    LabelKey(String), label_key, {"type": "string"}
}
text_value! {
    /// The value of a label.
    LabelValue(String), label_value,
    {"type": "string", "pattern": "^([A-Za-z0-9]([-._A-Za-z0-9]{0,61}[A-Za-z0-9])?)?$"}
}
text_value! {
    /// A path from the root.
    AbsolutePath(PathBuf), absolute_path, {"type": "string", "pattern": "^/"}
}
text_value! {
    /// The id or name of a container.
    Container(String), container,
    {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$"}
}

fn api_version(text: &str) -> Result<(), Refusal> {
    match text {
        "warren.dev/v1alpha1" => Ok(()),
        _ => {
            let mut refusal = Refusal::new(format!(
                "{} is not a version of the format that this Warren reads",
                quoted(text)
            ));
            refusal.suggestion = Some("write \"warren.dev/v1alpha1\"".to_owned());
            Err(refusal)
        }
    }
}

fn is_label(text: &str) -> bool {
    let good = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9');
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| good(byte) || byte == b'-')
        && text.bytes().next().is_some_and(good)
        && text.bytes().last().is_some_and(good)
}

fn is_word(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        && text
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric())
        && text
            .bytes()
            .last()
            .is_some_and(|byte| byte.is_ascii_alphanumeric())
}

/// The text as it would be a good label, when little is to change.
fn as_label(text: &str) -> Option<String> {
    let better: String = text
        .to_lowercase()
        .chars()
        .map(|character| match character {
            '_' | ' ' | '.' => '-',
            other => other,
        })
        .collect();
    let better = better.trim_matches('-').to_owned();
    (is_label(&better) && better != text).then_some(better)
}

fn object_name(text: &str) -> Result<String, Refusal> {
    if is_label(text) {
        return Ok(text.to_owned());
    }
    Err(Refusal::new(format!(
        "{} is not a name; a name has 1 to 63 lower-case letters, digits and '-', and begins and ends with a letter or digit",
        quoted(text)
    ))
    .meant(as_label(text)))
}

fn subdomain(text: &str) -> Result<String, Refusal> {
    if text.len() <= 253 && text.split('.').all(is_label) {
        return Ok(text.to_owned());
    }
    let lower = text.to_lowercase();
    let meant = (lower.len() <= 253 && lower.split('.').all(is_label)).then_some(lower);
    Err(Refusal::new(format!(
        "{} is not a name; it has lower-case letters, digits, '-' and '.', and each part between dots begins and ends with a letter or digit",
        quoted(text)
    ))
    .meant(meant))
}

fn rule_name(text: &str) -> Result<String, Refusal> {
    if is_word(text) {
        return Ok(text.to_owned());
    }
    Err(Refusal::new(format!(
        "{} is not a name of a rule; it has 1 to 63 letters, digits, '-', '_' and '.', and begins and ends with a letter or digit",
        quoted(text)
    )))
}

fn reference(text: &str) -> Result<(String, Option<String>), Refusal> {
    let (name, namespace) = match text.split_once('.') {
        None => (text, None),
        Some((name, namespace)) => (name, Some(namespace)),
    };
    if is_label(name) && namespace.is_none_or(is_label) {
        return Ok((name.to_owned(), namespace.map(str::to_owned)));
    }
    let meant = text
        .split_once('/')
        .filter(|(namespace, name)| is_label(namespace) && is_label(name));
    let meant = meant.map(|(namespace, name)| format!("{name}.{namespace}"));
    Err(Refusal::new(format!(
        "{} refers to nothing; write a name, or name.namespace",
        quoted(text)
    ))
    .meant(meant.or_else(|| as_label(text))))
}

fn account(text: &str) -> Result<(String, String), Refusal> {
    if let Some((namespace, name)) = text.split_once('/')
        && is_label(namespace)
        && name.len() <= 253
        && name.split('.').all(is_label)
    {
        return Ok((namespace.to_owned(), name.to_owned()));
    }
    let meant = text
        .split_once('.')
        .filter(|(name, namespace)| is_label(namespace) && is_label(name))
        .map(|(name, namespace)| format!("{namespace}/{name}"));
    Err(Refusal::new(format!(
        "{} is not a service account; write namespace/name",
        quoted(text)
    ))
    .meant(meant))
}

fn address(text: &str) -> Result<IpAddr, Refusal> {
    let Ok(ip) = text.parse::<IpAddr>() else {
        let bare = text
            .split_once('/')
            .map(|(ip, _)| ip)
            .or_else(|| text.rsplit_once(':').map(|(ip, _)| ip))
            .map(|ip| ip.trim_matches(['[', ']']))
            .filter(|ip| ip.parse::<IpAddr>().is_ok());
        return Err(Refusal::new(format!(
            "{} is not an IP address; names are not looked up",
            quoted(text)
        ))
        .meant(bare));
    };
    if is_forbidden_destination(ip) {
        return Err(Refusal::new(format!(
            "{ip} is {} address, never a destination of the mesh",
            forbidden_kind(ip.to_canonical())
        )));
    }
    if ip.to_canonical() != ip {
        return Err(Refusal::new(format!(
            "{ip} is an IPv4 address in IPv6 spelling; one host has one spelling"
        ))
        .meant(Some(ip.to_canonical())));
    }
    Ok(ip)
}

fn forbidden_kind(ip: IpAddr) -> &'static str {
    if ip.is_loopback() {
        "a loopback"
    } else if ip.is_multicast() {
        "a multicast"
    } else if ip.is_unspecified() {
        "the unspecified"
    } else if ip.to_string() == "169.254.169.254" {
        "the cloud metadata"
    } else {
        match ip {
            IpAddr::V4(v4) if v4.is_link_local() => "a link-local",
            IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast",
            IpAddr::V6(v6) if v6.is_unicast_link_local() => "a link-local",
            _ => "the cloud metadata",
        }
    }
}

fn network(text: &str) -> Result<ipnet::IpNet, Refusal> {
    let Ok(network) = text.parse::<ipnet::IpNet>() else {
        let whole = text.parse::<IpAddr>().ok().map(ipnet::IpNet::from);
        return Err(Refusal::new(format!(
            "{} is not a network; write address/prefix-length",
            quoted(text)
        ))
        .meant(whole));
    };
    if let ipnet::IpNet::V6(v6) = network
        && v6.prefix_len() >= 96
        && let Some(v4) = v6.addr().to_ipv4_mapped()
    {
        let meant = ipnet::Ipv4Net::new(v4, v6.prefix_len() - 96).ok();
        return Err(Refusal::new(format!(
            "{network} is an IPv4 network in IPv6 spelling, which no caller would match"
        ))
        .meant(meant));
    }
    if network.addr() != network.network() {
        return Err(
            Refusal::new(format!("{network} has bits set behind its prefix length"))
                .meant(Some(network.trunc())),
        );
    }
    Ok(network)
}

fn identity(text: &str) -> Result<SpiffeId, Refusal> {
    text.parse::<SpiffeId>().map_err(|_invalid| {
        Refusal::new(format!(
            "{} is not a workload identity; the form is spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>",
            quoted(text)
        ))
    })
}

fn trust_domain(text: &str) -> Result<TrustDomain, Refusal> {
    TrustDomain::new(text).map_err(|_invalid| {
        let bare = text.strip_prefix("spiffe://").unwrap_or(text).to_lowercase();
        let bare = bare.trim_end_matches('/');
        Refusal::new(format!(
            "{} is not a trust domain; it has 1 to 255 lower-case letters, digits, '.', '-' and '_'",
            quoted(text)
        ))
        .meant(TrustDomain::new(bare).ok())
    })
}

fn label_key(text: &str) -> Result<String, Refusal> {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    let prefix_is_good =
        prefix.is_none_or(|prefix| prefix.len() <= 253 && prefix.split('.').all(is_label));
    if is_word(name) && prefix_is_good {
        return Ok(text.to_owned());
    }
    Err(Refusal::new(format!(
        "{} is not a key of a label; it has 1 to 63 letters, digits, '-', '_' and '.', after an optional domain and '/'",
        quoted(text)
    )))
}

fn label_value(text: &str) -> Result<String, Refusal> {
    if text.is_empty() || is_word(text) {
        return Ok(text.to_owned());
    }
    Err(Refusal::new(format!(
        "{} is not a value of a label; it has at most 63 letters, digits, '-', '_' and '.', and begins and ends with a letter or digit",
        quoted(text)
    )))
}

fn absolute_path(text: &str) -> Result<PathBuf, Refusal> {
    let problem = if !text.starts_with('/') {
        "does not begin with '/'"
    } else if text.len() > 4095 {
        "is longer than 4095 bytes"
    } else if text.chars().any(is_harmful) {
        "has a control character"
    } else if text.split('/').any(|part| part == "..") {
        "has '..' in it"
    } else {
        return Ok(PathBuf::from(text));
    };
    Err(Refusal::new(format!("the path {} {problem}", quoted(text))))
}

fn container(text: &str) -> Result<String, Refusal> {
    let good = (1..=128).contains(&text.len())
        && text
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if good {
        return Ok(text.to_owned());
    }
    Err(Refusal::new(format!(
        "{} is not the id or name of a container; it has 1 to 128 letters, digits, '-', '_' and '.'",
        quoted(text)
    ))
    .meant(text.rsplit_once("//").map(|(_, id)| id).filter(|id| is_word(id))))
}
