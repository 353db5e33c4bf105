//! Reads from the kernel's BTF where the fields lie that the verdict needs.
//!
//! Only as much of the format as that takes (Documentation/bpf/btf.rst of the kernel): a header, types one after
//! the other, strings. Pure: bytes in, offsets out; nothing in the bytes can make it panic.

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
/// Bytes of a type's head: its name, what it is, its size or type.
const HEAD: usize = 12;

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

/// The types, where they lie: a kernel has a hundred thousand, and five of them are asked for.
struct Types<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where each type begins. The first is number 1.
    starts: Vec<u32>,
}

/// One type.
struct Type<'a> {
    name: u32,
    kind: u32,
    /// Members, or whatever this kind has several of.
    count: usize,
    /// Whether its members' offsets also tell the widths of bit fields.
    bitfields: bool,
    /// What follows its head.
    body: &'a [u8],
}

/// A struct's or union's member.
struct Member {
    name: u32,
    /// The number of its type.
    kind: u32,
    /// In bits.
    offset: u32,
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
        let mut all = Self { types: section(8)?, strings: section(16)?, starts: Vec::new() };
        let mut at = 0;
        while at < all.types.len() {
            let size = all.read(at)?.size();
            if all.types.len() - at < size {
                return Err(BtfError::Malformed(at));
            }
            // Both ends were read from words of 32 bits.
            all.starts.push(at as u32);
            at += size;
        }
        Ok(all)
    }

    /// The type that begins there.
    fn read(&self, at: usize) -> Result<Type<'a>, BtfError> {
        let (name, info) = (word(self.types, at)?, word(self.types, at + 4)?);
        Ok(Type {
            name,
            kind: info >> 24 & 0x1f,
            count: (info & 0xffff) as usize,
            bitfields: info >> 31 == 1,
            body: self.types.get(at + HEAD..).ok_or(BtfError::Malformed(at))?,
        })
    }

    /// All of them, in order.
    fn all(&self) -> impl Iterator<Item = Type<'a>> {
        self.starts.iter().filter_map(|at| self.read(*at as usize).ok())
    }

    /// The type of this number.
    fn number(&self, number: u32) -> Option<Type<'a>> {
        let at = self.starts.get((number as usize).checked_sub(1)?)?;
        self.read(*at as usize).ok()
    }

    fn offset(&self, structure: &'static str, field: &'static str) -> Result<u32, BtfError> {
        self.all()
            .find(|one| one.kind == KIND_STRUCT && self.is(one.name, structure))
            .and_then(|one| self.find(&one, field, 4))
            .filter(|bits| bits % 8 == 0)
            .map(|bits| bits / 8)
            .ok_or(BtfError::Missing(structure, field))
    }

    /// A member's offset in bits, looking into unnamed members too, at most `depth` deep.
    fn find(&self, one: &Type<'_>, field: &str, depth: u32) -> Option<u32> {
        one.members().find_map(|member| {
            if self.is(member.name, field) {
                Some(member.offset)
            } else if self.is(member.name, "") && depth > 0 {
                let inner = self.find(&self.number(member.kind)?, field, depth - 1)?;
                member.offset.checked_add(inner)
            } else {
                None
            }
        })
    }

    /// Whether the string there is this one.
    fn is(&self, at: u32, text: &str) -> bool {
        let rest = self.strings.get(at as usize..).unwrap_or_default();
        rest.strip_prefix(text.as_bytes()).is_some_and(|rest| rest.first().is_none_or(|byte| *byte == 0))
    }
}

impl Type<'_> {
    /// In bytes, with its head.
    fn size(&self) -> usize {
        let body = match self.kind {
            1 | 14 | 17 => 4,                            // int, var, declaration tag
            KIND_ARRAY => 12,                            // element, index, count
            KIND_STRUCT | KIND_UNION => self.count * 12, // members
            6 | 13 => self.count * 8,                    // enum, function prototype
            15 | 19 => self.count * 12,                  // data section, 64-bit enum
            _ => 0,
        };
        HEAD + body
    }

    /// None, if it is neither struct nor union.
    fn members(&self) -> impl Iterator<Item = Member> {
        let count = if matches!(self.kind, KIND_STRUCT | KIND_UNION) { self.count } else { 0 };
        self.body.chunks_exact(12).take(count).filter_map(|member| {
            let offset = word(member, 8).ok()?;
            let offset = if self.bitfields { offset & 0x00ff_ffff } else { offset };
            Some(Member { name: word(member, 0).ok()?, kind: word(member, 4).ok()?, offset })
        })
    }
}

fn word(bytes: &[u8], at: usize) -> Result<u32, BtfError> {
    match bytes.get(at..at.saturating_add(4)) {
        Some(&[a, b, c, d]) => Ok(u32::from_le_bytes([a, b, c, d])),
        _ => Err(BtfError::Malformed(at)),
    }
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
