//! The tables of `warren get`: headers and rows of each kind.

use std::collections::BTreeMap;
use std::time::SystemTime;

use jiff::Timestamp;

use super::{Listed, Of};
use crate::api::cluster::NodeStatus;
use crate::api::objects::{Backend, Certificate, EnrolmentState, Policy, Route, Service, Workload};
use crate::cli::output::until;

fn now() -> Timestamp {
    Timestamp::try_from(SystemTime::now()).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn labels(labels: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(",")
}

fn numbers(ports: &[u16]) -> String {
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    ports.join(",")
}

impl Listed for Workload {
    const HEADERS: &'static [&'static str] = &[
        "NAMESPACE",
        "NAME",
        "NODE",
        "ADDRESS",
        "MESH",
        "IDENTITY",
        "CERT EXPIRES",
    ];
    const WIDE: &'static [&'static str] = &["ID", "PORTS", "LABELS"];

    fn rows(&self, of: Of) -> Vec<Vec<String>> {
        // A node tells how far its own workloads are; a cluster tells that of all, unless their nodes do not answer.
        let unsaid = match of {
            Of::Node => "remote",
            Of::Cluster => "unknown",
        };
        let state = self
            .enrolment
            .as_ref()
            .map_or(unsaid, |enrolment| enrolment.state.label());
        let id = self.enrolment.as_ref().and_then(|enrolment| enrolment.id);
        vec![vec![
            self.namespace.clone(),
            self.name.clone(),
            self.node.clone(),
            self.addresses.join(","),
            state.to_owned(),
            self.identity.clone(),
            self.certificate_not_after
                .map(|moment| until(moment, now()))
                .unwrap_or_default(),
            id.map(|id| id.to_string()).unwrap_or_default(),
            numbers(&self.ports),
            labels(&self.labels),
        ]]
    }

    fn remark(&self) -> Option<String> {
        let enrolment = self.enrolment.as_ref()?;
        let reason = enrolment.reason.as_ref()?;
        (enrolment.state != EnrolmentState::Enrolled).then(|| {
            format!(
                "{}.{} is {}: {reason}",
                self.name,
                self.namespace,
                enrolment.state.label()
            )
        })
    }
}

impl Listed for NodeStatus {
    const HEADERS: &'static [&'static str] = &[
        "NAME",
        "STATE",
        "CONTROLLER",
        "CURRENT",
        "ENROLLED",
        "WORKLOADS",
        "VERSION",
    ];
    const WIDE: &'static [&'static str] = &["WHY"];

    fn rows(&self, _of: Of) -> Vec<Vec<String>> {
        vec![vec![
            self.name.clone(),
            self.state().to_owned(),
            self.controller.clone().unwrap_or_default(),
            if self.current { "yes" } else { "no" }.to_owned(),
            self.enrolled.to_string(),
            self.workloads.to_string(),
            self.version.clone().unwrap_or_default(),
            self.not_ready.join("; "),
        ]]
    }
}

impl Listed for Service {
    const HEADERS: &'static [&'static str] =
        &["NAMESPACE", "NAME", "VIP", "PORTS", "ENDPOINTS", "ROUTES"];
    const WIDE: &'static [&'static str] = &["SUBSETS", "BACKED BY"];

    fn rows(&self, _of: Of) -> Vec<Vec<String>> {
        let ports: Vec<String> = self
            .ports
            .iter()
            .map(|port| match port.target_port == port.port {
                true => port.port.to_string(),
                false => format!("{}→{}", port.port, port.target_port),
            })
            .collect();
        let subsets: Vec<&str> = self.subsets.keys().map(String::as_str).collect();
        let backed: Vec<&str> = self
            .endpoints
            .iter()
            .map(|endpoint| endpoint.workload.as_deref().unwrap_or(&endpoint.address))
            .collect();
        vec![vec![
            self.namespace.clone(),
            self.name.clone(),
            self.addresses.join(","),
            ports.join(","),
            self.endpoints.len().to_string(),
            self.routes.join(","),
            subsets.join(","),
            backed.join(","),
        ]]
    }
}

impl Listed for Route {
    const HEADERS: &'static [&'static str] =
        &["NAMESPACE", "NAME", "SERVICE", "RULE", "PORT", "BACKENDS"];
    const WIDE: &'static [&'static str] = &[];

    fn rows(&self, _of: Of) -> Vec<Vec<String>> {
        self.rules
            .iter()
            .map(|rule| {
                vec![
                    self.namespace.clone(),
                    self.name.clone(),
                    self.service.clone(),
                    rule.name.clone(),
                    rule.port
                        .map_or_else(|| "any".to_owned(), |port| port.to_string()),
                    shares(&rule.backends, &self.service),
                ]
            })
            .collect()
    }
}

/// Weights as shares, because that is what they mean.
fn shares(backends: &[Backend], service: &str) -> String {
    let total: u64 = backends
        .iter()
        .map(|backend| u64::from(backend.weight))
        .sum();
    let parts: Vec<String> = backends
        .iter()
        .map(|backend| {
            let name = match (&backend.subset, backend.service == service) {
                (Some(subset), true) => subset.clone(),
                (Some(subset), false) => format!("{}/{subset}", backend.service),
                (None, _) => backend.service.clone(),
            };
            let share = match total {
                0 => 0.0,
                total => f64::from(backend.weight) * 100.0 / total as f64,
            };
            let share = format!("{share:.1}");
            format!("{name} {}%", share.trim_end_matches(".0"))
        })
        .collect();
    match parts.is_empty() {
        true => "none: refuses".to_owned(),
        false => parts.join(", "),
    }
}

impl Listed for Policy {
    const HEADERS: &'static [&'static str] = &[
        "NAMESPACE",
        "NAME",
        "TARGET",
        "MODE",
        "RULE",
        "ACTION",
        "FROM",
        "PORTS",
    ];
    const WIDE: &'static [&'static str] = &[];

    fn rows(&self, _of: Of) -> Vec<Vec<String>> {
        let mode = if self.dry_run { "dry run" } else { "enforced" };
        let head = [&self.namespace, &self.name, &self.target].map(String::clone);
        if self.rules.is_empty() {
            let mut row = head.to_vec();
            row.extend([mode, "none", "deny", "anybody", "any"].map(str::to_owned));
            return vec![row];
        }
        self.rules
            .iter()
            .map(|rule| {
                let mut row = head.to_vec();
                row.extend([
                    mode.to_owned(),
                    rule.name.clone(),
                    rule.action.clone(),
                    match rule.from.is_empty() {
                        true => "anybody".to_owned(),
                        false => rule.from.join(","),
                    },
                    match rule.ports.is_empty() {
                        true => "any".to_owned(),
                        false => numbers(&rule.ports),
                    },
                ]);
                row
            })
            .collect()
    }
}

impl Listed for Certificate {
    const HEADERS: &'static [&'static str] = &[
        "IDENTITY",
        "SERIAL",
        "NOT AFTER",
        "EXPIRES",
        "RENEWS",
        "WORKLOADS",
    ];
    const WIDE: &'static [&'static str] = &["NODE", "NOT BEFORE", "ISSUER"];

    fn rows(&self, _of: Of) -> Vec<Vec<String>> {
        vec![vec![
            self.identity.clone(),
            self.serial.clone(),
            self.not_after.to_string(),
            until(self.not_after, now()),
            until(self.renew_at, now()),
            self.workloads.join(","),
            self.node.clone().unwrap_or_default(),
            self.not_before.to_string(),
            self.issuer.clone(),
        ]]
    }
}
