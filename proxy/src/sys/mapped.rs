//! Arrays in memory that another process or the kernel reads or writes too.

use std::io;
use std::marker::PhantomData;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use proxy_common::layout::{DirCounters, PairCounters, UserState, VerdictState};
use rustix::mm::{MapFlags, ProtFlags};

/// A value that may be read and written as 64-bit words while somebody else writes it.
///
/// # Safety
/// The type is `repr(C)`, has no padding, is valid for every bit pattern, and its size and alignment are
/// multiples of 8.
pub unsafe trait Words: Copy + Default {}

// SAFETY: `layout` asserts size and alignment, and all of the fields are integers.
unsafe impl Words for PairCounters {}
// SAFETY: as above.
unsafe impl Words for DirCounters {}
// SAFETY: as above.
unsafe impl Words for VerdictState {}
// SAFETY: as above.
unsafe impl Words for UserState {}
// SAFETY: one integer of 8 bytes.
unsafe impl Words for u64 {}

/// The sole right, in this process, to write one element of a [`MappedArray`].
///
/// It is no reference, so it can be kept in a task; who makes two for the same element breaks the counters of that
/// element, and nothing else (all accesses are whole words).
#[derive(Debug)]
pub struct Slot(u32);

impl Slot {
    /// The right to element `index`.
    #[must_use]
    pub fn new(index: u32) -> Self {
        Self(index)
    }

    /// Which element.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.0
    }
}

/// A shared mapping of an array, and its length in elements.
pub struct MappedArray<T: Words> {
    base: NonNull<AtomicU64>,
    len: usize,
    kind: PhantomData<T>,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is only accessed as atomic words.
unsafe impl<T: Words> Send for MappedArray<T> {}
// SAFETY: as above.
unsafe impl<T: Words> Sync for MappedArray<T> {}

impl<T: Words> MappedArray<T> {
    const WORDS: usize = size_of::<T>() / 8;

    /// Maps `len` elements that begin `offset` bytes (a multiple of the page size) into a file.
    ///
    /// # Errors
    /// The file cannot be mapped: it is no memfd or mmap-able BPF map, or memory is short.
    pub fn map(file: impl AsFd, offset: u64, len: usize) -> io::Result<Self> {
        let bytes = Self::bytes(len);
        // SAFETY: a fresh mapping at an address of the kernel's choosing aliases nothing of ours.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file,
                offset,
            )
        }?;
        Ok(Self { base: Self::non_null(base)?, len, kind: PhantomData })
    }

    /// As [`MappedArray::map`], of memory that nobody else sees.
    ///
    /// # Errors
    /// Memory is short.
    pub fn anonymous(len: usize) -> io::Result<Self> {
        let bytes = Self::bytes(len);
        // SAFETY: as in `map`.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }?;
        Ok(Self { base: Self::non_null(base)?, len, kind: PhantomData })
    }

    fn bytes(len: usize) -> usize {
        (len * size_of::<T>()).next_multiple_of(rustix::param::page_size())
    }

    fn non_null(base: *mut std::ffi::c_void) -> io::Result<NonNull<AtomicU64>> {
        NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap returned address 0"))
    }

    /// How many elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn word(&self, element: usize, word: usize) -> &AtomicU64 {
        assert!(element < self.len && word < Self::WORDS, "element {element} word {word} is outside of the mapping");
        // SAFETY: the assertion keeps the address inside the mapping, which lives as long as `self`; it is 8-aligned
        // because the mapping is page-aligned and elements are multiples of 8 bytes.
        unsafe { &*self.base.as_ptr().add(element * Self::WORDS + word) }
    }

    /// Reads an element. Each word is whole; words written meanwhile may be newer than their neighbours.
    #[must_use]
    pub fn read(&self, element: u32) -> T {
        self.read_from(element, 0)
    }

    /// As [`MappedArray::read`], but the word `first` is loaded before all others: whatever its writer wrote before that
    /// word is in the value, what the writer wrote later may be too.
    ///
    /// # Panics
    /// The word is not inside the mapping; `first` is a constant at every caller.
    #[must_use]
    pub fn read_from(&self, element: u32, first: usize) -> T {
        let mut value = T::default();
        let published = self.word(element as usize, first).load(Ordering::Acquire);
        for word in 0..Self::WORDS {
            let bits = match word {
                word if word == first => published,
                word => self.word(element as usize, word).load(Ordering::Relaxed),
            };
            // SAFETY: `Words` promises that the type is made of WORDS words, valid for every bit pattern.
            unsafe { std::ptr::from_mut(&mut value).cast::<u64>().add(word).write(bits) };
        }
        value
    }

    /// Writes an element, word by word.
    pub fn write(&self, slot: &mut Slot, value: &T) {
        for word in 0..Self::WORDS {
            // SAFETY: as in `read`; and `Words` promises that there is no padding, so every word is initialised.
            let bits = unsafe { std::ptr::from_ref(value).cast::<u64>().add(word).read() };
            let cell = self.word(slot.0 as usize, word);
            if cell.load(Ordering::Relaxed) != bits {
                cell.store(bits, Ordering::Relaxed);
            }
        }
    }

    /// Changes an element of which the caller is the only writer.
    pub fn update(&self, slot: &mut Slot, change: impl FnOnce(&mut T)) {
        let mut value = self.read(slot.0);
        change(&mut value);
        self.write(slot, &value);
    }

    /// One word of an element, for the ordered accesses that [`proxy_common::flow`] asks for.
    ///
    /// # Panics
    /// The word is not inside the mapping; `word` is a constant at every caller.
    #[must_use]
    pub fn atomic(&self, element: u32, word: usize) -> &AtomicU64 {
        self.word(element as usize, word)
    }
}

impl<T: Words> Drop for MappedArray<T> {
    fn drop(&mut self) {
        // SAFETY: the range is the one that was mapped, and no reference into it outlives `self`.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), Self::bytes(self.len)) };
    }
}
