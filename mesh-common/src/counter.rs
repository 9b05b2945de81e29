//! Counters: the only way in which a program swallows an error, and what metrics and drop records are made of.

/// Key of `COUNTERS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CounterKey {
    /// The node's id of the workload; 0 when no workload is known.
    pub workload: u32,
    /// A [`Reason`] as u32.
    pub reason: u32,
}

/// Most entries of `COUNTERS`.
pub const MAX_COUNTERS: u32 = 65_536;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $value:literal, $label:literal, $verdict:ident;)+) => {
        /// Why a program did what it did. One reason is one label value of one metric.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum Reason { $($(#[doc = $doc])+ $name = $value,)+ }

        impl Reason {
            /// Every reason, in order.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The label in metrics and flow records.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label),+ }
            }

            /// What was done with the packet or the dial.
            pub const fn verdict(self) -> Verdict {
                match self { $(Self::$name => Verdict::$verdict),+ }
            }

            /// The reason with this number, if there is one.
            pub const fn from_u32(value: u32) -> Option<Self> {
                match value { $($value => Some(Self::$name),)+ _ => None }
            }
        }
    };
}

/// What a [`Reason`] did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Let through, or sent to the proxy, as intended.
    Passed,
    /// A packet was dropped.
    Dropped,
    /// A dial was refused with `ECONNREFUSED`.
    Refused,
}

reasons! {
    /// A dial was sent to the proxy.
    Captured = 0, "captured", Passed;
    /// A dial towards a destination outside the mesh went out untouched.
    Bypassed = 1, "bypassed", Passed;
    /// A dial towards a destination of class `Deny`.
    DestinationDenied = 2, "destination_denied", Refused;
    /// No socket storage for the origin (memory). Fail closed.
    NoSocketStorage = 3, "no_socket_storage", Refused;
    /// The workload has no listener or address of the dialled family. Fail closed.
    NoListener = 4, "no_listener", Refused;
    /// The workload holds too many half-made connections. Fail closed: the dial finds no origin at the proxy.
    FlowQuota = 5, "flow_quota", Refused;
    /// The flow map is full. Fail closed, as above.
    FlowMapFull = 6, "flow_map_full", Refused;
    /// Somebody dialled the outbound listener itself: there is no origin, the proxy closes the connection.
    NoOrigin = 7, "no_origin", Refused;
    /// A SYN for a tunnel was given to the proxy.
    InboundTunnel = 8, "inbound_tunnel", Passed;
    /// A SYN in clear was given to the proxy's plaintext listener.
    InboundPlaintext = 9, "inbound_plaintext", Passed;
    /// A SYN of kubelet passed to the application.
    InboundKubelet = 10, "inbound_kubelet", Passed;
    /// No listener for a SYN (no proxy). Fail closed: dropped, the client tries again.
    InboundNoListener = 11, "inbound_no_listener", Dropped;
    /// A SYN for an address that the workload does not own. Fail closed.
    InboundUnknown = 12, "inbound_unknown", Dropped;
    /// The headers of a packet for a workload cannot be read. Fail closed.
    InboundUnreadable = 13, "inbound_unreadable", Dropped;
    /// The kernel refused to assign the listener. Fail closed.
    InboundAssignFailed = 14, "inbound_assign_failed", Dropped;
    /// A packet with a source address that is not the workload's.
    SpoofedSource = 15, "spoofed_source", Dropped;
    /// TCP towards the mesh from a socket of the workload, past the capture (raw or packet sockets too).
    UncapturedTcp = 16, "uncaptured_tcp", Dropped;
    /// The same in permissive mode.
    UncapturedTcpPermitted = 17, "uncaptured_tcp_permitted", Passed;
    /// TCP towards the mesh that no socket owns (forwarded out of a nested namespace).
    OwnerlessTcp = 18, "ownerless_tcp", Dropped;
    /// UDP towards the mesh where it is denied.
    UdpDenied = 19, "udp_denied", Dropped;
    /// Another protocol towards the mesh.
    OtherProtocol = 20, "other_protocol", Dropped;
    /// The headers of a packet from a workload cannot be read. Fail closed.
    GuardUnreadable = 21, "guard_unreadable", Dropped;
    /// A packet while enrolment is under way. Fail closed: the sender tries again.
    GuardClosed = 22, "guard_closed", Dropped;
    /// A guarded interface without an entry. Fail closed.
    GuardUnknown = 23, "guard_unknown", Dropped;
    /// A packet of a connection that is older than enrolment.
    Established = 24, "established", Passed;
    /// An event was not sent: the ring buffer was full, or the workload had used up its share. Counters stay right.
    EventLost = 25, "event_lost", Passed;
    /// A dial by a process whose cgroup and network namespace belong to different workloads. Fail closed.
    ForeignSocket = 26, "foreign_socket", Refused;
    /// Another protocol towards the mesh in permissive mode.
    OtherProtocolPermitted = 27, "other_protocol_permitted", Passed;
    /// A dial of an enrolled workload whose fields the kernel does not show. Fail closed.
    DialUnreadable = 28, "dial_unreadable", Refused;
    /// Fragments of a TCP connection request: the listener cannot be chosen before they are put together. Fail closed.
    InboundFragment = 29, "inbound_fragment", Dropped;
    /// A captured connection whose socket the kernel does not show. Fail closed: the proxy finds no origin.
    FlowUnreadable = 30, "flow_unreadable", Refused;
}
