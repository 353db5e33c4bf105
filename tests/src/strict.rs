//! HTTP/1.1 requests as the strictest reader takes them: what RFC 9112 leaves to taste is an error here.
//!
//! Whoever writes for this reader writes for every other one. It stands on nothing but the standard library: the fuzz
//! targets read with it too.

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// As it was sent.
    pub method: String,
    /// As it was sent.
    pub target: String,
    /// Names in lower case, in the order of arrival.
    pub fields: Vec<(String, String)>,
    /// What its framing says is its body.
    pub body: Vec<u8>,
}

/// How far a request is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All of it is there, and is so long.
    Whole(Request, usize),
    /// Its head is there, and what there is of its body.
    Head(Request),
    /// Its head is not complete.
    Part,
}

impl Request {
    /// All values of a field (its name in lower case).
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.fields.iter().filter(move |(field, _)| field == name).map(|(_, value)| value.as_str())
    }
}

/// Reads the request that these bytes begin with.
///
/// # Errors
/// It is none; the message has what is wrong.
pub fn read(bytes: &[u8]) -> Result<Progress, String> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(Progress::Part) };
    let (head, rest) = bytes.split_at(end);
    let head: String = head.iter().map(|&byte| char::from(byte)).collect();
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap_or_default();
    let (method, target) = first_line(line).ok_or_else(|| format!("not a request line: {line:?}"))?;
    let mut request = Request { method, target, fields: Vec::new(), body: Vec::new() };
    for line in lines {
        request.fields.push(field(line).ok_or_else(|| format!("not a field: {line:?}"))?);
    }
    if request.all("host").count() != 1 {
        return Err(format!("not one Host: {head:?}"));
    }
    let length = match framing(&request)? {
        Framing::Length(length) => {
            let body = rest.get(4..).unwrap_or_default();
            request.body = body.get(..length).unwrap_or(body).to_vec();
            (body.len() >= length).then_some(length)
        }
        Framing::Chunked => chunks(rest.get(4..).unwrap_or_default(), &mut request.body)?,
    };
    Ok(match length {
        Some(length) => Progress::Whole(request, end + 4 + length),
        None => Progress::Head(request),
    })
}

enum Framing {
    Length(usize),
    Chunked,
}

fn framing(request: &Request) -> Result<Framing, String> {
    let lengths: Vec<&str> = request.all("content-length").collect();
    let codings: Vec<&str> = request.all("transfer-encoding").collect();
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Ok(Framing::Length(0)),
        ([length], []) if digits(length) => length.parse().map(Framing::Length).map_err(|error| error.to_string()),
        ([], ["chunked"]) => Ok(Framing::Chunked),
        _ => Err(format!("a body with lengths {lengths:?} and codings {codings:?}")),
    }
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

fn first_line(line: &str) -> Option<(String, String)> {
    let [method, target, "HTTP/1.1"] = line.split(' ').collect::<Vec<_>>()[..] else { return None };
    let path = target.starts_with('/') && target.chars().all(|c| c > ' ' && c != '\x7f' && c != '#');
    (is_token(method) && (path || (method == "OPTIONS" && target == "*"))).then(|| (method.into(), target.into()))
}

fn field(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once(':')?;
    let value = value.trim_matches([' ', '\t']);
    let text = value.chars().all(|c| c == '\t' || (c >= ' ' && c != '\x7f'));
    (is_token(name) && text).then(|| (name.to_ascii_lowercase(), value.to_owned()))
}

/// Reads chunks, without extensions and trailers, into `body`. Returns how long they are, the last one included.
fn chunks(bytes: &[u8], body: &mut Vec<u8>) -> Result<Option<usize>, String> {
    let mut at = 0;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let Some(end) = rest.windows(2).position(|window| window == b"\r\n") else { return Ok(None) };
        let line = String::from_utf8_lossy(&rest[..end]).into_owned();
        let hex = !line.is_empty() && line.len() <= 8 && line.bytes().all(|byte| byte.is_ascii_hexdigit());
        let size = usize::from_str_radix(&line, 16).ok().filter(|_| hex);
        let size = size.ok_or_else(|| format!("not the size of a chunk: {line:?}"))?;
        let data = rest.get(end + 2..).unwrap_or_default();
        body.extend_from_slice(data.get(..size).unwrap_or(data));
        match data.get(size..).and_then(|behind| behind.get(..2)) {
            None => return Ok(None),
            Some(b"\r\n") => at += end + 2 + size + 2,
            Some(other) => return Err(format!("{other:?} behind a chunk")),
        }
        if size == 0 {
            return Ok(Some(at));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn whole_requests_and_their_lengths() {
        let get = "GET /a?b HTTP/1.1\r\nHost: x\r\n\r\n";
        assert!(matches!(read(format!("{get}more").as_bytes()), Ok(Progress::Whole(_, length)) if length == get.len()));
        let post = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
        let chunked = format!("{post}3\r\nabc\r\n0\r\n\r\n");
        let Ok(Progress::Whole(request, length)) = read(chunked.as_bytes()) else { panic!("{chunked}") };
        assert_eq!((request.body.as_slice(), length), (&b"abc"[..], chunked.len()));
        for end in 0..chunked.len() {
            assert!(!matches!(read(&chunked.as_bytes()[..end]), Ok(Progress::Whole(..)) | Err(_)), "{end}");
        }
    }

    #[test]
    fn whatever_has_two_readings() {
        for more in
            ["Content-Length: 1\r\nContent-Length: 1", "Content-Length: +1", "Transfer-Encoding: Chunked", "a : b"]
        {
            let text = format!("GET / HTTP/1.1\r\nHost: x\r\n{more}\r\n\r\n");
            assert!(read(text.as_bytes()).is_err(), "{text}");
        }
        for text in
            ["GET  / HTTP/1.1\r\nHost: x\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n"]
        {
            assert!(read(text.as_bytes()).is_err(), "{text}");
        }
    }
}
