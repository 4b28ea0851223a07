//! From the text to the shapes, with every fault on the way found: a shape is tried, the node at fault reported and taken
//! out, and the shape tried again.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Config, List, Mapping, User, value};
use crate::config::{
    error::{did_you_mean, nearest, one_of, quote},
    path::{Path, Step},
    report::Report,
};

/// So many faults of shape are listed; whoever has more has given us the wrong file.
const MAX_FAULTS: usize = 100;

/// Reads YAML text. `None` when there is nothing to go on with; what is wrong has been reported either way.
pub(in crate::config) fn read(text: &str, report: &mut Report) -> Option<Config> {
    let value = value::read(text, report)?;
    match &value {
        Value::Object(_) => {}
        Value::Null => {
            report.error(&Path::default(), "the file is empty; a configuration has at least `listeners`");
            return None;
        }
        other => {
            let found = kind(other);
            report.error(&Path::default(), format!("expected a mapping (`listeners:`, `routes:`, …), found {found}"));
            return None;
        }
    }
    report.keep(value.clone());
    shape(value, report)
}

/// Reads the YAML text of a file with users; as [`read`].
pub(in crate::config) fn read_users(text: &str, report: &mut Report) -> Option<List<Mapping<User>>> {
    let value = value::read(text, report)?;
    match &value {
        Value::Array(_) => shape(value, report),
        // More likely a write that broke off than the wish that nobody logs in.
        Value::Null => report.refuse(&Path::default(), "the file is empty; a list without users is []"),
        other => {
            let found = kind(other);
            report.refuse(&Path::default(), format!("expected a list of users (`- username: …`), found {found}"))
        }
    }
}

fn shape<T: DeserializeOwned>(mut value: Value, report: &mut Report) -> Option<T> {
    for _ in 0..MAX_FAULTS {
        let error = match serde_path_to_error::deserialize::<_, T>(&value) {
            Ok(shape) => return Some(shape),
            Err(error) => error,
        };
        let path = path_of(error.path());
        let fault = Fault::of(&error.into_inner().to_string());
        record(report, &path, &fault, at(&mut value, &path).map_or("nothing", |value| kind(value)));
        take_out(&mut value, &path, &fault);
    }
    report.error(&Path::default(), format!("more than {MAX_FAULTS} faults; mend these first"));
    None
}

/// What serde found, without the value it found it in.
enum Fault {
    UnknownKey { expected: Vec<String> },
    WrongKind { expected: String },
}

impl Fault {
    /// Reads serde's message. A value may stand at its front and is cut off: what is expected is our own words, and these
    /// hold no ", expected ".
    fn of(message: &str) -> Self {
        let expected = message.rsplit_once(", expected ").map_or("something else", |(_, expected)| expected);
        if message.starts_with("unknown field ") {
            let names = expected.split('`').skip(1).step_by(2);
            return Self::UnknownKey { expected: names.map(Into::into).collect() };
        }
        let expected = match expected {
            "a sequence" => "a list",
            "a map" => "a mapping",
            other => other,
        };
        Self::WrongKind { expected: expected.into() }
    }
}

fn record(report: &mut Report, path: &Path, fault: &Fault, found: &str) {
    match fault {
        Fault::WrongKind { expected } => {
            let mend = if expected == "a string" && matches!(found, "a number" | "true or false") {
                "; put it in quotes"
            } else {
                ""
            };
            report.error(path, format!("expected {expected}, found {found}{mend}"));
        }
        Fault::UnknownKey { expected } => {
            let Some((above, Step::Key(key))) = path.split_last() else {
                return report.error(path, "this key is not known");
            };
            let names = || expected.iter().map(String::as_str);
            let mend = match (did_you_mean(key, names()), expected.len()) {
                (mend, _) if !mend.is_empty() => mend,
                (_, ..=6) => format!("; known here: {}", one_of(expected)),
                _ => String::new(),
            };
            // The key it was meant to be is not missing, and must not be reported so.
            if let Some(meant) = nearest(key, names()) {
                report.excuse(above.key(meant));
            }
            report.error(path, format!("unknown key {}{mend}", quote(key)));
        }
    }
}

/// After this the shape can be tried again: every shape takes null.
fn take_out(root: &mut Value, path: &Path, fault: &Fault) {
    match (fault, path.split_last()) {
        (Fault::UnknownKey { .. }, Some((above, Step::Key(key)))) => {
            if let Some(Value::Object(map)) = at(root, &above) {
                map.remove(&**key);
            }
        }
        _ => {
            if let Some(value) = at(root, path) {
                *value = Value::Null;
            }
        }
    }
}

fn at<'a>(root: &'a mut Value, path: &Path) -> Option<&'a mut Value> {
    path.steps().iter().try_fold(root, |value, step| match step {
        Step::Key(key) => value.get_mut(&**key),
        Step::Index(index) => value.get_mut(*index),
    })
}

fn path_of(path: &serde_path_to_error::Path) -> Path {
    use serde_path_to_error::Segment;
    let steps = path.iter().filter_map(|segment| match segment {
        Segment::Seq { index } => Some(Step::Index(*index)),
        Segment::Map { key } => Some(Step::Key(key.as_str().into())),
        // No shape has an enum, and every key is a string.
        Segment::Enum { .. } | Segment::Unknown => None,
    });
    Path::from_steps(steps.collect())
}

/// What a value is; never the value itself, which may be a secret.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}
