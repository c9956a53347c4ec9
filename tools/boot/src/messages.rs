//! Texts of kernel messages that a verdict depends on: the table `bare/boots/messages.toml`. A boot
//! names a message; its wording is in the table alone.

use serde::Deserialize;

use crate::root;
use crate::toml_file::{self, BootFileError};

/// The file, relative to the root of the repository.
pub(crate) const FILE: &str = "bare/boots/messages.toml";

/// The table.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub(crate) struct Messages {
    message: Vec<Message>,
    complaint: Vec<Complaint>,
}

/// One message.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub(crate) struct Message {
    pub(crate) name: String,
    pub(crate) text: String,
    /// A file of the repository, or a place in Linux.
    pub(crate) source: String,
}

/// A text by which a kernel reports a fault of its own.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Complaint {
    text: String,
    /// As of a message.
    source: String,
}

/// Messages that this program itself looks for.
const USED_HERE: [&str; 6] = [
    "linux-version",
    "linux-panic",
    "linux-machine-check-rip",
    "linux-oops-int3",
    "linux-out-of-tree-module",
    "linux-kasan-on",
];

/// Reads the table.
pub(crate) fn load() -> Result<Messages, BootFileError> {
    let file = root().join(FILE);
    let messages: Messages = toml_file::parse(&file)?;
    if let Some(name) = USED_HERE.into_iter().find(|name| messages.get(name).is_none()) {
        let place = format!("[[message]] name = \"{name}\"");
        return Err(BootFileError::Missing { file, place, key: "name", rule: "the program looks for it" });
    }
    let sources = messages.message.iter().map(|message| &message.source);
    if let Some(source) = sources
        .chain(messages.complaint.iter().map(|complaint| &complaint.source))
        .find(|source| !source.starts_with("Linux ") && !root().join(source).is_file())
    {
        let rule = "a file of this repository or, after the word Linux, a place in Linux".to_owned();
        let (place, key, value) = ("a message".to_owned(), "source".to_owned(), source.clone());
        return Err(BootFileError::Value { file, place, key, value, rule });
    }
    Ok(messages)
}

impl Messages {
    /// The message of this name.
    pub(crate) fn get(&self, name: &str) -> Option<&Message> {
        self.message.iter().find(|message| message.name == name)
    }

    /// Its text. A name that is not in the table is excluded: by [`load`] for this program, by
    /// the reader of boot files for those.
    pub(crate) fn text<'m>(&'m self, name: &'m str) -> &'m str {
        self.get(name).map_or(name, |message| &message.text)
    }

    /// All names, for an error.
    pub(crate) fn names(&self) -> Vec<String> {
        self.message.iter().map(|message| message.name.clone()).collect()
    }

    /// The first line in which a kernel reports a fault of its own.
    pub(crate) fn complaint<'l>(&self, log: &'l str) -> Option<&'l str> {
        log.lines().map(str::trim).find(|line| self.complaint.iter().any(|complaint| line.contains(&complaint.text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message that is reworded fails here, and not after ten minutes of boots.
    #[test]
    fn messages_of_the_repository_are_in_their_source() {
        let messages = load().unwrap();
        let mut ours = 0;
        for message in &messages.message {
            if message.source.starts_with("Linux ") {
                continue;
            }
            let source = std::fs::read_to_string(root().join(&message.source)).expect(&message.source);
            assert!(
                source.contains(&message.text),
                "{} does not contain `{}`: adapt {FILE}",
                message.source,
                message.text
            );
            ours += 1;
        }
        assert!(ours > 0);
    }

    #[test]
    fn a_name_is_there_once() {
        let mut names = load().unwrap().names();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
