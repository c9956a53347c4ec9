//! Reads the TOML files of `bare/boots`, and says what is wrong with one.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use thiserror::Error;

/// Why a boot file is not accepted.
#[derive(Debug, Error)]
pub(crate) enum BootFileError {
    #[error("{}: {error}", file.display())]
    Read { file: PathBuf, error: std::io::Error },
    /// Not TOML, or not of the shape of a boot file: the parser names line, key and what is
    /// allowed.
    #[error("{}: {error}", file.display())]
    Toml { file: PathBuf, error: Box<toml::de::Error> },
    /// A key has a value that is not allowed.
    #[error("{}: {place}: {key} = {value}: {rule}", file.display())]
    Value { file: PathBuf, place: String, key: String, value: String, rule: String },
    /// There is no such key.
    #[error("{}: {place}: unknown key `{key}`, expected one of {}", file.display(), known.join(", "))]
    UnknownKey { file: PathBuf, place: String, key: String, known: Vec<String> },
    /// A key is missing.
    #[error("{}: {place}: `{key}` is missing: {rule}", file.display())]
    Missing { file: PathBuf, place: String, key: &'static str, rule: &'static str },
}

/// Reads a TOML file.
pub(crate) fn parse<T: DeserializeOwned>(file: &Path) -> Result<T, BootFileError> {
    let text = std::fs::read_to_string(file).map_err(|error| BootFileError::Read { file: file.to_owned(), error })?;
    toml::from_str(&text).map_err(|error| BootFileError::Toml { file: file.to_owned(), error: Box::new(error) })
}
