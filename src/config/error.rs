//! What is wrong with a configuration, said so that it can be mended in one go.

use std::{fmt, path::Path, sync::Arc};

/// One thing that is wrong, or dangerous. Never holds the text of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named to us.
    pub file: Arc<Path>,
    /// Where in it; `None` when the file as a whole is meant.
    pub at: Option<Position>,
    /// The YAML path, `routes[2].upstream`; empty for the whole document.
    pub path: String,
    /// What is wrong, and the mend.
    pub message: String,
}

/// A place in a text file. Both count from 1; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// Everything that is wrong with a file and those it names, in their order. Never empty.
#[derive(Clone, Debug, thiserror::Error)]
pub struct Errors(Vec<Problem>);

impl Errors {
    pub(super) fn new(mut problems: Vec<Problem>) -> Self {
        sort(&mut problems);
        problems.dedup();
        Self(problems)
    }

    /// What is wrong with a file as a whole.
    pub(super) fn of_file(file: &Arc<Path>, message: String) -> Self {
        Self(vec![Problem { file: file.clone(), at: None, path: String::new(), message }])
    }

    /// The problems in the order of the file.
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}

impl Problem {
    /// `config.yaml:12:5`.
    pub fn place(&self) -> String {
        let file = self.file.display();
        self.at.map_or_else(|| file.to_string(), |at| format!("{file}:{}:{}", at.line, at.column))
    }

    /// `routes[2].upstream: what is wrong`.
    pub fn text(&self) -> String {
        let colon = if self.path.is_empty() { "" } else { ": " };
        format!("{}{colon}{}", self.path, self.message)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place(), self.text())
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

/// Puts problems into the order of the file, file by file; those of a whole file come first.
pub(super) fn sort(problems: &mut [Problem]) {
    problems.sort_by(|a, b| (&a.file, a.at).cmp(&(&b.file, b.at)));
}

/// A name as it may stand in a message: in quotes, control characters escaped, not longer than a line.
pub(super) fn quote(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("\"{}…\"", text[..end].escape_debug()),
        None => format!("\"{}\"", text.escape_debug()),
    }
}

/// `; did you mean "x"?` when one of `known` is near to `text`, otherwise nothing.
pub(super) fn did_you_mean<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(text, known).map_or_else(String::new, |name| format!("; did you mean {}?", quote(name)))
}

/// The one of `known` that `text` was most likely meant to be. Two letters swapped count as one slip, case as none.
pub(super) fn nearest<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Long input is no slip of the finger, and the distance is quadratic in it.
    if text.len() > 100 {
        return None;
    }
    let text = text.to_lowercase();
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&text, &name.to_lowercase()), name))
        .filter(|(slips, name)| *slips <= (name.chars().count().max(text.chars().count()) / 3).clamp(1, 3))
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, name)| name)
}

/// A list as a sentence holds it: `a, b or c`.
pub(super) fn one_of<S: AsRef<str>>(names: &[S]) -> String {
    match names {
        [] => "nothing".into(),
        [only] => only.as_ref().into(),
        [first @ .., last] => {
            let first: Vec<_> = first.iter().map(AsRef::as_ref).collect();
            format!("{} or {}", first.join(", "), last.as_ref())
        }
    }
}

/// `1 route`, `2 routes`.
pub(crate) fn counted(count: usize, what: impl fmt::Display) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
