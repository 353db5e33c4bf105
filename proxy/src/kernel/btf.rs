//! Reads from the kernel's BTF where the fields lie that the verdict needs.
//!
//! Only as much of the format as that takes (Documentation/bpf/btf.rst of the kernel): a header, types one after
//! the other, strings. Pure: bytes in, offsets out; nothing in the bytes can make it panic.

use std::collections::HashMap;

/// Byte offsets into `struct tcp_sock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// `write_seq`.
    pub write_seq: u32,
    /// `copied_seq`.
    pub copied_seq: u32,
    /// `sk_wmem_queued` of the `struct sock` at its beginning.
    pub wmem_queued: u32,
    /// `sk_sndbuf`.
    pub sndbuf: u32,
    /// `sk_wmem_alloc`.
    pub wmem_alloc: u32,
}

/// Why the offsets are not known.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BtfError {
    /// The bytes are no BTF of a little-endian kernel, or cut.
    #[error("the kernel's BTF is malformed near byte {0}")]
    Malformed(usize),
    /// It lacks a field.
    #[error("the kernel's BTF has no {0}::{1}")]
    Missing(&'static str, &'static str),
}

const MAGIC: u16 = 0xeb9f;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;

/// Reads `/sys/kernel/btf/vmlinux`'s bytes.
///
/// # Errors
/// See [`BtfError`].
pub fn offsets(btf: &[u8]) -> Result<Offsets, BtfError> {
    let types = Types::parse(btf)?;
    let tcp = |field| types.offset("tcp_sock", field);
    let sock = |field| types.offset("sock", field);
    // `struct sock` must be the very beginning of `struct tcp_sock`, as every kernel so far has it.
    for (outer, inner) in [("tcp_sock", "inet_conn"), ("inet_connection_sock", "icsk_inet"), ("inet_sock", "sk")] {
        if types.offset(outer, inner)? != 0 {
            return Err(BtfError::Missing(outer, inner));
        }
    }
    Ok(Offsets {
        write_seq: tcp("write_seq")?,
        copied_seq: tcp("copied_seq")?,
        wmem_queued: sock("sk_wmem_queued")?,
        sndbuf: sock("sk_sndbuf")?,
        wmem_alloc: sock("sk_wmem_alloc")?,
    })
}

/// A struct's or union's members, as (name, type, offset in bits).
type Members = Vec<(u32, u32, u32)>;

struct Types<'a> {
    strings: &'a [u8],
    by_name: HashMap<&'a [u8], u32>,
    members: HashMap<u32, Members>,
}

impl<'a> Types<'a> {
    fn parse(btf: &'a [u8]) -> Result<Self, BtfError> {
        let half = |at: usize| btf.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        if half(0) != Some(MAGIC) {
            return Err(BtfError::Malformed(0));
        }
        let header = word(btf, 4)? as usize;
        let section = |at: usize| -> Result<&'a [u8], BtfError> {
            let start = header.saturating_add(word(btf, at)? as usize);
            let end = start.saturating_add(word(btf, at + 4)? as usize);
            btf.get(start..end).ok_or(BtfError::Malformed(at))
        };
        let (types, strings) = (section(8)?, section(16)?);
        let mut all = Self { strings, by_name: HashMap::new(), members: HashMap::new() };
        let (mut at, mut id) = (0, 1);
        while at < types.len() {
            at = all.read_type(types, at, id)?;
            id += 1;
        }
        Ok(all)
    }

    /// Reads one type; returns where the next begins.
    fn read_type(&mut self, types: &[u8], at: usize, id: u32) -> Result<usize, BtfError> {
        let (name, info) = (word(types, at)?, word(types, at + 4)?);
        let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
        let bitfields = info >> 31 == 1;
        let body = at + 12;
        if kind == KIND_STRUCT || kind == KIND_UNION {
            let mut members = Vec::with_capacity(count);
            for member in 0..count {
                let at = body + member * 12;
                let offset = word(types, at + 8)?;
                let offset = if bitfields { offset & 0x00ff_ffff } else { offset };
                members.push((word(types, at)?, word(types, at + 4)?, offset));
            }
            self.members.insert(id, members);
            if kind == KIND_STRUCT {
                self.by_name.entry(string(self.strings, name)).or_insert(id);
            }
        }
        let size = match kind {
            1 | 14 | 17 => 4,                       // int, var, declaration tag
            KIND_ARRAY => 12,                       // element, index, count
            KIND_STRUCT | KIND_UNION => count * 12, // members
            6 | 13 => count * 8,                    // enum, function prototype
            15 | 19 => count * 12,                  // data section, 64-bit enum
            _ => 0,
        };
        Ok(body + size)
    }

    fn offset(&self, structure: &'static str, field: &'static str) -> Result<u32, BtfError> {
        self.by_name
            .get(structure.as_bytes())
            .and_then(|id| self.find(*id, field.as_bytes(), 4))
            .filter(|bits| bits % 8 == 0)
            .map(|bits| bits / 8)
            .ok_or(BtfError::Missing(structure, field))
    }

    /// A member's offset in bits, looking into unnamed members too, at most `depth` deep.
    fn find(&self, id: u32, field: &[u8], depth: u32) -> Option<u32> {
        self.members.get(&id)?.iter().find_map(|&(name, kind, offset)| {
            let name = string(self.strings, name);
            if name == field {
                Some(offset)
            } else if name.is_empty() && depth > 0 {
                self.find(kind, field, depth - 1).map(|inner| offset + inner)
            } else {
                None
            }
        })
    }
}

fn word(bytes: &[u8], at: usize) -> Result<u32, BtfError> {
    match bytes.get(at..at.saturating_add(4)) {
        Some(&[a, b, c, d]) => Ok(u32::from_le_bytes([a, b, c, d])),
        _ => Err(BtfError::Malformed(at)),
    }
}

fn string(strings: &[u8], at: u32) -> &[u8] {
    let rest = strings.get(at as usize..).unwrap_or_default();
    rest.split(|byte| *byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn this_kernels_offsets_are_found_where_it_has_btf() {
        if let Ok(btf) = std::fs::read("/sys/kernel/btf/vmlinux") {
            let found = offsets(&btf).unwrap();
            assert!(found.write_seq > found.wmem_queued, "struct sock comes before what TCP adds: {found:?}");
            assert_eq!(found.write_seq % 4, 0);
        }
    }

    #[test]
    fn no_btf_is_malformed() {
        assert_eq!(offsets(b""), Err(BtfError::Malformed(0)));
        assert_eq!(offsets(b"\x9f\xeb"), Err(BtfError::Malformed(4)));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = offsets(&bytes);
            for (at, byte) in [0x9f, 0xeb, 1, 0, 24, 0, 0, 0, 0, 0, 0, 0].into_iter().enumerate() {
                if let Some(slot) = bytes.get_mut(at) {
                    *slot = byte;
                }
            }
            let _ = offsets(&bytes);
        }
    }
}
