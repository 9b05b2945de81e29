//! Programs on interfaces for kernels without tcx (before 6.6): a `clsact` qdisc and a filter in it.
//!
//! A filter is less safe than a link: whoever has NET_ADMIN in its namespace can remove it. The watchdog puts it back, and
//! the guard, which is out of the workload's reach, goes on dropping.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};

use super::{Netlink, is_gone};

/// `TC_H_CLSACT` and `TC_H_MIN_INGRESS`.
const CLSACT_PARENT: TcHandle = TcHandle {
    major: 0xffff,
    minor: 0xfff1,
};
const CLSACT_HANDLE: TcHandle = TcHandle {
    major: 0xffff,
    minor: 0,
};
const INGRESS: TcHandle = TcHandle {
    major: 0xffff,
    minor: 0xfff2,
};
const EGRESS: TcHandle = TcHandle {
    major: 0xffff,
    minor: 0xfff3,
};
/// Before everybody else's filters.
const PRIORITY: u32 = 1;
/// `ETH_P_ALL`, network byte order, as `tcm_info` wants it beside the priority.
const EVERY_PROTOCOL: u32 = (0x0003_u16).to_be() as u32;
/// Our filter's handle: an unusual one, so that it is not confused with another's.
const FILTER: TcHandle = TcHandle {
    major: 0,
    minor: 0x3aa0,
};

/// Attaches a program to an interface's ingress, or swaps it, atomically; in the calling thread's namespace. Tells whether
/// the qdisc had to be made.
pub(crate) fn attach(interface: u32, program: BorrowedFd<'_>, name: &str) -> io::Result<bool> {
    let mut netlink = Netlink::route()?;
    let made = match netlink.change(
        &RouteNetlinkMessage::NewQueueDiscipline(qdisc(interface)),
        NLM_F_CREATE | NLM_F_EXCL,
    ) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => false,
        other => other.map(|()| true)?,
    };
    let mut filter = filter(interface);
    filter.attributes.push(TcAttribute::Options(vec![
        TcOption::Bpf(TcFilterBpfOption::ProgFd(
            program.as_raw_fd().cast_unsigned(),
        )),
        TcOption::Bpf(TcFilterBpfOption::ProgName(name.to_owned())),
        TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
    ]));
    netlink.change(
        &RouteNetlinkMessage::NewTrafficFilter(filter),
        NLM_F_CREATE | NLM_F_REPLACE,
    )?;
    Ok(made)
}

/// Removes our filter.
pub(crate) fn detach(interface: u32) -> io::Result<()> {
    let mut netlink = Netlink::route()?;
    match netlink.change(&RouteNetlinkMessage::DelTrafficFilter(filter(interface)), 0) {
        Err(error) if is_gone(&error) => Ok(()),
        other => other,
    }
}

/// Removes the qdisc if there is no filter in it, neither for what arrives nor for what leaves.
pub(crate) fn remove_unused(interface: u32) -> io::Result<()> {
    let mut netlink = Netlink::route()?;
    for parent in [INGRESS, EGRESS] {
        if !filters(&mut netlink, interface, parent)?.is_empty() {
            return Ok(());
        }
    }
    match netlink.change(
        &RouteNetlinkMessage::DelQueueDiscipline(qdisc(interface)),
        0,
    ) {
        Err(error) if is_gone(&error) => Ok(()),
        other => other,
    }
}

/// Id of the program in our filter, if it is there.
pub(crate) fn attached(interface: u32) -> io::Result<Option<u32>> {
    let mut netlink = Netlink::route()?;
    let found = filters(&mut netlink, interface, INGRESS)?;
    Ok(found.into_iter().find_map(|message| {
        let ours = message.header.handle == FILTER && message.header.info >> 16 == PRIORITY;
        ours.then(|| message.attributes.iter().find_map(program_id))?
    }))
}

fn filters(netlink: &mut Netlink, interface: u32, parent: TcHandle) -> io::Result<Vec<TcMessage>> {
    let mut request = TcMessage::with_index(interface.cast_signed());
    request.header.parent = parent;
    let answers = match netlink.dump(&RouteNetlinkMessage::GetTrafficFilter(request)) {
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        other => other?,
    };
    Ok(answers
        .into_iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewTrafficFilter(message) => Some(message),
            _ => None,
        })
        .collect())
}

fn qdisc(interface: u32) -> TcMessage {
    let mut message = TcMessage::with_index(interface.cast_signed());
    message.header.parent = CLSACT_PARENT;
    message.header.handle = CLSACT_HANDLE;
    message
        .attributes
        .push(TcAttribute::Kind("clsact".to_owned()));
    message
}

fn program_id(attribute: &TcAttribute) -> Option<u32> {
    let TcAttribute::Options(options) = attribute else {
        return None;
    };
    options.iter().find_map(|option| match option {
        TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => Some(*id),
        _ => None,
    })
}

fn filter(interface: u32) -> TcMessage {
    let mut message = TcMessage::with_index(interface.cast_signed());
    message.header.parent = INGRESS;
    message.header.handle = FILTER;
    message.header.info = (PRIORITY << 16) | EVERY_PROTOCOL;
    message
        .attributes
        .push(TcAttribute::Kind(TcFilterBpf::KIND.to_owned()));
    message
}
