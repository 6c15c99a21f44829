//! Files that hold what nobody else may know: a token, a private key. They are read only when
//! nobody but their owner may, so that a secret that others have seen is not relied on.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// A secret that is not read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error(
        "reading {} ({key}): {source}; expected a file that this user may read",
        path.display()
    )]
    Unreadable {
        /// The key that names it.
        key: String,
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Others may use it.
    #[error(
        "reading {} ({key}): its mode is {mode:04o}, expected 0600, for its owner alone; mend it \
         with: chmod 600 {}",
        path.display(),
        path.display()
    )]
    Open {
        /// The key that names it.
        key: String,
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// What is in it is no token.
    #[error(
        "reading {} ({key}): {problem}; expected one token of {TOKEN_BYTES_MIN} to \
         {TOKEN_BYTES_MAX} visible ASCII characters, as `openssl rand -hex 32` makes",
        path.display()
    )]
    NoToken {
        /// The key that names it.
        key: String,
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// Shortest token, bytes: fewer can be tried one after the other.
pub const TOKEN_BYTES_MIN: usize = 16;

/// Longest token, bytes.
pub const TOKEN_BYTES_MAX: usize = 512;

/// Most of a file that is read, bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A file's bytes, if its owner alone may use it. `key` names it in errors.
///
/// # Errors
/// It cannot be read, or others may use it.
pub fn read_private(key: &str, path: &Path) -> Result<Vec<u8>, SecretError> {
    let unreadable = |source| SecretError::Unreadable {
        key: key.to_owned(),
        path: path.to_owned(),
        source,
    };
    // The mode of what is read, whatever happens to the name meanwhile.
    let file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(SecretError::Open {
            key: key.to_owned(),
            path: path.to_owned(),
            mode,
        });
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    Ok(bytes)
}

/// The token in a file, without the line's end.
///
/// # Errors
/// The file cannot be read, others may use it, or it holds no token.
pub fn read_token(key: &str, path: &Path) -> Result<String, SecretError> {
    let no_token = |problem: String| SecretError::NoToken {
        key: key.to_owned(),
        path: path.to_owned(),
        problem,
    };
    let bytes = read_private(key, path)?;
    let token = bytes.trim_ascii();
    if !(TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&token.len()) {
        return Err(no_token(format!("{} bytes", token.len())));
    }
    if !token.iter().all(u8::is_ascii_graphic) {
        return Err(no_token(
            "blanks, or bytes that are not visible ASCII".to_owned(),
        ));
    }
    Ok(String::from_utf8_lossy(token).into_owned())
}

/// The password in a file, without the line's end.
///
/// # Errors
/// The file cannot be read, others may use it, or it is no text.
pub fn read_password(key: &str, path: &Path) -> Result<String, SecretError> {
    let bytes = read_private(key, path)?;
    let text = String::from_utf8(bytes).map_err(|error| SecretError::Unreadable {
        key: key.to_owned(),
        path: path.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidData, error),
    })?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_from_a_file_of_its_owner_alone() {
        let path = std::env::temp_dir().join(format!("homeostat-secret-{}", std::process::id()));
        let read = |text: &str, mode: u32| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            read_token("token.file", &path).map_err(|error| error.to_string())
        };
        let token = "0123456789abcdef";
        assert_eq!(read(&format!("{token}\n"), 0o600).as_deref(), Ok(token));
        assert_eq!(read(&format!("{token}\r\n"), 0o400).as_deref(), Ok(token));
        for mode in [0o640, 0o604, 0o660, 0o644] {
            let refused = read(token, mode).unwrap_err();
            let mend = format!("mode is {mode:04o}, expected 0600");
            assert!(refused.contains(&mend), "{refused}");
            assert!(
                refused.contains(&format!("chmod 600 {}", path.display())),
                "{refused}"
            );
        }
        for text in [
            "",
            "0123456789abcde",
            "two tokens in one file",
            &"x".repeat(513),
        ] {
            let refused = read(text, 0o600).unwrap_err();
            assert!(
                refused.contains("expected one token of 16 to 512"),
                "{refused}"
            );
            assert!(text.is_empty() || !refused.contains(text), "{refused}");
        }
        let password = |text: &str, mode: u32| {
            let _ = read(text, mode);
            read_password("kafka.sasl_password_file", &path).map_err(|error| error.to_string())
        };
        assert_eq!(password(" p w \r\n", 0o600).as_deref(), Ok(" p w "));
        let refused = password("p", 0o644).unwrap_err();
        assert!(refused.contains("mode is 0644, expected 0600"), "{refused}");
        std::fs::remove_file(&path).unwrap();
        let refused = read_token("token.file", &path).unwrap_err().to_string();
        assert!(refused.contains("(token.file)"), "{refused}");
    }
}
