//! Names of the hub's repositories, revisions and files, checked before they become part of a path or an address. A name
//! that could leave its folder cannot be made.

use std::fmt;

/// `owner/repo`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RepoName {
    owner: String,
    repo: String,
}

/// A name that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} `{value}` {rule}")]
pub struct NameError {
    what: &'static str,
    value: String,
    rule: &'static str,
}

impl RepoName {
    /// Reads `owner/repo`: two parts of letters, digits, `-`, `_` and `.`, neither starting with a dot.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let error = |rule| NameError { what: "hub repository", value: shorten(text), rule };
        let (owner, repo) = text.split_once('/').ok_or_else(|| error("must have the form owner/repo"))?;
        for part in [owner, repo] {
            if part.is_empty() || part.len() > 96 {
                return Err(error("must have the form owner/repo, each part of 1 to 96 characters"));
            }
            if part.starts_with('.') || part.contains("..") || part.ends_with('.') {
                return Err(error("must not have a part that starts or ends with a dot, or holds two in a row"));
            }
            if !part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
                return Err(error("may hold letters, digits, `-`, `_` and `.` only"));
            }
        }
        Ok(Self { owner: owner.to_string(), repo: repo.to_string() })
    }

    /// The owner's part.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// The repository's part.
    pub fn repo(&self) -> &str {
        &self.repo
    }
}

impl fmt::Display for RepoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.repo)
    }
}

/// Checks the name of a file inside a repository: relative, no step up, nothing that any system gives a meaning to.
pub fn check_file(name: &str) -> Result<(), NameError> {
    let error = |rule| NameError { what: "hub file", value: shorten(name), rule };
    if name.is_empty() || name.len() > 512 {
        return Err(error("must have 1 to 512 characters"));
    }
    if name.chars().any(|c| c.is_control() || r#"\:*?"<>|"#.contains(c)) {
        return Err(error(r#"must not hold control characters or any of \ : * ? " < > |"#));
    }
    for part in name.split('/') {
        if part.is_empty() || part == "." || part == ".." || part.len() > 255 || part.ends_with([' ', '.']) {
            return Err(error("must be a relative path inside the repository, without empty, `.` or `..` parts"));
        }
    }
    Ok(())
}

/// Checks a revision: a branch, a tag or a commit.
pub fn check_revision(name: &str) -> Result<(), NameError> {
    let error = |rule| NameError { what: "hub revision", value: shorten(name), rule };
    if name.is_empty() || name.len() > 128 {
        return Err(error("must have 1 to 128 characters"));
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte)) {
        return Err(error("may hold letters, digits, `-`, `_`, `.` and `/` only"));
    }
    if name.split('/').any(|part| part.is_empty() || part.starts_with('.') || part.contains("..")) {
        return Err(error("must not have empty parts or parts that start with a dot"));
    }
    Ok(())
}

/// Whether a text is a SHA-256 in hex.
pub(super) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A hostile name is quoted, not repeated at length, and cannot move the terminal's cursor.
fn shorten(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).take(80).collect();
    if text.chars().count() > 80 { format!("{clean}...") } else { clean }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_have_two_plain_parts() {
        assert_eq!(RepoName::parse("Qwen/Qwen3-0.6B").unwrap().to_string(), "Qwen/Qwen3-0.6B");
        for wrong in [
            "", "a", "/b", "a/", "a/b/c", "../b", "a/..", "a/.git", "a/b c", "a/b%2e", "a\\b/c", "a/b\n", "a/b?x", "a/b..c",
            "a/b.",
        ] {
            assert!(RepoName::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn files_stay_inside_their_repository() {
        for right in ["model.gguf", "onnx/model.onnx", "model-00001-of-00002.safetensors", "Ünï.json"] {
            assert!(check_file(right).is_ok(), "{right:?}");
        }
        for wrong in ["", "/etc/passwd", "../x", "a/../b", "a//b", "./a", "a\\b", "C:x", "a\0b", "a/.", "..", "x. "] {
            assert!(check_file(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn revisions_are_refs() {
        assert!(check_revision("main").is_ok() && check_revision("refs/pr/1").is_ok());
        for wrong in ["", "..", "a/../b", "a b", "?x", "/main"] {
            assert!(check_revision(wrong).is_err(), "{wrong:?}");
        }
    }
}
