//! What the running kernel offers, asked of the kernel and never of its version string: distributions backport.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported};
use netlink_packet_route::rule::RuleMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::bpf::{self, AttachType, LinkTarget};
use crate::cgroup;
use crate::established;
use crate::namespace;
use crate::netlink::Netlink;

/// One thing that Warren needs of the kernel.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Feature {
    /// Short name, as the field says it.
    pub name: &'static str,
    /// Kernel version that brought it; empty for what is a right or a setting.
    pub since: &'static str,
    /// Whether it is there.
    pub present: bool,
    /// Whether Warren cannot work without it.
    pub required: bool,
    /// What is lost without it.
    pub without: &'static str,
    /// Where it was found, or why it was not.
    pub detail: String,
}

/// Everything that was probed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Features(pub Vec<Feature>);

impl Features {
    /// The required features that are missing.
    pub fn missing(&self) -> Vec<&Feature> {
        self.0
            .iter()
            .filter(|feature| feature.required && !feature.present)
            .collect()
    }
}

/// The outcome of one question: where it was found, or why not.
type Answer = Result<String, String>;

/// Without it nothing works.
const REQUIRED: bool = true;
/// There is another way, or less of something.
const OPTIONAL: bool = false;

/// Probes. Loads a few tiny programs and makes a few tiny maps, all gone when it returns; some 10 ms.
pub fn probe() -> Features {
    let mut features = Features(Vec::new());
    rights(&mut features);
    places(&mut features);
    programs(&mut features);
    helpers(&mut features);
    maps(&mut features);
    network(&mut features);
    features
}

impl Features {
    fn add(
        &mut self,
        (name, since, required): (&'static str, &'static str, bool),
        without: &'static str,
        answer: Answer,
    ) {
        let present = answer.is_ok();
        self.0.push(Feature {
            name,
            since,
            present,
            required,
            without,
            detail: answer.unwrap_or_else(|why| why),
        });
    }
}

/// The bit of CAP_SYS_ADMIN.
const SYS_ADMIN: u32 = 21;

fn rights(features: &mut Features) {
    let effective = effective_capabilities();
    for (name, since, bit, without) in [
        ("CAP_BPF", "5.8", 39, "no program can be loaded"),
        (
            "CAP_NET_ADMIN",
            "",
            12,
            "no program can be attached, no route made",
        ),
        (
            "CAP_SYS_ADMIN",
            "",
            SYS_ADMIN,
            "no workload's namespace can be entered",
        ),
    ] {
        let answer = match &effective {
            Ok(set) if set & (1 << bit) != 0 => Ok("effective".to_owned()),
            // To the kernel the one has always been the other, too; container runtimes of before 5.8 know only that.
            Ok(set) if name == "CAP_BPF" && set & (1 << SYS_ADMIN) != 0 => {
                Ok("by CAP_SYS_ADMIN".to_owned())
            }
            Ok(_) => Err("this process does not have it; run as root".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        features.add((name, since, REQUIRED), without, answer);
    }
}

fn effective_capabilities() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/thread-self/status")?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .ok_or_else(|| io::Error::other("/proc/thread-self/status has no CapEff"))
}

fn places(features: &mut Features) {
    features.add(
        ("BTF", "4.18", REQUIRED),
        "the programs cannot be loaded",
        exists("/sys/kernel/btf/vmlinux"),
    );
    features.add(
        ("cgroup v2", "4.5", REQUIRED),
        "there is no place to capture dials",
        cgroup::mount_point()
            .map(|path| path.display().to_string())
            .ok_or_else(|| "no cgroup2 in /proc/self/mounts; mount one".to_owned()),
    );
    let known = fs::read_to_string("/proc/filesystems").is_ok_and(|all| {
        all.lines()
            .any(|line| line.split_whitespace().last() == Some("bpf"))
    });
    features.add(
        ("bpffs", "4.4", REQUIRED),
        "capture would end with the agent",
        if known {
            Ok("known to the kernel".to_owned())
        } else {
            Err("the kernel has no bpf file system".to_owned())
        },
    );
}

fn exists(path: &str) -> Answer {
    match Path::new(path).try_exists() {
        Ok(true) => Ok(path.to_owned()),
        Ok(false) => Err(format!("{path} does not exist")),
        Err(error) => Err(format!("{path}: {error}")),
    }
}

fn programs(features: &mut Features) {
    for (name, since, kind, without) in [
        (
            "cgroup sock_addr programs",
            "4.17",
            ProgramType::CgroupSockAddr,
            "dials cannot be captured",
        ),
        (
            "sockops programs",
            "4.13",
            ProgramType::SockOps,
            "original destinations are lost",
        ),
        (
            "cgroup sockopt programs",
            "5.3",
            ProgramType::CgroupSockopt,
            "the proxy cannot ask for original destinations",
        ),
        (
            "traffic control programs",
            "4.1",
            ProgramType::SchedClassifier,
            "no guard, no arrivals",
        ),
    ] {
        let answer = supported(is_program_supported(kind));
        features.add((name, since, REQUIRED), without, answer);
    }
    features.add(
        ("tcx links", "6.6", OPTIONAL),
        "programs on interfaces are clsact filters, which a workload with NET_ADMIN can remove from its own \
         interfaces until the watchdog puts them back",
        tcx(),
    );
}

/// Whether the kernel has tcx: it looks for the interface only if it knows the kind of link.
pub(crate) fn tcx() -> Answer {
    let no_such_interface = i32::MAX.cast_unsigned();
    let attempt = bpf::tiny_classifier().and_then(|program| {
        bpf::link_create(
            program.as_fd(),
            LinkTarget::Interface(no_such_interface),
            AttachType::TcxIngress,
        )
    });
    match attempt {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok("supported".to_owned()),
        Err(error) => Err(error.to_string()),
        Ok(_) => Err("the kernel attached to an interface that does not exist".to_owned()),
    }
}

fn supported<E: std::error::Error>(answer: Result<bool, E>) -> Answer {
    match answer {
        Ok(true) => Ok("supported".to_owned()),
        Ok(false) => Err("not supported by this kernel".to_owned()),
        Err(error) => Err(match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        }),
    }
}

fn helpers(features: &mut Features) {
    use ProgramType::{CgroupSockAddr, SchedClassifier, SockOps};
    for (name, since, program, helper, required, without) in [
        (
            "bpf_get_netns_cookie in connect hooks",
            "5.7",
            CgroupSockAddr,
            BpfHelper::BPF_FUNC_get_netns_cookie,
            REQUIRED,
            "workloads cannot be told apart",
        ),
        (
            "bpf_get_netns_cookie in sockops",
            "5.15",
            SockOps,
            BpfHelper::BPF_FUNC_get_netns_cookie,
            REQUIRED,
            "original destinations of workloads could be mixed up",
        ),
        (
            "bpf_sk_storage_get in connect hooks",
            "5.8",
            CgroupSockAddr,
            BpfHelper::BPF_FUNC_sk_storage_get,
            REQUIRED,
            "original destinations are lost",
        ),
        (
            "bpf_get_current_ancestor_cgroup_id",
            "5.6",
            CgroupSockAddr,
            BpfHelper::BPF_FUNC_get_current_ancestor_cgroup_id,
            REQUIRED,
            "host services cannot be recognised",
        ),
        (
            "bpf_set_retval in connect hooks",
            "5.18",
            CgroupSockAddr,
            BpfHelper::BPF_FUNC_set_retval,
            OPTIONAL,
            "a refused dial fails with EPERM instead of ECONNREFUSED",
        ),
        (
            "bpf_sk_assign at interfaces",
            "5.7",
            SchedClassifier,
            BpfHelper::BPF_FUNC_sk_assign,
            REQUIRED,
            "arrivals cannot be given to the proxy",
        ),
        (
            "bpf_skb_cgroup_id",
            "4.18",
            SchedClassifier,
            BpfHelper::BPF_FUNC_skb_cgroup_id,
            REQUIRED,
            "the guard cannot tell the proxy's packets from others",
        ),
    ] {
        let answer = supported(is_helper_supported(program, helper));
        features.add((name, since, required), without, answer);
    }
}

fn maps(features: &mut Features) {
    for (name, since, kind, without) in [
        (
            "socket storage",
            "5.2",
            MapType::SkStorage,
            "original destinations are lost",
        ),
        (
            "ring buffer",
            "5.8",
            MapType::RingBuf,
            "drops cannot be reported",
        ),
        (
            "sockhash",
            "4.18",
            MapType::SockHash,
            "arrivals cannot be given to the proxy",
        ),
        (
            "longest-prefix-match trie",
            "4.11",
            MapType::LpmTrie,
            "destinations cannot be looked up",
        ),
    ] {
        let answer = supported(is_map_supported(kind));
        features.add((name, since, REQUIRED), without, answer);
    }
}

fn network(features: &mut Features) {
    features.add(
        ("SO_NETNS_COOKIE", "5.14", REQUIRED),
        "workloads cannot be enrolled by their namespace",
        namespace::own_cookie()
            .map(|cookie| format!("cookie {cookie}"))
            .map_err(|error| error.to_string()),
    );
    features.add(
        ("tcp_fwmark_accept", "3.16", REQUIRED),
        "applications cannot see their clients' addresses",
        exists("/proc/sys/net/ipv4/tcp_fwmark_accept"),
    );
    features.add(
        ("policy routing", "", REQUIRED),
        "applications cannot see their clients' addresses",
        policy_rules()
            .map(|()| "supported".to_owned())
            .map_err(|error| error.to_string()),
    );
    features.add(
        ("sock_diag", "3.3", REQUIRED),
        "connections older than enrolment would be cut",
        established::list()
            .map(|connections| format!("{} connections here", connections.len()))
            .map_err(|error| error.to_string()),
    );
    features.add(
        ("IPv6", "", OPTIONAL),
        "only IPv4 is carried",
        exists("/proc/sys/net/ipv6"),
    );
}

fn policy_rules() -> io::Result<()> {
    let mut request = RuleMessage::default();
    request.header.family = AddressFamily::Inet;
    let rules = Netlink::route()?.dump(&RouteNetlinkMessage::GetRule(request))?;
    if rules.is_empty() {
        return Err(io::Error::other("the kernel has no policy rules"));
    }
    Ok(())
}
