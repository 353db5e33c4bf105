//! The only room that imports aya: loads the kernel program, holds its maps, and finds out what the kernel allows.

pub mod btf;
mod load;
mod maps;
pub mod probe;

pub use load::KernelError;
pub use maps::{InsertError, Kernel};
