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
/// Before everybody else's filters.
const PRIORITY: u32 = 1;
/// `ETH_P_ALL`, network byte order, as `tcm_info` wants it beside the priority.
const EVERY_PROTOCOL: u32 = (0x0003_u16).to_be() as u32;
/// Our filter's handle: an unusual one, so that it is not confused with another's.
const FILTER: TcHandle = TcHandle {
    major: 0,
    minor: 0x3aa0,
};

/// Attaches a program to an interface's ingress, or swaps it, atomically; in the calling thread's namespace.
pub(crate) fn attach(interface: u32, program: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let mut netlink = Netlink::route()?;
    let mut qdisc = TcMessage::with_index(interface.cast_signed());
    qdisc.header.parent = CLSACT_PARENT;
    qdisc.header.handle = CLSACT_HANDLE;
    qdisc
        .attributes
        .push(TcAttribute::Kind("clsact".to_owned()));
    match netlink.change(
        &RouteNetlinkMessage::NewQueueDiscipline(qdisc),
        NLM_F_CREATE | NLM_F_EXCL,
    ) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
        other => other?,
    }
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
    )
}

/// Removes our filter. The qdisc stays: others may have put theirs beside it, and an empty one does nothing.
pub(crate) fn detach(interface: u32) -> io::Result<()> {
    let mut netlink = Netlink::route()?;
    match netlink.change(
        &RouteNetlinkMessage::DelTrafficFilter(filter(interface)),
        0,
    ) {
        Err(error) if is_gone(&error) => Ok(()),
        other => other,
    }
}

/// Id of the program in our filter, if it is there.
pub(crate) fn attached(interface: u32) -> io::Result<Option<u32>> {
    let mut netlink = Netlink::route()?;
    let mut request = TcMessage::with_index(interface.cast_signed());
    request.header.parent = INGRESS;
    let filters = match netlink.dump(&RouteNetlinkMessage::GetTrafficFilter(request)) {
        Err(error) if is_gone(&error) => return Ok(None),
        other => other?,
    };
    Ok(filters.into_iter().find_map(|message| {
        let RouteNetlinkMessage::NewTrafficFilter(message) = message else {
            return None;
        };
        let ours = message.header.handle == FILTER && message.header.info >> 16 == PRIORITY;
        ours.then(|| message.attributes.iter().find_map(program_id))?
    }))
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
