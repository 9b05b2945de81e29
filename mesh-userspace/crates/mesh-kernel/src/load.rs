//! From the embedded object to loaded programs and maps.
//!
//! Maps that an earlier agent pinned are taken over, so that old and new programs share them; programs are always new and
//! reach their hooks by [`crate::link`].

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use aya::maps::MapData;
use aya::programs::{
    CgroupSockAddr, CgroupSockopt, Program, ProgramType, SchedClassifier, SockOps,
};
use aya::sys::{BpfHelper, is_helper_supported};
use aya::{Btf, EbpfLoader};
use mesh_common::names::{global, map, program};

use crate::bpf;
use crate::error::KernelError;
use crate::log::ProgramLog;
use crate::maps::{self, Maps};
use crate::object;
use crate::pin::{self, Pins};

/// Every program of the object.
pub(crate) const PROGRAMS: [&str; 10] = [
    program::CONNECT4,
    program::CONNECT6,
    program::PEERNAME4,
    program::PEERNAME6,
    program::ORIGIN_CLIENT,
    program::ORIGIN_PROXY,
    program::ORIGDST,
    program::INGRESS,
    program::INGRESS_HOST,
    program::GUARD,
];

/// A loaded program.
#[derive(Debug)]
pub(crate) struct Loaded {
    fd: OwnedFd,
    id: u32,
}

/// The loaded programs, by name.
#[derive(Debug)]
pub(crate) struct Programs(BTreeMap<&'static str, Loaded>);

impl Programs {
    /// The program of one of the names in `mesh_common::names::program`.
    pub(crate) fn fd(&self, name: &'static str) -> BorrowedFd<'_> {
        self.0[name].fd.as_fd()
    }

    /// The kernel's id of a program.
    pub(crate) fn id(&self, name: &'static str) -> u32 {
        self.0[name].id
    }

    /// The name that a pin begins with, if it is one of ours.
    pub(crate) fn of_pin(pin: &str) -> Option<&'static str> {
        let name = pin.split('-').next()?;
        PROGRAMS.into_iter().find(|program| *program == name)
    }
}

/// What [`load`] gives.
pub(crate) struct Object {
    pub(crate) programs: Programs,
    pub(crate) maps: Maps,
    /// The ring buffer of events.
    pub(crate) events: MapData,
    /// The programs' own lines.
    pub(crate) log: Option<ProgramLog>,
}

/// Loads the programs, with the pinned maps or new ones, which are pinned.
pub(crate) fn load(pins: &Pins) -> Result<Object, KernelError> {
    check_shapes(pins)?;
    let mut loader = EbpfLoader::new();
    let btf = Btf::from_sys_fs().ok();
    loader.btf(btf.as_ref());
    for name in maps::PINNED {
        loader.map_pin_path(name, pins.maps().join(name));
    }
    let set_retval = has_helper(BpfHelper::BPF_FUNC_set_retval)?;
    let multipath = has_helper(BpfHelper::BPF_FUNC_skc_to_mptcp_sock)?;
    loader.override_global(global::HAS_SET_RETVAL, &set_retval, true);
    loader.override_global(global::HAS_MULTIPATH, &multipath, true);
    let mut ebpf = loader.load(object::bytes()?).map_err(load_error)?;
    let log = ProgramLog::of(&mut ebpf);
    let mut programs = BTreeMap::new();
    for name in PROGRAMS {
        let program = ebpf
            .program_mut(name)
            .ok_or_else(|| missing("program", name))?;
        load_program(program).map_err(load_error)?;
        let fd = program
            .fd()
            .map_err(load_error)?
            .as_fd()
            .try_clone_to_owned()
            .map_err(|source| KernelError::Bpf {
                operation: "keep",
                object: format!("program {name}"),
                source,
            })?;
        let id = bpf::object_id(fd.as_fd()).map_err(|source| KernelError::Bpf {
            operation: "identify",
            object: format!("program {name}"),
            source,
        })?;
        programs.insert(name, Loaded { fd, id });
    }
    let maps = Maps::take(|name| ebpf.take_map(name).ok_or_else(|| missing("map", name)))?;
    let events = maps::open(&pins.maps().join(map::EVENTS)).map_err(|source| KernelError::Bpf {
        operation: "open",
        object: format!("map {}", map::EVENTS),
        source,
    })?;
    Ok(Object {
        programs: Programs(programs),
        maps,
        events,
        log,
    })
}

/// Whether connect hooks can call a helper that they can do without, as the number that the programs read. Where it is
/// missing the verifier sees the call as dead code. A question without an answer (no memory, say) is asked once more and then
/// an error: taken as "missing", it would leave a weaker program in place for as long as this agent runs.
fn has_helper(helper: BpfHelper) -> Result<u8, KernelError> {
    let ask = || is_helper_supported(ProgramType::CgroupSockAddr, helper);
    ask()
        .or_else(|_asked_again| ask())
        .map(u8::from)
        .map_err(load_error)
}

fn load_program(program: &mut Program) -> Result<(), aya::programs::ProgramError> {
    match program {
        Program::CgroupSockAddr(program) => CgroupSockAddr::load(program),
        Program::CgroupSockopt(program) => CgroupSockopt::load(program),
        Program::SockOps(program) => SockOps::load(program),
        Program::SchedClassifier(program) => SchedClassifier::load(program),
        _ => Err(aya::programs::ProgramError::UnexpectedProgramType),
    }
}

/// A pinned map of another shape would be read wrongly; the layout version exists so that this never happens.
fn check_shapes(pins: &Pins) -> Result<(), KernelError> {
    for name in maps::PINNED {
        let path = pins.maps().join(name);
        let Some(wanted) = maps::shape(name) else {
            continue;
        };
        let found = match bpf::open_pin(&path).and_then(|fd| bpf::map_shape(fd.as_fd())) {
            Ok([_, found @ ..]) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => {
                return Err(KernelError::Bpf {
                    operation: "open",
                    object: format!("pinned map {name}"),
                    source,
                });
            }
        };
        let fits = wanted
            .into_iter()
            .zip(found)
            .all(|(wanted, found)| wanted == 0 || wanted == found as usize);
        if !fits {
            return Err(KernelError::OtherShape { map: name, path });
        }
    }
    Ok(())
}

/// Takes over from another layout version what is frozen: the memory of sockets that are open.
pub(crate) fn adopt_frozen(from: &Pins, to: &Pins) {
    for name in [map::DIALLED, map::ACCEPTED] {
        let moved = bpf::open_pin(&from.maps().join(name)).and_then(|fd| {
            let [_, _, value, _] = bpf::map_shape(fd.as_fd())?;
            if value as usize == size_of::<mesh_common::origin::Origin>() {
                bpf::pin(fd.as_fd(), &to.maps().join(name))?;
            }
            Ok(())
        });
        if let Err(error) = moved {
            tracing::warn!(map = name, %error, "memory of open connections is not taken over");
        }
    }
}

/// Removes the maps of another layout version, once no program reads them.
pub(crate) fn remove_maps(pins: &Pins) -> usize {
    let names = Pins::names(&pins.maps());
    names
        .iter()
        .filter(|name| pin::remove(&pins.maps().join(name)).is_ok())
        .count()
}

fn load_error(error: impl std::error::Error + Send + Sync + 'static) -> KernelError {
    KernelError::Load(Box::new(error))
}

fn missing(kind: &'static str, name: &'static str) -> KernelError {
    KernelError::Load(format!("the object has no {kind} {name}").into())
}
