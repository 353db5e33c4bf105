//! The JSON schema of the configuration: for editors, and what docs/settings.md is written from.
//!
//! Most of it is derived from the types that read the configuration. Here is what they cannot tell: how values look that
//! are written as text.

use std::borrow::Cow;

use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value;

use super::{Address, Bound, Config, OriginRule, Pattern, Peers, ServerAddress, Share, SocketMode, Statuses};

impl Config {
    /// The JSON schema (draft 2020-12) of the configuration. It has two keywords of its own: `x-unit`, of a number, and
    /// `x-watched`, of files whose new contents are taken while Sluice runs.
    #[must_use]
    pub fn schema() -> Schema {
        let settings = SchemaSettings::draft2020_12().with_transform(RecursiveTransform(as_toml));
        settings.into_generator().into_root_schema_for::<Self>()
    }
}

/// A duration that is no [`Bound`].
pub(super) struct Span;

/// A file that the keeper watches.
pub(super) struct WatchedFile;

/// A file that is read once.
pub(super) struct File;

/// An address of an interface.
pub(super) struct SocketAddress;

/// A text that stands for the whole, or the whole.
pub(super) struct ShortOr<T>(std::marker::PhantomData<T>);

/// How a value is written that is a text: its name, its meaning, a regular expression (ECMA-262) and examples.
macro_rules! text {
    ($type:ty, $name:literal, $about:literal, $pattern:expr, $examples:tt $(, $key:literal: $value:tt)*) => {
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": "string", "description": $about, "pattern": $pattern, "examples": $examples $(, $key: $value)*
                })
            }
        }
    };
}

/// What the crate `humantime` reads.
const SPAN: &str = "^\\s*([0-9]+(\\.[0-9]+)?\\s*(nanos|nsec|ns|usec|us|µs|millis|msec|ms|seconds|second|secs|sec|s|\
                    minutes|minute|mins|min|m|hours|hour|hrs|hr|h|days|day|d|weeks|week|wks|wk|w|months|month|M|\
                    years|year|yrs|yr|y)\\s*)+$";

text!(
    Span,
    "Duration",
    "Numbers with units: `ms`, `s`, `m`, `h`, `d` and longer spellings of them. Never zero.",
    SPAN,
    ["500ms", "10s", "1m 30s"]
);
text!(
    WatchedFile,
    "WatchedFile",
    "The path of a file. A relative one starts at the folder of the configuration file. The keeper looks \
     at these files once a second, and on SIGHUP; changed contents are taken without a restart.",
    ".",
    ["cert.pem", "/etc/sluice/cert.pem"],
    "x-watched": true
);
text!(
    File,
    "File",
    "The path of a file. A relative one starts at the folder of the configuration file.",
    ".",
    ["errors/down.html"]
);
text!(
    SocketAddress,
    "SocketAddress",
    "An IP address and a port.",
    "^([0-9.]+|\\[[^\\]]+\\]):[0-9]{1,5}$",
    ["127.0.0.1:9900", "[::1]:9900"]
);
text!(
    Address,
    "Address",
    "An IP address and a port, or `unix:` and the path of a Unix socket, of 107 bytes at most. There are no names: they \
     would have to be looked up.",
    "^(([0-9.]+|\\[[^\\]]+\\]):[0-9]{1,5}|unix:.+)$",
    ["127.0.0.1:80", "[::1]:80", "unix:/run/app.sock"]
);
text!(
    ServerAddress,
    "ServerAddress",
    "An IP address and a port; `unix:` and the path of a Unix socket; a name and a port, for all addresses of that name (A \
     and AAAA records); or `srv:` and the name of a service (SRV records): the servers of the lowest priority, those of \
     the others as backups, with the weights of the records times the one that is set here.",
    "^(([0-9.]+|\\[[^\\]]+\\]|[A-Za-z0-9_.\\-]+):[0-9]{1,5}|unix:.+|srv:[A-Za-z0-9_.\\-]+)$",
    ["127.0.0.1:80", "[::1]:80", "unix:/run/app.sock", "app.internal:80", "srv:_ws._tcp.app.internal"]
);
text!(
    OriginRule,
    "Origin",
    "`same-origin`: host and port are those of the request's Host, the scheme is that of the listener. \
     `https://app.example.com`: this origin. `https://*.example.com`: every name below, with this scheme and port. \
     `http://localhost:*`: every port. `moz-extension://*`: every host of a scheme that is none of the web's. `null`: \
     pages without an origin, such as sandboxed ones, of whatever site. `any`: whatever it says.",
    "^(same-origin|null|any|[A-Za-z0-9+.\\-]+://(\\*|(\\*\\.)?[A-Za-z0-9\\-._~\\[\\]:%]+)(:\\*)?)$",
    [
        "same-origin",
        "https://app.example.com",
        "https://*.example.com",
        "http://localhost:*",
        "moz-extension://*",
        "null"
    ]
);
text!(
    Peers,
    "Peers",
    "A network, a single address, or `unix`: whoever may connect to a Unix socket.",
    "^(unix|[0-9A-Fa-f:.]+(/[0-9]{1,3})?)$",
    ["10.0.0.0/8", "2001:db8::1", "unix"]
);
text!(
    Statuses,
    "Statuses",
    "A status of HTTP, or all from one to another.",
    "^[1-5][0-9]{2}(-[1-5][0-9]{2})?$",
    ["204", "200-299"]
);
text!(SocketMode, "SocketMode", "Permissions of a file, in octal.", "^0*[0-7]{1,3}$", ["0660"]);
text!(
    Pattern,
    "Pattern",
    "A regular expression in the syntax of the Rust crate `regex`, over bytes: `.` is any byte, `\\d`, `\\w` and `\\s` \
     are ASCII. It must match the whole text.",
    "",
    ["/rooms/[0-9]+"]
);

impl JsonSchema for Bound {
    fn schema_name() -> Cow<'static, str> {
        "Bound".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let span = generator.subschema_for::<Span>();
        json_schema!({ "description": "A duration, or `\"off\"`: no limit.", "anyOf": [{ "const": "off" }, span] })
    }
}

impl JsonSchema for Share {
    fn schema_name() -> Cow<'static, str> {
        "Share".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "number", "description": "A number from 0 to 1: a part of a whole.", "minimum": 0, "maximum": 1,
            "examples": [0.1, 0.5]
        })
    }
}

impl<T: JsonSchema> JsonSchema for ShortOr<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("ShortOr{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "string" }, generator.subschema_for::<T>()] })
    }
}

/// TOML has no null, and none of the number formats that are not JSON schema's own. A default that is a table is told
/// by the table's own settings.
fn as_toml(schema: &mut Schema) {
    let Some(object) = schema.as_object_mut() else { return };
    let default = object.get("default").cloned().unwrap_or_default();
    if let (true, Some(short)) = (object.contains_key("anyOf"), default.get("prefix")) {
        // A path, whose short form is a prefix.
        object.insert("default".into(), short.clone());
    } else if default.is_null() || default.is_object() {
        object.shift_remove("default");
    }
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            object.insert("type".into(), only);
        }
    }
    if let Some(Value::Array(kinds)) = object.get_mut("anyOf") {
        kinds.retain(|kind| kind.get("type").is_none_or(|name| name != "null"));
        if let [Value::Object(only)] = kinds.as_slice() {
            let only = only.clone();
            object.shift_remove("anyOf");
            object.extend(only);
        }
    }
    if let Some(Value::String(format)) = object.shift_remove("format") {
        let most: Option<u64> = match format.as_str() {
            "uint16" => Some(u16::MAX.into()),
            "uint32" => Some(u32::MAX.into()),
            _ => None,
        };
        if let (Some(most), None) = (most, object.get("maximum")) {
            object.insert("maximum".into(), most.into());
        }
    }
    if let Some(Value::String(text)) = object.get_mut("description") {
        *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    }
}
