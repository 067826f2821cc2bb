//! Why a v2 request did nothing. An answer like any other: it follows from state and request, so every member gives the same.

use alloc::string::String;
use core::fmt;

/// The errors of the v2 API; the numbers are on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u16)]
pub enum ErrorCode {
    KeyNotFound = 100,
    CompareFailed = 101,
    NotAFile = 102,
    NotADirectory = 104,
    KeyExists = 105,
    RootReadOnly = 107,
    DirectoryNotEmpty = 108,
    PrevValueRequired = 201,
    TtlNotANumber = 202,
    IndexNotANumber = 203,
    InvalidField = 209,
    InvalidForm = 210,
    RefreshValue = 211,
    RefreshTtlRequired = 212,
    RaftInternal = 300,
    EventIndexCleared = 401,
}

impl ErrorCode {
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// Its text on the wire.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::KeyNotFound => "Key not found",
            Self::CompareFailed => "Compare failed",
            Self::NotAFile => "Not a file",
            Self::NotADirectory => "Not a directory",
            Self::KeyExists => "Key already exists",
            Self::RootReadOnly => "Root is read only",
            Self::DirectoryNotEmpty => "Directory not empty",
            Self::PrevValueRequired => "PrevValue is Required in POST form",
            Self::TtlNotANumber => "The given TTL in POST form is not a number",
            Self::IndexNotANumber => "The given index in POST form is not a number",
            Self::InvalidField => "Invalid field",
            Self::InvalidForm => "Invalid POST form",
            Self::RefreshValue => "Value provided on refresh",
            Self::RefreshTtlRequired => "A TTL must be provided on refresh",
            Self::RaftInternal => "Raft Internal Error",
            Self::EventIndexCleared => "The event in requested index is outdated and cleared",
        }
    }

    /// The HTTP status it goes with.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Self::KeyNotFound => 404,
            Self::NotAFile | Self::DirectoryNotEmpty => 403,
            Self::CompareFailed | Self::KeyExists => 412,
            Self::RaftInternal => 500,
            _ => 400,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Error {
    pub code: ErrorCode,
    /// What it is about: a path, a comparison that failed, a field.
    pub cause: String,
    /// The tree's index then; 0 for what was refused before the tree was looked at.
    pub index: u64,
}

impl Error {
    /// Of a request whose form alone is wrong.
    #[must_use]
    pub const fn of_request(code: ErrorCode, cause: String) -> Self {
        Self { code, cause, index: 0 }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({}) [{}]", self.code.number(), self.code.message(), self.cause, self.index)
    }
}
