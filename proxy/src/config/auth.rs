//! How clients show who they are.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::matching::short_or_whole;
use super::schema::{ShortOr, Span, WatchedFile};
use super::{Config, Texts, duration};

/// One way in which clients show who they are; routes name those that they take. Exactly one of `jwt`, `basic`,
/// `api_key` and `forward`. docs/auth.md says which to choose, and what backends see.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// The name that routes use, any text; no two have the same.
    pub name: String,
    /// What the 401 calls what is protected (`realm` of WWW-Authenticate). None: `name`. Not with `forward`, whose 401
    /// is the service's own.
    #[serde(default)]
    pub realm: Option<String>,
    /// A signed token (JWT, RFC 7519) of somebody who has checked the client before.
    #[serde(default)]
    pub jwt: Option<AuthJwt>,
    /// A name and a password (RFC 7617).
    #[serde(default)]
    pub basic: Option<AuthBasic>,
    /// A key for a program.
    #[serde(default)]
    pub api_key: Option<AuthApiKey>,
    /// An HTTP service that is asked about each request.
    #[serde(default)]
    pub forward: Option<AuthForward>,
}

/// Tokens. Their signature must be one of the keys', by the one algorithm that the key is for; `none` is no algorithm
/// here. `nbf` is kept to if there is one.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuthJwt {
    /// The file with the public keys: a JWK set (RFC 7517), in which a token's `kid` chooses, or one or several PEM
    /// blocks `PUBLIC KEY`. None: there is `secret`.
    #[serde(default)]
    #[schemars(with = "Option<WatchedFile>")]
    pub keys: Option<PathBuf>,
    /// The file whose bytes are the secret of HS256, without a line break at its end; 32 bytes at least (RFC 7518 §3.2).
    /// None: there is `keys`.
    #[serde(default)]
    #[schemars(with = "Option<WatchedFile>")]
    pub secret: Option<PathBuf>,
    /// The algorithms that are taken. None: those of the keys, each of which is good for one only.
    #[serde(default)]
    pub algorithms: Vec<JwtAlgorithm>,
    /// Who may have issued a token (`iss`): a text or a list of texts. None: whoever has a key.
    #[serde(default, deserialize_with = "short_or_whole")]
    #[schemars(with = "ShortOr<Texts>")]
    pub issuer: Texts,
    /// Whom a token may be for (`aud`): a text or a list of texts. None: only tokens that name nobody, since one for
    /// somebody else is not for us (RFC 7519 §4.1.3).
    #[serde(default, deserialize_with = "short_or_whole")]
    #[schemars(with = "ShortOr<Texts>")]
    pub audience: Texts,
    /// What a token must say, each claim with the values of which it must have one: `{ scope = ["chat"] }`. Dots lead into
    /// a claim, as in `claims`. A text has itself and each of its words (`scope`, RFC 8693 §4.2), a list its elements. A
    /// token that is good and says something else is answered with 403. None.
    #[serde(default)]
    pub require: BTreeMap<String, Vec<String>>,
    /// Whether tokens without `exp` are refused. `true`: one that never ends cannot be taken back.
    #[serde(default = "defaults::yes")]
    pub require_expiry: bool,
    /// How far clocks may differ: a token is good for so long before `nbf` and behind `exp`. 30 s: machines that keep
    /// their time differ by less than 1 s, those that do not by more than any leeway; this is for what lies between. `"0s"`:
    /// none.
    #[serde(default = "defaults::leeway", with = "duration::or_none")]
    #[schemars(with = "Span")]
    pub leeway: Duration,
    /// Where the token is looked for, in this order; the first place that has one counts. `["bearer"]`: what RFC 6750
    /// recommends, and what no log writes down. Browsers can only send cookies, queries and subprotocols with a
    /// WebSocket.
    #[serde(default = "defaults::bearer")]
    #[schemars(length(min = 1))]
    pub from: Vec<AuthSource>,
    /// Whether the backend gets the token as well. `false`: what it does not have it cannot lose.
    #[serde(default)]
    pub pass: bool,
    /// Headers for the backend, each with the claim that it gets: `{ x-user = "sub" }`. Dots lead into a claim, unless
    /// there is one of the whole name. Texts, numbers, `true` and `false` are written as they are, the elements of a list
    /// with commas between them. What the client sent under these names is removed, whether the claim is there or not.
    /// None.
    #[serde(default)]
    pub claims: BTreeMap<String, String>,
    /// Whether an established connection ends with its token (and `leeway`). `false`: a token says who may enter, and
    /// clients whose tokens live for minutes would reconnect all day.
    #[serde(default)]
    pub end_at_expiry: bool,
}

/// A password file.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuthBasic {
    /// The file with a line `name:hash` for each user, as `htpasswd -B` writes it: the hash is bcrypt (`$2a$`, `$2b$`,
    /// `$2y$`) or Argon2 (`$argon2id$`). Others are refused: they can be guessed too fast.
    #[schemars(with = "WatchedFile")]
    pub users: PathBuf,
    /// The header in which the backend gets the user's name; what the client sent under this name is removed. None: it
    /// gets none.
    #[serde(default)]
    pub user_header: Option<String>,
    /// Whether the backend gets the password as well. `false`: what it does not have it cannot lose.
    #[serde(default)]
    pub pass: bool,
}

/// A list of keys.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuthApiKey {
    /// The file with a line `name:hash` for each key; the hash is what `printf %s "$key" | sha256sum` prints. Keys must
    /// be random and long (`openssl rand -hex 32`): a hash this fast does not protect one that can be guessed.
    #[schemars(with = "WatchedFile")]
    pub keys: PathBuf,
    /// Where the key is looked for, in this order; the first place that has one counts. `[{ header = "x-api-key" }]`:
    /// the most common name.
    #[serde(default = "defaults::api_key_header")]
    #[schemars(length(min = 1))]
    pub from: Vec<AuthSource>,
    /// The header in which the backend gets the key's name; what the client sent under this name is removed. None: it
    /// gets none.
    #[serde(default)]
    pub user_header: Option<String>,
    /// Whether the backend gets the key as well. `false`: what it does not have it cannot lose.
    #[serde(default)]
    pub pass: bool,
}

/// A service that decides. It gets a GET without a body, with X-Forwarded-Method, -Proto, -Host, -Uri and -For, and with
/// `request_headers`. A 2xx lets the client enter; a 401, a 403 or a redirection goes to the client; whatever else comes,
/// or nothing in time, is a 503.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuthForward {
    /// The `name` of the backend whose servers are the service.
    pub backend: String,
    /// The target that is asked for, with its query if it has one. `/`.
    #[serde(default = "defaults::path")]
    pub path: String,
    /// The Host that is asked for. None: `tls.server_name` of the backend, or else the server's first address.
    #[serde(default)]
    pub host: Option<String>,
    /// The client's headers that the service gets. `["authorization", "cookie"]`: where credentials are.
    #[serde(default = "defaults::request_headers")]
    pub request_headers: Vec<String>,
    /// Headers of a 2xx that the backend gets; what the client sent under these names is removed. None: it gets none.
    #[serde(default)]
    pub response_headers: Vec<String>,
    /// Headers that go to the client with a 401, a 403 or a redirection. `["www-authenticate", "location",
    /// "set-cookie"]`: what a login needs.
    #[serde(default = "defaults::refusal_headers")]
    pub refusal_headers: Vec<String>,
    /// How long the service may take in all. 2 s: longer than a look into a database, and short of what a person waits.
    /// A server that is not reached in half of it is left for another one; one that is late counts for `ejection`.
    #[serde(default = "defaults::timeout", with = "duration")]
    #[schemars(with = "Span")]
    pub timeout: Duration,
}

/// An algorithm of a signature (RFC 7518 §3.1, RFC 8037 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum JwtAlgorithm {
    /// HMAC with SHA-256: whoever can check a token can make one.
    HS256,
    /// RSA (PKCS #1 v1.5) with SHA-256 and a key of 2048 bits at least.
    RS256,
    /// ECDSA on the curve P-256 with SHA-256.
    ES256,
    /// Ed25519.
    EdDSA,
}

/// Where in a request a token or a key is looked for. A place with two of them is as bad as one with a wrong one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AuthSource {
    /// `Authorization: Bearer …` (RFC 6750 §2.1).
    Bearer,
    /// The header of this name, as it is.
    Header(String),
    /// The cookie of this name.
    Cookie(String),
    /// The query parameter of this name. Sluice's log has no queries; other logs do.
    Query(String),
    /// With `bearer`: the subprotocol `bearer.<token>`, or the one behind the subprotocol `bearer`. The 101 names the
    /// one or the other if the backend chooses none, since a browser wants one of those that it has offered.
    Subprotocol(String),
}

impl Auth {
    fn wrong(&self, config: &Config) -> Option<String> {
        let kinds = [self.jwt.is_some(), self.basic.is_some(), self.api_key.is_some(), self.forward.is_some()];
        if kinds.into_iter().filter(|there| *there).count() != 1 {
            return Some("it needs exactly one of jwt, basic, api_key and forward".into());
        }
        if self.realm.as_ref().unwrap_or(&self.name).bytes().any(|byte| !(b' '..=b'~').contains(&byte)) {
            return Some("its realm (or its name, if it has none) goes into a header: printable ASCII only".into());
        }
        let jwt = self.jwt.as_ref().and_then(AuthJwt::wrong);
        let api_key = self.api_key.as_ref().and_then(|keys| empty(&keys.from, "api_key.from"));
        jwt.or(api_key).or_else(|| self.forward.as_ref().and_then(|forward| forward.wrong(config, self)))
    }

    /// The files that it names.
    pub(super) fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let jwt = self.jwt.iter_mut().flat_map(|jwt| [&mut jwt.keys, &mut jwt.secret]).flatten();
        let lists = self.basic.iter_mut().map(|basic| &mut basic.users);
        jwt.chain(lists).chain(self.api_key.iter_mut().map(|keys| &mut keys.keys))
    }
}

impl AuthJwt {
    fn wrong(&self) -> Option<String> {
        if self.keys.is_some() == self.secret.is_some() {
            return Some("jwt needs either keys or secret".into());
        }
        let other = self.algorithms.iter().find(|algorithm| **algorithm != JwtAlgorithm::HS256);
        if let Some(other) = other.filter(|_| self.secret.is_some()) {
            return Some(format!("jwt.algorithms has {other:?}, and a secret is for HS256 only"));
        }
        if self.end_at_expiry && !self.require_expiry {
            return Some(
                "jwt.end_at_expiry with require_expiry = false: tokens without exp would end nothing; drop one of them"
                    .into(),
            );
        }
        if let Some((claim, _)) = self.require.iter().find(|(_, values)| values.is_empty()) {
            return Some(format!("jwt.require: {claim:?} has no value, so nobody could enter"));
        }
        empty(&self.from, "jwt.from")
    }
}

impl AuthForward {
    fn wrong(&self, config: &Config, auth: &Auth) -> Option<String> {
        if auth.realm.is_some() {
            return Some("realm does nothing with forward: the service says what its 401 needs".into());
        }
        if !config.backends.iter().any(|backend| backend.name == self.backend) {
            let names: Vec<&str> = config.backends.iter().map(|backend| backend.name.as_str()).collect();
            return Some(format!("there is no backend {:?} for forward; there is {names:?}", self.backend));
        }
        (!self.path.starts_with('/')).then(|| format!("forward.path {:?} does not begin with /", self.path))
    }
}

fn empty(from: &[AuthSource], what: &str) -> Option<String> {
    from.is_empty().then(|| format!("{what} is empty, so nobody could enter"))
}

impl Config {
    /// What is wrong with the ways to enter, and with the names that routes have for them.
    pub(super) fn auth_wrong(&self) -> Option<String> {
        let mut names = HashSet::new();
        for auth in &self.auth {
            if !names.insert(auth.name.as_str()) {
                return Some(format!("two [[auth]] are named {:?}", auth.name));
            }
            if let Some(what) = auth.wrong(self) {
                return Some(format!("[[auth]] {:?}: {what}", auth.name));
            }
        }
        for (index, route) in self.routes.iter().enumerate() {
            let known: Vec<&str> = self.auth.iter().map(|auth| auth.name.as_str()).collect();
            let label = route.label(index);
            let mut seen = HashSet::new();
            if let Some(name) = route.auth.iter().find(|name| !known.contains(&name.as_str())) {
                return Some(format!("{label}: there is no [[auth]] {name:?}; there is {known:?}"));
            }
            if let Some(name) = route.auth.iter().find(|name| !seen.insert(name.as_str())) {
                return Some(format!("{label}: its auth has {name:?} twice"));
            }
        }
        None
    }
}

mod defaults {
    use std::time::Duration;

    use super::AuthSource;

    pub(super) fn yes() -> bool {
        true
    }

    pub(super) fn leeway() -> Duration {
        Duration::from_secs(30)
    }

    pub(super) fn bearer() -> Vec<AuthSource> {
        vec![AuthSource::Bearer]
    }

    pub(super) fn api_key_header() -> Vec<AuthSource> {
        vec![AuthSource::Header("x-api-key".into())]
    }

    pub(super) fn path() -> String {
        "/".into()
    }

    pub(super) fn request_headers() -> Vec<String> {
        ["authorization", "cookie"].map(str::to_owned).into()
    }

    pub(super) fn refusal_headers() -> Vec<String> {
        ["www-authenticate", "location", "set-cookie"].map(str::to_owned).into()
    }

    pub(super) fn timeout() -> Duration {
        Duration::from_secs(2)
    }
}

#[cfg(test)]
#[path = "auth_tests.rs"]
mod tests;
