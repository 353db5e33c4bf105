//! Texts of files that may have no end, such as `/dev/zero`.

use std::io::{self, Read};

/// Reads a text of at most `most` bytes.
///
/// # Errors
/// It cannot be read, is longer, or is no UTF-8.
pub(super) fn read(source: impl Read, most: u64) -> io::Result<String> {
    let mut text = Vec::new();
    if source.take(most + 1).read_to_end(&mut text)? as u64 > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is longer than {most} bytes")));
    }
    String::from_utf8(text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.utf8_error()))
}
