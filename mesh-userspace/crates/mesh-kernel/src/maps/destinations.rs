//! `DESTINATIONS`: which dials are captured, by longest prefix.

use std::collections::BTreeMap;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Map, MapData};
use ipnet::IpNet;
use mesh_common::address::Address;
use mesh_common::names::map::DESTINATIONS;
use mesh_common::workload::Class;

use super::{Wire, map_error};
use crate::error::KernelError;

/// Prefix length, of 128, and address, IPv4 as v4-mapped.
type Prefix = (u32, Address);

/// The captured destinations.
pub(crate) struct Destinations(LpmTrie<MapData, Wire<Address>, u32>);

impl Destinations {
    /// Takes the loaded map.
    pub(crate) fn new(map: Map) -> Result<Self, KernelError> {
        LpmTrie::try_from(map)
            .map(Self)
            .map_err(map_error("use", DESTINATIONS))
    }

    /// Makes the map say what `wanted` says. Additions and changes come first, so that nothing that stays captured is
    /// uncaptured for a moment; when one fails, nothing is removed.
    pub(crate) fn apply(&mut self, wanted: &BTreeMap<IpNet, Class>) -> Result<(), KernelError> {
        let now: BTreeMap<Prefix, u32> = self
            .0
            .iter()
            .filter_map(Result::ok)
            .map(|(key, class)| ((key.prefix_len(), key.data().0), class))
            .collect();
        let wanted: BTreeMap<Prefix, u32> = wanted
            .iter()
            .map(|(net, class)| (prefix(net), *class as u32))
            .collect();
        for ((length, address), class) in &wanted {
            if now.get(&(*length, *address)) != Some(class) {
                self.0
                    .insert(&Key::new(*length, Wire(*address)), *class, 0)
                    .map_err(map_error("write", DESTINATIONS))?;
            }
        }
        for (length, address) in now.keys().filter(|key| !wanted.contains_key(*key)) {
            self.0
                .remove(&Key::new(*length, Wire(*address)))
                .map_err(map_error("remove from", DESTINATIONS))?;
        }
        Ok(())
    }
}

/// A network in the map's form.
fn prefix(net: &IpNet) -> Prefix {
    match net.trunc() {
        IpNet::V4(net) => (
            96 + u32::from(net.prefix_len()),
            mesh_common::address::v4_mapped(net.addr().octets()),
        ),
        IpNet::V6(net) => (u32::from(net.prefix_len()), net.addr().octets()),
    }
}

impl std::fmt::Debug for Destinations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Destinations")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_networks_become_mapped_prefixes() {
        let net: IpNet = "10.1.2.3/16".parse().expect("a network");
        let (length, address) = prefix(&net);
        assert_eq!(length, 112);
        assert_eq!(address, mesh_common::address::v4_mapped([10, 1, 0, 0]));
        let net: IpNet = "fd00::1/128".parse().expect("a network");
        assert_eq!(prefix(&net).0, 128);
    }
}
