//! One address form for both families: 16 bytes, IPv4 as v4-mapped (RFC 4291 §2.5.5.2), network byte order.

/// An IP address, network byte order; IPv4 as `::ffff:a.b.c.d`.
pub type Address = [u8; 16];

/// Maps an IPv4 address, given in network byte order, into the common form.
#[inline(always)]
pub const fn v4_mapped(octets: [u8; 4]) -> Address {
    [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, octets[0], octets[1], octets[2], octets[3],
    ]
}

/// A key of the longest-prefix-match map: the kernel wants the prefix length first.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Prefix {
    /// Length in bits, native byte order; an IPv4 prefix counts the 96 bits of the mapping.
    pub length: u32,
    /// The address.
    pub address: Address,
}
const _: () = assert!(size_of::<Prefix>() == 20);
