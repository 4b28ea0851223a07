//! Changing the file of users. As much of its text stays as can be: the lines of one entry are replaced, and what that makes
//! is read again before it is written. Where it does not say what it should (in a list in one line, say), the whole list is
//! written anew.

use std::{
    fs::{File, TryLockError},
    io::{self, ErrorKind},
    path::{Path as FilePath, PathBuf},
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::{Map, Value as Claim};
use serde_yaml::{Mapping, Value};

use super::{absent, check_text};
use crate::{
    config::{
        MAX_BYTES,
        error::{Errors, quote},
        parse,
        path::Path,
    },
    io::{folder_of, read_file, replace_file},
    issuer::{SecretHash, User},
    types::Subject,
};

/// How long another command is waited for that changes the file.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is to become of a user.
pub enum Change {
    /// There is one more.
    Add {
        /// The hash of their password.
        hash: String,
        /// Their subject, where it is not their name.
        subject: Option<String>,
        /// Their claims.
        claims: Map<String, Claim>,
    },
    /// They have another password, of this hash.
    SetPassword(String),
    /// They can neither log in nor refresh.
    Disable,
    /// They can again.
    Enable,
    /// They are no user any more.
    Remove,
}

/// Why the file stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// It is wrong as it is.
    #[error(transparent)]
    Wrong(#[from] Errors),
    /// What is asked for makes no sense.
    #[error("{0}")]
    Refused(String),
    /// The system refuses.
    #[error("{} cannot be changed: {cause}", path.display())]
    Io {
        /// The file, or its folder.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

/// Whether a change makes sense, for whoever has to be asked for more before it is made.
///
/// # Errors
/// As [`change`].
pub fn check(path: &FilePath, name: &str, is_new: bool) -> Result<(), EditError> {
    Edit::read(path, is_new)?.place(name, is_new).map(drop)
}

/// Changes what the file says of the user of that name. Nobody loses what somebody else changes at the same time.
///
/// # Errors
/// When there is no such user, or is one already; when the file is wrong, or would be; or when the system refuses. The file
/// stays as it was then.
pub fn change(path: &FilePath, name: &str, change: &Change) -> Result<(), EditError> {
    // What a symlink leads to is replaced, and not the symlink.
    let path = path.canonicalize().unwrap_or_else(|_| path.into());
    let _lock = lock(folder_of(&path))?;
    let is_new = matches!(change, Change::Add { .. });
    let edit = Edit::read(&path, is_new)?;
    let place = edit.place(name, is_new)?;
    let text = edit.with(place, name, change)?;
    let refused = |cause| EditError::Io { path: path.clone(), cause };
    let before = match path.metadata() {
        Ok(before) => Some(before),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(refused(error)),
    };
    replace_file(&path, text.as_bytes(), before.as_ref()).map_err(refused)
}

/// The folder's own lock: one on the file would be on another file as soon as that is replaced.
fn lock(folder: &FilePath) -> Result<File, EditError> {
    let refused = |cause| EditError::Io { path: folder.into(), cause };
    let file = File::open(folder).map_err(refused)?;
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if began.elapsed() < PATIENCE => sleep(Duration::from_millis(20)),
            Err(TryLockError::WouldBlock) => return Err(refused(ErrorKind::TimedOut.into())),
            Err(TryLockError::Error(cause)) => return Err(refused(cause)),
        }
    }
}

/// The file as it is.
struct Edit {
    file: Arc<FilePath>,
    text: String,
    users: Vec<User>,
    /// The line in which each of them begins, from 1 on.
    lines: Vec<usize>,
}

impl Edit {
    /// Reads it; as one without users where it may be missing, and is, or has nothing but comments.
    fn read(path: &FilePath, may_be_missing: bool) -> Result<Self, EditError> {
        let file: Arc<FilePath> = path.into();
        let is_missing = path.metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound);
        if is_missing && !may_be_missing {
            return Err(absent(path).into());
        }
        let bytes = if is_missing {
            Vec::new()
        } else {
            read_file(path, MAX_BYTES).map_err(|why| Errors::of_file(&file, why))?.bytes.to_vec()
        };
        let text = String::from_utf8(bytes).map_err(|_| Errors::of_file(&file, "not UTF-8".into()))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned();
        let (users, lines) = if may_be_missing && text.lines().all(is_idle) {
            (Vec::new(), Vec::new())
        } else {
            read_text(&file, &text)?
        };
        Ok(Self { file, text, users, lines })
    }

    /// Where the user stands, or is to stand.
    fn place(&self, name: &str, is_new: bool) -> Result<usize, EditError> {
        let file = self.file.display();
        match self.users.iter().position(|user| &*user.username == name) {
            Some(at) if is_new => {
                let (name, line) = (quote(name), self.lines[at]);
                Err(EditError::Refused(format!("there is a user {name} already ({file}:{line})")))
            }
            Some(at) => Ok(at),
            None if is_new => Ok(self.users.len()),
            None => Err(EditError::Refused(format!("there is no user {} in {file}", quote(name)))),
        }
    }

    /// The text after a change of the user at `place`.
    fn with(&self, place: usize, name: &str, change: &Change) -> Result<String, EditError> {
        let expected = self.expected(place, name, change);
        let mut values: Vec<Value> = match self.users[..] {
            [] => Vec::new(),
            [..] => self.yaml(serde_yaml::from_str(&self.text))?,
        };
        apply(&mut values, place, name, change);
        let entry = match change {
            Change::Remove => String::new(),
            Change::Add { .. } | Change::SetPassword(_) | Change::Disable | Change::Enable => {
                self.yaml(serde_yaml::to_string(&values[place..=place]))?
            }
        };
        let whole = self.yaml(serde_yaml::to_string(&values))?;
        let head = self.text.lines().take_while(|line| is_idle(line)).map(|line| format!("{line}\n"));
        let anew = head.collect::<String>() + &whole;
        let mut fault = None;
        for text in self.spliced(place, &entry).into_iter().chain([anew]) {
            match read_text(&self.file, &text) {
                Ok((users, _)) if users == expected => return Ok(text),
                Ok(_) => {}
                Err(errors) => fault = Some(errors),
            }
        }
        // Lines of a text that nobody will see help nobody.
        let why =
            fault.map(|errors| errors.problems().iter().map(|problem| problem.text()).collect::<Vec<_>>().join("\n"));
        let why = why
            .unwrap_or_else(|| format!("{} has to be changed by hand: its entries share values", self.file.display()));
        Err(EditError::Refused(why))
    }

    fn yaml<T>(&self, outcome: Result<T, serde_yaml::Error>) -> Result<T, EditError> {
        outcome.map_err(|error| Errors::of_file(&self.file, format!("not YAML: {error}")).into())
    }

    /// Whom the text has to give.
    fn expected(&self, place: usize, name: &str, change: &Change) -> Vec<User> {
        let mut users = self.users.clone();
        match change {
            Change::Add { hash, subject, claims } => users.push(User {
                username: name.into(),
                password_hash: SecretHash::Argon2id(hash.as_str().into()),
                subject: Subject::new(subject.as_deref().unwrap_or(name)),
                disabled: false,
                claims: claims.clone(),
            }),
            Change::SetPassword(hash) => users[place].password_hash = SecretHash::Argon2id(hash.as_str().into()),
            Change::Disable => users[place].disabled = true,
            Change::Enable => users[place].disabled = false,
            Change::Remove => drop(users.remove(place)),
        }
        users
    }

    /// The text with `entry` in the place of the lines of one, or behind the last; `None` where entries have no lines of
    /// their own.
    fn spliced(&self, place: usize, entry: &str) -> Option<String> {
        let lines: Vec<&str> = self.text.split_inclusive('\n').collect();
        let Some(first) = self.lines.first() else {
            let mut text: String = lines.iter().filter(|line| is_idle(line)).copied().collect();
            end_line(&mut text);
            return Some(text + entry);
        };
        let first = lines.get(first - 1)?;
        let indent = &first[..first.len() - first.trim_start().len()];
        let begin = self.lines.get(place).map_or(lines.len(), |line| line - 1);
        let mut end = self.lines.get(place + 1).map_or(lines.len(), |line| line - 1);
        // What stands above the next entry is about that.
        while end > begin && lines.get(end - 1).is_some_and(|line| is_idle(line)) {
            end -= 1;
        }
        if place < self.lines.len() {
            lines.get(begin)?.strip_prefix(indent)?.strip_prefix("- ")?;
        }
        let mut text = lines.get(..begin)?.concat();
        end_line(&mut text);
        text.extend(entry.lines().map(|line| format!("{indent}{line}\n")));
        text.extend(lines.get(end.max(begin)..)?.iter().copied());
        Some(text)
    }
}

fn read_text(file: &Arc<FilePath>, text: &str) -> Result<(Vec<User>, Vec<usize>), Errors> {
    let made = parse(file, text, false, |text, report| {
        let users = check_text(text, report)?;
        let lines = (0..users.len()).map(|n| report.line(&Path::default().index(n))).collect();
        Some((users, lines))
    });
    made.map(|(made, ..)| made)
}

/// The same change of the document. It is taken as it is written, so that `${NAME}` stays what it is.
fn apply(values: &mut Vec<Value>, place: usize, name: &str, change: &Change) {
    let set = |values: &mut Vec<Value>, key: &str, value: Value| {
        if let Some(Value::Mapping(entry)) = values.get_mut(place) {
            entry.insert(key.into(), value);
        }
    };
    match change {
        Change::Add { hash, subject, claims } => {
            let mut entry = Mapping::new();
            entry.insert("username".into(), literal(name));
            entry.insert("password_hash".into(), literal(hash));
            if let Some(subject) = subject {
                entry.insert("subject".into(), literal(subject));
            }
            if !claims.is_empty() {
                entry.insert("claims".into(), claim(&Claim::Object(claims.clone())));
            }
            values.push(entry.into());
        }
        Change::SetPassword(hash) => set(values, "password_hash", literal(hash)),
        Change::Disable => set(values, "disabled", true.into()),
        Change::Enable => {
            if let Some(Value::Mapping(entry)) = values.get_mut(place) {
                entry.remove("disabled");
            }
        }
        Change::Remove => drop(values.remove(place)),
    }
}

/// Text that is read as it is here: `${` would begin the name of a variable.
fn literal(text: &str) -> Value {
    text.replace("${", "$${").into()
}

fn claim(value: &Claim) -> Value {
    match value {
        Claim::String(text) => literal(text),
        Claim::Array(list) => list.iter().map(claim).collect::<Vec<_>>().into(),
        Claim::Object(map) => {
            Value::Mapping(map.iter().map(|(key, value)| (key.as_str().into(), claim(value))).collect())
        }
        Claim::Null => Value::Null,
        Claim::Bool(flag) => (*flag).into(),
        Claim::Number(number) => serde_yaml::to_value(number).unwrap_or_default(),
    }
}

/// A line that says nothing.
fn is_idle(line: &str) -> bool {
    let line = line.trim_start();
    line.is_empty() || line.starts_with('#')
}

fn end_line(text: &mut String) {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
}
