//! Who may ask: API keys, kept as SHA-256 hashes and compared in constant time. Not what the asker may ask for.

use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::error::ApiError;
use crate::state::AppState;
use axum::http::StatusCode;

type Hash = [u8; 32];

/// The keys of a server. Without any, everyone may ask who can reach it.
#[derive(Clone, Default)]
pub struct Keys {
    users: Vec<Hash>,
    admins: Vec<Hash>,
}

/// A key or a key file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("cannot read the key file `{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others can read or change the file.
    #[error("the key file `{}` must be readable by its owner alone; its mode is {mode:o}; fix it by `chmod 600 {}`", path.display(), path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A line is no key.
    #[error("{place}: a key must be {rule}")]
    Key {
        /// Where it stands.
        place: String,
        /// What it must be.
        rule: &'static str,
    },
}

/// Larger files are not key files.
const MAX_FILE_BYTES: u64 = 1 << 20;

impl Keys {
    /// Adds the keys of a file: one a line, plain or as `sha256:` and 64 hexadecimal digits, administrators' after `admin:`.
    /// Empty lines and lines that begin with `#` are left out. Nobody but its owner may have access to the file.
    pub fn add_file(&mut self, path: &Path) -> Result<(), KeyError> {
        let io = |source| KeyError::Io { path: path.into(), source };
        let file = File::open(path).map_err(io)?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let mode = file.metadata().map_err(io)?.mode() & 0o777;
            if mode & 0o077 != 0 {
                return Err(KeyError::Mode { path: path.into(), mode });
            }
        }
        let mut text = String::new();
        file.take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(io)?;
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') {
                self.add(line, || format!("line {number} of the key file `{}`", path.display()))?;
            }
        }
        if self.is_empty() {
            let place = format!("the key file `{}`", path.display());
            return Err(KeyError::Key { place, rule: "there: the file has none" });
        }
        Ok(())
    }

    /// Adds the keys of a list, as an environment variable holds it: separated by commas, each as in a key file.
    pub fn add_list(&mut self, list: &str, name: &str) -> Result<(), KeyError> {
        list.split(',').map(str::trim).filter(|key| !key.is_empty()).try_for_each(|key| self.add(key, || name.to_owned()))
    }

    fn add(&mut self, line: &str, place: impl Fn() -> String) -> Result<(), KeyError> {
        let (keys, key) = match line.strip_prefix("admin:") {
            Some(key) => (&mut self.admins, key),
            None => (&mut self.users, line),
        };
        let hash = match key.strip_prefix("sha256:") {
            Some(digits) => parse_hash(digits)
                .ok_or_else(|| KeyError::Key { place: place(), rule: "64 hexadecimal digits after `sha256:`" })?,
            None if key.len() < 8 || !key.bytes().all(|byte| byte.is_ascii_graphic()) => {
                return Err(KeyError::Key { place: place(), rule: "at least 8 printable ASCII characters without spaces" });
            }
            None => hash_of(key),
        };
        keys.push(hash);
        Ok(())
    }

    /// Whether there are no keys at all.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.admins.is_empty()
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.users.len() + self.admins.len()
    }

    fn is_known(&self, key: &str) -> bool {
        let hash = hash_of(key);
        // Not `or`: how long it takes must not depend on which key it is.
        bool::from(contains(&self.users, &hash) | contains(&self.admins, &hash))
    }

    /// Whether the sender of these headers may change what is served: with an administrator's key where there are any, else
    /// from this machine.
    pub fn may_administer(&self, headers: &HeaderMap, peer: Option<SocketAddr>) -> bool {
        if self.admins.is_empty() {
            return peer.is_some_and(|peer| peer.ip().is_loopback());
        }
        given(headers).is_some_and(|key| contains(&self.admins, &hash_of(key)).into())
    }
}

/// Compares with every hash, whatever is found.
fn contains(hashes: &[Hash], hash: &Hash) -> Choice {
    hashes.iter().fold(Choice::from(0), |found, known| found | known.ct_eq(hash))
}

fn hash_of(key: &str) -> Hash {
    Sha256::digest(key.as_bytes()).into()
}

fn parse_hash(digits: &str) -> Option<Hash> {
    if digits.len() != 64 || !digits.is_ascii() {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(hash)
}

/// The key in `Authorization: Bearer` or in `x-api-key`.
fn given(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
    });
    bearer.or_else(|| headers.get("x-api-key").and_then(|value| value.to_str().ok()))
}

/// The middleware that lets only known keys through.
pub(crate) async fn require_key(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let keys = &state.keys;
    if keys.is_empty() {
        return next.run(request).await;
    }
    match given(request.headers()) {
        Some(key) if keys.is_known(key) => next.run(request).await,
        Some(_) => unauthorized("the API key is not known to this server; check it").into_response(),
        None => unauthorized("an API key is needed; send it as `Authorization: Bearer KEY`").into_response(),
    }
}

fn unauthorized(message: &str) -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, message).coded("invalid_api_key")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn keys(list: &str) -> Result<Keys, KeyError> {
        let mut keys = Keys::default();
        keys.add_list(list, "QERN_API_KEYS").map(|()| keys)
    }

    #[test]
    fn keys_are_known_plain_and_hashed() {
        let hashed = "sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"; // of `secret`
        let keys = keys(&format!("first-key, {hashed},admin:second-key")).unwrap();
        assert_eq!(keys.len(), 3);
        for (key, known) in [("first-key", true), ("secret", true), ("second-key", true), ("first-ke", false), ("", false)] {
            assert_eq!(keys.is_known(key), known, "{key}");
        }
    }

    #[test]
    fn keys_that_are_none_are_refused_without_being_shown() {
        for wrong in ["short", "sha256:abc", "admin:short", "with space"] {
            let error = keys(wrong).err().expect("must be refused").to_string();
            assert!(error.starts_with("QERN_API_KEYS: a key must be ") && !error.contains(wrong), "{error}");
        }
    }

    #[test]
    fn only_administrators_may_administer_or_this_machine_when_there_are_none() {
        let with = |key: &str| HeaderMap::from_iter([(header::AUTHORIZATION, format!("bearer {key}").parse().unwrap())]);
        let (here, there) = (Some("127.0.0.1:9".parse().unwrap()), Some("192.0.2.1:9".parse().unwrap()));
        let both = keys("user-key,admin:admin-key").unwrap();
        assert!(both.may_administer(&with("admin-key"), there));
        assert!(!both.may_administer(&with("user-key"), here));
        let none = keys("user-key").unwrap();
        assert!(none.may_administer(&with("user-key"), here));
        assert!(!none.may_administer(&with("user-key"), there));
        assert!(!none.may_administer(&with("user-key"), None));
    }

    #[cfg(unix)]
    #[test]
    fn a_key_file_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "# ours\n\nfirst-key\nadmin:second-key").unwrap();
        let mut keys = Keys::default();
        keys.add_file(file.path()).unwrap();
        assert_eq!((keys.users.len(), keys.admins.len()), (1, 1));
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = keys.add_file(file.path()).unwrap_err().to_string();
        assert!(error.contains("its mode is 640; fix it by `chmod 600 "), "{error}");
    }
}
