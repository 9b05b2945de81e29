//! Between the standard library's addresses and the 16 bytes of the kernel maps.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mesh_common::address::{Address, v4_mapped};

/// The common form of an address.
pub(crate) fn to_bytes(ip: IpAddr) -> Address {
    match ip.to_canonical() {
        IpAddr::V4(v4) => v4_mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The address of 16 bytes, never v4-mapped.
pub(crate) fn from_bytes(bytes: Address) -> IpAddr {
    Ipv6Addr::from(bytes).to_canonical()
}

/// An address and port; `None` when the kernel had none.
pub(crate) fn socket(bytes: Address, port: u16) -> Option<SocketAddr> {
    (bytes != [0; 16]).then(|| SocketAddr::new(from_bytes(bytes), port))
}

/// The first IPv4 address and the first IPv6 address, zero where there is none.
pub(crate) fn first_of_each(addresses: &[IpAddr]) -> ([u8; 4], Address) {
    let v4 = addresses.iter().find_map(|ip| match ip {
        IpAddr::V4(v4) => Some(*v4),
        IpAddr::V6(_) => None,
    });
    let v6 = addresses.iter().find_map(|ip| match ip {
        IpAddr::V6(v6) => Some(*v6),
        IpAddr::V4(_) => None,
    });
    (
        v4.unwrap_or(Ipv4Addr::UNSPECIFIED).octets(),
        v6.unwrap_or(Ipv6Addr::UNSPECIFIED).octets(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_and_plain_are_one() {
        let plain: IpAddr = Ipv4Addr::new(10, 0, 0, 1).into();
        let mapped: IpAddr = Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().into();
        assert_eq!(to_bytes(plain), to_bytes(mapped));
        assert_eq!(from_bytes(to_bytes(mapped)), plain);
        assert_eq!(socket([0; 16], 80), None);
    }
}
