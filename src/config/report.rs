//! What has been found while a file is read: the faults, what to warn of, and the means to say where.

use std::{
    collections::HashSet,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
};

use aws_lc_rs::digest::{Context, SHA256, digest};
use serde_json::Value;

use super::{
    error::{Position, Problem},
    marks::Marks,
    origin::Watched,
    path::{Path, Step},
    shown::without_secrets,
};
use crate::{io::Stamp, types::Fingerprint};

/// The findings of one file.
pub(super) struct Report {
    file: Arc<FilePath>,
    marks: Marks,
    /// Whether anybody on the machine may read the file.
    pub(super) world_readable: bool,
    /// Strings that came from the environment as a whole.
    from_environment: HashSet<Path>,
    /// Nodes that are reported, or excused: they are not missing.
    settled: HashSet<Path>,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    /// The document, variables filled in.
    value: Value,
    /// The files that nodes name, and digests of what was in them.
    files: Vec<(Path, [u8; 32])>,
    watched: Watched,
}

impl Report {
    pub(super) fn new(file: Arc<FilePath>, marks: Marks, world_readable: bool) -> Self {
        Self {
            file,
            marks,
            world_readable,
            from_environment: HashSet::new(),
            settled: HashSet::new(),
            problems: Vec::new(),
            warnings: Vec::new(),
            value: Value::Null,
            files: Vec::new(),
            watched: Watched::default(),
        }
    }

    /// The faults, then the warnings, then the files that were read.
    pub(super) fn into_parts(self) -> (Vec<Problem>, Vec<Problem>, Watched) {
        (self.problems, self.warnings, self.watched)
    }

    /// This is the document, as it was before anything was taken out of it.
    pub(super) fn keep(&mut self, value: Value) {
        self.value = value;
    }

    /// The document, without its secrets.
    pub(super) fn shown(&self) -> Value {
        without_secrets(&self.value, &Path::default(), &|path| self.from_environment.contains(path))
    }

    /// A file that the node at `path` names has been read.
    pub(super) fn has_read(&mut self, path: &Path, file: PathBuf, stamp: Option<Stamp>, bytes: &[u8]) {
        let mut seen = [0; 32];
        seen.copy_from_slice(digest(&SHA256, bytes).as_ref());
        self.files.push((path.clone(), seen));
        self.watched.add(file, stamp);
    }

    /// What the node at `path` is made of, whether it is there or not.
    pub(super) fn fingerprint(&self, path: &Path) -> Fingerprint {
        let node = path.steps().iter().try_fold(&self.value, |value, step| match step {
            Step::Key(key) => value.get(&**key),
            Step::Index(index) => value.get(*index),
        });
        let mut hash = Context::new(&SHA256);
        // Values serialize, whatever they are.
        hash.update(node.unwrap_or(&Value::Null).to_string().as_bytes());
        for (_, seen) in self.files.iter().filter(|(at, _)| at.steps().starts_with(path.steps())) {
            hash.update(seen);
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(hash.finish().as_ref());
        Fingerprint::new(digest)
    }

    /// Something is wrong with the node at `path`.
    pub(super) fn error(&mut self, path: &Path, message: impl Into<String>) {
        let problem = self.problem(path, message.into());
        self.problems.push(problem);
        self.settled.insert(path.clone());
    }

    /// Like [`Report::error`], where the marks would lead elsewhere.
    pub(super) fn error_at(&mut self, at: Position, path: &Path, message: String) {
        let problem = Problem { at: Some(at), ..self.problem(path, message) };
        self.problems.push(problem);
    }

    /// Like [`Report::error`], and hands on nothing: for the end of a match arm.
    pub(super) fn refuse<T>(&mut self, path: &Path, message: impl Into<String>) -> Option<T> {
        self.error(path, message);
        None
    }

    /// Something is wrong with a file that this one names.
    pub(super) fn adopt(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// Something works, and is dangerous or idle.
    pub(super) fn warn(&mut self, path: &Path, message: impl Into<String>) {
        let problem = self.problem(path, message.into());
        self.warnings.push(problem);
    }

    /// The text as a whole cannot be read.
    pub(super) fn syntax(&mut self, at: Option<Position>, message: &str) {
        self.problems.push(Problem { file: self.file.clone(), at, path: String::new(), message: message.into() });
    }

    /// A value that has to be there: what was found, or `None` and a fault, unless another fault explains its absence.
    pub(super) fn required<T>(&mut self, above: &Path, key: &str, found: Option<T>, what: &str) -> Option<T> {
        let path = above.key(key);
        if found.is_none() && !self.is_settled(&path) {
            self.error(&path, format!("missing: {what}"));
        }
        found
    }

    /// A list's elements with their paths. Elements that are nothing are faults, unless another fault explains that.
    pub(super) fn items<T>(&mut self, path: &Path, list: Option<Vec<Option<T>>>) -> Vec<(Path, T)> {
        let mut items = Vec::new();
        for (n, item) in list.into_iter().flatten().enumerate() {
            let path = path.index(n);
            match item {
                Some(item) => items.push((path, item)),
                None if self.settled.contains(&path) => {}
                None => self.error(&path, "nothing stands here"),
            }
        }
        items
    }

    /// The node is not to be reported missing: it was misspelt.
    pub(super) fn excuse(&mut self, path: Path) {
        self.settled.insert(path);
    }

    /// Whether the list, or an entry of it, could not be read.
    pub(super) fn lost_entries(&self, list: &Path) -> bool {
        let is_entry = |path: &Path| matches!(path.split_last(), Some((above, Step::Index(_))) if above == *list);
        self.settled.iter().any(|path| path == list || is_entry(path))
    }

    /// Whether the node has been reported, or excused.
    pub(super) fn is_settled(&self, path: &Path) -> bool {
        self.settled.contains(path)
    }

    /// The string at `path` is all `${NAME}`.
    pub(super) fn is_from_environment(&mut self, path: Path) {
        self.from_environment.insert(path);
    }

    /// Whether whoever reads the file reads what the string at `path` says.
    pub(super) fn is_literal(&self, path: &Path) -> bool {
        !self.from_environment.contains(path)
    }

    /// Where the node stands, if it does.
    pub(super) fn position(&self, path: &Path) -> Option<Position> {
        self.marks.position(path)
    }

    /// The line where the node stands.
    pub(super) fn line(&self, path: &Path) -> usize {
        self.marks.position(path).map_or(1, |at| at.line)
    }

    /// A path in the file, against the folder the file is in.
    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        self.file.parent().unwrap_or(FilePath::new("")).join(path)
    }

    fn problem(&self, path: &Path, message: String) -> Problem {
        // The mark of an empty document is its first character.
        let at = self.marks.position(path).unwrap_or(Position { line: 1, column: 1 });
        Problem { file: self.file.clone(), at: Some(at), path: path.to_string(), message }
    }
}
