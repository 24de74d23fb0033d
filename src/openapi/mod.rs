//! An OpenAPI document as routes: `portcullis import openapi` (OpenAPI Specification 3.0 and 3.1).
//!
//! In: a document in JSON or YAML. Out: a fragment of configuration with one route for each operation, in the order of
//! their paths. Invariants: who may not call an operation by the document may not by its route; where the document's
//! rule cannot be said, the route has `auth = []`, which no configuration is loaded with, and a comment that says why;
//! `auth = ["none"]` comes of an explicit `security: []` or `{}` only. What cannot be understood is refused, not
//! guessed.

use std::collections::BTreeMap;

pub use self::document::DocumentError;
use self::{document::Document, rule::Schemes};

mod document;
mod rule;
mod write;

/// How a document becomes routes.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The upstream of every route; `None`: none is written, and `[route_defaults]` says it.
    pub upstream: Option<String>,
    /// The hosts of every route, in place of those in `servers`.
    pub hosts: Vec<String>,
    /// What every route's name begins with.
    pub prefix: String,
    /// How callers authenticate where the document names a security scheme, by its name there: an entry of `auth`.
    pub schemes: BTreeMap<String, String>,
}

/// The routes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Import {
    /// As it is written to a file that `include` names.
    pub fragment: String,
    /// How many routes there are.
    pub routes: usize,
    /// How many of them have no `auth`, as what the document says cannot be said.
    pub unsaid: usize,
}

/// Makes routes of a document.
///
/// # Errors
/// [`DocumentError`] where it is no OpenAPI 3.0 or 3.1, or not understood in whole.
pub fn import(text: &str, options: &Options) -> Result<Import, DocumentError> {
    let document = Document::read(text)?;
    let schemes = Schemes::of(&document, &options.schemes)?;
    let operations = document.operations()?;
    Ok(write::fragment(&operations, &schemes, options))
}
