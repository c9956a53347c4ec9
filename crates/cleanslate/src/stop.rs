//! Reasons why a subcommand ends without a report, and their exit codes.

use std::io;

use tdx_lab::platform::LabError;
use tdx_operator::input::InputError;

use crate::exit::Exit;

/// Why there is no report.
pub(crate) enum Stop {
    /// The input cannot be used.
    Input(Box<InputError>),
    /// The laboratory cannot build or run the host.
    Lab(LabError),
    /// The machine gives too little to measure it: what, and what to do.
    Machine(String),
    /// A name on the command line does not exist.
    Usage(String),
    /// The report cannot be written.
    Output(io::Error),
}

impl From<LabError> for Stop {
    fn from(error: LabError) -> Self {
        Self::Lab(error)
    }
}

impl From<InputError> for Stop {
    fn from(error: InputError) -> Self {
        Self::Input(Box::new(error))
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl Stop {
    /// The message for stderr.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::Input(error) => error.to_string(),
            Self::Lab(error) => error.to_string(),
            Self::Machine(what) | Self::Usage(what) => what.clone(),
            Self::Output(error) => format!("cannot write the report: {error}"),
        }
    }

    /// The exit code.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            // A machine that refuses what the laboratory asks of it is a bug of this program; every
            // other error of the laboratory is about the input.
            Self::Lab(LabError::Refused(_)) | Self::Output(_) => Exit::Internal,
            Self::Input(_) | Self::Lab(_) | Self::Machine(_) => Exit::Input,
            Self::Usage(_) => Exit::Usage,
        }
    }
}
