//! Names of services, and of pods behind services without an address, from the cluster's own objects.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde_json::Value;

/// The end of every name in the cluster.
const DOMAIN: &str = ".svc.cluster.local";

/// Namespace and name.
type Key = (String, String);

/// What is known of services and endpoints.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// The cluster address of a service; none when it is headless.
    services: BTreeMap<Key, Option<Ipv4Addr>>,
    /// Ready addresses, with the host name of the pod, if it has one of its own.
    endpoints: BTreeMap<Key, Vec<(Ipv4Addr, Option<String>)>>,
}

/// The kinds of objects that are followed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Services,
    Endpoints,
}

impl Kind {
    /// As the API's paths have it.
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Endpoints => "endpoints",
        }
    }
}

impl Names {
    /// Forgets what a list that begins anew will say again.
    pub(super) fn clear(&mut self, kind: Kind) {
        match kind {
            Kind::Services => self.services.clear(),
            Kind::Endpoints => self.endpoints.clear(),
        }
    }

    /// Takes in one event of a watch.
    pub(super) fn note(&mut self, kind: Kind, event: &Value) {
        let object = &event["object"];
        let text = |name: &str| {
            object["metadata"][name]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        let key = (text("namespace"), text("name"));
        let gone = event["type"] == "DELETED";
        match kind {
            Kind::Services if gone => drop(self.services.remove(&key)),
            Kind::Services => {
                let address = object["spec"]["clusterIP"].as_str();
                let address = address.and_then(|text| text.parse().ok());
                self.services.insert(key, address);
            }
            Kind::Endpoints if gone => drop(self.endpoints.remove(&key)),
            Kind::Endpoints => drop(self.endpoints.insert(key, ready(object))),
        }
    }

    /// The addresses of a name; nothing when there is no such name.
    pub(super) fn find(&self, name: &str) -> Option<Vec<Ipv4Addr>> {
        let mut labels: Vec<&str> = name.strip_suffix(DOMAIN)?.split('.').collect();
        let key = (labels.pop()?.to_owned(), labels.pop()?.to_owned());
        let cluster_address = self.services.get(&key)?;
        match (labels[..].first(), cluster_address) {
            (None, Some(address)) => Some(vec![*address]),
            (host, None) if labels.len() < 2 => self.behind(&key, host.copied()),
            _ => None,
        }
    }

    fn behind(&self, key: &Key, host: Option<&str>) -> Option<Vec<Ipv4Addr>> {
        let found: Vec<Ipv4Addr> = self
            .endpoints
            .get(key)?
            .iter()
            .filter(|(_, own)| host.is_none_or(|host| own.as_deref() == Some(host)))
            .map(|(address, _)| *address)
            .collect();
        (!found.is_empty()).then_some(found)
    }
}

fn ready(object: &Value) -> Vec<(Ipv4Addr, Option<String>)> {
    object["subsets"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|subset| subset["addresses"].as_array().into_iter().flatten())
        .filter_map(|address| {
            let host = address["hostname"].as_str().map(str::to_owned);
            Some((address["ip"].as_str()?.parse().ok()?, host))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn services_pods_and_nothing_else_have_names() {
        let mut names = Names::default();
        for (kind, object) in [
            (
                Kind::Services,
                json!({"metadata": {"namespace": "shop", "name": "web"}, "spec": {"clusterIP": "10.96.0.9"}}),
            ),
            (
                Kind::Services,
                json!({"metadata": {"namespace": "shop", "name": "db"}, "spec": {"clusterIP": "None"}}),
            ),
            (
                Kind::Endpoints,
                json!({"metadata": {"namespace": "shop", "name": "db"}, "subsets": [{"addresses": [
                {"ip": "10.244.1.2", "hostname": "db-0"}, {"ip": "10.244.2.2", "hostname": "db-1"}]}]}),
            ),
        ] {
            names.note(kind, &json!({"type": "ADDED", "object": object}));
        }
        let (web, first, second) = (
            Ipv4Addr::new(10, 96, 0, 9),
            Ipv4Addr::new(10, 244, 1, 2),
            Ipv4Addr::new(10, 244, 2, 2),
        );
        for (name, expected) in [
            ("web.shop.svc.cluster.local", Some(vec![web])),
            ("db.shop.svc.cluster.local", Some(vec![first, second])),
            ("db-1.db.shop.svc.cluster.local", Some(vec![second])),
            ("db-2.db.shop.svc.cluster.local", None),
            ("x.web.shop.svc.cluster.local", None),
            ("web.other.svc.cluster.local", None),
            ("shop.svc.cluster.local", None),
            ("web.shop", None),
        ] {
            assert_eq!(names.find(name), expected, "{name}");
        }
        let gone = json!({"type": "DELETED", "object": {"metadata": {"namespace": "shop", "name": "web"}}});
        names.note(Kind::Services, &gone);
        assert_eq!(names.find("web.shop.svc.cluster.local"), None);
    }
}
