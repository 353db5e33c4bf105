//! Which hosts a route serves.

/// One host of a route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum HostRule {
    /// In lower case, without the dot at its end.
    Exact(String),
    /// With its leading dot.
    Below(String),
    Any,
}

impl HostRule {
    /// Reads one as it is configured.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub(super) fn read(host: &str) -> Result<Self, &'static str> {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let (name, below) = match host.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (host.as_str(), false),
        };
        let brackets = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        let address =
            brackets.is_some_and(|inside| inside.bytes().all(|b| b.is_ascii_hexdigit() || b":.".contains(&b)));
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b));
        match (name.is_empty(), plain || (address && !below), below) {
            (true, ..) => Err("it is empty; leave `host` out to serve every host"),
            (_, false, _) => Err("it is no host name; write a name without its port, or *.name for all below it"),
            (_, _, true) => Ok(Self::Below(format!(".{name}"))),
            (_, _, false) => Ok(Self::Exact(host)),
        }
    }

    /// Whether it serves a host, in lower case and without its port.
    pub(super) fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => name == host,
            Self::Below(suffix) => is_below(host, suffix),
            Self::Any => true,
        }
    }

    /// Exact before wildcard before any; of two wildcards the longer.
    pub(super) fn rank(&self) -> (u8, usize) {
        match self {
            Self::Exact(_) => (2, 0),
            Self::Below(suffix) => (1, suffix.len()),
            Self::Any => (0, 0),
        }
    }
}

/// Whether a name ends in the suffix (with its leading dot) and has a label before it.
pub(super) fn is_below(host: &str, suffix: &str) -> bool {
    host.strip_suffix(suffix).is_some_and(|label| !label.is_empty() && !label.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_in_one_form() {
        assert_eq!(HostRule::read("Chat.Example.com."), Ok(HostRule::Exact("chat.example.com".into())));
        assert_eq!(HostRule::read("*.Example.com"), Ok(HostRule::Below(".example.com".into())));
        assert_eq!(HostRule::read("[::1]"), Ok(HostRule::Exact("[::1]".into())));
        for wrong in
            ["", "*.", "*", "a*.test", "*.*.test", "a.test:80", "a b", "a%62", "http://a.test", "*.[::1]", "[::1"]
        {
            assert!(HostRule::read(wrong).is_err(), "{wrong}");
        }
    }
}
