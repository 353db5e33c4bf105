//! `println!`, `print!` and `eprintln!` for this program, in the place of those of std, which panic when nobody reads any more
//! (`cargo xtask bench | head`): a bench goes on to its end and writes its files.

use std::fmt;
use std::io::{self, Write};

/// Writes to standard output or standard error, if it takes anything.
pub(crate) fn write(mut to: impl Write, said: fmt::Arguments<'_>) {
    let _ = to.write_fmt(said).and_then(|()| to.flush());
}

/// Standard output.
pub(crate) fn out() -> impl Write {
    io::stdout()
}

/// Standard error.
pub(crate) fn err() -> impl Write {
    io::stderr()
}

macro_rules! print {
    ($($said:tt)*) => { $crate::print::write($crate::print::out(), format_args!($($said)*)) };
}

macro_rules! println {
    () => { print!("\n") };
    ($($said:tt)*) => { print!("{}\n", format_args!($($said)*)) };
}

macro_rules! eprintln {
    ($($said:tt)*) => { $crate::print::write($crate::print::err(), format_args!("{}\n", format_args!($($said)*))) };
}
