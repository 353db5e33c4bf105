//! Loads the checked-in object into the kernel.

use std::io;

use aya::maps::{HashMap, MapData, RingBuf, SockMap};
use aya::programs::SkSkb;
use aya::{Ebpf, EbpfLoader};
use proxy_common::layout::{DirCounters, Event, UserState, VerdictState};

use super::btf::{self, Offsets};
use super::maps::Kernel;
use crate::handoff::WhyNot;
use crate::sys::mapped::{MappedArray, Words};

/// The object, as `cargo xtask build-ebpf` made it.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../proxy-ebpf/sluice.bpf.o");

const BTF_FILE: &str = "/sys/kernel/btf/vmlinux";

/// The smallest ring that the kernel takes is one page.
const PAGE: u32 = 4096;
/// A ring-buffer record: 8 bytes of header, 8 of [`Event`].
const RECORD: u32 = 8 + size_of::<Event>() as u32;

/// Why the kernel relay is not available.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The kernel's types are not known.
    #[error("cannot read {BTF_FILE}: {0}; the kernel needs CONFIG_DEBUG_INFO_BTF")]
    NoBtf(io::Error),
    /// The kernel's types are not those expected.
    #[error(transparent)]
    Btf(#[from] btf::BtfError),
    /// A map or the program was refused.
    #[error("the kernel refused {what}: {source}")]
    Refused {
        /// Which part.
        what: &'static str,
        /// The reason.
        source: anyhow::Error,
    },
    /// Loading was refused for want of privilege.
    #[error("loading BPF programs needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON: {0}")]
    Privilege(anyhow::Error),
}

impl KernelError {
    /// The reason in a word.
    #[must_use]
    pub const fn why_not(&self) -> WhyNot {
        match self {
            Self::NoBtf(_) | Self::Btf(_) => WhyNot::NoBtf,
            Self::Refused { .. } => WhyNot::KernelRefused,
            Self::Privilege(_) => WhyNot::NoPrivilege,
        }
    }
}

impl Kernel {
    /// Loads the program and its maps, for up to `capacity` pairs, with `backlog_limit` bytes of backlog a direction.
    ///
    /// # Errors
    /// See [`KernelError`].
    pub fn load(capacity: u32, backlog_limit: u32) -> Result<Self, KernelError> {
        let bytes = std::fs::read(BTF_FILE).map_err(KernelError::NoBtf)?;
        let offsets = btf::offsets(&bytes)?;
        let mut ebpf = load_object(capacity, backlog_limit, &offsets)?;
        let logger = aya_log::EbpfLogger::init(&mut ebpf)
            .inspect_err(|error| tracing::debug!(%error, "the kernel program's log lines will not be shown"))
            .ok();
        attach(&mut ebpf)?;
        Ok(Self {
            targets: map(&mut ebpf, "TARGETS", SockMap::try_from)?,
            sources: map(&mut ebpf, "SOURCES", SockMap::try_from)?,
            indices: map(&mut ebpf, "INDICES", HashMap::try_from)?,
            events: map(&mut ebpf, "EVENTS", RingBuf::try_from)?,
            counters: mapped::<DirCounters>(&mut ebpf, "COUNTERS", capacity * 2)?,
            verdicts: mapped::<VerdictState>(&mut ebpf, "VERDICTS", capacity * 2)?,
            users: mapped::<UserState>(&mut ebpf, "USERS", capacity * 2)?,
            logger,
            _ebpf: ebpf,
        })
    }
}

fn load_object(capacity: u32, backlog_limit: u32, offsets: &Offsets) -> Result<Ebpf, KernelError> {
    let sockets = capacity * 2;
    let level = if tracing::enabled!(tracing::Level::DEBUG) { aya_log::Level::Debug as u8 } else { 0 };
    EbpfLoader::new()
        .override_global("OFFSET_WRITE_SEQ", &offsets.write_seq, true)
        .override_global("OFFSET_COPIED_SEQ", &offsets.copied_seq, true)
        .override_global("OFFSET_WMEM_QUEUED", &offsets.wmem_queued, true)
        .override_global("OFFSET_SNDBUF", &offsets.sndbuf, true)
        .override_global("OFFSET_WMEM_ALLOC", &offsets.wmem_alloc, true)
        .override_global("BACKLOG_LIMIT", &backlog_limit, true)
        .override_global(aya_log::LEVEL, &level, false)
        .map_max_entries("TARGETS", sockets)
        .map_max_entries("SOURCES", sockets)
        .map_max_entries("INDICES", sockets)
        .map_max_entries("COUNTERS", capacity)
        .map_max_entries("VERDICTS", sockets)
        .map_max_entries("USERS", sockets)
        // Two records per direction: one that userspace has not read yet, and one more.
        .map_max_entries("EVENTS", (sockets * 2 * RECORD).max(PAGE).next_power_of_two())
        .load(OBJECT)
        .map_err(|error| refused("a map", error))
}

fn attach(ebpf: &mut Ebpf) -> Result<(), KernelError> {
    let fd = ebpf
        .map("SOURCES")
        .ok_or_else(|| missing("SOURCES"))
        .and_then(|map| SockMap::try_from(map).map_err(|error| refused("SOURCES", error)))?
        .fd()
        .try_clone()
        .map_err(|error| refused("SOURCES", error))?;
    let program: &mut SkSkb = ebpf
        .program_mut("sluice_verdict")
        .ok_or_else(|| missing("the program"))?
        .try_into()
        .map_err(|error: aya::programs::ProgramError| refused("the program", error))?;
    program.load().map_err(|error| refused("the program", error))?;
    program.attach(&fd).map_err(|error| refused("attaching the program", error))?;
    Ok(())
}

fn map<T, E: Into<anyhow::Error>>(
    ebpf: &mut Ebpf,
    name: &'static str,
    convert: impl FnOnce(aya::maps::Map) -> Result<T, E>,
) -> Result<T, KernelError> {
    let map = ebpf.take_map(name).ok_or_else(|| missing(name))?;
    convert(map).map_err(|error| refused(name, error))
}

fn mapped<T: Words>(ebpf: &mut Ebpf, name: &'static str, len: u32) -> Result<MappedArray<T>, KernelError> {
    let map = ebpf.take_map(name).ok_or_else(|| missing(name))?;
    let aya::maps::Map::Array(data) = map else {
        return Err(missing(name));
    };
    let data: MapData = data;
    MappedArray::map(data.fd(), 0, len as usize).map_err(|error| refused(name, error))
}

fn missing(what: &'static str) -> KernelError {
    KernelError::Refused { what, source: anyhow::anyhow!("the object that Sluice was built with lacks it") }
}

fn refused(what: &'static str, error: impl Into<anyhow::Error>) -> KernelError {
    let source = error.into();
    let denied = source.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    });
    if denied { KernelError::Privilege(source) } else { KernelError::Refused { what, source } }
}
