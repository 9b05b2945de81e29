//! The header: what concerns the node and the mesh as a whole.

use std::time::Duration;

use mesh_core::policy::MtlsMode;

use crate::duration;
use crate::located::At;
use crate::objects::Settings;
use crate::raw::{DurationText, Mode};

use super::Checker;

/// Longest time for which connections may go on when the proxy stops.
const LONGEST_DRAIN: Duration = Duration::from_secs(3600);

/// Below this, renewing would be all that the certificate authority does.
const SHORTEST_CERTIFICATE: Duration = Duration::from_secs(10);

/// A stolen certificate is good for its lifetime.
const LONGEST_CERTIFICATE: Duration = Duration::from_secs(90 * 24 * 3600);

impl Checker<'_> {
    pub(super) fn settings(&mut self) -> Settings {
        let configuration = self.configuration;
        let mut settings = Settings {
            node: self.own_node.clone(),
            ..Settings::default()
        };
        if let Some(domain) = configuration.trust_domain.as_ref().and_then(At::get) {
            settings.trust_domain = domain.0.clone();
        }
        if let Some(node) = configuration.node.as_ref().and_then(At::get) {
            let range = Duration::ZERO..=LONGEST_DRAIN;
            if let Some(drain) = self.duration(node.drain.as_ref(), range) {
                settings.drain = drain;
            }
            if let Some(port) = node.tunnel_port.as_ref().and_then(At::get) {
                settings.tunnel_port = port.0;
            }
        }
        if let Some(identity) = configuration.identity.as_ref().and_then(At::get) {
            if let Some(directory) = identity.directory.as_ref().and_then(At::get) {
                settings.authority_directory.clone_from(&directory.0);
            }
            let range = SHORTEST_CERTIFICATE..=LONGEST_CERTIFICATE;
            let lifetime = identity.certificate_lifetime.as_ref();
            if let Some(lifetime) = self.duration(lifetime, range) {
                settings.certificate_lifetime = lifetime;
            }
        }
        settings
    }

    pub(super) fn default_mtls(&mut self) -> MtlsMode {
        let mtls = self.configuration.mtls.as_ref().and_then(At::get);
        mtls.and_then(|mtls| mtls.mode.as_ref())
            .and_then(At::get)
            .map_or(MtlsMode::Strict, |mode| mtls_mode(*mode))
    }

    fn duration(
        &mut self,
        text: Option<&At<DurationText>>,
        range: std::ops::RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let text = text?;
        let DurationText(length) = *text.get()?;
        if range.contains(&length) {
            return Some(length);
        }
        let message = format!(
            "{} is out of range; it may be {} to {}",
            duration::format(length),
            duration::format(*range.start()),
            duration::format(*range.end())
        );
        self.error(text.at, &text.path, message, None);
        None
    }
}

/// The mode as decisions know it.
pub(super) fn mtls_mode(mode: Mode) -> MtlsMode {
    match mode {
        Mode::Strict => MtlsMode::Strict,
        Mode::Permissive => MtlsMode::Permissive,
    }
}
