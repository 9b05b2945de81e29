//! The calls of bpf(2) on links and pins, as thin safe functions.
//!
//! aya owns the links that it makes and can swap the program of some kinds only; Warren's links belong to their pins, and
//! every one of them must take a new program without a pause. Knows nothing of Warren's programs.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const PROG_LOAD: libc::c_int = 5;
const OBJ_PIN: libc::c_int = 6;
const OBJ_GET: libc::c_int = 7;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const LINK_CREATE: libc::c_int = 28;
const LINK_UPDATE: libc::c_int = 29;
const LINK_DETACH: libc::c_int = 34;

/// `BPF_F_BEFORE` without a relative: before every other program of the hook.
const BEFORE: u32 = 1 << 3;

/// Where a program can be attached by a link (`enum bpf_attach_type`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub(crate) enum AttachType {
    SockOps = 3,
    Connect4 = 10,
    Connect6 = 11,
    GetSockOpt = 21,
    PeerName4 = 29,
    PeerName6 = 30,
    TcxIngress = 46,
}

/// To what a link is made.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LinkTarget<'a> {
    /// An open cgroup directory.
    Cgroup(BorrowedFd<'a>),
    /// An interface of the calling thread's network namespace.
    Interface(u32),
}

/// What the kernel says about a link.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct LinkInfo {
    /// Id of the attached program.
    pub(crate) program: u32,
    /// cgroup id, or interface index; 0 when the target is gone or the link was detached by force.
    pub(crate) target: u64,
}

/// The kernel's `union bpf_attr`, as words; every call uses a prefix, the rest is zero as the kernel demands.
#[repr(C, align(8))]
#[derive(Default)]
struct Attributes([u32; 16]);

impl Attributes {
    fn set_pointer(&mut self, word: usize, pointer: *const u8) {
        let [a, b, c, d, e, f, g, h] = (pointer as u64).to_ne_bytes();
        self.0[word] = u32::from_ne_bytes([a, b, c, d]);
        self.0[word + 1] = u32::from_ne_bytes([e, f, g, h]);
    }
}

fn call(command: libc::c_int, attributes: &mut Attributes) -> io::Result<i64> {
    // SAFETY: `attributes` is valid for reads and writes of its whole size, which is what is passed as the size; pointers
    // inside it were made from live buffers by the callers in this module.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<Attributes>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

fn descriptor(result: i64) -> io::Result<OwnedFd> {
    let fd = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel has just returned this descriptor (close-on-exec, as all of bpf(2)'s); nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn word(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn path_string(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// Attaches a program by a new link, before other programs where the hook has an order.
pub(crate) fn link_create(
    program: BorrowedFd<'_>,
    target: LinkTarget<'_>,
    attach: AttachType,
) -> io::Result<OwnedFd> {
    let mut attributes = Attributes::default();
    attributes.0[0] = word(program);
    attributes.0[2] = attach as u32;
    match target {
        LinkTarget::Cgroup(cgroup) => attributes.0[1] = word(cgroup),
        LinkTarget::Interface(index) => {
            attributes.0[1] = index;
            attributes.0[3] = BEFORE;
        }
    }
    descriptor(call(LINK_CREATE, &mut attributes)?)
}

/// Loads a classifier that lets everything pass, to ask the kernel questions with.
pub(crate) fn tiny_classifier() -> io::Result<OwnedFd> {
    const SCHED_CLS: u32 = 3;
    // r0 = -1 (TC_ACT_UNSPEC: go on with the next); exit
    const INSTRUCTIONS: [u64; 2] = [0xffff_ffff_0000_00b7, 0x0000_0000_0000_0095];
    const LICENSE: &[u8] = b"GPL\0";
    let mut attributes = Attributes::default();
    attributes.0[0] = SCHED_CLS;
    attributes.0[1] = INSTRUCTIONS.len() as u32;
    attributes.set_pointer(2, INSTRUCTIONS.as_ptr().cast());
    attributes.set_pointer(4, LICENSE.as_ptr());
    descriptor(call(PROG_LOAD, &mut attributes)?)
}

/// Swaps the program of a link, atomically.
pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = Attributes::default();
    attributes.0[0] = word(link);
    attributes.0[1] = word(program);
    call(LINK_UPDATE, &mut attributes).map(drop)
}

/// Detaches a link at once, whoever else holds it. One whose target is gone counts as detached.
pub(crate) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = Attributes::default();
    attributes.0[0] = word(link);
    match call(LINK_DETACH, &mut attributes) {
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(()),
        other => other.map(drop),
    }
}

/// What the kernel says about a link.
pub(crate) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    // struct bpf_link_info: type, id, prog_id, padding, then the union; words 4 and 5 are cgroup_id or ifindex.
    let mut info = Attributes::default();
    object_info(link, &mut info)?;
    const TYPE_CGROUP: u32 = 3;
    let target = if info.0[0] == TYPE_CGROUP {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&info.0[4].to_ne_bytes());
        bytes[4..].copy_from_slice(&info.0[5].to_ne_bytes());
        u64::from_ne_bytes(bytes)
    } else {
        u64::from(info.0[4])
    };
    Ok(LinkInfo {
        program: info.0[2],
        target,
    })
}

/// Id of a program, map or link: the second word of every info structure.
pub(crate) fn object_id(object: BorrowedFd<'_>) -> io::Result<u32> {
    let mut info = Attributes::default();
    object_info(object, &mut info)?;
    Ok(info.0[1])
}

/// Type, key size, value size and capacity of a map.
pub(crate) fn map_shape(map: BorrowedFd<'_>) -> io::Result<[u32; 4]> {
    // struct bpf_map_info: type, id, key_size, value_size, max_entries.
    let mut info = Attributes::default();
    object_info(map, &mut info)?;
    Ok([info.0[0], info.0[2], info.0[3], info.0[4]])
}

fn object_info(object: BorrowedFd<'_>, info: &mut Attributes) -> io::Result<()> {
    let mut attributes = Attributes::default();
    attributes.0[0] = word(object);
    attributes.0[1] = size_of::<Attributes>() as u32;
    attributes.set_pointer(2, std::ptr::from_mut(info).cast::<u8>());
    call(OBJ_GET_INFO_BY_FD, &mut attributes).map(drop)
}

/// Pins an object of bpf(2) at a path on bpffs.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = path_string(path)?;
    let mut attributes = Attributes::default();
    attributes.set_pointer(0, path.as_ptr().cast());
    attributes.0[2] = word(object);
    call(OBJ_PIN, &mut attributes).map(drop)
}

/// Opens a pinned object.
pub(crate) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = path_string(path)?;
    let mut attributes = Attributes::default();
    attributes.set_pointer(0, path.as_ptr().cast());
    descriptor(call(OBJ_GET, &mut attributes)?)
}
